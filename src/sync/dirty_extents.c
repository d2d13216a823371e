/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Goes round the bitmap of what is dirty: see dirty_extents.h. A slot is free, waits for its lock, is compared (if asked), is granted
 * (and its bits taken), or given to the engine. Limits act before a lock is taken: nobody waits for a lock because the sync is slow.
 * What comes next is found by dirty_find.c.
 */
#include "sync/dirty_private.h"

#include "base/bytes.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define BURST_NS 10000000u
/* Given before the loop looks after others: what lies in the page cache is read on its thread; bytes. */
#define TURN (512u << 10)

static struct dirty_extents *dirty_of(const struct extents *extents)
{
	return container_of(extents, struct dirty_extents, extents);
}

static void slot_free(struct dirty_slot *slot)
{
	slot->state = SLOT_FREE;
	slot->dirty->active--;
	slot->dirty->bytes -= slot->length;
}

static void slot_abandon(struct dirty_slot *slot);

static void compared(struct dirty_compare *compare, bool differs)
{
	struct dirty_slot *slot = container_of(compare, struct dirty_slot, compare);
	struct dirty_extents *dirty = slot->dirty;

	if (slot->abandoned) {
		slot_free(slot);
	} else if (differs) {
		slot->state = SLOT_GRANTED;
		/* Nobody would fetch it. */
		if (dirty->held || !mirror_attached(dirty->mirror))
			slot_abandon(slot);
	} else {
		dirty->same += slot->length;
		dirty_succeeded(slot);
		bitmap_file_release(dirty->map, &slot->claim);
		range_lock_drop(&slot->lock);
		slot_free(slot);
	}
	extents_wake(&dirty->extents);
}

/* Whoever writes there from now on leaves a mark; who did before, was seen writing. */
static bool still_zero(const struct dirty_slot *slot)
{
	uint64_t end;

	return !mirror_leg_written(mirror_copy_source(slot->dirty->mirror), slot->offset, &end) &&
	       end >= slot->offset + slot->length;
}

/* The lock has come: the bits are taken before anything is read, so that whoever writes from now on leaves a mark. */
static bool slot_take(struct dirty_slot *slot)
{
	struct dirty_extents *dirty = slot->dirty;
	int res;

	/* Nobody would fetch it: a write may wait for this lock. */
	if (slot->abandoned || dirty->held || !mirror_attached(dirty->mirror)) {
		range_lock_drop(&slot->lock);
		slot_free(slot);
		return false;
	}
	res = bitmap_file_claim(dirty->map, &slot->claim, slot->offset, slot->length);
	/* What is dirty is logged, always; unless the map is lost. */
	assert(res == 1 || bitmap_file_lost(dirty->map));
	if (res < 0) {
		bitmap_file_release(dirty->map, &slot->claim);
		range_lock_drop(&slot->lock);
		slot_free(slot);
		return false;
	}
	bitmap_file_take(dirty->map, &slot->claim);
	if (slot->zero && !still_zero(slot)) {
		bitmap_file_mark(dirty->map, &slot->claim);
		bitmap_file_release(dirty->map, &slot->claim);
		range_lock_drop(&slot->lock);
		slot_free(slot);
		return false;
	}
	if (slot->zero) {
		slot->state = SLOT_GRANTED;
		return true;
	}
	slot->state = dirty->comparing ? SLOT_COMPARING : SLOT_GRANTED;
	if (!dirty->comparing)
		return true;
	slot->compare.done = compared;
	dirty_compare_start(&slot->compare, mirror_copy_source(dirty->mirror),
	    mirror_copy_target(dirty->mirror), &dirty->key, slot->offset, slot->length);
	return false;
}

static void granted(struct range_lock *lock)
{
	struct dirty_slot *slot = container_of(lock, struct dirty_slot, lock);

	slot_take(slot);
	extents_wake(&slot->dirty->extents);
}

static void timer_done(struct ring_op *op, int res)
{
	extents_wake(&container_of(op, struct dirty_extents, timer)->extents);
}

static bool is_turn_over(const struct dirty_extents *dirty)
{
	return dirty->turn >= (dirty->limits.extent_max ? dirty->limits.extent_max : TURN);
}

static void turn_over(struct ring_op *op, int res)
{
	struct dirty_extents *dirty = container_of(op, struct dirty_extents, turn_over);
	bool waits = is_turn_over(dirty);

	dirty->turn = 0;
	if (waits)
		extents_wake(&dirty->extents);
}

/* So much more is given in this turn of the loop. */
static void count_turn(struct dirty_extents *dirty, uint64_t length)
{
	dirty->turn += length;
	if (dirty->turn_over.active)
		return;
	dirty->turn_over.done = turn_over;
	ring_defer(block_ring(dirty->mirror), &dirty->turn_over, 0);
}

/* True when the limits allow another extent now; else what it waits for wakes the engine. */
static bool limits_allow(struct dirty_extents *dirty)
{
	struct ring *ring = block_ring(dirty->mirror);
	uint64_t now_ns = ring_now_ns(ring);
	double rate = (double)dirty->limits.rate, burst = rate * BURST_NS / 1e9;

	if (dirty->limits.window && dirty->bytes > 0 && dirty->bytes >= dirty->limits.window)
		return false;
	if (dirty->limits.rate == 0)
		return true;
	dirty->tokens += rate * (double)(now_ns - dirty->seen_ns) / 1e9;
	dirty->tokens = dirty->tokens > burst ? burst : dirty->tokens;
	dirty->seen_ns = now_ns;
	if (dirty->tokens >= 0)
		return true;
	dirty->limited = true;
	if (!dirty->timer.active) {
		dirty->timer = (struct ring_op){.opcode = RING_TIMER,
		    .deadline_ns = now_ns + (uint64_t)(-dirty->tokens * 1e9 / rate) + 1000,
		    .done = timer_done};
		ring_submit(ring, &dirty->timer);
	}
	return false;
}

static struct dirty_slot *slot_in(struct dirty_extents *dirty, enum slot_state state)
{
	for (unsigned i = 0; i < DIRTY_SLOTS; i++)
		if (dirty->slots[i].state == state)
			return &dirty->slots[i];
	return NULL;
}

static int give(struct dirty_slot *slot, struct extent *ret)
{
	slot->state = SLOT_GIVEN;
	*ret = (struct extent){
	    .offset = slot->offset, .length = slot->length, .kind = slot->zero ? EXTENT_ZERO : EXTENT_DATA};
	return 1;
}

static int dirty_next(struct extents *extents, uint64_t length_max, struct extent *ret)
{
	struct dirty_extents *dirty = dirty_of(extents);
	struct dirty_slot *slot = slot_in(dirty, SLOT_GRANTED);

	assert(length_max >= dirty->region_size);
	if (slot)
		return give(slot, ret);
	while (!dirty->held && mirror_attached(dirty->mirror) && !bitmap_file_lost(dirty->map) &&
	       !is_turn_over(dirty) && limits_allow(dirty) && (slot = slot_in(dirty, SLOT_FREE)) &&
	       dirty_find(dirty, length_max, slot)) {
		slot->abandoned = false;
		slot->state = SLOT_WAITING;
		slot->begun_ns = ring_now_ns(block_ring(dirty->mirror));
		dirty->active++;
		dirty->bytes += slot->length;
		if (!slot->zero)
			count_turn(dirty, slot->length);
		if (dirty->limits.rate && !slot->zero)
			dirty->tokens -= (double)slot->length;
		slot->lock = (struct range_lock){.offset = slot->offset,
		    .length = slot->length,
		    .kind = MIRROR_LOCK_COPY,
		    .granted = granted};
		if (range_lock_take(mirror_locks(dirty->mirror), &slot->lock) && slot_take(slot))
			return give(slot, ret);
	}
	return 0;
}

static struct dirty_slot *slot_of(struct dirty_extents *dirty, const struct extent *extent)
{
	for (unsigned i = 0; i < DIRTY_SLOTS; i++) {
		struct dirty_slot *slot = &dirty->slots[i];

		if (slot->state == SLOT_GIVEN && slot->offset == extent->offset)
			return slot;
	}
	return NULL;
}

static void note_done(struct dirty_slot *slot)
{
	struct dirty_extents *dirty = slot->dirty;
	uint64_t took_ns = ring_now_ns(block_ring(dirty->mirror)) - slot->begun_ns;

	dirty_succeeded(slot);
	if (slot->zero) {
		dirty->passed += slot->length;
		return;
	}
	dirty->copied += slot->length;
	if (dirty->quickest_ns == 0 || took_ns < dirty->quickest_ns)
		dirty->quickest_ns = max_u64(took_ns, 1);
}

static void dirty_finish(struct extents *extents, const struct extent *extent, int res)
{
	struct dirty_extents *dirty = dirty_of(extents);
	struct dirty_slot *slot = slot_of(dirty, extent);

	/* They come back whole. */
	assert(slot && slot->length == extent->length);
	if (!slot->abandoned) {
		if (res < 0)
			bitmap_file_mark(dirty->map, &slot->claim);
		else
			note_done(slot);
		/* What fails on the follower lets it go, and then all is abandoned. */
		if (res < 0 && block_medium_failed(mirror_copy_source(dirty->mirror), res))
			dirty_failed(slot);
		bitmap_file_release(dirty->map, &slot->claim);
		range_lock_drop(&slot->lock);
	}
	slot_free(slot);
}

static void dirty_free(struct extents *extents)
{
	struct dirty_extents *dirty = dirty_of(extents);
	struct ring *ring = block_ring(dirty->mirror);

	dirty->extents.wake = NULL;
	dirty_extents_abandon(extents);
	ring_cancel(ring, &dirty->timer);
	while (dirty->timer.active || dirty->turn_over.active || dirty->active ||
	       leg_holes_asking(&dirty->holes))
		if (ring_step(ring) < 0)
			break;
	bitmap_done(&dirty->failed);
	free(dirty);
}

int dirty_extents_new(struct extents **ret, struct block *mirror, struct error *error)
{
	static const struct extents_ops ops = {
	    .next = dirty_next, .finish = dirty_finish, .free = dirty_free};
	struct dirty_extents *dirty = calloc(1, sizeof(*dirty));

	if (!dirty)
		return error_set(error, -ENOMEM, "cannot begin to copy what is dirty: out of memory");
	dirty->extents.ops = &ops;
	dirty->mirror = mirror;
	dirty->map = mirror_map(mirror);
	dirty->holes.mirror = mirror;
	dirty->holes.done = dirty_looked;
	dirty->size = bitmap_file_super(dirty->map)->size;
	dirty->region_size = bitmap_file_super(dirty->map)->region_size;
	dirty->seen_ns = ring_now_ns(block_ring(mirror));
	for (unsigned i = 0; i < DIRTY_SLOTS; i++)
		dirty->slots[i].dirty = dirty;
	if (bitmap_init(&dirty->failed, bitmap_file_dirty(dirty->map)->bits) < 0) {
		free(dirty);
		return error_set(error, -ENOMEM, "cannot begin to copy what is dirty: out of memory");
	}
	*ret = &dirty->extents;
	return 0;
}

void dirty_extents_set_limits(struct extents *extents, const struct dirty_limits *limits)
{
	struct dirty_extents *dirty = dirty_of(extents);

	if (limits->rate != dirty->limits.rate) {
		dirty->tokens = 0;
		dirty->seen_ns = ring_now_ns(block_ring(dirty->mirror));
		ring_cancel(block_ring(dirty->mirror), &dirty->timer);
	}
	dirty->limits = *limits;
	extents_wake(extents);
}

/* Lets go of an extent that was not finished: it is dirty again. */
static void slot_abandon(struct dirty_slot *slot)
{
	struct dirty_extents *dirty = slot->dirty;

	if (slot->state == SLOT_FREE || slot->abandoned)
		return;
	slot->abandoned = true;
	if (slot->state == SLOT_WAITING) {
		/* Whoever has it may wait for his answer until the follower's loss is recorded. */
		if (range_lock_leave(&slot->lock))
			slot_free(slot);
		return;
	}
	bitmap_file_mark(dirty->map, &slot->claim);
	bitmap_file_release(dirty->map, &slot->claim);
	range_lock_drop(&slot->lock);
	if (slot->state == SLOT_GRANTED)
		slot_free(slot);
}

void dirty_extents_hold(struct extents *extents, bool held)
{
	struct dirty_extents *dirty = dirty_of(extents);

	dirty->held = held;
	for (unsigned i = 0; held && i < DIRTY_SLOTS; i++)
		if (dirty->slots[i].state == SLOT_GRANTED)
			slot_abandon(&dirty->slots[i]);
	if (!held)
		extents_wake(extents);
}

bool dirty_extents_limited(struct extents *extents)
{
	struct dirty_extents *dirty = dirty_of(extents);
	bool limited = dirty->limited;

	dirty->limited = dirty->timer.active;
	return limited;
}

uint64_t dirty_extents_quickest_ns(struct extents *extents)
{
	struct dirty_extents *dirty = dirty_of(extents);
	uint64_t quickest_ns = dirty->quickest_ns;

	dirty->quickest_ns = 0;
	return quickest_ns;
}

void dirty_extents_look(struct extents *extents)
{
	extents_wake(extents);
}

void dirty_extents_abandon(struct extents *extents)
{
	struct dirty_extents *dirty = dirty_of(extents);

	for (unsigned i = 0; i < DIRTY_SLOTS; i++)
		slot_abandon(&dirty->slots[i]);
	leg_holes_abandon(&dirty->holes);
	dirty->cursor = dirty->looked = 0;
}

void dirty_extents_compare(struct extents *extents, const struct digest_key *key)
{
	struct dirty_extents *dirty = dirty_of(extents);

	dirty->comparing = key != NULL;
	if (key)
		dirty->key = *key;
}

int dirty_extents_reserve(struct extents *extents, uint64_t size)
{
	struct dirty_extents *dirty = dirty_of(extents);

	return bitmap_resize(&dirty->failed, max_u64(size / dirty->region_size + 1, dirty->failed.bits));
}

void dirty_extents_measure(struct extents *extents)
{
	struct dirty_extents *dirty = dirty_of(extents);

	assert(dirty->active == 0);
	dirty->size = bitmap_file_super(dirty->map)->size;
}

uint64_t dirty_extents_same(const struct extents *extents)
{
	return dirty_of(extents)->same;
}

uint64_t dirty_extents_taken(const struct extents *extents)
{
	const struct dirty_extents *dirty = dirty_of(extents);
	uint64_t taken = 0;

	for (unsigned i = 0; i < DIRTY_SLOTS; i++) {
		const struct dirty_slot *slot = &dirty->slots[i];

		if (slot->state != SLOT_FREE && slot->state != SLOT_WAITING && !slot->abandoned)
			taken += slot->length;
	}
	return taken;
}

uint64_t dirty_extents_unreadable(const struct extents *extents)
{
	const struct dirty_extents *dirty = dirty_of(extents);

	return min_u64(dirty->failed.count * dirty->region_size, dirty->size);
}

unsigned dirty_extents_active(const struct extents *extents)
{
	return dirty_of(extents)->active;
}

uint64_t dirty_extents_copied(const struct extents *extents)
{
	return dirty_of(extents)->copied;
}

uint64_t dirty_extents_holes(const struct extents *extents)
{
	return dirty_of(extents)->passed;
}
