/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Clients of whichever node serves: each does one thing after the other. Two never write to the same sector at once. */
#include "replica_world.h"

#include "base/bytes.h"

#include <errno.h>
#include <string.h>

static bool writes(const struct replica_client *client)
{
	return client->io.op == BLOCK_WRITE || client->io.op == BLOCK_ZERO;
}

static void tell(const struct replica_client *client, const char *what, int res)
{
	static const char *const ops[] = {
	    [BLOCK_READ] = "read", [BLOCK_WRITE] = "write", [BLOCK_ZERO] = "zero", [BLOCK_FLUSH] = "flush"};
	const struct replica_world *world = client->world;
	bool flush = client->io.op == BLOCK_FLUSH;

	if (world->watch >= LEDGER_SECTORS || (!flush && world->watch - client->first >= client->count))
		return;
	replica_world_say(world, "%u: %s %s%s %u+%u number %u: %d", client->node, what, ops[client->io.op],
	    client->io.flags & BLOCK_FUA ? " (fua)" : "", client->first, client->count, client->write, res);
}

static void check_read(struct replica_client *client)
{
	struct replica_world *world = client->world;

	for (uint32_t i = 0; i < client->count; i++) {
		uint32_t sector = client->first + i,
		         seen = ledger_stamp(&world->ledger, client->buf + i * LEDGER_SECTOR, sector);

		if (seen == LEDGER_NOTHING || seen < client->floor[i]) {
			replica_world_fail(world,
			    "%u: sector %u reads as of write %d, and %u was acknowledged", client->node,
			    sector, (int)seen, client->floor[i]);
			return;
		}
	}
}

static void client_done(struct block_io *io, int res)
{
	struct replica_client *client = io->user;
	struct replica_world *world = client->world;
	struct replica_host *host = &world->hosts[client->node];

	client->busy = false;
	host->in_flight--;
	host->answers++;
	world->in_flight--;
	tell(client, "ended", res);
	host->refuses |= res == -ESHUTDOWN && host->serving && client->life == host->life;
	/* Nobody hears what the dead say. */
	if (res < 0 || host->dying || world->story.failures)
		return;
	replica_promise_notes(world);
	if (writes(client))
		replica_promise_acknowledged(world, client);
	else if (io->op == BLOCK_READ)
		check_read(client);
	else
		replica_promise_flushed(world, client);
}

/* Whether somebody without an answer has any of it. */
static bool is_taken(const struct replica_world *world, uint32_t first, uint32_t count)
{
	for (unsigned i = 0; i < world->scenario.clients; i++) {
		const struct replica_client *client = &world->clients[i];

		if (client->busy && writes(client) && first < client->first + client->count &&
		    client->first < first + count)
			return true;
	}
	return false;
}

static void choose_place(struct replica_client *client)
{
	struct replica_world *world = client->world;
	const struct replica_scenario *scenario = &world->scenario;
	const struct block *volume = replica_node_block(world->hosts[client->node].node);
	uint32_t sectors = (uint32_t)(block_info(volume)->size / LEDGER_SECTOR);
	struct rand *rand = &world->rand;

	client->first = (uint32_t)rand_below(rand, sectors);
	/* Some places are liked more than others. */
	if (rand_one_in(rand, 3))
		client->first %= 32;
	else if (sectors > scenario->sectors && rand_one_in(rand, 3))
		client->first = (uint32_t)rand_between(rand, scenario->sectors - 1, sectors - 1);
	client->count = (uint32_t)rand_between(rand, 1, min_u64(scenario->span, sectors - client->first));
	client->io.offset = (uint64_t)client->first * LEDGER_SECTOR;
	client->io.length = (uint64_t)client->count * LEDGER_SECTOR;
}

void replica_clients_lower(struct replica_host *host, const uint32_t *seen)
{
	for (unsigned i = 0; i < host->world->scenario.clients; i++) {
		struct replica_client *client = &host->world->clients[i];

		for (uint32_t at = 0; client->busy && client->io.op == BLOCK_READ && at < client->count; at++)
			if (client->floor[at] > seen[client->first + at])
				client->floor[at] = seen[client->first + at];
	}
}

/* The node whose disk has what this client reads and writes. */
static const struct ledger_node *ledger_node_of(const struct replica_client *client)
{
	const struct replica_world *world = client->world;
	bool diskless = replica_promise_is_diskless(&world->hosts[client->node]);

	return &world->ledger.nodes[diskless ? 1 - client->node : client->node];
}

/* False: not now. */
static bool begin_write(struct replica_client *client)
{
	struct replica_world *world = client->world;
	bool zero = rand_one_in(&world->rand, 16);

	choose_place(client);
	if (is_taken(world, client->first, client->count))
		return false;
	client->write = ledger_submit(&world->ledger, client->node, client->first, client->count, zero);
	if (!client->write)
		return false;
	client->io.op = zero ? BLOCK_ZERO : BLOCK_WRITE;
	client->io.flags = rand_one_in(&world->rand, 8) ? BLOCK_FUA : 0;
	ledger_fill(client->buf, client->write, client->first, client->count, zero);
	return true;
}

static void begin_read(struct replica_client *client)
{
	const struct ledger_node *node = ledger_node_of(client);

	choose_place(client);
	client->io.op = BLOCK_READ;
	memcpy(client->floor, node->top + client->first, client->count * sizeof(client->floor[0]));
}

/* The other node's clients may read: it was told so when this one's flushes lasted there. */
static bool is_leased(struct replica_host *host)
{
	const struct replica_host *other = replica_host_other(host);
	struct replica_node_status self, peer;

	if (!replica_host_is_up(host) || !replica_host_is_up(other))
		return false;
	replica_node_status(host->node, &self);
	replica_node_status(other->node, &peer);
	return self.role == REPLICA_PRIMARY && self.leased && peer.leased;
}

static bool choose(struct replica_client *client)
{
	struct replica_world *world = client->world;
	uint64_t what = rand_below(&world->rand, 12);

	if (what < 7)
		return begin_write(client);
	if (what < 10) {
		begin_read(client);
		return true;
	}
	client->io.op = BLOCK_FLUSH;
	client->set = ledger_node_of(client)->line;
	client->leased = is_leased(&world->hosts[client->node]);
	return true;
}

static void begin(struct replica_client *client, struct replica_host *host)
{
	struct replica_world *world = client->world;
	const struct replica_host *other = replica_host_other(host);

	client->node = host->index;
	client->life = host->life;
	client->write = 0;
	client->primary = host->reigns;
	client->io = (struct block_io){.buf = client->buf, .done = client_done, .user = client};
	client->peer_life = other->life;
	client->peer_losses = other->losses;
	client->losses = host->losses;
	if (!choose(client))
		return;
	client->busy = true;
	host->in_flight++;
	world->in_flight++;
	world->requests++;
	tell(client, "begun", 0);
	block_submit(replica_node_block(host->node), &client->io);
}

void replica_clients_step(struct replica_world *world)
{
	for (unsigned i = 0; i < world->scenario.clients && !world->quiet; i++) {
		struct replica_client *client = &world->clients[i];
		struct replica_host *host = &world->hosts[i % LEDGER_NODES];

		if (!host->serving)
			host = replica_host_other(host);
		if (!client->busy && host->serving && rand_one_in(&world->rand, world->scenario.idle))
			begin(client, host);
	}
}
