/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The state table of a live mirror, and the switch: see cutover.h. */
#include "sync/cutover.h"

#include "base/plant.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define TO(state)       (1u << (state))
#define AGAIN_NS        20000000u
#define FLUSHES_MAX     6u
#define RECORDS_MIN     3u  /* attempts, also when the window is over */
#define RECORDS_MAX     50u /* and when it has no end */
#define FLUSH_LITTLE_NS 2000000u
#define ENDS_OF_SOURCE  (TO(CUTOVER_CANCELLED) | TO(CUTOVER_FAILED))

static const struct {
	const char *name;
	unsigned next; /* set of TO() */
	enum mirror_leg_index authority;
} states[CUTOVER_STATES] = {
    [CUTOVER_SYNCING] = {"syncing", TO(CUTOVER_READY) | ENDS_OF_SOURCE, MIRROR_SOURCE},
    [CUTOVER_READY] = {"ready", TO(CUTOVER_SYNCING) | TO(CUTOVER_CUTTING) | ENDS_OF_SOURCE, MIRROR_SOURCE},
    [CUTOVER_CUTTING] = {"cutting",
        TO(CUTOVER_READY) | TO(CUTOVER_SYNCING) | TO(CUTOVER_SWITCHED) | ENDS_OF_SOURCE, MIRROR_SOURCE},
    [CUTOVER_SWITCHED] = {"switched", TO(CUTOVER_FINISHED) | TO(CUTOVER_REVERTED), MIRROR_TARGET},
    [CUTOVER_REVERTED] = {"reverted", TO(CUTOVER_SYNCING) | ENDS_OF_SOURCE, MIRROR_SOURCE},
    [CUTOVER_FINISHED] = {"finished", 0, MIRROR_TARGET},
    [CUTOVER_CANCELLED] = {"cancelled", 0, MIRROR_SOURCE},
    [CUTOVER_FAILED] = {"failed", 0, MIRROR_SOURCE},
};

const char *cutover_state_name(enum cutover_state state)
{
	return states[state].name;
}

bool cutover_may_follow(enum cutover_state from, enum cutover_state to)
{
	return states[from].next & TO(to);
}

void cutover_state_set(enum cutover_state *state, enum cutover_state to)
{
	assert(cutover_may_follow(*state, to));
	*state = to;
}

bool cutover_is_end(enum cutover_state state)
{
	return states[state].next == 0;
}

enum mirror_leg_index cutover_authority(enum cutover_state state)
{
	return states[state].authority;
}

static void time_is_up(struct ring_op *op, int res)
{
	container_of(op, struct cutover, timer)->late = true;
}

static void timer_start(struct cutover *cutover, uint64_t ns)
{
	cutover->late = false;
	cutover->timer = (struct ring_op){
	    .opcode = RING_TIMER, .deadline_ns = ring_now_ns(cutover->ring) + ns, .done = time_is_up};
	ring_submit(cutover->ring, &cutover->timer);
}

static void timer_stop(struct cutover *cutover)
{
	ring_cancel(cutover->ring, &cutover->timer);
	while (cutover->timer.active)
		if (ring_step(cutover->ring) < 0)
			break;
}

static void flush_done(void *data, int res)
{
	struct cutover *cutover = data;

	cutover->flushed = true;
	cutover->flush_res = res;
}

static bool is_there(const struct cutover *cutover)
{
	return mirror_attached(cutover->mirror) &&
	       (cutover->without_leader || mirror_leader_here(cutover->mirror));
}

/* Runs the ring until `is_so`, the follower is lost, or the time is up. */
static int wait_until(struct cutover *cutover, bool (*is_so)(struct cutover *cutover))
{
	while (!is_so(cutover)) {
		int res = 0;

		if (!is_there(cutover))
			return -ENOTCONN;
		res = cutover->hindered(cutover->data);
		if (res < 0)
			return res;
		if (cutover->give_up)
			return -EINTR;
		if (cutover->late)
			return -ETIMEDOUT;
		res = ring_step(cutover->ring);
		if (res < 0)
			return res;
	}
	return is_there(cutover) ? 0 : -ENOTCONN;
}

static bool can_flush(struct cutover *cutover)
{
	return !mirror_flushing(cutover->mirror);
}

static bool is_flushed(struct cutover *cutover)
{
	return cutover->flushed;
}

static bool is_equal(struct cutover *cutover)
{
	return mirror_drained(cutover->mirror) && cutover->quiet(cutover->data) &&
	       bitmap_file_dirty(mirror_map(cutover->mirror))->count == 0;
}

static int flush(struct cutover *cutover)
{
	int res = wait_until(cutover, can_flush);

	if (res < 0)
		return res;
	cutover->flushed = false;
	mirror_flush_legs(cutover->mirror, cutover->without_leader, flush_done, cutover);
	res = wait_until(cutover, is_flushed);
	return res < 0 ? res : cutover->flush_res;
}

static int record(struct bitmap_file *map, enum cutover_state state, bool undecided, struct error *error)
{
	struct bitmap_super super = *bitmap_file_super(map);

	super.state = state;
	super.undecided = undecided;
	if (super.authoritative != states[state].authority)
		super.generation++;
	super.authoritative = states[state].authority;
	return bitmap_file_record(map, &super, error);
}

int cutover_record(struct bitmap_file *map, enum cutover_state state, struct error *error)
{
	return record(map, state, false, error);
}

int cutover_decided(struct bitmap_file *map, struct error *error)
{
	const struct bitmap_super *super = bitmap_file_super(map);

	return super->undecided ? record(map, super->state, false, error) : 0;
}

static void pass_time(struct cutover *cutover, uint64_t ns)
{
	struct ring_op wait = {.opcode = RING_TIMER, .deadline_ns = ring_now_ns(cutover->ring) + ns};

	ring_wait(cutover->ring, &wait);
}

/*
 * Once it was tried, the file may say the one or the other after a crash; so nobody gets an answer until it says for sure what
 * is going to be: the new state, or the old one again. When the time for that is up, whatever is in the file is marked as undecided, so
 * that nobody believes it once he is told, as for every lost map, that there was trouble.
 */
static int record_for_sure(struct cutover *cutover, enum cutover_state to, struct error *error)
{
	struct bitmap_file *map = mirror_map(cutover->mirror);
	const struct bitmap_super before = *bitmap_file_super(map);
	int res = record(map, to, true, error), again = res;
	struct error ignored;

	assert(before.undecided);
	if (res == 0 || res == -ECANCELED)
		return res;
	for (unsigned i = 0; i < (cutover->late ? RECORDS_MIN : RECORDS_MAX); i++) {
		again = bitmap_file_record(map, &before, &ignored);
		if (again == 0 || again == -ECANCELED)
			return res;
		pass_time(cutover, AGAIN_NS);
	}
	mirror_lose_map(cutover->mirror, again);
	return res;
}

static int switch_held(struct cutover *cutover, enum cutover_state to, struct error *error)
{
	int res = wait_until(cutover, is_equal);

	if (res == 0)
		res = flush(cutover);
	if (res < 0)
		return error_set(error, res, "%s",
		    res == -ETIMEDOUT ? "it could not be done within the window"
		    : res == -EINTR   ? "it was given up"
		    : res == -EAGAIN  ? "not all that differs could be copied"
		                      : "one of the legs was lost");
	/* Nothing can have come in between: all requests are held. */
	assert(is_equal(cutover));
	if (PLANTED(PLANTED_LATE_RECORD)) {
		mirror_swap(cutover->mirror);
		cutover->swapped(cutover->data, to);
		mirror_release(cutover->mirror);
		pass_time(cutover, AGAIN_NS);
		return record_for_sure(cutover, to, error);
	}
	res = record_for_sure(cutover, to, error);
	if (res < 0)
		return res;
	mirror_swap(cutover->mirror);
	cutover->swapped(cutover->data, to);
	return 0;
}

/*
 * What is flushed here nobody has to wait for. Each time there is less: what was written during the flush before. Until little is
 * left, or it is not getting less.
 */
static int flush_before(struct cutover *cutover)
{
	uint64_t before_ns = UINT64_MAX, took_ns = 0;

	for (unsigned i = 0; i < FLUSHES_MAX; i++) {
		uint64_t begun_ns = ring_now_ns(cutover->ring);
		int res;

		timer_start(cutover, cutover->window_ns);
		res = flush(cutover);
		timer_stop(cutover);
		if (res < 0)
			return res;
		took_ns = ring_now_ns(cutover->ring) - begun_ns;
		if (took_ns <= FLUSH_LITTLE_NS || took_ns >= before_ns)
			break;
		before_ns = took_ns;
	}
	return 0;
}

int cutover_switch(struct cutover *cutover, enum cutover_state to, struct error *error)
{
	struct bitmap_file *map = mirror_map(cutover->mirror);
	int res;

	if (!is_there(cutover))
		return error_set(error, -ENOTCONN, "cannot switch: one of the legs is not there");
	res = flush_before(cutover);
	if (res < 0)
		return error_set(error, res, "cannot switch: cannot flush the legs: %s", strerror(-res));
	/* A map that cannot be written is found while clients go on. */
	res = record(map, bitmap_file_super(map)->state, true, error);
	if (res < 0)
		return error_prefix(error, "cannot switch");
	timer_start(cutover, cutover->window_ns);
	mirror_hold(cutover->mirror);
	cutover->held(cutover->data, true);
	res = switch_held(cutover, to, error);
	cutover->held(cutover->data, false);
	mirror_release(cutover->mirror);
	timer_stop(cutover);
	return res < 0 ? error_prefix(error, "cannot switch") : 0;
}
