/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sorted, disjoint, non-adjacent ranges in one array; found by binary search. Whoever made the set owns it;
 * it has no locks, so it stays on one thread.
 */
#include "range/range_set.h"

#include "base/bytes.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint64_t range_end(const struct range *range)
{
	return range->offset + range->length;
}

/* The first range that ends at or after `offset` (so that it touches or lies beyond it). */
static size_t find_touching(const struct range_set *set, uint64_t offset)
{
	size_t low = 0, high = set->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (range_end(&set->ranges[middle]) < offset)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

void range_set_init(struct range_set *set)
{
	*set = (struct range_set){0};
}

void range_set_done(struct range_set *set)
{
	free(set->ranges);
	range_set_init(set);
}

static int insert_at(struct range_set *set, size_t index, uint64_t offset, uint64_t length)
{
	if (set->count == set->capacity) {
		size_t capacity = set->capacity ? 2 * set->capacity : 16;
		struct range *ranges = reallocarray(set->ranges, capacity, sizeof(*ranges));

		if (!ranges)
			return -ENOMEM;
		set->ranges = ranges;
		set->capacity = capacity;
	}
	memmove(&set->ranges[index + 1], &set->ranges[index], (set->count - index) * sizeof(*set->ranges));
	set->ranges[index] = (struct range){offset, length};
	set->count++;
	set->bytes += length;
	return 0;
}

int range_set_add(struct range_set *set, uint64_t offset, uint64_t length)
{
	uint64_t from = offset, to = offset + length;
	size_t first, last;

	assert(to >= offset);
	if (length == 0)
		return 0;
	/* Progress is mostly appended in order, which needs no search. */
	if (set->count > 0 && range_end(&set->ranges[set->count - 1]) < offset)
		first = set->count;
	else
		first = find_touching(set, offset);
	for (last = first; last < set->count && set->ranges[last].offset <= to; last++) {
		from = min_u64(from, set->ranges[last].offset);
		to = max_u64(to, range_end(&set->ranges[last]));
		set->bytes -= set->ranges[last].length;
	}
	if (last == first)
		return insert_at(set, first, offset, length);
	set->ranges[first] = (struct range){from, to - from};
	set->bytes += to - from;
	memmove(&set->ranges[first + 1], &set->ranges[last], (set->count - last) * sizeof(*set->ranges));
	set->count -= last - first - 1;
	return 0;
}

int range_set_add_all(struct range_set *set, const struct range_set *other)
{
	int res = 0;

	for (size_t i = 0; res == 0 && i < other->count; i++)
		res = range_set_add(set, other->ranges[i].offset, other->ranges[i].length);
	return res;
}

bool range_set_contains(const struct range_set *set, uint64_t offset, uint64_t length)
{
	struct range gap;

	assert(offset + length >= offset);
	return !range_set_gap(set, offset, offset + length, &gap);
}

bool range_set_gap(const struct range_set *set, uint64_t offset, uint64_t end, struct range *ret)
{
	size_t index = find_touching(set, offset);
	uint64_t to = end;

	if (index < set->count && range_end(&set->ranges[index]) == offset)
		index++;
	if (index < set->count && set->ranges[index].offset <= offset)
		offset = range_end(&set->ranges[index++]);
	if (offset >= end)
		return false;
	if (index < set->count)
		to = min_u64(end, set->ranges[index].offset);
	*ret = (struct range){offset, to - offset};
	return true;
}

bool range_set_take(struct range_set *set, uint64_t length_max, struct range *ret)
{
	struct range *first = set->ranges;
	uint64_t length;

	assert(length_max > 0);
	if (set->count == 0)
		return false;
	length = min_u64(first->length, length_max);
	*ret = (struct range){first->offset, length};
	first->offset += length;
	first->length -= length;
	set->bytes -= length;
	if (first->length == 0) {
		set->count--;
		memmove(first, first + 1, set->count * sizeof(*first));
	}
	return true;
}
