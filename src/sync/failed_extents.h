/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Extents that could not be copied and are to be given again, for the sources of extents. Plain memory,
 * embedded. */
#pragma once

#include "range/extent.h"
#include "range/range_set.h"

struct failed_extents {
	struct range_set sets[2]; /* by kind */
	int res; /* -ENOMEM once one could not be kept: then nothing may be said to be finished */
};

void failed_extents_init(struct failed_extents *failed);
void failed_extents_done(struct failed_extents *failed);
void failed_extents_add(struct failed_extents *failed, const struct extent *extent);
/* As extents_next(): 1 with an extent, 0 when there is none, or -errno. */
int failed_extents_next(struct failed_extents *failed, uint64_t length_max, struct extent *ret);
