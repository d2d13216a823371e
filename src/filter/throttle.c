/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A token bucket that may go into debt: a request passes while there are tokens, and takes its whole cost.
 * The first held request's own ring_op is the timer, so nothing is under way when no request is.
 */
#include "filter/throttle.h"

#include "filter/filter.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* What an idle throttle saves up: so many nanoseconds' worth of bytes. */
#define BURST_NS 50000000u

struct throttle {
	struct filter filter;
	struct list_node held;
	uint64_t rate;    /* bytes per second; 0: no limit */
	double tokens;    /* bytes; negative: debt */
	uint64_t seen_ns; /* up to when tokens were filled */
	bool paused;
	bool cancelled; /* holds back nothing any more */
};

static const struct block_driver throttle_driver;

static struct throttle *throttle_of(struct block *block)
{
	assert(block->driver == &throttle_driver);
	return container_of(block, struct throttle, filter.block);
}

static uint64_t cost(const struct block_io *io)
{
	bool costs =
	    io->op == BLOCK_READ || io->op == BLOCK_WRITE || io->op == BLOCK_DIGEST || io->op == BLOCK_SHA256;

	return costs ? io->length : 0;
}

static void fill(struct throttle *throttle)
{
	uint64_t now_ns = ring_now_ns(throttle->filter.block.ring);
	double burst = (double)throttle->rate * BURST_NS / 1e9;

	throttle->tokens += (double)throttle->rate * (double)(now_ns - throttle->seen_ns) / 1e9;
	if (throttle->tokens > burst)
		throttle->tokens = burst;
	throttle->seen_ns = now_ns;
}

static bool may_pass(struct throttle *throttle, const struct block_io *io)
{
	if (throttle->cancelled)
		return true;
	if (throttle->paused)
		return false;
	return throttle->rate == 0 || throttle->tokens >= 0 || cost(io) == 0;
}

static void pass(struct throttle *throttle, struct block_io *io)
{
	if (throttle->rate)
		throttle->tokens -= (double)cost(io);
	filter_forward(&throttle->filter, io);
}

static struct block_io *first_held(struct throttle *throttle)
{
	if (list_empty(&throttle->held))
		return NULL;
	return container_of(throttle->held.next, struct block_io, node);
}

static void pump(struct throttle *throttle);

static void timer_done(struct ring_op *op, int res)
{
	pump(throttle_of(container_of(op, struct block_io, ring_op)->block));
}

static void arm(struct throttle *throttle, struct block_io *io)
{
	double wait_ns = -throttle->tokens * 1e9 / (double)throttle->rate + 1;

	/* A year is enough; beyond it the number might not fit. */
	if (wait_ns > 3e16)
		wait_ns = 3e16;
	io->ring_op.opcode = RING_TIMER;
	io->ring_op.deadline_ns = throttle->seen_ns + (uint64_t)wait_ns;
	io->ring_op.done = timer_done;
	ring_submit(throttle->filter.block.ring, &io->ring_op);
}

static void end_held(struct throttle *throttle, struct block_io *io)
{
	list_remove(&io->node);
	block_complete_later(&throttle->filter.block, io, -ECANCELED);
}

/* Lets go what may pass. Does nothing while the first one's timer is still under way: its end calls this
 * again. */
static void pump(struct throttle *throttle)
{
	struct block_io *io;

	fill(throttle);
	while ((io = first_held(throttle)) && !io->ring_op.active && throttle->cancelled)
		end_held(throttle, io);
	while ((io = first_held(throttle)) && !io->ring_op.active && may_pass(throttle, io)) {
		list_remove(&io->node);
		pass(throttle, io);
	}
	if (io && !io->ring_op.active && !throttle->paused)
		arm(throttle, io);
}

/* After a change: the timer's end, or this call, looks anew. */
static void look_anew(struct throttle *throttle)
{
	struct block_io *io = first_held(throttle);

	if (io && io->ring_op.active)
		ring_cancel(throttle->filter.block.ring, &io->ring_op);
	else
		pump(throttle);
}

static void throttle_submit(struct block *block, struct block_io *io)
{
	struct throttle *throttle = throttle_of(block);

	fill(throttle);
	/* Held requests come first, but free ones need not wait for those that cost. */
	if (throttle->cancelled ||
	    (may_pass(throttle, io) && (list_empty(&throttle->held) || cost(io) == 0))) {
		pass(throttle, io);
		return;
	}
	list_append(&throttle->held, &io->node);
	if (first_held(throttle) == io)
		pump(throttle);
}

static void throttle_free(struct block *block)
{
	struct throttle *throttle = throttle_of(block);

	assert(list_empty(&throttle->held));
	filter_done(&throttle->filter);
	free(throttle);
}

static const struct block_driver throttle_driver = {
    .name = "throttle",
    .submit = throttle_submit,
    .facts = filter_facts,
    .measure = filter_measure,
    .link_error = filter_link_error,
    .free = throttle_free,
};

int throttle_new(struct block **ret, struct block *take_below, uint64_t bytes_per_second, struct error *error)
{
	struct throttle *throttle = calloc(1, sizeof(*throttle));

	if (!throttle) {
		block_free(take_below);
		return error_set(error, -ENOMEM, "cannot make a throttle: out of memory");
	}
	filter_init(&throttle->filter, &throttle_driver, take_below);
	list_init(&throttle->held);
	throttle->rate = bytes_per_second;
	throttle->seen_ns = ring_now_ns(take_below->ring);
	*ret = &throttle->filter.block;
	return 0;
}

void throttle_set_rate(struct block *block, uint64_t bytes_per_second)
{
	struct throttle *throttle = throttle_of(block);

	fill(throttle);
	throttle->rate = bytes_per_second;
	if (bytes_per_second == 0)
		throttle->tokens = 0;
	look_anew(throttle);
}

void throttle_pause(struct block *block)
{
	throttle_of(block)->paused = true;
	look_anew(throttle_of(block));
}

void throttle_go_on(struct block *block)
{
	throttle_of(block)->paused = false;
	look_anew(throttle_of(block));
}

void throttle_cancel(struct block *block)
{
	throttle_of(block)->cancelled = true;
	look_anew(throttle_of(block));
}
