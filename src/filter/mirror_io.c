/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of a client's request in a mirror. A write to both legs waits for its turn, as memory is bounded. A write takes the lock of
 * its range, waits until the map says durably that the regions may differ, goes to one leg or to both, and leaves its regions dirty
 * unless both did it. A read or a flush has nothing of that but the legs.
 */
#include "filter/mirror_private.h"

#include "base/bytes.h"
#include "base/plant.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* In a request's driver_u64, before it is begun. */
enum { CAME_NS, WAS_HELD };

static void locked(struct mirror_io *mio);

static bool writes(const struct mirror_io *mio)
{
	return block_op_writes(mio->parent->op);
}

static void tell_drained(struct ring_op *op, int res)
{
	struct mirror *mirror = container_of(op, struct mirror, drained);

	if (mirror->holding && mirror_is_quiet(mirror))
		mirror_tell(mirror, MIRROR_DRAINED);
}

bool mirror_is_quiet(const struct mirror *mirror)
{
	unsigned parked = 0;

	list_for_each (node, &mirror->parked)
		parked++;
	return mirror->in_flight == parked &&
	       (parked == 0 || list_empty(&mirror->legs[MIRROR_LEGS - 1 - mirror->authoritative].under_way));
}

void mirror_look_drained(struct mirror *mirror)
{
	if (!mirror->holding || !mirror_is_quiet(mirror) || mirror->drained.active)
		return;
	mirror->drained.done = tell_drained;
	ring_defer(mirror->block.ring, &mirror->drained, 0);
}

static void note_time(struct mirror_io *mio)
{
	struct mirror *mirror = mio->mirror;
	uint64_t now_ns = ring_now_ns(mirror->block.ring), took_ns = now_ns - mio->start_ns;

	if (mio->parent->op == BLOCK_READ || writes(mio)) {
		histogram_add(&mirror->latency, now_ns, took_ns);
		histogram_add(&mirror->recent, now_ns, took_ns);
		mirror->counts.reads_writes++;
		mirror->counts.slow += mirror->slow_ns && took_ns > mirror->slow_ns;
	}
	if (mio->was_held) {
		mirror->let_in--;
		mirror->pause_ns = max_u64(mirror->pause_ns, took_ns);
	}
}

/* Its memory is free again once no leg has it. */
static void put(struct mirror_io *mio)
{
	struct mirror *mirror = mio->mirror;

	if (!mio->answered || mio->legs[0].active || mio->legs[1].active)
		return;
	free(mio->stable);
	mio->stable = NULL;
	mirror->stable_bytes -= mio->stable_bytes;
	list_remove(&mio->node);
	list_append(&mirror->spare, &mio->node);
	mirror_io_give_turns(mirror);
}

/* What the client is told. */
static int result(struct mirror_io *mio)
{
	struct mirror *mirror = mio->mirror;
	const struct block_io *parent = mio->parent;
	bool flushes = parent->op == BLOCK_FLUSH || (writes(mio) && parent->flags & BLOCK_FUA);
	/* A trim is advice: that a leg cannot zero fast is no error. */
	int res = parent->op == BLOCK_TRIM && mio->res == -EOPNOTSUPP ? 0 : mio->res;

	/* Nor did a flush succeed if one before it failed and nobody was told. */
	if (res < 0 || !flushes || mirror->owed == 0)
		return res;
	res = mirror->owed;
	mirror->owed = 0;
	return res;
}

static void answer(struct mirror_io *mio)
{
	struct mirror *mirror = mio->mirror;
	struct block_io *parent = mio->parent;
	/* What did not come to its end for want of the leader is dirty when that is back. */
	bool dirtied = mio->claimed && !mio->abandoned && (!mio->followed || mio->res < 0);
	int res = result(mio);

	assert(!mio->answered);
	mio->answered = true;
	note_time(mio);
	if (dirtied && !PLANTED(PLANTED_LOST_MARK))
		bitmap_file_mark(mirror->map, &mio->claim);
	if (mio->claimed)
		bitmap_file_release(mirror->map, &mio->claim);
	if (mio->locked)
		range_lock_drop(&mio->lock);
	mio->claimed = mio->locked = false;
	put(mio);
	mirror->in_flight--;
	if (dirtied)
		mirror_tell(mirror, MIRROR_DIRTIED);
	block_complete(parent, res);
	mirror_look_drained(mirror);
}

/* The follower is gone, and nobody has said yet that it may be done without. */
static bool is_withheld(const struct mirror_io *mio)
{
	return mio->mirror->withholding && mio->res == 0 && (writes(mio) || mio->parent->op == BLOCK_FLUSH);
}

/* Only the authoritative leg is waited for without bound; the follower until it is let go. */
static void answer_if_over(struct mirror_io *mio)
{
	struct mirror *mirror = mio->mirror;
	bool waits = mio->through && mio->legs[MIRROR_LEGS - 1 - mirror->authoritative].active &&
	             mirror_follower(mirror)->block;

	if (!mio->auth_ended || mio->answered || waits)
		return;
	if (mirror->refusing && is_withheld(mio))
		mio->res = -ESHUTDOWN;
	if (!is_withheld(mio))
		answer(mio);
}

/* It is the client's, who gets it as it is; and somebody should know. */
static void note_error(struct mirror_io *mio)
{
	struct mirror_counts *counts = &mio->mirror->counts;

	if (mio->parent->op == BLOCK_READ)
		counts->read_errors++;
	else
		counts->write_errors++;
	counts->error_op = mio->parent->op;
	counts->error_offset = mio->parent->offset;
	counts->error_res = mio->res;
	mirror_tell(mio->mirror, MIRROR_LEADER_FAILED);
}

static void leg_ended(struct mirror_leg_io *leg_io, int res)
{
	unsigned index = (unsigned)(leg_io->leg - leg_io->leg->mirror->legs);
	struct mirror_io *mio = container_of(leg_io, struct mirror_io, legs[index]);

	/* After the answer the legs may have changed their parts. */
	if (mio->answered) {
		put(mio);
		return;
	}
	if (index == mio->mirror->authoritative && res == -ENOTCONN) {
		mirror_park(mio);
		return;
	}
	if (index == mio->mirror->authoritative) {
		mio->auth_ended = true;
		mio->res = res;
		if (res < 0 && res != -EOPNOTSUPP)
			note_error(mio);
	} else if (res == 0 && mirror_follower(mio->mirror)->block) {
		mio->followed = true;
	}
	answer_if_over(mio);
}

void mirror_io_let_go(struct mirror *mirror)
{
	list_for_each_safe (node, &mirror->under_way) {
		struct mirror_io *mio = container_of(node, struct mirror_io, node);

		mio->followed = false;
		mio->parted = true;
		if (!mio->answered)
			answer_if_over(mio);
	}
	/* What a follower that hangs still has is in nobody's way. */
	mirror_io_give_turns(mirror);
}

bool mirror_io_is_behind(const struct mirror_io *mio)
{
	return !mio->answered && (!mio->through || mio->parted) && writes(mio);
}

void mirror_io_answer(struct mirror *mirror)
{
	list_for_each_safe (node, &mirror->under_way)
		answer_if_over(container_of(node, struct mirror_io, node));
}

static void ask_leg(struct mirror_io *mio, unsigned index)
{
	struct mirror_leg_io *leg_io = &mio->legs[index];
	const struct block_io *parent = mio->parent;

	leg_io->io = (struct block_io){.op = parent->op,
	    .flags = parent->flags,
	    .offset = parent->offset,
	    .length = parent->length,
	    .buf = mio->stable ? mio->stable : parent->buf,
	    .extents = parent->extents,
	    .extents_max = parent->extents_max,
	    .granularity = parent->granularity,
	    .key = parent->key};
	if (parent->op == BLOCK_TRIM) {
		leg_io->io.op = BLOCK_ZERO;
		leg_io->io.flags |= BLOCK_FAST;
	}
	/* A follower that hangs holds nobody up. */
	if (index != mio->mirror->authoritative)
		leg_io->io.flags |= BLOCK_APART;
	leg_io->done = leg_ended;
	mirror_leg_submit(&mio->mirror->legs[index], leg_io);
}

/* The client's memory may change while it is written, and be gone when the follower is late: both legs get a copy. */
static bool make_stable(struct mirror_io *mio)
{
	uint64_t length = mio->parent->length;

	if (mio->parent->op != BLOCK_WRITE)
		return true;
	mio->stable = aligned_alloc(4096, align_up(length, 4096));
	if (!mio->stable)
		return false;
	memcpy(mio->stable, mio->parent->buf, length);
	return true;
}

static void ask_legs(struct mirror_io *mio)
{
	struct mirror *mirror = mio->mirror;
	unsigned follower = MIRROR_LEGS - 1 - mirror->authoritative;

	if (mirror_is_away(mirror)) {
		mirror_park(mio);
		return;
	}
	mio->asked = true;
	mio->through = mio->through && mirror->legs[follower].block && make_stable(mio);
	if (writes(mio) && mio->through)
		mirror->counts.written_through++;
	else if (writes(mio))
		mirror->counts.written_behind++;
	ask_leg(mio, mirror->authoritative);
	if (mio->through)
		ask_leg(mio, follower);
}

void mirror_io_resume(struct mirror_io *mio)
{
	struct mirror *mirror = mio->mirror;

	if (!mio->asked) {
		ask_legs(mio);
		return;
	}
	/* The leader may be the one that followed when it was asked first. */
	if (mio->through && !mirror_follower(mirror)->block)
		mio->through = mio->followed = false;
	ask_leg(mio, mirror->authoritative);
}

void mirror_io_abandon(struct mirror_io *mio)
{
	mio->abandoned = mio->auth_ended = true;
	mio->res = -EIO;
	answer_if_over(mio);
}

static void claim_done(struct bitmap_claim *claim, int res)
{
	struct mirror_io *mio = container_of(claim, struct mirror_io, claim);

	if (res < 0)
		mirror_map_was_lost(mio->mirror);
	ask_legs(mio);
}

static void locked(struct mirror_io *mio)
{
	int res;

	mio->claimed = true;
	mio->claim.done = claim_done;
	mio->claim.warm = true;
	res = bitmap_file_claim(mio->mirror->map, &mio->claim, mio->parent->offset, mio->parent->length);
	if (res < 0)
		mirror_map_was_lost(mio->mirror);
	if (res != 0)
		ask_legs(mio);
}

static void granted(struct range_lock *lock)
{
	locked(container_of(lock, struct mirror_io, lock));
}

static struct mirror_io *get(struct mirror *mirror)
{
	struct list_node *node = list_pop(&mirror->spare);
	struct mirror_io *mio = node ? container_of(node, struct mirror_io, node) : malloc(sizeof(*mio));

	if (!mio)
		return NULL;
	*mio = (struct mirror_io){.mirror = mirror};
	list_append(&mirror->under_way, &mio->node);
	return mio;
}

/* By one leg alone it would make work for the copy, and a mirror whose clients trim all the time would never be ready. */
static bool can_trim(const struct mirror *mirror)
{
	bool can = true;

	for (unsigned i = 0; i < MIRROR_LEGS; i++)
		can = can && (!mirror->legs[i].block || block_info(mirror->legs[i].block)->no_hole);
	return can;
}

static bool writes_through(const struct mirror *mirror)
{
	return mirror->mode == MIRROR_WRITE_THROUGH &&
	       mirror->legs[MIRROR_LEGS - 1 - mirror->authoritative].block;
}

static void begin(struct mirror *mirror, struct block_io *io)
{
	struct mirror_io *mio;

	if (mirror_is_away(mirror) && mirror->overdue) {
		block_complete_later(&mirror->block, io, -EIO);
		return;
	}
	if (io->op == BLOCK_TRIM && !(io->flags & BLOCK_FUA) && !can_trim(mirror)) {
		block_complete_later(&mirror->block, io, 0);
		return;
	}
	mio = get(mirror);
	if (!mio) {
		block_complete_later(&mirror->block, io, -ENOMEM);
		return;
	}
	mio->parent = io;
	mio->start_ns = io->driver_u64[CAME_NS];
	mio->was_held = io->driver_u64[WAS_HELD];
	mirror->in_flight++;
	mirror->let_in += mio->was_held;
	mio->through = writes_through(mirror) && (writes(mio) || io->op == BLOCK_FLUSH);
	if (mio->through && io->op == BLOCK_WRITE)
		mio->stable_bytes = io->length;
	mirror->stable_bytes += mio->stable_bytes;
	if (!writes(mio) || mirror->alone) {
		ask_legs(mio);
		return;
	}
	mio->locked = true;
	mio->lock = (struct range_lock){.offset = io->offset,
	    .length = io->length,
	    .kind = mio->through ? MIRROR_LOCK_THROUGH : MIRROR_LOCK_BEHIND,
	    .granted = granted};
	if (PLANTED(PLANTED_NO_LOCK))
		mio->lock.kind = MIRROR_LOCK_BEHIND;
	if (range_lock_take(&mirror->locks, &mio->lock))
		locked(mio);
}

/* By the authoritative leg alone it would make work for the copy, and under a load that goes on there would be no end of that. */
static bool has_room(const struct mirror *mirror, const struct block_io *io)
{
	return io->op != BLOCK_WRITE || !writes_through(mirror) ||
	       (mirror_is_away(mirror) && mirror->overdue) || mirror->stable_bytes == 0 ||
	       mirror->stable_bytes + io->length <= mirror->options.stable_max;
}

/*
 * Those that wait have begun nothing: no lock, no claim. So whatever has been begun comes to its end without them, and then they go
 * on; in the order of their coming, so that the longest comes to its turn, too.
 */
void mirror_io_give_turns(struct mirror *mirror)
{
	while (!mirror->holding && !list_empty(&mirror->turns)) {
		struct block_io *io = container_of(mirror->turns.next, struct block_io, node);

		if (!has_room(mirror, io))
			return;
		list_remove(&io->node);
		begin(mirror, io);
	}
}

static void begin_in_turn(struct mirror *mirror, struct block_io *io)
{
	if (io->op == BLOCK_WRITE && (!list_empty(&mirror->turns) || !has_room(mirror, io)))
		list_append(&mirror->turns, &io->node);
	else
		begin(mirror, io);
}

void mirror_io_submit(struct mirror *mirror, struct block_io *io)
{
	/* It may have lain in its socket while the loop was busy, with the copy perhaps. */
	io->driver_u64[CAME_NS] = ring_came_ns(mirror->block.ring);
	io->driver_u64[WAS_HELD] = mirror->holding;
	if (io->op == BLOCK_RESIZE) {
		block_complete_later(
		    &mirror->block, io, io->length == mirror->block.info.size ? 0 : -EOPNOTSUPP);
	} else if (mirror->holding) {
		mirror->counts.held++;
		list_append(&mirror->held, &io->node);
	} else {
		begin_in_turn(mirror, io);
	}
}

void mirror_io_hold(struct mirror *mirror)
{
	list_for_each (node, &mirror->turns) {
		struct block_io *io = container_of(node, struct block_io, node);

		mirror->counts.held += !io->driver_u64[WAS_HELD];
		io->driver_u64[WAS_HELD] = true;
	}
}

void mirror_io_release(struct mirror *mirror)
{
	struct list_node *node;

	mirror_io_give_turns(mirror);
	while (!mirror->holding && (node = list_pop(&mirror->held)))
		begin_in_turn(mirror, container_of(node, struct block_io, node));
}

bool mirror_pause_is_over(const struct block *block)
{
	const struct mirror *mirror = mirror_const_of(block);
	const struct list_node *first = mirror->turns.next;

	/* Those that were held come before those that were not. */
	return mirror->let_in == 0 && list_empty(&mirror->held) &&
	       (first == &mirror->turns || !container_of(first, struct block_io, node)->driver_u64[WAS_HELD]);
}
