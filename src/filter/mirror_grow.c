/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A mirror that becomes larger. What it keeps by region has room first; then the map grows; then clients may go further. */
#include "filter/mirror_private.h"

#include "base/bytes.h"

#include <assert.h>
#include <errno.h>

/* Granules of another size: what holds something that was written is written. 0 or -ENOMEM. */
static int regrain(struct bitmap *written, uint64_t before, uint64_t after, uint64_t bits)
{
	uint64_t times = after / before, at = bitmap_next_set(written, 0), end;
	struct bitmap coarse;
	int res = times == 1 ? bitmap_resize(written, bits) : bitmap_init(&coarse, bits);

	if (res < 0 || times == 1)
		return res;
	for (; at < written->bits; at = bitmap_next_set(written, end)) {
		end = bitmap_next_clear(written, at);
		bitmap_set(&coarse, at / times, (end - 1) / times - at / times + 1);
	}
	bitmap_done(written);
	*written = coarse;
	return 0;
}

/* Room for more than there is, which does no harm if it comes to nothing. */
static int reserve(struct mirror *mirror, uint64_t size)
{
	uint32_t region_size = bitmap_file_super(mirror->map)->region_size;
	uint64_t regions = size / region_size + 1;
	uint64_t granule = max_u64(mirror_granule(region_size, size), mirror->granule);
	struct bitmap *const by_region[] = {&mirror->changed, &mirror->unflushed, &mirror->flushing};
	int res = 0;

	for (size_t i = 0; res == 0 && i < sizeof(by_region) / sizeof(by_region[0]); i++)
		res = bitmap_resize(by_region[i], regions);
	/* The follower's says nothing: it comes anew. */
	if (res == 0)
		res = bitmap_resize(&mirror_follower(mirror)->written, size / granule + 1);
	if (res == 0)
		res = regrain(&mirror->legs[mirror->authoritative].written, mirror->granule, granule,
		    size / granule + 1);
	if (res == 0)
		mirror->granule = granule;
	return res;
}

int mirror_grow(struct block *block, uint64_t size, struct error *error)
{
	struct mirror *mirror = mirror_of(block);
	int res = 0;

	assert(!mirror_attached(block) && size >= block->info.size);
	if (reserve(mirror, size) < 0)
		return error_set(error, -ENOMEM, "out of memory");
	res = bitmap_file_grow(mirror->map, size, error);
	if (bitmap_file_lost(mirror->map))
		mirror_map_was_lost(mirror);
	if (res < 0)
		return res;
	block->info.size = size;
	mirror_ports_set_info(mirror);
	return 0;
}
