/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A set of byte offsets kept as sorted, disjoint, non-adjacent ranges: what is done, what is bad. Plain
 * memory. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct range {
	uint64_t offset, length;
};

struct range_set {
	struct range *ranges; /* sorted by offset */
	size_t count, capacity;
	uint64_t bytes; /* sum of lengths */
};

void range_set_init(struct range_set *set);
void range_set_done(struct range_set *set);
/* Adds [offset, offset+length), merging. Returns 0 or -ENOMEM (the set is unchanged). */
int range_set_add(struct range_set *set, uint64_t offset, uint64_t length);
/* The same for all ranges of another set; after -ENOMEM the set has some of them. */
int range_set_add_all(struct range_set *set, const struct range_set *other);
/* True when all of [offset, offset+length) is in the set. */
bool range_set_contains(const struct range_set *set, uint64_t offset, uint64_t length);
/*
 * The first gap (what is not in the set) at or after `offset` and below `end`: returns true and sets *ret,
 * clipped to `end`; false when there is none.
 */
bool range_set_gap(const struct range_set *set, uint64_t offset, uint64_t end, struct range *ret);
/* Takes the lowest range, or the first length_max bytes of it, out of the set; false when the set is empty.
 */
bool range_set_take(struct range_set *set, uint64_t length_max, struct range *ret);
