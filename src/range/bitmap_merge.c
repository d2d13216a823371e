/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Many bits of a map at once: those of another map are added, or all are cleared. They go to the disk with their pages, not through
 * records, of which there are too few. A page that is torn, or not written at all, only makes more regions dirty than need be.
 */
#include "range/bitmap_file_private.h"

#include <assert.h>

/* The pages of these bits differ from the disk. */
static void touch(struct bitmap_file *map, const struct bitmap *bits)
{
	uint64_t page = bitmap_next_set(bits, 0) / BITMAP_PAGE_BITS;

	while (page < map->pages) {
		bitmap_set(&map->touched, page, 1);
		if ((page + 1) * BITMAP_PAGE_BITS >= bits->bits)
			return;
		page = bitmap_next_set(bits, (page + 1) * BITMAP_PAGE_BITS) / BITMAP_PAGE_BITS;
	}
}

/* Others may go on claiming, so it is not waited for rest. */
int bitmap_write_touched(struct bitmap_file *map)
{
	uint64_t until = map->runs + 1 + map->running;
	int res = 0;

	if (map->touched.count == 0)
		return map->lost;
	map->merging = map->run_wanted = true;
	bitmap_round_start(map);
	while (res == 0 && map->runs < until && !map->lost)
		res = ring_step(map->ring);
	map->merging = false;
	return res < 0 ? res : map->lost;
}

int bitmap_file_merge(struct bitmap_file *map, const struct bitmap *more)
{
	assert(!more || more->bits == map->regions);
	if (map->lost)
		return map->lost;
	/* What a clearing under way holds to be equal may not be so any more. */
	map->settling = false;
	if (!more) {
		bitmap_set(&map->logged, 0, map->regions);
		bitmap_set(&map->touched, 0, map->pages);
		bitmap_set(&map->dirty, 0, map->regions);
		return bitmap_write_touched(map);
	}
	bitmap_or(&map->logged, more);
	bitmap_or(&map->dirty, more);
	touch(map, more);
	return bitmap_write_touched(map);
}

int bitmap_file_empty(struct bitmap_file *map)
{
	int res = 0;

	/* What a verification found last may wait for its record yet. */
	while (res == 0 && !list_empty(&map->uses))
		res = ring_step(map->ring);
	if (res < 0 || map->lost)
		return res < 0 ? res : map->lost;
	map->settling = false;
	touch(map, &map->logged);
	bitmap_clear(&map->logged, 0, map->regions);
	bitmap_clear(&map->dirty, 0, map->regions);
	bitmap_clear(&map->warm, 0, map->regions);
	if (map->used.bits)
		bitmap_clear(&map->used, 0, map->regions);
	return bitmap_write_touched(map);
}
