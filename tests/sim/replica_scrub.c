/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Verifications. While all goes wrong they are ordered and stopped at any moment, and none may find a difference. In peace a bit flips on the
 * disk of the node that receives: it is found, nobody calls the nodes equal while it is there, and it is gone when they are.
 */
#include "replica_world.h"

#include "base/bytes.h"

#include <errno.h>
#include <string.h>

#define ORDER_EVERY 400u
#define LEAF        4096u
#define TRIES       16u

static uint8_t *sector_of(struct replica_host *host, uint32_t sector)
{
	uint64_t size;

	return ring_sim_disk_data(host->world->sim, host->disk_fd, &size) + (uint64_t)sector * LEDGER_SECTOR;
}

static bool is_planted(const struct replica_world *world)
{
	return world->scrub.step >= SCRUB_PLANTED && world->scrub.step < SCRUB_DONE;
}

bool replica_scrub_hides(const struct replica_world *world)
{
	return is_planted(world);
}

static bool is_mended(struct replica_world *world)
{
	return !memcmp(sector_of(&world->hosts[0], world->scrub.sector),
	    sector_of(&world->hosts[1], world->scrub.sector), LEDGER_SECTOR);
}

static void differs(void *data, uint64_t offset, uint64_t length)
{
	struct replica_host *host = data;
	struct replica_world *world = host->world;
	uint64_t at = (uint64_t)world->scrub.sector * LEDGER_SECTOR;

	if (host->dying)
		return;
	if (!is_planted(world) || at < offset || at >= offset + length || length > LEAF)
		replica_world_fail(world, "%u: a difference was found at byte %llu, where there is none",
		    host->index, (unsigned long long)offset);
	world->scrub.told = true;
}

static void ended(void *data, int res, uint64_t position)
{
	struct replica_host *host = data;
	struct replica_world *world = host->world;

	if (host->dying)
		return;
	replica_world_say(world, "%u: verification ended at byte %llu: %s", host->index,
	    (unsigned long long)position, strerror(-res));
	world->scrub.passes += res == 0;
	host->verifies = false;
}

static void begin(struct replica_host *host, bool resync)
{
	struct replica_world *world = host->world;
	uint64_t size = (uint64_t)host->sectors * LEDGER_SECTOR;
	const struct mirror_job_verify_options options = {
	    .from = world->peace || rand_one_in(&world->rand, 2) ? 0 : rand_below(&world->rand, size),
	    .rate = world->peace || rand_one_in(&world->rand, 2)
	                ? 0
	                : rand_between(&world->rand, 100, 2000) << 10,
	    .resync = resync,
	    .differs = differs,
	    .ended = ended,
	    .data = host};

	/* ended() may be called before this returns. */
	if (host->verifies)
		return;
	host->verifies = true;
	if (replica_node_verify(host->node, &options) < 0)
		host->verifies = false;
	else
		replica_world_say(world, "%u: verification begins", host->index);
}

void replica_scrub_strike(struct replica_world *world)
{
	struct replica_host *host = &world->hosts[rand_below(&world->rand, LEDGER_NODES)];

	if (!rand_one_in(&world->rand, ORDER_EVERY) || !replica_host_is_up(host))
		return;
	if (rand_one_in(&world->rand, 6))
		replica_node_verify_stop(host->node);
	else if (rand_one_in(&world->rand, 6))
		replica_node_copy_marked(host->node);
	else
		begin(host, rand_one_in(&world->rand, 3));
}

/* Of zeros it might be a hole, which is not read. */
static bool plant(struct replica_world *world)
{
	struct replica_scrub *scrub = &world->scrub;

	for (unsigned i = 0; i < TRIES; i++) {
		scrub->sector = (uint32_t)rand_below(&world->rand, world->hosts[0].sectors);
		if (get_le64(sector_of(&world->hosts[0], scrub->sector)) == 0 || !is_mended(world))
			continue;
		sector_of(&world->hosts[1 - scrub->sender], scrub->sector)[9] ^= 16;
		replica_world_say(world, "a bit of sector %u of %u flips", scrub->sector, 1 - scrub->sender);
		return true;
	}
	return false;
}

/* What ends a mark: the order, or what cannot go on without. */
static void end_mark(struct replica_world *world)
{
	struct replica_host *host = &world->hosts[world->scrub.sender], *other = replica_host_other(host);

	switch (rand_below(&world->rand, 6)) {
	case 0:
		replica_host_kill(host, false);
		break;
	case 1:
		replica_host_kill(other, false);
		break;
	case 2:
		replica_host_stop(host);
		break;
	case 3:
		replica_net_break(world);
		break;
	case 4:
		if (host->reigns)
			replica_host_command(host, REPLICA_MAKE_SECONDARY, false);
		else
			replica_host_command(other, REPLICA_MAKE_PRIMARY, false);
		break;
	default:
		replica_world_say(world, "%u is told: resync", host->index);
		replica_node_copy_marked(host->node);
	}
}

static void pursue_planted(struct replica_world *world, const struct replica_node_status *status)
{
	struct replica_scrub *scrub = &world->scrub;
	struct replica_host *host = &world->hosts[scrub->sender];
	bool differ = status[0].flow == REPLICA_DIFFERING && status[1].flow == REPLICA_DIFFERING;

	if (!scrub->told) {
		begin(host, scrub->resync);
	} else if (scrub->resync) {
		scrub->step = SCRUB_ENDING;
	} else if (differ && status[0].differing == status[1].differing && !host->verifies) {
		world->scrub.marked++;
		scrub->step = SCRUB_ENDING;
		end_mark(world);
	}
}

bool replica_scrub_go_on(struct replica_world *world, const struct replica_node_status *status)
{
	struct replica_scrub *scrub = &world->scrub;

	if (scrub->step == SCRUB_NONE) {
		for (unsigned i = 0; i < LEDGER_NODES; i++)
			if (status[i].mirror.attached)
				scrub->sender = i;
		scrub->resync = rand_one_in(&world->rand, 4);
		/* Nobody sends between two that were started anew, and were never primary since. */
		scrub->step =
		    status[scrub->sender].mirror.attached && plant(world) ? SCRUB_PLANTED : SCRUB_DONE;
	} else if (scrub->step == SCRUB_PLANTED) {
		pursue_planted(world, status);
	}
	return scrub->step == SCRUB_DONE || scrub->step == SCRUB_ENDING;
}

/* Nobody calls them equal that knows better; and when both do, they are, or will be: as with all that is sent, `ack` says when it is there. */
void replica_scrub_check(struct replica_world *world)
{
	struct replica_node_status status[LEDGER_NODES];
	struct replica_scrub *scrub = &world->scrub;

	if (!is_planted(world) || !replica_host_is_up(&world->hosts[0]) ||
	    !replica_host_is_up(&world->hosts[1]))
		return;
	for (unsigned i = 0; i < LEDGER_NODES; i++)
		replica_node_status(world->hosts[i].node, &status[i]);
	if (world->scenario.ack == REPLICATE_DURABLE && scrub->told && world->in_flight == 0 &&
	    status[scrub->sender].flow == REPLICA_EQUAL && !is_mended(world))
		replica_world_fail(world, "%u calls them equal, and knows that sector %u differs",
		    scrub->sender, scrub->sector);
	if (status[0].flow != REPLICA_EQUAL || status[1].flow != REPLICA_EQUAL)
		return;
	if (scrub->told && is_mended(world)) {
		replica_world_say(world, "sector %u is mended", scrub->sector);
		scrub->step = SCRUB_DONE;
	}
}

/* They have lost each other before it was found: nothing has happened. */
void replica_scrub_give_up(struct replica_world *world)
{
	struct replica_scrub *scrub = &world->scrub;

	if (scrub->step != SCRUB_PLANTED || scrub->told)
		return;
	if (!is_mended(world))
		sector_of(&world->hosts[1 - scrub->sender], scrub->sector)[9] ^= 16;
	scrub->step = SCRUB_DONE;
}
