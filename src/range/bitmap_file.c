/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Claims, and what happens to the bits: see bitmap_file.h. Writing them is bitmap_round.c's. */
#include "range/bitmap_file_private.h"

#include "base/bytes.h"
#include "base/plant.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

const struct bitmap_super *bitmap_file_super(const struct bitmap_file *map)
{
	return &map->super;
}

const struct bitmap *bitmap_file_dirty(const struct bitmap_file *map)
{
	return &map->dirty;
}

const struct bitmap *bitmap_file_logged(const struct bitmap_file *map)
{
	return &map->logged;
}

int bitmap_file_lost(const struct bitmap_file *map)
{
	return map->lost;
}

bool bitmap_file_idle(const struct bitmap_file *map)
{
	return !map->in_round && list_empty(&map->pending) && !map->running && !map->run_wanted;
}

/* What somebody uses is not cleared. */
static void keep(struct bitmap_file *map, const struct bitmap_claim *claim)
{
	uint64_t begin = max_u64(claim->first, map->window);
	uint64_t end = min_u64(claim->first + claim->count, map->window + map->clearing.bits);

	if (begin < end)
		bitmap_clear(&map->clearing, begin - map->window, end - begin);
}

int bitmap_file_log_ahead(struct bitmap_file *map, uint64_t regions)
{
	assert(regions > 1 && (regions & (regions - 1)) == 0 && map->ahead == 1);
	if (bitmap_init(&map->used, map->regions) < 0)
		return -ENOMEM;
	/* Of an earlier run's nobody knows. */
	bitmap_or(&map->used, &map->logged);
	map->ahead = regions;
	return 0;
}

struct bitmap_intent bitmap_claim_intent(const struct bitmap_file *map, const struct bitmap_claim *claim)
{
	uint64_t group = claim->warm ? map->ahead : 1;
	uint64_t first = align_down(claim->first, group);
	uint64_t end = min_u64(align_up(claim->first + claim->count, group), map->regions);

	return (struct bitmap_intent){first, (uint32_t)(end - first)};
}

int bitmap_file_claim(struct bitmap_file *map, struct bitmap_claim *claim, uint64_t offset, uint64_t length)
{
	assert(length > 0 && offset <= map->super.size && length <= map->super.size - offset);
	claim->first = offset / map->super.region_size;
	claim->count = (offset + length - 1) / map->super.region_size - claim->first + 1;
	list_init(&claim->waiting);
	list_append(&map->uses, &claim->use);
	if (map->settling)
		keep(map, claim);
	if (map->used.bits)
		bitmap_set(&map->used, claim->first, claim->count);
	if (claim->warm) {
		const struct bitmap_intent intent = bitmap_claim_intent(map, claim);

		bitmap_set(&map->warm, intent.first, intent.count);
	}
	if (map->lost)
		return map->lost;
	if (PLANTED(PLANTED_NO_INTENT))
		bitmap_set(&map->logged, claim->first, claim->count);
	if (!map->merging && bitmap_test_all(&map->logged, claim->first, claim->count))
		return 1;
	list_append(&map->pending, &claim->waiting);
	bitmap_round_start(map);
	return 0;
}

void bitmap_file_release(struct bitmap_file *map, struct bitmap_claim *claim)
{
	assert(list_empty(&claim->waiting));
	list_remove(&claim->use);
}

void bitmap_file_mark(struct bitmap_file *map, const struct bitmap_claim *claim)
{
	/* With the map lost, nothing is durable any more, and whoever uses it knows. */
	if (map->lost)
		bitmap_set(&map->logged, claim->first, claim->count);
	assert(bitmap_test_all(&map->logged, claim->first, claim->count));
	bitmap_set(&map->dirty, claim->first, claim->count);
}

void bitmap_file_take(struct bitmap_file *map, const struct bitmap_claim *claim)
{
	bitmap_clear(&map->dirty, claim->first, claim->count);
}

uint64_t bitmap_file_equal(struct bitmap_file *map, uint64_t first, uint64_t count)
{
	return bitmap_clear(&map->dirty, first, count);
}

uint64_t bitmap_file_doubt(struct bitmap_file *map)
{
	uint64_t before = map->dirty.count;

	map->settling = false;
	if (PLANTED(PLANTED_NO_DOUBT) && before > 0)
		return 0;
	bitmap_file_in_doubt(map, &map->dirty);
	return map->dirty.count - before;
}

void bitmap_file_in_doubt(const struct bitmap_file *map, struct bitmap *ret)
{
	bitmap_or(ret, &map->dirty);
	bitmap_or_common(ret, &map->logged, map->used.bits ? &map->used : &map->logged);
}

/* What is warm is passed over once. */
static void cool_down(struct bitmap_file *map, uint64_t end)
{
	uint64_t at = bitmap_next_set(&map->warm, map->window);

	while (at < end) {
		uint64_t stop = min_u64(bitmap_next_clear(&map->warm, at), end);

		bitmap_clear(&map->clearing, at - map->window, stop - at);
		bitmap_clear(&map->warm, at, stop - at);
		at = bitmap_next_set(&map->warm, stop);
	}
}

/* The first region at or after `from` that is logged and not dirty; map->regions when there is none. */
static uint64_t next_settled(const struct bitmap_file *map, uint64_t from)
{
	uint64_t at = bitmap_next_set(&map->logged, from);

	while (at < map->regions) {
		uint64_t word =
		    map->logged.words[at / 64] & ~map->dirty.words[at / 64] & UINT64_MAX << at % 64;

		if (word)
			return align_down(at, 64) + (uint64_t)__builtin_ctzll(word);
		at = bitmap_next_set(&map->logged, align_down(at, 64) + 64);
	}
	return map->regions;
}

bool bitmap_file_settle_begin(struct bitmap_file *map)
{
	struct bitmap *clearing = &map->clearing;
	uint64_t at;

	if (map->settling || map->lost || map->running || map->run_wanted ||
	    map->logged.count == map->dirty.count)
		return false;
	at = next_settled(map, map->cursor < map->regions ? map->cursor : 0);
	if (at == map->regions)
		at = next_settled(map, 0);
	if (at == map->regions)
		return false;
	map->window = at / BITMAP_PAGE_BITS * BITMAP_PAGE_BITS;
	map->cursor = map->window + clearing->bits;
	bitmap_clear(clearing, 0, clearing->bits);
	while (at < min_u64(map->cursor, map->regions)) {
		bitmap_set(clearing, at - map->window, 1);
		at = next_settled(map, at + 1);
	}
	cool_down(map, min_u64(map->cursor, map->regions));
	list_for_each (node, &map->uses)
		keep(map, container_of(node, struct bitmap_claim, use));
	map->settling = clearing->count > 0;
	return map->settling;
}

void bitmap_file_settle_end(struct bitmap_file *map, bool flushed)
{
	struct bitmap *clearing = &map->clearing;
	uint64_t at = bitmap_next_set(clearing, 0);

	/* A leg was lost in between: what was to be cleared is in doubt. */
	if (!map->settling)
		return;
	map->settling = false;
	if (!flushed || map->lost)
		return;
	while (at < clearing->bits) {
		uint64_t end = bitmap_next_clear(clearing, at), page = (map->window + at) / BITMAP_PAGE_BITS;
		uint64_t last = (map->window + end - 1) / BITMAP_PAGE_BITS;

		bitmap_clear(&map->logged, map->window + at, end - at);
		if (map->used.bits)
			bitmap_clear(&map->used, map->window + at, end - at);
		bitmap_set(&map->touched, page, last - page + 1);
		at = bitmap_next_set(clearing, end);
	}
	map->run_wanted = true;
	bitmap_round_start(map);
}

static int cannot_record(int res, struct error *error)
{
	return error_set(error, res,
	    "cannot write the map's superblock: %s; look after the disk that the map is on, then try again",
	    strerror(-res));
}

/* Another record, or that the map is given up, is being written. */
static int wait_for_super(struct bitmap_file *map)
{
	int res = 0;

	while (res == 0 && (map->super_busy || map->super_left > 0))
		res = ring_step(map->ring);
	return res;
}

int bitmap_super_record(
    struct bitmap_file *map, const struct bitmap_super *super, uint64_t size, struct error *error)
{
	int res = wait_for_super(map);

	if (res < 0)
		return cannot_record(res, error);
	map->super_next = super ? *super : map->super;
	map->super_next.size = size;
	map->super_next.given_up |= map->lost != 0;
	map->super_next.sequence = ++map->super_sequence;
	/* These are what the file is laid out by. */
	assert(map->super_next.nonce == map->super.nonce && map->super_next.records == map->super.records &&
	       map->super_next.region_size == map->super.region_size);
	map->super_left = SUPER_COPIES;
	map->super_done = false;
	map->super_busy = true;
	bitmap_round_start(map);
	res = ring_run_until(map->ring, &map->super_done);
	if (res == 0)
		res = map->super_res;
	map->super_left = 0;
	map->super_busy = false;
	return res < 0 ? cannot_record(res, error) : 0;
}

int bitmap_file_record(struct bitmap_file *map, const struct bitmap_super *super, struct error *error)
{
	assert(super->authoritative < BITMAP_LEGS);
	return bitmap_super_record(map, super, map->super.size, error);
}

struct bitmap_file *bitmap_file_free(struct bitmap_file *map)
{
	if (!map)
		return NULL;
	assert(list_empty(&map->uses));
	map->run_wanted = map->running = false;
	map->closing = true;
	/* A wait before another attempt, if it is one. */
	if (map->lost)
		ring_cancel(map->ring, &map->op);
	while (map->in_round && ring_step(map->ring) == 0)
		;
	bitmap_done(&map->dirty);
	bitmap_done(&map->logged);
	bitmap_done(&map->warm);
	bitmap_done(&map->used);
	bitmap_done(&map->touched);
	bitmap_done(&map->run);
	bitmap_done(&map->clearing);
	free(map->blocks);
	free(map);
	return NULL;
}
