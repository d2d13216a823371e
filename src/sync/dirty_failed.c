/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Regions that could not be read from the leg that leads. They stay dirty, and are passed over until all others have had their turn;
 * then they are tried again, one at a time and with long rests, as a write may wait meanwhile. Whoever writes them anew, or mends the
 * leg, thereby has them copied.
 */
#include "sync/dirty_private.h"

#include "base/bytes.h"

#define REST_NS     1000000000u
#define REST_FACTOR 10u /* a rest is at least so many times as long as what failed */

static uint64_t regions_of(const struct dirty_slot *slot)
{
	uint64_t region_size = slot->dirty->region_size;

	return (slot->length + region_size - 1) / region_size;
}

void dirty_failed(struct dirty_slot *slot)
{
	struct dirty_extents *dirty = slot->dirty;
	uint64_t now_ns = ring_now_ns(block_ring(dirty->mirror)), first = slot->offset / dirty->region_size;

	bitmap_set(&dirty->failed, first, regions_of(slot));
	dirty->again_many = 1;
	dirty->again_after_ns = now_ns + REST_NS;
	dirty->round_over = false;
	if (!slot->again)
		return;
	dirty->again = first + 1;
	dirty->again_after_ns = now_ns + max_u64(REST_NS, (now_ns - slot->begun_ns) * REST_FACTOR);
}

void dirty_succeeded(struct dirty_slot *slot)
{
	struct dirty_extents *dirty = slot->dirty;
	uint64_t first = slot->offset / dirty->region_size, behind = first + regions_of(slot);

	if (!slot->again)
		return;
	bitmap_clear(&dirty->failed, first, regions_of(slot));
	/* Then others may have come back, too: after an outage most have. */
	bitmap_clear(&dirty->failed, behind, min_u64(dirty->again_many, dirty->failed.bits - behind));
	dirty->again_many = min_u64(dirty->again_many * 2, dirty->failed.bits);
	dirty->again_after_ns = 0;
}

bool dirty_has_failed(const struct dirty_extents *dirty, uint64_t region, uint64_t *ret_after)
{
	if (dirty->failed.count == 0 || !bitmap_test(&dirty->failed, region))
		return false;
	*ret_after = bitmap_next_clear(&dirty->failed, region);
	return true;
}

static bool is_trying(const struct dirty_extents *dirty)
{
	for (unsigned i = 0; i < DIRTY_SLOTS; i++)
		if (dirty->slots[i].state != SLOT_FREE && dirty->slots[i].again)
			return true;
	return false;
}

static uint64_t next_failed(const struct dirty_extents *dirty)
{
	uint64_t at = bitmap_next_set(&dirty->failed, dirty->again);

	return at < dirty->failed.bits ? at : bitmap_next_set(&dirty->failed, 0);
}

bool dirty_find_failed(struct dirty_extents *dirty, struct dirty_slot *ret)
{
	uint64_t at;

	if (dirty->failed.count == 0 || !dirty->round_over || is_trying(dirty) ||
	    ring_now_ns(block_ring(dirty->mirror)) < dirty->again_after_ns)
		return false;
	at = next_failed(dirty);
	/* Nobody asks for it any more. */
	while (at < dirty->failed.bits && !bitmap_test(bitmap_file_dirty(dirty->map), at)) {
		bitmap_clear(&dirty->failed, at, 1);
		at = next_failed(dirty);
	}
	if (at == dirty->failed.bits)
		return false;
	ret->again = true;
	ret->zero = false;
	ret->offset = at * dirty->region_size;
	ret->length = min_u64(dirty->region_size, dirty->size - ret->offset);
	return true;
}
