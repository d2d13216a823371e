/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Collects what a tracker says has changed, in any order, into a sorted set. Memory is bounded: when there are more than
 * CHANGES_MAX separate ranges, close ones become one, so that the set names more than what changed, never less.
 */
#pragma once

#include "range/range_set.h"

#define CHANGES_MAX (1u << 18) /* ranges that are kept; 4 MiB */

struct changes {
	uint64_t end;        /* bytes of the volume: nothing lies behind */
	uint64_t grain;      /* ranges are rounded outwards to this, a power of two; 1: exact */
	bool overlaps;       /* two ranges had bytes in common; seen only while grain is 1 */
	struct range *items; /* the first `sorted` are sorted, disjoint, not adjacent */
	size_t sorted, count, capacity;
};

void changes_init(struct changes *changes, uint64_t end);
void changes_done(struct changes *changes);
/* [offset, offset+length), clipped to the volume's end, where the last block of a tracker is a part only. Returns 0 or -ENOMEM. */
int changes_add(struct changes *changes, uint64_t offset, uint64_t length);
/* What `from` has, too. Returns 0 or -ENOMEM. */
int changes_add_all(struct changes *changes, const struct changes *from);
/* Sorts what was added so far; `overlaps` is true of all of it afterwards. */
void changes_tidy(struct changes *changes);
/* All that was added, as a set that the caller owns; empties `changes`. Returns 0 or -ENOMEM. */
int changes_take(struct changes *changes, struct range_set *ret);
