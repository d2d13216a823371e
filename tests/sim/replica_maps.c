/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Maps that are made, and maps that are lost: gone, cut short or damaged, while their node is down. Then the node does not begin, and is made
 * anew: it gets all of the other's data, and the other none of its own, unless it is forced to be primary as it stands.
 */
#include "replica_world.h"

#include "base/crc32c.h"
#include "map_stable.h"
#include "range/bitmap_file.h"
#include "replica/replica_note.h"

#include <errno.h>
#include <string.h>

enum damage { DAMAGE_GONE, DAMAGE_CUT_SHORT, DAMAGE_SUPERS, DAMAGE_PAGE, DAMAGES };

/* As replica_node_create() does it, with small regions: so a small volume has many. */
int replica_map_make(
    struct replica_host *host, struct ring *ring, uint32_t sectors, uint32_t region_size, uint64_t nonce)
{
	const struct replica_ids ids = {.foreign = host->world->scenario.foreign[host->index]};
	struct bitmap_super super = {.nonce = nonce,
	    .size = (uint64_t)sectors * LEDGER_SECTOR,
	    .region_size = region_size,
	    .records = host->world->scenario.records,
	    .note_length = REPLICA_NOTE_BYTES};
	struct bitmap_file *map;
	struct error error;
	int res;

	replica_note_encode(&ids, super.note);
	res = bitmap_file_create(&map, ring, host->map_fd, &super, NULL, &error);
	if (res == 0)
		bitmap_file_free(map);
	return res;
}

/* The page is the last block; a map whose page is damaged is good, and names all. */
static void damage(struct replica_host *host, enum damage how)
{
	struct ring_sim *sim = host->world->sim;
	uint64_t size, length, at = 0;
	uint8_t *data = ring_sim_disk_data(sim, host->map_fd, &size);

	if (how == DAMAGE_GONE || how == DAMAGE_CUT_SHORT) {
		ring_sim_disk_resize(sim, host->map_fd, how == DAMAGE_GONE ? 0 : size - 1);
		return;
	}
	length = how == DAMAGE_SUPERS ? REPLICA_SUPERS : BITMAP_BLOCK;
	if (how == DAMAGE_PAGE)
		at = size - length;
	for (uint64_t i = 0; i < length; i++)
		data[at + i] ^= 0x5a;
	ring_sim_disk_settle(sim, host->map_fd);
}

void replica_map_damage(struct replica_host *host)
{
	static const char *const names[] = {"gone", "cut short", "without superblocks", "damaged in a page"};
	struct replica_world *world = host->world;
	enum damage how = (enum damage)rand_below(&world->rand, DAMAGES);

	host->damaged = false;
	if (host->map == MAP_RENEWED)
		return;
	replica_world_say(world, "the map of %u is %s", host->index, names[how]);
	replica_promise_notes(world);
	damage(host, how);
	world->maps_lost++;
	if (how == DAMAGE_PAGE)
		return;
	host->map = MAP_LOST;
	host->ids = (struct replica_ids){0};
	host->knows = host->discards = host->prepared = false;
	host->anew = true;
}

int replica_map_renew(struct replica_host *host)
{
	struct replica_world *world = host->world;
	struct rand *rand = &world->rand;
	const uint32_t *sizes = world->scenario.region_size;
	uint32_t sectors = rand_one_in(rand, 2) ? host->sectors : host->device;
	int res;

	host->map = MAP_RENEWED;
	res = replica_map_make(
	    host, host->ring, sectors, sizes[rand_below(rand, LEDGER_NODES)], ++world->names);
	if (res == 0 && !host->dying) {
		replica_world_say(world, "%u is made anew, with %u sectors", host->index, sectors);
		replica_map_found(host);
	}
	return res;
}

void replica_map_found(struct replica_host *host)
{
	struct ring_sim *sim = host->world->sim;
	struct bitmap_super super;
	const uint8_t *data;

	if (!map_stable_super(sim, host->map_fd, &super))
		return;
	ring_sim_disk_settle(sim, host->disk_fd);
	data = ring_sim_disk_data(sim, host->disk_fd, &host->carried);
	host->carried_crc = crc32c(0, data, host->carried);
	host->map = MAP_GOOD;
	host->ids.foreign = host->world->scenario.foreign[host->index];
	host->sectors = host->shown = (uint32_t)(super.size / LEDGER_SECTOR);
}

/* The same, of one whose map was lost meanwhile. */
static void check_carried(struct replica_host *host)
{
	uint64_t size;
	const uint8_t *data = ring_sim_disk_data(host->world->sim, host->disk_fd, &size);

	if (crc32c(0, data, host->carried) != host->carried_crc)
		replica_world_fail(
		    host->world, "%u: its volume is not what it was when its map was made anew", host->index);
}

/* What a volume carried before it was a replica's: every byte of it, until an order says what it is. */
void replica_map_check_foreign(struct replica_host *host)
{
	uint32_t seen[LEDGER_SECTORS];
	const uint8_t *data;
	uint64_t size;

	if (!host->ids.foreign)
		return;
	if (host->anew) {
		check_carried(host);
		return;
	}
	data = ring_sim_disk_data(host->world->sim, host->disk_fd, &size);
	ledger_scan(&host->world->ledger, data, host->device, seen);
	for (uint32_t i = 0; i < host->world->scenario.sectors; i++)
		if (seen[i] != 1 + host->index) {
			replica_world_fail(host->world,
			    "%u: sector %u is of write %d, and what was there was nobody's to overwrite",
			    host->index, i, (int)seen[i]);
			return;
		}
}

void replica_map_noted(struct replica_host *host, const struct replica_ids *ids)
{
	struct replica_world *world = host->world;

	if (!host->ids.foreign || ids->foreign)
		return;
	replica_map_check_foreign(host);
	world->foreign++;
	world->given_up += !ids->current;
	if (ids->current ? !host->forced : !host->given_up)
		replica_world_fail(world, "%u: nobody has said what its volume carried", host->index);
}
