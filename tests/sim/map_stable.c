/* SPDX-License-Identifier: GPL-2.0-or-later */
/* As bitmap_load.c does it, but by looking at what is stable. */
#include "map_stable.h"

#include "range/bitmap_file_private.h"

#include <assert.h>

bool map_stable_super(struct ring_sim *sim, int fd, struct bitmap_super *ret)
{
	uint64_t size;
	const uint8_t *bytes = ring_sim_disk_stable(sim, fd, &size);
	struct bitmap_super super;
	bool found = false;

	for (unsigned i = 0; i < SUPER_COPIES && (i + 1) * BITMAP_BLOCK <= size; i++) {
		if (bitmap_super_decode(bytes + i * BITMAP_BLOCK, &super, NULL) < 0 ||
		    (found && super.sequence <= ret->sequence))
			continue;
		*ret = super;
		found = true;
	}
	return found;
}

void map_stable_load(struct ring_sim *sim, int fd, const struct bitmap_super *super, struct bitmap *ret)
{
	uint64_t size, sequence = UINT64_MAX;
	const uint8_t *bytes = ring_sim_disk_stable(sim, fd, &size);
	struct bitmap_record record;

	assert(bitmap_super_pages(super) == 1 && size >= bitmap_page_at(super, 1));
	if (super->given_up)
		bitmap_set(ret, 0, ret->bits);
	if (bitmap_page_decode(bytes + bitmap_page_at(super, 0), 0, super->nonce, &sequence))
		bitmap_load(ret, 0, bytes + bitmap_page_at(super, 0) + BITMAP_PAGE_AT, BITMAP_PAGE_BYTES);
	else
		bitmap_set(ret, 0, ret->bits);
	for (uint32_t slot = 0; slot < super->records; slot++) {
		if (!bitmap_record_decode(
		        bytes + bitmap_record_at(super, slot), super->nonce, ret->bits, &record) ||
		    record.sequence <= sequence)
			continue;
		for (uint32_t i = 0; i < record.count; i++)
			bitmap_set(ret, record.intents[i].first, record.intents[i].count);
	}
}
