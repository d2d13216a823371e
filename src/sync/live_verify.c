/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A few ranges at a time, each in a slot: it waits for its lock, is compared, and, if it differs, logged, marked and told. */
#include "sync/live_verify.h"

#include "base/bytes.h"
#include "block/digest_root.h"
#include "sync/dirty_compare.h"
#include "sync/leg_holes.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS  8u
#define RANGE  (256u << 10) /* a write waits for the comparison of no more than this, or of a region, bytes */
#define LEAVES (BITMAP_REGION_MAX / DIGEST_LEAF)
static_assert(BITMAP_REGION_MAX >= RANGE, "so many leaves a range has at most");
static_assert(
    DIGEST_CHUNK % RANGE == 0 && DIGEST_CHUNK % BITMAP_REGION_MAX == 0, "a range lies within a chunk");

enum verify_state { VERIFY_FREE, VERIFY_WAITING, VERIFY_COMPARING, VERIFY_LOGGING };

struct verify_slot {
	struct live_verify *verify;
	enum verify_state state;
	bool abandoned; /* its lock is let go, or will be when it comes */
	struct range_lock lock;
	struct bitmap_claim claim;
	struct dirty_compare compare;
	uint64_t differing[LEAVES / 64]; /* bits */
};

struct live_verify {
	struct block *mirror;
	struct bitmap_file *map;
	uint64_t size, region_size, range;
	struct live_verify_options options;
	struct digest_key key;

	uint64_t rate, cursor, next_ns;
	uint64_t stopped_at; /* not running: where the pass would go on */
	bool limited;        /* by the rate, since somebody asked */
	bool running, held, spoiled, kept;
	unsigned active;
	struct live_verify_counts counts;
	struct ring_op timer;
	struct leg_holes holes;
	struct digest_root roots[MIRROR_LEGS]; /* of the authoritative leg, of the follower */
	enum mirror_leg_index first;           /* which leg is the authoritative one */
	struct verify_slot slots[SLOTS];
};

static void step(struct live_verify *verify);

static void slot_end(struct verify_slot *slot)
{
	struct live_verify *verify = slot->verify;

	if (!slot->abandoned)
		range_lock_drop(&slot->lock);
	slot->state = VERIFY_FREE;
	verify->active--;
	step(verify);
}

static uint64_t slot_leaves(const struct verify_slot *slot)
{
	return digest_count(slot->lock.length, DIGEST_LEAF);
}

static bool leaf_is_told(const struct verify_slot *slot, uint64_t leaf)
{
	return slot->differing[leaf / 64] >> leaf % 64 & 1;
}

/* What differs of a slot's range. */
static void tell(struct verify_slot *slot)
{
	struct live_verify *verify = slot->verify;
	uint64_t leaves = slot_leaves(slot);

	for (uint64_t leaf = 0, last; leaf < leaves; leaf = last + 1) {
		uint64_t at = leaf * DIGEST_LEAF, length;

		for (last = leaf; last < leaves && leaf_is_told(slot, last);)
			last++;
		length = min_u64(last * DIGEST_LEAF, slot->lock.length) - at;
		if (last == leaf)
			continue;
		verify->counts.differing += length;
		if (verify->options.differs)
			verify->options.differs(verify->options.data, slot->lock.offset + at, length);
	}
}

/* Whoever hears of it can rely on it: so not before the map has it. */
static void mark(struct verify_slot *slot)
{
	struct live_verify *verify = slot->verify;

	bitmap_file_mark(verify->map, &slot->claim);
	bitmap_file_release(verify->map, &slot->claim);
	if (verify->options.marked)
		verify->options.marked(verify->options.data);
	tell(slot);
	slot_end(slot);
}

static void logged(struct bitmap_claim *claim, int res)
{
	mark(container_of(claim, struct verify_slot, claim));
}

/* What is dirty will be copied, and may differ; unless it stays dirty. */
static bool leaf_differs(const struct verify_slot *slot, uint64_t leaf)
{
	const struct live_verify *verify = slot->verify;
	uint64_t at = leaf * DIGEST_BYTES;

	return memcmp(slot->compare.digests[0] + at, slot->compare.digests[1] + at, DIGEST_BYTES) &&
	       (verify->kept || !bitmap_test(bitmap_file_dirty(verify->map),
	                            (slot->lock.offset + leaf * DIGEST_LEAF) / verify->region_size));
}

/* Notes what differs of a slot's range, and from where to where that is. False when nothing does. */
static bool find_differing(struct verify_slot *slot, uint64_t *ret_offset, uint64_t *ret_length)
{
	uint64_t begin = UINT64_MAX, end = 0;

	for (uint64_t leaf = 0; leaf < slot_leaves(slot); leaf++) {
		if (!leaf_differs(slot, leaf))
			continue;
		slot->differing[leaf / 64] |= UINT64_C(1) << leaf % 64;
		begin = min_u64(begin, leaf * DIGEST_LEAF);
		end = min_u64((leaf + 1) * DIGEST_LEAF, slot->lock.length);
	}
	*ret_offset = slot->lock.offset + begin;
	*ret_length = end - begin;
	return end > 0;
}

/* What is to become dirty. What the follower cannot read is not what it should be, and nobody knows that it differs. */
static bool find_to_mark(struct verify_slot *slot, bool differs, uint64_t *ret_offset, uint64_t *ret_length)
{
	*ret_offset = slot->lock.offset;
	*ret_length = slot->lock.length;
	if (slot->compare.source_res < 0 || !differs)
		return false;
	return slot->compare.failed ? slot->verify->spoiled : find_differing(slot, ret_offset, ret_length);
}

static void count(struct verify_slot *slot)
{
	struct live_verify *verify = slot->verify;
	const struct dirty_compare *compare = &slot->compare;

	if (compare->source_res < 0) {
		verify->counts.unread += slot->lock.length;
	} else if (compare->failed) {
		verify->counts.spoiled += slot->lock.length;
	} else {
		verify->counts.verified += slot->lock.length;
		if (verify->options.roots)
			mirror_forget_changed(verify->mirror, slot->lock.offset, slot->lock.length);
	}
	for (unsigned i = 0; i < MIRROR_LEGS && verify->options.roots && !compare->failed; i++)
		digest_root_add(&verify->roots[i], slot->lock.offset, slot->lock.length, compare->digests[i]);
}

static void compared(struct dirty_compare *compare, bool differs)
{
	struct verify_slot *slot = container_of(compare, struct verify_slot, compare);
	struct live_verify *verify = slot->verify;
	uint64_t offset, length;

	if (slot->abandoned) {
		slot_end(slot);
		return;
	}
	count(slot);
	/* Whoever is told of it may stop the pass: this range has had its turn. */
	slot->state = VERIFY_LOGGING;
	if (!find_to_mark(slot, differs, &offset, &length)) {
		slot_end(slot);
		return;
	}
	slot->claim.done = logged;
	if (bitmap_file_claim(verify->map, &slot->claim, offset, length) != 0)
		mark(slot);
}

static void slot_compare(struct verify_slot *slot)
{
	struct live_verify *verify = slot->verify;

	if (slot->abandoned) {
		range_lock_drop(&slot->lock);
		slot_end(slot);
		return;
	}
	slot->state = VERIFY_COMPARING;
	slot->compare.done = compared;
	dirty_compare_start(&slot->compare, mirror_copy_source(verify->mirror),
	    mirror_copy_target(verify->mirror), &verify->key, slot->lock.offset, slot->lock.length);
}

static void granted(struct range_lock *lock)
{
	slot_compare(container_of(lock, struct verify_slot, lock));
}

static void timer_done(struct ring_op *op, int res)
{
	step(container_of(op, struct live_verify, timer));
}

/* True when the rate allows another range now; else the timer comes back. */
static bool may_begin(struct live_verify *verify)
{
	struct ring *ring = block_ring(verify->mirror);
	uint64_t now_ns = ring_now_ns(ring);

	if (verify->held)
		return false;
	if (verify->rate == 0 || verify->next_ns <= now_ns)
		return true;
	verify->limited = true;
	if (!verify->timer.active) {
		verify->timer = (struct ring_op){
		    .opcode = RING_TIMER, .deadline_ns = verify->next_ns, .done = timer_done};
		ring_submit(ring, &verify->timer);
	}
	return false;
}

static void begin(struct live_verify *verify, struct verify_slot *slot)
{
	uint64_t length = min_u64(verify->range, verify->size - verify->cursor);

	*slot = (struct verify_slot){.verify = verify, .state = VERIFY_WAITING};
	/* As a write to both legs: one behind the copy's back, from before the mode changed, is no difference. */
	slot->lock = (struct range_lock){
	    .offset = verify->cursor, .length = length, .kind = MIRROR_LOCK_THROUGH, .granted = granted};
	verify->cursor += length;
	verify->active++;
	if (verify->rate)
		verify->next_ns = max_u64(verify->next_ns, ring_now_ns(block_ring(verify->mirror))) +
		                  (uint64_t)((double)length * 1e9 / (double)verify->rate);
	if (range_lock_take(mirror_locks(verify->mirror), &slot->lock))
		slot_compare(slot);
}

/* To the next range that is to be read, or to the end. False when the legs are asked for their holes first. */
static bool pass_holes(struct live_verify *verify)
{
	struct leg_holes *holes = &verify->holes;
	uint64_t end;

	while (verify->cursor < verify->size && !leg_holes_asking(holes)) {
		if (verify->cursor < holes->begin || verify->cursor >= holes->end) {
			if (!leg_holes_possible(holes, verify->cursor, &end))
				return true;
			leg_holes_ask(holes, verify->cursor, verify->size - verify->cursor);
			return false;
		}
		if (leg_holes_at(holes, verify->cursor, verify->range, &end) != LEG_HOLE_BOTH)
			return true;
		verify->counts.holes += end - verify->cursor;
		if (verify->options.roots)
			mirror_forget_changed(verify->mirror, verify->cursor, end - verify->cursor);
		verify->cursor = end;
	}
	return !leg_holes_asking(holes);
}

static void holes_told(struct leg_holes *holes)
{
	step(container_of(holes, struct live_verify, holes));
}

static void step(struct live_verify *verify)
{
	for (unsigned i = 0; i < SLOTS && verify->running && verify->cursor < verify->size; i++) {
		if (verify->slots[i].state != VERIFY_FREE)
			continue;
		if (!may_begin(verify) || !pass_holes(verify))
			return;
		if (verify->cursor < verify->size)
			begin(verify, &verify->slots[i]);
	}
	if (!verify->running || verify->cursor < verify->size || verify->active)
		return;
	verify->running = false;
	verify->stopped_at = verify->size;
	verify->options.ended(verify->options.data);
}

int live_verify_new(struct live_verify **ret, struct block *mirror, const struct live_verify_options *options,
    struct error *error)
{
	struct live_verify *verify = calloc(1, sizeof(*verify));
	int res;

	if (!verify)
		return error_set(error, -ENOMEM, "cannot begin to verify: out of memory");
	res = digest_key_random(&verify->key, error);
	for (unsigned i = 0; i < MIRROR_LEGS && res == 0 && options->roots; i++)
		res = digest_root_init(&verify->roots[i], &verify->key, error);
	if (res < 0) {
		digest_root_done(&verify->roots[0]);
		free(verify);
		return res;
	}
	verify->mirror = mirror;
	verify->map = mirror_map(mirror);
	verify->size = bitmap_file_super(verify->map)->size;
	verify->region_size = bitmap_file_super(verify->map)->region_size;
	verify->range = max_u64(RANGE, verify->region_size);
	verify->holes.mirror = mirror;
	verify->holes.done = holes_told;
	verify->options = *options;
	*ret = verify;
	return 0;
}

struct live_verify *live_verify_free(struct live_verify *verify)
{
	struct ring *ring;

	if (!verify)
		return NULL;
	ring = block_ring(verify->mirror);
	live_verify_stop(verify);
	ring_cancel(ring, &verify->timer);
	while (verify->active || verify->timer.active || leg_holes_asking(&verify->holes))
		if (ring_step(ring) < 0)
			break;
	for (unsigned i = 0; i < MIRROR_LEGS; i++)
		digest_root_done(&verify->roots[i]);
	free(verify);
	return NULL;
}

/* Digests that were kept for questions with another key are no answers: all is read. */
static int draw_key(struct live_verify *verify)
{
	struct error ignored;

	return verify->options.roots ? 0 : digest_key_random(&verify->key, &ignored);
}

int live_verify_start(struct live_verify *verify, uint64_t from, bool spoiled)
{
	int res = draw_key(verify);

	assert(live_verify_idle(verify) && from < verify->size && (from == 0 || !verify->options.roots));
	if (res < 0)
		return res;
	verify->running = true;
	verify->spoiled = spoiled;
	verify->cursor = align_down(from, verify->range);
	verify->next_ns = 0;
	verify->counts = (struct live_verify_counts){0};
	leg_holes_abandon(&verify->holes);
	if (verify->options.roots) {
		for (unsigned i = 0; i < MIRROR_LEGS; i++)
			memset(verify->roots[i].sum, 0, DIGEST_BYTES);
		verify->first = mirror_authoritative(verify->mirror);
		mirror_forget_changed(verify->mirror, 0, verify->size);
	}
	step(verify);
	return 0;
}

void live_verify_measure(struct live_verify *verify)
{
	assert(live_verify_idle(verify));
	verify->size = bitmap_file_super(verify->map)->size;
}

uint64_t live_verify_position(const struct live_verify *verify)
{
	uint64_t position = verify->cursor;

	if (!verify->running)
		return verify->stopped_at;
	for (unsigned i = 0; i < SLOTS; i++) {
		const struct verify_slot *slot = &verify->slots[i];

		if (slot->state == VERIFY_WAITING || slot->state == VERIFY_COMPARING)
			position = min_u64(position, slot->lock.offset);
	}
	return position;
}

void live_verify_stop(struct live_verify *verify)
{
	if (verify->running)
		verify->stopped_at = live_verify_position(verify);
	verify->running = false;
	ring_cancel(block_ring(verify->mirror), &verify->timer);
	leg_holes_abandon(&verify->holes);
	for (unsigned i = 0; i < SLOTS; i++) {
		struct verify_slot *slot = &verify->slots[i];

		/* What is being logged ends soon, whatever becomes of the follower. */
		if (slot->abandoned || (slot->state != VERIFY_WAITING && slot->state != VERIFY_COMPARING))
			continue;
		/* Whoever has it may wait for his answer until the follower's loss is recorded. */
		if (slot->state == VERIFY_WAITING && range_lock_leave(&slot->lock)) {
			slot->state = VERIFY_FREE;
			verify->active--;
			continue;
		}
		slot->abandoned = true;
		if (slot->state == VERIFY_COMPARING)
			range_lock_drop(&slot->lock);
	}
}

bool live_verify_idle(const struct live_verify *verify)
{
	return !verify->running && verify->active == 0 && !leg_holes_asking(&verify->holes);
}

void live_verify_keep(struct live_verify *verify, bool kept)
{
	verify->kept = kept;
}

void live_verify_set_limits(struct live_verify *verify, uint64_t rate, bool held)
{
	verify->rate = rate;
	verify->held = held;
	step(verify);
}

bool live_verify_limited(struct live_verify *verify)
{
	bool limited = verify->limited;

	verify->limited = verify->timer.active;
	return limited;
}

const struct live_verify_counts *live_verify_counts(const struct live_verify *verify)
{
	return &verify->counts;
}

void live_verify_roots(const struct live_verify *verify, struct live_verify_roots *ret)
{
	ret->key = verify->key;
	for (unsigned i = 0; i < MIRROR_LEGS; i++)
		memcpy(ret->roots[i == 0 ? verify->first : MIRROR_LEGS - 1 - verify->first],
		    verify->roots[i].sum, DIGEST_BYTES);
}
