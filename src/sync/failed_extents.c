/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One set of ranges for each kind of extent. */
#include "sync/failed_extents.h"

void failed_extents_init(struct failed_extents *failed)
{
	range_set_init(&failed->sets[EXTENT_DATA]);
	range_set_init(&failed->sets[EXTENT_ZERO]);
	failed->res = 0;
}

void failed_extents_done(struct failed_extents *failed)
{
	range_set_done(&failed->sets[EXTENT_DATA]);
	range_set_done(&failed->sets[EXTENT_ZERO]);
}

void failed_extents_add(struct failed_extents *failed, const struct extent *extent)
{
	int res = range_set_add(&failed->sets[extent->kind], extent->offset, extent->length);

	if (res < 0)
		failed->res = res;
}

int failed_extents_next(struct failed_extents *failed, uint64_t length_max, struct extent *ret)
{
	struct range range;

	if (failed->res < 0)
		return failed->res;
	for (int kind = EXTENT_DATA; kind <= EXTENT_ZERO; kind++) {
		if (!range_set_take(&failed->sets[kind], length_max, &range))
			continue;
		*ret = (struct extent){range.offset, range.length, (enum extent_kind)kind};
		return 1;
	}
	return 0;
}
