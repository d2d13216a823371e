/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What of a live mirror is copied next. A cursor goes round the volume; before it comes to a part, the legs are asked where they
 * have holes there. Where both have, the map is told that they are the same, all at once; where the authoritative leg alone has, the
 * follower is zeroed in long pieces; all else is copied. Clients write meanwhile: see leg_holes.h.
 */
#include "sync/dirty_private.h"

#include "base/bytes.h"
#include "sync/copy.h"

#define COMPARE_EXTENT (256u << 10) /* what is compared is copied as a whole when any of it differs, bytes */

/* Asked about at once, and of it what is data: clients trim what was asked long ago. Bytes. */
#define LOOK_MAX  (1ull << 40)
#define LOOK_DATA (1ull << 30)

/* How many regions the first `bytes` of the volume take. */
static uint64_t regions_in(const struct dirty_extents *dirty, uint64_t bytes)
{
	return (bytes + dirty->region_size - 1) / dirty->region_size;
}

/* Whether a region is in a slot already; *ret_after: the first one behind that slot. */
static bool in_slot(const struct dirty_extents *dirty, uint64_t region, uint64_t *ret_after)
{
	uint64_t offset = region * dirty->region_size;

	for (unsigned i = 0; i < DIRTY_SLOTS; i++) {
		const struct dirty_slot *slot = &dirty->slots[i];

		if (slot->state == SLOT_FREE || offset < slot->offset ||
		    offset >= slot->offset + slot->length)
			continue;
		*ret_after = regions_in(dirty, slot->offset + slot->length);
		return true;
	}
	return false;
}

/* The next dirty region in [from, end) that no slot has, and that can be read; `end` when there is none. */
static uint64_t find(const struct dirty_extents *dirty, uint64_t from, uint64_t end)
{
	const struct bitmap *bits = bitmap_file_dirty(dirty->map);
	uint64_t at = bitmap_next_set(bits, from), after;

	while (at < end && (in_slot(dirty, at, &after) || dirty_has_failed(dirty, at, &after)))
		at = bitmap_next_set(bits, min_u64(after, bits->bits));
	return min_u64(at, end);
}

/* Where the first slot behind `first` begins, or `end`. */
static uint64_t next_slot(const struct dirty_extents *dirty, uint64_t first, uint64_t end)
{
	for (unsigned i = 0; i < DIRTY_SLOTS; i++) {
		const struct dirty_slot *slot = &dirty->slots[i];
		uint64_t region = slot->offset / dirty->region_size;

		if (slot->state != SLOT_FREE && region > first)
			end = min_u64(end, region);
	}
	return end;
}

/* Both legs read as zero in [first, end). Slots that wait for their lock count on what they found. */
static void pass_over(struct dirty_extents *dirty, uint64_t first, uint64_t end)
{
	while ((first = find(dirty, first, end)) < end) {
		uint64_t stop = next_slot(dirty, first, end);

		dirty->passed += bitmap_file_equal(dirty->map, first, stop - first) * dirty->region_size;
		first = stop;
	}
}

void dirty_looked(struct leg_holes *holes)
{
	struct dirty_extents *dirty = container_of(holes, struct dirty_extents, holes);
	uint64_t at = holes->begin, data = 0, end;

	while (at < holes->end && data < LOOK_DATA) {
		enum leg_hole hole = leg_holes_at(holes, at, dirty->region_size, &end);

		if (hole == LEG_HOLE_NONE)
			end = min_u64(end, at + LOOK_DATA);
		if (hole == LEG_HOLE_BOTH)
			pass_over(dirty, at / dirty->region_size, regions_in(dirty, end));
		else if (hole == LEG_HOLE_NONE)
			data += end - at;
		at = end;
	}
	if (at > holes->begin) {
		dirty->cursor = holes->begin / dirty->region_size;
		dirty->looked = regions_in(dirty, at);
	}
	extents_wake(&dirty->extents);
}

/* Goes on to where something is dirty. False when nothing is, or the legs were asked first. */
static bool look_further(struct dirty_extents *dirty)
{
	uint64_t bits = bitmap_file_dirty(dirty->map)->bits, at = find(dirty, dirty->looked, bits), end;

	if (at == bits) {
		dirty->round_over = true;
		at = find(dirty, 0, bits);
	}
	if (at == bits || leg_holes_asking(&dirty->holes))
		return false;
	if (leg_holes_possible(&dirty->holes, at * dirty->region_size, &end)) {
		at *= dirty->region_size;
		leg_holes_ask(&dirty->holes, at, min_u64(LOOK_MAX, dirty->size - at));
		return false;
	}
	dirty->cursor = at;
	dirty->looked = regions_in(dirty, end);
	return true;
}

/* How many regions from `first` on are given at once, as far as the slot's kind goes. */
static uint64_t count_max(
    const struct dirty_extents *dirty, uint64_t first, uint64_t length_max, bool *ret_zero)
{
	const struct leg_holes *holes = &dirty->holes;
	uint64_t at = first * dirty->region_size, end = dirty->size;

	*ret_zero = at >= holes->begin && at < holes->end &&
	            leg_holes_at(holes, at, dirty->region_size, &end) != LEG_HOLE_NONE;
	if (*ret_zero)
		length_max = dirty->limits.extent_max ? min_u64(dirty->limits.extent_max * 4, COPY_ZERO_MAX)
		                                      : COPY_ZERO_MAX;
	else if (dirty->limits.extent_max)
		length_max = min_u64(length_max, dirty->limits.extent_max);
	/* What is compared lies within one chunk. */
	if (dirty->comparing && !*ret_zero)
		length_max = min_u64(min_u64(length_max, COMPARE_EXTENT), DIGEST_CHUNK - at % DIGEST_CHUNK);
	return max_u64(min_u64(length_max, end - at) / dirty->region_size, 1);
}

bool dirty_find(struct dirty_extents *dirty, uint64_t length_max, struct dirty_slot *ret)
{
	const struct bitmap *bits = bitmap_file_dirty(dirty->map);
	uint64_t first, count = 1, most, after;

	if (dirty_find_failed(dirty, ret))
		return true;
	while ((first = find(dirty, dirty->cursor, dirty->looked)) == dirty->looked)
		if (!look_further(dirty))
			return dirty_find_failed(dirty, ret);
	most = count_max(dirty, first, length_max, &ret->zero);
	while (count < most && first + count < bits->bits && bitmap_test(bits, first + count) &&
	       !in_slot(dirty, first + count, &after) && !dirty_has_failed(dirty, first + count, &after))
		count++;
	dirty->cursor = first + count;
	ret->again = false;
	ret->offset = first * dirty->region_size;
	ret->length = min_u64(count * dirty->region_size, dirty->size - ret->offset);
	return true;
}
