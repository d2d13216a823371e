/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An array that is sorted and merged whenever it is full: adding stays cheap in any order. */
#include "track/changes.h"

#include "base/bytes.h"

#include <errno.h>
#include <stdlib.h>

#define CAPACITY (2 * (size_t)CHANGES_MAX)

void changes_init(struct changes *changes, uint64_t end)
{
	*changes = (struct changes){.end = end, .grain = 1};
}

void changes_done(struct changes *changes)
{
	free(changes->items);
	changes_init(changes, changes->end);
}

static int compare(const void *a, const void *b)
{
	const struct range *first = a, *second = b;

	return (first->offset > second->offset) - (first->offset < second->offset);
}

/* Rounded outwards, which never leaves the volume. */
static struct range rounded(const struct changes *changes, struct range range)
{
	uint64_t from = align_down(range.offset, changes->grain);
	uint64_t to = range.offset + range.length;

	to = changes->end - to < changes->grain ? changes->end : align_up(to, changes->grain);
	return (struct range){from, to - from};
}

static void merge(struct changes *changes)
{
	size_t kept = 0;

	for (size_t i = 0; i < changes->count; i++) {
		struct range range = rounded(changes, changes->items[i]);
		struct range *last = kept ? &changes->items[kept - 1] : NULL;

		if (!last || last->offset + last->length < range.offset) {
			changes->items[kept++] = range;
			continue;
		}
		changes->overlaps |= changes->grain == 1 && last->offset + last->length > range.offset;
		last->length =
		    max_u64(last->offset + last->length, range.offset + range.length) - last->offset;
	}
	changes->sorted = changes->count = kept;
}

void changes_tidy(struct changes *changes)
{
	if (changes->sorted < changes->count)
		qsort(changes->items, changes->count, sizeof(*changes->items), compare);
	merge(changes);
	while (changes->count > CHANGES_MAX) {
		changes->grain *= 2;
		merge(changes);
	}
}

static int grow(struct changes *changes)
{
	size_t capacity = changes->capacity ? 2 * changes->capacity : 1024;
	struct range *items = reallocarray(changes->items, capacity, sizeof(*items));

	if (!items)
		return -ENOMEM;
	changes->items = items;
	changes->capacity = capacity;
	return 0;
}

int changes_add(struct changes *changes, uint64_t offset, uint64_t length)
{
	struct range *last = changes->count ? &changes->items[changes->count - 1] : NULL;

	if (offset >= changes->end || length == 0)
		return 0;
	length = min_u64(length, changes->end - offset);
	/* Most come in order, next to one another. */
	if (last && last->offset + last->length == offset) {
		last->length += length;
		return 0;
	}
	if (changes->count == CAPACITY)
		changes_tidy(changes);
	if (changes->count == changes->capacity && grow(changes) < 0)
		return -ENOMEM;
	changes->items[changes->count++] = (struct range){offset, length};
	return 0;
}

int changes_add_all(struct changes *changes, const struct changes *from)
{
	int res = 0;

	for (size_t i = 0; res == 0 && i < from->count; i++)
		res = changes_add(changes, from->items[i].offset, from->items[i].length);
	return res;
}

int changes_take(struct changes *changes, struct range_set *ret)
{
	changes_tidy(changes);
	range_set_init(ret);
	for (size_t i = 0; i < changes->count; i++) {
		if (range_set_add(ret, changes->items[i].offset, changes->items[i].length) == 0)
			continue;
		range_set_done(ret);
		return -ENOMEM;
	}
	changes_done(changes);
	return 0;
}
