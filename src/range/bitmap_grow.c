/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The map of a volume that has become larger. Pages lie behind all else, so none moves: those of the new regions are written, all set, then
 * the superblocks. Bits beyond the end of a map's last page mean nothing, so that the old superblock holds with them, too. What comes
 * behind an attempt that failed is overwritten by the next one before any superblock tells of it.
 */
#include "range/bitmap_file_private.h"

#include "base/bytes.h"
#include "base/plant.h"

#include <errno.h>
#include <string.h>

#define AGAIN_NS     20000000u
#define ATTEMPTS_MAX 3u

/* In memory: so many regions, and their pages. Fewer than there are: always 0. */
static int set_regions(struct bitmap_file *map, uint64_t regions, uint64_t pages)
{
	struct {
		struct bitmap *bitmap;
		uint64_t bits;
	} all[] = {{&map->dirty, regions}, {&map->logged, regions}, {&map->warm, regions},
	    {&map->used, map->used.bits ? regions : 0}, {&map->touched, pages}, {&map->run, pages},
	    {&map->clearing, min_u64(pages, SETTLE_PAGES) * BITMAP_PAGE_BITS}};
	int res = 0;

	for (size_t i = 0; res == 0 && i < sizeof(all) / sizeof(all[0]); i++)
		res = bitmap_resize(all[i].bitmap, all[i].bits);
	if (res < 0) {
		set_regions(map, map->regions, map->pages);
		return res;
	}
	map->regions = regions;
	map->pages = pages;
	return 0;
}

static void pass_time(struct bitmap_file *map)
{
	struct ring_op wait = {.opcode = RING_TIMER, .deadline_ns = ring_now_ns(map->ring) + AGAIN_NS};

	ring_wait(map->ring, &wait);
}

/* When it is not known which size the file has now, it gets the old one again, or is lost: bits of the new area are not kept. */
static int record_size(struct bitmap_file *map, uint64_t size, struct error *error)
{
	int res = bitmap_super_record(map, NULL, size, error), again = res;
	struct error ignored;

	if (res == 0 || res == -ECANCELED)
		return res;
	for (unsigned i = 0; i < ATTEMPTS_MAX; i++) {
		again = bitmap_super_record(map, NULL, map->super.size, &ignored);
		if (again == 0 || again == -ECANCELED)
			return res;
		pass_time(map);
	}
	bitmap_file_lose(map, again);
	return res;
}

static int check_size(const struct bitmap_file *map, const struct bitmap_super *larger, struct error *error)
{
	if (map->lost)
		return error_set(
		    error, map->lost, "the map cannot be written any more: %s", strerror(-map->lost));
	if (larger->size < map->super.size)
		return error_set(error, -EINVAL, "it has %llu bytes, and cannot be made smaller",
		    (unsigned long long)map->super.size);
	return bitmap_super_check_size(larger, error);
}

static int grow(struct bitmap_file *map, uint64_t size, struct error *error)
{
	/* The last one of before, too, if the end lies within it. */
	uint64_t first = map->super.size / map->super.region_size, page = first / BITMAP_PAGE_BITS;
	int res;

	if (!PLANTED(PLANTED_CLEAN_END)) {
		bitmap_set(&map->logged, first, map->regions - first);
		bitmap_set(&map->dirty, first, map->regions - first);
	}
	bitmap_set(&map->touched, page, map->pages - page);
	res = bitmap_write_touched(map);
	if (res < 0)
		return error_set(error, res, "cannot write the map: %s; look after the disk that it is on",
		    strerror(-res));
	return record_size(map, size, error);
}

int bitmap_file_grow(struct bitmap_file *map, uint64_t size, struct error *error)
{
	struct bitmap_super larger = map->super;
	uint64_t regions = map->regions, pages = map->pages;
	int res;

	larger.size = size;
	res = check_size(map, &larger, error);
	if (res == 0 && size == map->super.size)
		return 0;
	if (res == 0 && set_regions(map, bitmap_super_regions(&larger), bitmap_super_pages(&larger)) < 0)
		res = error_set(error, -ENOMEM, "out of memory");
	if (res < 0)
		return error_prefix(error, "cannot grow the map");
	map->settling = false;
	res = grow(map, size, error);
	if (res < 0) {
		map->settling = false;
		set_regions(map, regions, pages);
		return error_prefix(error, "cannot grow the map");
	}
	return 0;
}
