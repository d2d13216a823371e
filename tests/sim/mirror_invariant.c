/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * DESIGN's second invariant, looked at while it runs and not only after a crash: wherever the legs would differ after a loss of power now,
 * whatever of what is not flushed survives it, the map's stable bytes say so; and wherever a write was acknowledged just now.
 */
#include "mirror_world.h"

#include "base/bytes.h"
#include "map_stable.h"
#include "range/bitmap_file.h"

#include <stdlib.h>
#include <string.h>

#define VIEWS 4u

/* The first region that the map does not know of, and that differs between what the legs hold, or would hold; or ->bits. */
static uint64_t unknown_difference(
    struct mirror_world *world, uint64_t region_size, const struct bitmap *logged)
{
	uint64_t size, length = world->scenario.sectors * MODEL_SECTOR;
	const uint8_t *views[VIEWS];

	for (unsigned i = 0; i < MIRROR_LEGS; i++) {
		views[2 * i] = ring_sim_disk_data(world->sim, world->fds[i], &size);
		views[2 * i + 1] = ring_sim_disk_stable(world->sim, world->fds[i], &size);
	}
	for (uint64_t at = bitmap_next_clear(logged, 0), end; at < logged->bits;
	     at = bitmap_next_clear(logged, end)) {
		uint64_t offset = at * region_size;

		end = bitmap_next_set(logged, at);
		for (unsigned i = 1; i < VIEWS; i++)
			if (memcmp(views[0] + offset, views[i] + offset,
			        min_u64(end * region_size, length) - offset))
				return at;
	}
	return logged->bits;
}

void mirror_world_check_map(struct mirror_world *world, const struct mirror_client *client)
{
	const struct bitmap_file *map = mirror_map(mirror_job_block(world->job));
	const struct bitmap_super *super = bitmap_file_super(map);
	uint64_t first = client->io.offset / super->region_size, at;
	uint64_t last = (client->io.offset + client->io.length - 1) / super->region_size;
	struct bitmap logged;

	if (bitmap_file_lost(map) || cutover_is_end(world->state))
		return;
	if (bitmap_init(&logged, bitmap_super_regions(super)) < 0)
		abort();
	map_stable_load(world->sim, world->map_fd, super, &logged);
	if (!bitmap_test_all(&logged, first, last - first + 1))
		mirror_world_fail(world,
		    "a write was acknowledged, and not all of the regions %llu to %llu are in the map",
		    (unsigned long long)first, (unsigned long long)last);
	/* Of large legs it would take as long as all else; and a bit that has flipped is in no map. */
	at = world->scenario.large || world->scrub.planted != UINT64_MAX
	         ? logged.bits
	         : unknown_difference(world, super->region_size, &logged);
	if (at < logged.bits)
		mirror_world_fail(world,
		    "region %llu may differ after a loss of power, and is not in the map",
		    (unsigned long long)at);
	bitmap_done(&logged);
}
