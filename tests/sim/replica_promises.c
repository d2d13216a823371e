/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What docs/replication.md promises, as it must be found on the disks:
 *
 *   of what a primary has acknowledged         sent            received                      durable
 *   its own disk has                           all of it; after a loss of its power what was flushed
 *   the other's disk has, while they are equal
 *     always                                   a state that the flushes allow: see ledger_disorder()
 *     while no power is lost there             nothing         all, once it takes over, if   all
 *                                                              its process lived
 *     after a loss of power there              nothing         nothing                       what was flushed
 *     at the end of a resync, for good         all that was acknowledged when that began
 *     once it has recorded that the primary's  all that was acknowledged when that failed; then as a primary's own disk: all of it,
 *     disk has failed                          and after a loss of power what was flushed
 *
 * "Equal" is what a restart would find: the same generation recorded on both, and neither half of something. Besides: no resync goes
 * over what was acknowledged and the source's past does not have, but by an order; what may differ is in the maps whenever the
 * generations say that the maps know; a write is acknowledged by a node whose map has it; nobody becomes primary beside a primary.
 */
#include "replica_world.h"

#include "base/bytes.h"
#include "map_stable.h"
#include "range/bitmap_file_private.h"
#include "replica/replica_note.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static bool is_good(const struct replica_host *host)
{
	return host->ids.current && !host->ids.inconsistent;
}

/* What is acknowledged there is meant to be on the other's disk, too. */
static bool are_equal(struct replica_host *host)
{
	const struct replica_host *other = replica_host_other(host);

	return is_good(host) && is_good(other) && host->ids.current == other->ids.current;
}

static void scan(struct replica_host *host, bool stable, uint32_t *ret)
{
	struct replica_world *world = host->world;
	uint64_t size;

	ledger_scan(&world->ledger,
	    stable ? ring_sim_disk_stable(world->sim, host->disk_fd, &size)
	           : ring_sim_disk_data(world->sim, host->disk_fd, &size),
	    host->device, ret);
}

static void expect(struct replica_host *host, const uint32_t *seen, const uint32_t *due, const char *why)
{
	uint32_t at = ledger_missing(&host->world->ledger, seen, due);

	if (at < host->world->ledger.sectors)
		replica_world_fail(host->world, "%u: sector %u is of write %d, and %u %s", host->index, at,
		    (int)seen[at], due[at], why);
}

static void expect_order(struct replica_host *host, const uint32_t *seen, const char *when)
{
	uint32_t due = 0, at = ledger_disorder(&host->world->ledger, host->index, seen, &due);

	if (at < host->world->ledger.sectors)
		replica_world_fail(host->world,
		    "%u: sector %u is of write %d, and %u is due by a flush before others that are there "
		    "(%s)",
		    host->index, at, (int)seen[at], due, when);
}

/* What it sees is what it has. Whoever follows it can have no more. */
static void go_on(struct replica_host *host, const uint32_t *seen, bool lasts)
{
	struct replica_host *other = replica_host_other(host);

	ledger_go_on(&host->world->ledger, host->index, seen, lasts);
	for (uint32_t i = 0; i < host->world->ledger.sectors; i++)
		if (other->promised[i] > seen[i])
			other->promised[i] = seen[i];
}

/* Notes */

/* A resync, or what looks like one: `host` will have the other's data, of that generation. Without one its disk has failed. */
static void begin_to_follow(struct replica_host *host, const struct replica_ids *old)
{
	const struct replica_host *other = replica_host_other(host);
	struct replica_world *world = host->world;
	struct ledger *ledger = &world->ledger;
	uint64_t of = host->ids.current ? host->ids.current : replica_host_other(host)->ids.current;

	replica_world_say(world, "%u is to follow %llx", host->index, (unsigned long long)host->ids.current);
	/* What it heard before may be recorded late. */
	if (other->anew && host->link && host->link == other->link)
		replica_world_fail(world, "%u is to follow a node whose map was lost", host->index);
	world->resyncs++;
	/* What it gives up for want of a disk is half of nothing. */
	if (world->scenario.hooks && (host->ids.current || !old->sender) && old->current &&
	    !old->inconsistent && !host->prepared && !host->map_fails)
		replica_world_fail(world, "%u: nobody has asked its hook before a resync", host->index);
	host->prepared = false;
	/* What it has given up before, for want of a disk, it does not lose now. */
	host->discards |= !old->current;
	for (uint32_t n = 1; n < ledger->writes_count && !host->discards && !host->anew; n++) {
		const struct ledger_write *write = &ledger->writes[n];

		if (write->node == host->index && write->gen && ledger_has(ledger, host->index, n) &&
		    !ledger_is_within(ledger, write->gen, of)) {
			replica_world_fail(world,
			    "%u is to follow generation %llx, which does not have its write %u", host->index,
			    (unsigned long long)of, n);
			break;
		}
	}
	memset(host->promised, 0, sizeof(host->promised));
	if (replica_host_other(host)->ids.current == host->ids.current)
		ledger_last(ledger, 1 - host->index, false, host->promised);
}

/* All of it has come. */
static void arrive(struct replica_host *host)
{
	struct replica_world *world = host->world;
	struct ledger *ledger = &world->ledger;
	struct ledger_node *node = &ledger->nodes[host->index];
	bool durable = world->scenario.ack == REPLICATE_DURABLE;

	replica_world_say(world, "%u has all of %llx", host->index, (unsigned long long)host->ids.current);
	ledger_follow(ledger, host->index, 1 - host->index, host->ids.current);
	ledger_last(ledger, host->index, false, node->memory);
	ledger_last(ledger, host->index, durable, node->lasting);
	memcpy(node->top, durable ? node->memory : host->promised, sizeof(node->top));
	if (!durable)
		memcpy(node->lasting, host->promised, sizeof(node->lasting));
	if (world->scenario.ack == REPLICATE_SENT || host->dying)
		memset(node->memory, 0, sizeof(node->memory));
	host->discards = host->shaky = host->anew = false;
}

/* Half of something is called good by force: whatever is there counts from now on. */
static void salvage(struct replica_host *host)
{
	struct ledger *ledger = &host->world->ledger;
	uint32_t seen[LEDGER_SECTORS];

	memset(&ledger->nodes[host->index].line, 0, sizeof(struct ledger_set));
	memset(ledger->nodes[host->index].lasting, 0, sizeof(ledger->nodes[host->index].lasting));
	scan(host, false, seen);
	go_on(host, seen, false);
	host->discards = host->anew = false;
}

/* The primary's disk has failed: from now on this one is all that there is. */
static void bear(struct replica_host *host)
{
	struct replica_world *world = host->world;
	struct ledger_node *node = &world->ledger.nodes[host->index];
	const struct ledger_node *primary = &world->ledger.nodes[1 - host->index];
	uint32_t seen[LEDGER_SECTORS], due[LEDGER_SECTORS] = {0};

	world->borne++;
	if (!replica_host_other(host)->reigns)
		return;
	/* What is behind the replica's end is nobody's. */
	memcpy(due, primary->top, host->sectors * sizeof(due[0]));
	scan(host, true, seen);
	expect(host, seen, due, "was acknowledged before the primary's disk failed");
	for (uint32_t i = 0; i < host->sectors; i++) {
		node->top[i] = (uint32_t)max_u64(node->top[i], due[i]);
		node->lasting[i] = (uint32_t)max_u64(node->lasting[i], due[i]);
	}
}

static void note(struct replica_host *host, const struct replica_ids *ids)
{
	const struct replica_ids old = host->ids;

	replica_map_noted(host, ids);
	host->ids = *ids;
	/* Between two looks it may have been told, and the link be gone. */
	host->knows = host->knows && (ids->follows || !old.follows || replica_host_other(host)->reigns);
	replica_faults_soon(host->world);
	if (ids->inconsistent) {
		if (!old.inconsistent || old.current != ids->current)
			begin_to_follow(host, &old);
	} else if (old.inconsistent && old.current == ids->current) {
		arrive(host);
	} else if (old.current != ids->current) {
		ledger_begin_gen(&host->world->ledger, ids->current, old.inconsistent ? 0 : old.current);
		replica_world_say(host->world, "%u: generation %llx after %llx", host->index,
		    (unsigned long long)ids->current, (unsigned long long)old.current);
		if (old.sender && !old.inconsistent && !ids->follows)
			replica_patience_check_parting(host);
		/* By an order that said so, and it holds although the node may crash before it serves. */
		host->knows = host->knows && !host->forced && !host->fenced;
		if (host->anew && !host->forced)
			replica_world_fail(
			    host->world, "%u: its map was lost, and its data count as good", host->index);
		if (old.inconsistent || host->anew)
			salvage(host);
		else if (old.follows && ids->follows && ids->history[0] == old.current)
			bear(host);
	}
}

/* The volume of a map has so many bytes now. */
static void note_size(struct replica_host *host, uint64_t bytes)
{
	uint32_t sectors = (uint32_t)(bytes / LEDGER_SECTOR);

	if (sectors == host->sectors)
		return;
	replica_world_say(host->world, "%u: has %u sectors after %u", host->index, sectors, host->sectors);
	/* A map that fails may go back to the size before; but not once anybody has seen the new one. */
	if (sectors < host->shown || sectors > host->device)
		replica_world_fail(host->world,
		    "%u: its volume has %u sectors, was shown with %u, its disk has %u", host->index, sectors,
		    host->shown, host->device);
	host->sectors = sectors;
	host->world->grown++;
	replica_faults_soon(host->world);
}

void replica_promise_notes(struct replica_world *world)
{
	for (unsigned i = 0; i < LEDGER_NODES; i++) {
		struct replica_host *host = &world->hosts[i];
		uint64_t size;
		const uint8_t *bytes = ring_sim_disk_stable(world->sim, host->map_fd, &size);
		struct bitmap_super super;
		struct replica_ids ids;

		/* What a lost map says is nothing. */
		if (host->map != MAP_GOOD)
			continue;
		assert(size >= REPLICA_SUPERS);
		if (!memcmp(bytes, host->supers, REPLICA_SUPERS))
			continue;
		memcpy(host->supers, bytes, REPLICA_SUPERS);
		if (!map_stable_super(world->sim, host->map_fd, &super) ||
		    replica_note_decode(super.note, super.note_length, &ids, NULL) < 0)
			replica_world_fail(world, "%u: its map has no superblock", i);
		else if (memcmp(&ids, &host->ids, sizeof(ids)))
			note(host, &ids);
		note_size(host, super.size);
	}
}

/* What clients are told */

static void raise_to(uint32_t *due, const struct replica_client *client)
{
	for (uint32_t i = client->first; i < client->first + client->count; i++)
		if (due[i] < client->write)
			due[i] = client->write;
}

/* The first sector of a write that the other's disk does not have now; or the end. */
static uint32_t find_missing(struct replica_host *other, const struct replica_client *client, int *ret_seen)
{
	struct ledger *ledger = &other->world->ledger;
	uint64_t size;
	const uint8_t *data = ring_sim_disk_data(other->world->sim, other->disk_fd, &size);
	uint32_t at = client->first;

	for (; at < client->first + client->count; at++) {
		uint32_t seen = at < other->sectors ? ledger_stamp(ledger, data + at * LEDGER_SECTOR, at) : 0;

		*ret_seen = (int)seen;
		if (seen == LEDGER_NOTHING || seen < client->write)
			break;
	}
	return at;
}

static void expect_there(struct replica_host *other, const struct replica_client *client)
{
	int seen;
	uint32_t at = find_missing(other, client, &seen);

	if (at < client->first + client->count)
		replica_world_fail(other->world,
		    "write %u was acknowledged by %u, and %u, of the same generation, has %d in sector %u",
		    client->write, client->node, other->index, seen, at);
}

/* What it has in its memory alone is there for a moment. */
static void look_at_memory(struct replica_host *other, const struct replica_client *client)
{
	struct replica_world *world = other->world;
	int seen;

	if (world->scenario.weak && find_missing(other, client, &seen) < client->first + client->count)
		replica_faults_now(world);
}

static void acknowledged_there(struct replica_host *other, const struct replica_client *client)
{
	struct replica_world *world = other->world;
	struct ledger_node *node = &world->ledger.nodes[other->index];
	bool nothing_lost = client->peer_losses == other->losses;
	enum replicate_ack ack = world->scenario.ack;

	/* What the other had answered, and has lost with its power since, was promised to nobody. */
	if (!nothing_lost)
		return;
	ledger_add(&world->ledger, other->index, client->write);
	if (ack == REPLICATE_DURABLE) {
		expect_there(other, client);
		raise_to(node->top, client);
		if (client->io.flags & BLOCK_FUA)
			raise_to(node->lasting, client);
	} else if (ack == REPLICATE_RECEIVED && client->peer_life == other->life && !other->dying) {
		raise_to(node->memory, client);
		look_at_memory(other, client);
	}
}

bool replica_promise_is_diskless(const struct replica_host *host)
{
	struct replica_node_status status;

	if (!replica_host_is_up(host))
		return false;
	replica_node_status(host->node, &status);
	return status.flow == REPLICA_DISKLESS && status.role == REPLICA_PRIMARY;
}

/* By the other's disk alone. */
static void acknowledged_elsewhere(struct replica_host *other, const struct replica_client *client)
{
	struct replica_world *world = other->world;
	struct ledger *ledger = &world->ledger;
	struct ledger_node *node = &ledger->nodes[other->index];
	struct ledger_write *write = &ledger->writes[client->write];
	struct ledger_set alone = {0};

	world->diverted++;
	/* What it has lost with its power since was promised to nobody. */
	if (client->peer_losses != other->losses)
		return;
	if (!is_good(other))
		replica_world_fail(
		    world, "%u: a write was acknowledged, and its data are not good", other->index);
	write->gen = other->ids.current;
	write->acknowledged = true;
	write->node = (uint8_t)other->index;
	ledger_add(ledger, other->index, client->write);
	expect_there(other, client);
	raise_to(node->top, client);
	if (!(client->io.flags & BLOCK_FUA))
		return;
	raise_to(node->lasting, client);
	alone.words[client->write / 64] = UINT64_C(1) << client->write % 64;
	ledger_cover(ledger, other->index, &alone, ledger_flushed(ledger, other->ids.current));
}

void replica_promise_acknowledged(struct replica_world *world, const struct replica_client *client)
{
	struct replica_host *host = &world->hosts[client->node];
	struct ledger *ledger = &world->ledger;
	struct ledger_node *node = &ledger->nodes[client->node];
	struct ledger_set alone = {0};
	uint32_t flush = 0;

	if (replica_promise_is_diskless(host)) {
		acknowledged_elsewhere(replica_host_other(host), client);
		world->acknowledged++;
		return;
	}
	if (!is_good(host))
		replica_world_fail(
		    world, "%u: a write was acknowledged, and its data are not good", host->index);
	replica_promise_look_at_role(host);
	/* Who gives up its role alone is a secondary while its clients leave. */
	if (!host->reigns && replica_host_other(host)->reigns && are_equal(host))
		replica_world_fail(world, "%u: a write was acknowledged by a secondary", host->index);
	ledger->writes[client->write].gen = host->ids.current;
	ledger->writes[client->write].acknowledged = true;
	/* It may be gone by now. */
	if (client->losses != host->losses)
		return;
	ledger_add(ledger, client->node, client->write);
	raise_to(node->top, client);
	if (client->io.flags & BLOCK_FUA) {
		raise_to(node->lasting, client);
		flush = ledger_flushed(ledger, host->ids.current);
		alone.words[client->write / 64] = UINT64_C(1) << client->write % 64;
		ledger_cover(ledger, client->node, &alone, flush);
	}
	if (are_equal(host)) {
		acknowledged_there(replica_host_other(host), client);
		if (flush)
			ledger_cover(ledger, 1 - client->node, &alone, flush);
	}
	if (world->acknowledged++ % 8 == 0) {
		replica_promise_check_intent(host, client);
		replica_promise_check_maps(world);
		replica_promise_check_doubts(host);
	}
}

/* What was in the line at the flush's begin lasts. */
static void make_last(struct ledger *ledger, unsigned index, const struct ledger_set *set)
{
	struct ledger_node *node = &ledger->nodes[index];

	for (uint32_t n = 1; n < ledger->writes_count; n++) {
		const struct ledger_write *write = &ledger->writes[n];

		if (!(set->words[n / 64] >> n % 64 & 1) || !ledger_has(ledger, index, n))
			continue;
		for (uint32_t i = write->first; i < write->first + write->count; i++)
			if (node->lasting[i] < n)
				node->lasting[i] = n;
	}
}

void replica_promise_flushed(struct replica_world *world, const struct replica_client *client)
{
	struct replica_host *host = &world->hosts[client->node], *other = replica_host_other(host);
	struct ledger *ledger = &world->ledger;
	uint32_t flush, seen[LEDGER_SECTORS];

	/* What a secondary flushes is its own. */
	replica_promise_look_at_role(host);
	if (!client->primary || !host->reigns || client->losses != host->losses)
		return;
	if (replica_promise_is_diskless(host)) {
		if (client->peer_losses != other->losses)
			return;
		ledger_cover(ledger, other->index, &client->set, ledger_flushed(ledger, other->ids.current));
		make_last(ledger, other->index, &client->set);
		return;
	}
	flush = ledger_flushed(ledger, host->ids.current);
	ledger_cover(ledger, host->index, &client->set, flush);
	make_last(ledger, host->index, &client->set);
	if (!are_equal(host))
		return;
	ledger_cover(ledger, other->index, &client->set, flush);
	if ((world->scenario.ack == REPLICATE_DURABLE || client->leased) &&
	    client->peer_losses == other->losses) {
		make_last(ledger, other->index, &client->set);
		scan(other, true, seen);
		expect(other, seen, ledger->nodes[other->index].lasting, "was flushed there, too");
	}
}

/* What happens to a node */

static void check_alone(struct replica_host *host)
{
	struct replica_world *world = host->world;
	const struct replica_host *other = replica_host_other(host);
	struct replica_node_status self, peer = {.flow = REPLICA_APART};
	bool together;

	replica_node_status(host->node, &self);
	if (replica_host_is_up(other))
		replica_node_status(other->node, &peer);
	together = host->link && host->link == other->link && self.linked && peer.linked &&
	           self.flow >= REPLICA_SENDING && peer.flow >= REPLICA_SENDING;
	if (together && peer.role == REPLICA_PRIMARY)
		replica_world_fail(world, "both nodes are primary, and together");
	/* Who yields has recorded that before the other hears of it. */
	if (host->knows && !together && !host->forced && !host->fenced && !other->ids.follows)
		replica_world_fail(world, "%u serves, and knows the other as primary", host->index);
}

static void begin_to_reign(struct replica_host *host)
{
	struct replica_world *world = host->world;
	struct ledger_node *node = &world->ledger.nodes[host->index];
	uint32_t seen[LEDGER_SECTORS];

	replica_promise_notes(world);
	replica_world_say(world, "%u serves%s", host->index, host->forced ? ", by force" : "");
	world->promotions++;
	world->forced += host->forced;
	if (!is_good(host))
		replica_world_fail(world, "%u serves, and its data are not good", host->index);
	check_alone(host);
	scan(host, false, seen);
	expect(host, seen, node->top, "was acknowledged");
	if (!host->shaky)
		expect(host, seen, node->memory, "was in its memory");
	expect_order(host, seen, "it takes over");
	go_on(host, seen, false);
	host->knows = host->fenced = host->shaky = false;
	replica_promise_check(world);
}

void replica_promise_look_at_role(struct replica_host *host)
{
	struct replica_node_status status;
	bool primary;

	if (!host->serving || !replica_host_is_up(host))
		return;
	replica_node_status(host->node, &status);
	primary = status.role == REPLICA_PRIMARY;
	if (primary && !host->reigns)
		begin_to_reign(host);
	else if (!primary && host->reigns)
		replica_world_say(host->world, "%u yields", host->index);
	else if (!primary)
		host->world->leases++;
	host->reigns = primary;
}

void replica_promise_power_lost(struct replica_host *host)
{
	struct replica_world *world = host->world;
	struct ledger_node *node = &world->ledger.nodes[host->index];
	uint32_t seen[LEDGER_SECTORS];

	replica_promise_notes(world);
	host->shaky = false;
	if (!is_good(host) || host->rotten_step)
		return;
	scan(host, false, seen);
	expect(host, seen, node->lasting, "was to last");
	expect_order(host, seen, "its power was lost");
	go_on(host, seen, true);
}

void replica_promise_flush_failed(struct replica_host *host)
{
	struct replica_world *world = host->world;
	struct replica_host *other = replica_host_other(host);
	uint32_t seen[LEDGER_SECTORS];

	replica_world_say(world, "%u: a flush has failed", host->index);
	world->flushes_failed++;
	/* Its clients need not see that. */
	if (host->rotten_step)
		return;
	/* And that may be all that anybody hears of it. */
	if (rand_one_in(&world->rand, 3))
		replica_net_break(world);
	replica_promise_notes(world);
	if (!is_good(host))
		return;
	scan(host, false, seen);
	expect(host, seen, world->ledger.nodes[host->index].lasting, "was to last");
	expect_order(host, seen, "a flush failed");
	go_on(host, seen, false);
	replica_clients_lower(host, seen);
	/* The one that it sends to gets what is left. */
	if (host->ids.sender)
		ledger_lower(&world->ledger, other->index, seen);
}

void replica_promise_memory_lost(struct replica_host *host)
{
	struct ledger_node *node = &host->world->ledger.nodes[host->index];

	memset(node->memory, 0, sizeof(node->memory));
}

/* At any time */

static void look_who_knows(struct replica_host *host)
{
	const struct replica_host *other = replica_host_other(host);
	struct replica_node_status self, peer;

	if (!replica_host_is_up(host) || !replica_host_is_up(other) || !host->link ||
	    host->link != other->link)
		return;
	replica_node_status(host->node, &self);
	replica_node_status(other->node, &peer);
	if (self.linked)
		host->fenced = false;
	host->excused &= !self.linked || (self.flow != REPLICA_EQUAL && self.flow != REPLICA_SENDING);
	if (!self.linked || !peer.linked || self.role == REPLICA_PRIMARY)
		return;
	if (other->reigns &&
	    (self.flow == REPLICA_EQUAL || self.flow == REPLICA_RECEIVING || self.flow == REPLICA_DISKLESS))
		host->knows = true;
	else if (peer.role == REPLICA_SECONDARY && self.peer_role == REPLICA_SECONDARY)
		host->knows = false;
}

static void look_at_size(struct replica_host *host)
{
	if (replica_host_is_up(host))
		host->shown = (uint32_t)(block_info(replica_node_block(host->node))->size / LEDGER_SECTOR);
	if (host->sectors < host->shown)
		replica_world_fail(host->world, "%u: shows %u sectors, and has recorded %u", host->index,
		    host->shown, host->sectors);
}

void replica_promise_look(struct replica_world *world)
{
	for (unsigned i = 0; i < LEDGER_NODES; i++) {
		look_who_knows(&world->hosts[i]);
		look_at_size(&world->hosts[i]);
	}
}

static void check_disk(struct replica_host *host)
{
	const struct ledger_node *node = &host->world->ledger.nodes[host->index];
	uint32_t seen[LEDGER_SECTORS];

	if (!is_good(host) || host->rotten_step)
		return;
	scan(host, false, seen);
	expect(host, seen, node->top, "was acknowledged");
	expect_order(host, seen, "as it is seen");
	scan(host, true, seen);
	expect(host, seen, node->lasting, "was to last");
	expect_order(host, seen, "as it is stable");
}

void replica_promise_check(struct replica_world *world)
{
	if (replica_scrub_hides(world))
		return;
	world->checked++;
	for (unsigned i = 0; i < LEDGER_NODES; i++) {
		check_disk(&world->hosts[i]);
		replica_map_check_foreign(&world->hosts[i]);
	}
	replica_promise_check_sizes(world);
	replica_promise_check_maps(world);
	for (unsigned i = 0; i < LEDGER_NODES; i++)
		replica_promise_check_doubts(&world->hosts[i]);
}
