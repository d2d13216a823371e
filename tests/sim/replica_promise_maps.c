/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the maps of two replicas must say: see replica_promises.c. */
#include "replica_world.h"

#include "base/bytes.h"
#include "map_stable.h"
#include "range/bitmap_file_private.h"
#include "replica/replica_note.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Regions that a map names, as bytes of sectors. */
static void add_logged(struct replica_host *host, bool *ret_named)
{
	struct replica_world *world = host->world;
	struct bitmap_super super;
	struct bitmap logged;

	if (!map_stable_super(world->sim, host->map_fd, &super) ||
	    bitmap_init(&logged, bitmap_super_regions(&super)) < 0)
		abort();
	map_stable_load(world->sim, host->map_fd, &super, &logged);
	for (uint32_t i = 0; i < super.size / LEDGER_SECTOR; i++)
		ret_named[i] |= bitmap_test(&logged, i * LEDGER_SECTOR / super.region_size);
	bitmap_done(&logged);
}

/* What a node that runs would send, or have sent to it; of one that does not, what its map says. */
static void add_doubt(struct replica_host *host, bool *ret_named)
{
	const struct bitmap_file *map;
	struct bitmap doubt = {0};

	if (!replica_host_is_up(host)) {
		add_logged(host, ret_named);
		return;
	}
	map = mirror_map(mirror_job_block(replica_node_mirror(host->node)));
	if (bitmap_init(&doubt, bitmap_file_dirty(map)->bits) < 0)
		abort();
	bitmap_file_in_doubt(map, &doubt);
	for (uint32_t i = 0; i < host->world->ledger.sectors; i++) {
		uint64_t region = (uint64_t)i * LEDGER_SECTOR / bitmap_file_super(map)->region_size;

		ret_named[i] |= region < doubt.bits && bitmap_test(&doubt, region);
	}
	bitmap_done(&doubt);
}

/* Whether they are to know. */
static bool maps_know(struct replica_world *world, enum replica_relation *ret)
{
	const struct replica_ids *one = &world->hosts[0].ids, *other = &world->hosts[1].ids;

	*ret = replica_relate(one, other);
	return !one->full && !other->full && *ret >= REPLICA_SAME && *ret <= REPLICA_PARTED &&
	       !(one->inconsistent && other->inconsistent);
}

/* What is on a node's disk, as far as that is the replica. */
struct view {
	const uint8_t *bytes;
	uint32_t sectors;
};

static struct view view_of(const struct replica_host *host, bool stable)
{
	uint64_t size;

	return (struct view){.bytes = stable ? ring_sim_disk_stable(host->world->sim, host->disk_fd, &size)
	                                     : ring_sim_disk_data(host->world->sim, host->disk_fd, &size),
	    .sectors = host->sectors};
}

/* What one has and the other has not is not the same. */
static bool differ(const struct view *one, const struct view *other, uint32_t sector)
{
	size_t at = sector * LEDGER_SECTOR;

	if (sector >= one->sectors || sector >= other->sectors)
		return one->sectors != other->sectors;
	return memcmp(one->bytes + at, other->bytes + at, LEDGER_SECTOR) != 0;
}

static void expect_named(
    struct replica_world *world, const struct view *views, unsigned count, const bool *named, const char *who)
{
	uint32_t sectors = (uint32_t)max_u64(world->hosts[0].sectors, world->hosts[1].sectors);

	for (uint32_t s = 0; s < sectors; s++)
		for (unsigned i = 1; i < count && !named[s]; i++)
			if (differ(&views[0], &views[i], s)) {
				replica_world_fail(
				    world, "%s: sector %u may differ, and no map knows", who, s);
				return;
			}
}

/* Two nodes that meet like that are the same. */
static bool in_sync(const struct replica_world *world)
{
	const struct replica_ids *one = &world->hosts[0].ids, *other = &world->hosts[1].ids;

	return replica_judge(one, other) == REPLICA_IN_SYNC && !one->grown && !other->grown;
}

/* Where the disks differ, or would after a loss of power now, whatever of what is not flushed survived it. */
void replica_promise_check_maps(struct replica_world *world)
{
	bool named[LEDGER_SECTORS] = {false};
	enum replica_relation relation;
	struct view views[4];

	if (!maps_know(world, &relation))
		return;
	if (!in_sync(world))
		for (unsigned i = 0; i < LEDGER_NODES; i++)
			add_logged(&world->hosts[i], named);
	for (unsigned i = 0; i < 4; i++)
		views[i] = view_of(&world->hosts[i / 2], i % 2);
	expect_named(world, views, 4, named, replica_relation_name(relation));
}

/* And what differs from what a node has that runs: maps name more than they have to, and nodes know better. */
void replica_promise_check_doubts(struct replica_host *host)
{
	struct replica_host *other = replica_host_other(host);
	struct replica_world *world = host->world;
	bool named[LEDGER_SECTORS] = {false};
	enum replica_relation relation;
	struct view views[3];

	if (!replica_host_is_up(host) || !maps_know(world, &relation))
		return;
	add_doubt(host, named);
	add_doubt(other, named);
	views[0] = view_of(host, false);
	views[1] = view_of(other, false);
	views[2] = view_of(other, true);
	expect_named(world, views, 3, named, "among nodes that run");
}

/* The map of the node that acknowledges a write has it, on stable storage. */
void replica_promise_check_intent(struct replica_host *host, const struct replica_client *client)
{
	bool named[LEDGER_SECTORS] = {false};

	add_logged(host, named);
	for (uint32_t i = client->first; i < client->first + client->count; i++)
		if (!named[i]) {
			replica_world_fail(host->world,
			    "%u: write %u was acknowledged, and sector %u is not in the map", host->index,
			    client->write, i);
			return;
		}
}

/* What is called equal is of one size, but while it is recorded that it grows. */
void replica_promise_check_sizes(struct replica_world *world)
{
	const struct replica_host *one = &world->hosts[0], *other = &world->hosts[1];
	struct replica_node_status self, peer;
	bool equal = in_sync(world);

	if (one->sectors == other->sectors || one->ids.grown || other->ids.grown)
		return;
	if (replica_host_is_up(one) && replica_host_is_up(other) && one->link && one->link == other->link) {
		replica_node_status(one->node, &self);
		replica_node_status(other->node, &peer);
		equal |= self.flow == REPLICA_EQUAL && peer.flow == REPLICA_EQUAL;
	}
	if (equal)
		replica_world_fail(world, "the nodes are equal, and one has %u sectors, the other %u",
		    one->sectors, other->sectors);
}
