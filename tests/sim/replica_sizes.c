/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Disks that become larger, each when it likes, and the order that the volume does, too. What a disk has got at its end is not the same on
 * both, and nobody counts on it: see ledger_enlarge().
 */
#include "replica_world.h"

#include "base/bytes.h"

#define MORE_MAX    80u
#define STRIKE_STEP 300u

void replica_sizes_enlarge(struct replica_host *host, uint32_t sectors)
{
	static uint8_t data[LEDGER_SECTORS * LEDGER_SECTOR]; /* too much for a fiber's stack */
	struct replica_world *world = host->world;
	uint32_t number, more;

	if (sectors <= host->device || sectors > LEDGER_SECTORS)
		return;
	more = sectors - host->device;
	number = ledger_enlarge(&world->ledger, host->index, host->device, more);
	if (!number)
		return;
	replica_world_say(world, "%u: its disk has %u sectors after %u", host->index, sectors, host->device);
	ledger_fill(data, number, host->device, more, false);
	ring_sim_disk_enlarge(world->sim, host->disk_fd, data, (uint64_t)more * LEDGER_SECTOR);
	host->device = sectors;
}

static void enlarge(struct replica_host *host)
{
	const struct replica_host *other = replica_host_other(host);
	struct rand *rand = &host->world->rand;

	if (other->device > host->device && rand_one_in(rand, 2))
		replica_sizes_enlarge(host, other->device);
	else
		replica_sizes_enlarge(host, host->device + (uint32_t)rand_between(rand, 1, MORE_MAX));
}

/* Mostly all of it; now and then more than that. */
static void resize(struct replica_host *host)
{
	struct replica_world *world = host->world;
	uint64_t sectors = host->device;

	if (rand_one_in(&world->rand, 12))
		sectors++;
	else if (rand_one_in(&world->rand, 4))
		sectors = rand_between(&world->rand, host->sectors - 1, host->device);
	if (replica_host_resize(host, sectors * LEDGER_SECTOR) < 0)
		return;
	world->resizes++;
	if (rand_one_in(&world->rand, 3))
		world->strike_step = ring_sim_steps(world->sim) + rand_below(&world->rand, STRIKE_STEP);
}

void replica_sizes_order(struct replica_world *world)
{
	struct replica_host *host = &world->hosts[rand_below(&world->rand, LEDGER_NODES)];

	/* Some never do. */
	if (rand_one_in(&world->rand, 3) && (host->index || world->seed % 16))
		enlarge(host);
	else
		resize(host);
}

bool replica_sizes_fill(struct replica_host *host)
{
	if (host->sectors < host->device)
		replica_host_resize(host, (uint64_t)host->device * LEDGER_SECTOR);
	return host->sectors == host->device;
}

struct replica_host *replica_sizes_short(struct replica_world *world)
{
	for (unsigned i = 0; i < LEDGER_NODES; i++)
		if (world->hosts[i].device < world->hosts[1 - i].sectors)
			return &world->hosts[i];
	return NULL;
}
