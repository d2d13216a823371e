/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What all rings have in common: see ring.h. */
#include "ring/fiber.h"

#include <assert.h>
#include <errno.h>

void ring_submit(struct ring *ring, struct ring_op *op)
{
	assert(!op->active);
	op->active = true;
	ring->ops->submit(ring, op);
}

void ring_cancel(struct ring *ring, struct ring_op *op)
{
	if (op->active)
		ring->ops->cancel(ring, op);
}

void ring_defer(struct ring *ring, struct ring_op *op, int res)
{
	op->opcode = RING_NOP;
	op->result = res;
	ring_submit(ring, op);
}

int ring_step(struct ring *ring)
{
	int res;

	if (ring->fiber)
		return fiber_wait(ring, NULL);
	if (!ring->fibers.next)
		return ring->ops->step(ring);
	/* What has come to be so meanwhile: the loop might have nothing to wait for. */
	if (fiber_run_ready(ring, false, 0))
		return 0;
	res = ring->ops->step(ring);
	fiber_run_ready(ring, true, res);
	return res;
}

int ring_run_until(struct ring *ring, const bool *until)
{
	while (!*until) {
		int res = ring->fiber ? fiber_wait(ring, until) : ring_step(ring);

		if (res < 0)
			return res;
	}
	return 0;
}

static void wait_done(struct ring_op *op, int res)
{
	op->result = res;
}

int ring_wait(struct ring *ring, struct ring_op *op)
{
	op->done = wait_done;
	ring_submit(ring, op);
	while (op->active) {
		int res = ring_step(ring);

		if (res < 0)
			return res;
	}
	return op->result;
}

struct fd_wait {
	struct ring *ring;
	struct ring_op poll, timer;
	int happened;
	bool over;
};

static void fd_wait_step(struct fd_wait *wait)
{
	wait->over = !wait->poll.active && !wait->timer.active;
}

static void fd_happened(struct ring_op *op, int res)
{
	struct fd_wait *wait = container_of(op, struct fd_wait, poll);

	wait->happened = res == -ECANCELED ? 0 : res;
	ring_cancel(wait->ring, &wait->timer);
	fd_wait_step(wait);
}

static void fd_time_is_over(struct ring_op *op, int res)
{
	struct fd_wait *wait = container_of(op, struct fd_wait, timer);

	ring_cancel(wait->ring, &wait->poll);
	fd_wait_step(wait);
}

int ring_wait_fd(struct ring *ring, int fd, short events, uint64_t timeout_ms)
{
	struct fd_wait wait = {.ring = ring};
	int res;

	wait.poll = (struct ring_op){.opcode = RING_POLL, .fd = fd, .events = events, .done = fd_happened};
	wait.timer = (struct ring_op){.opcode = RING_TIMER,
	    .deadline_ns = ring_now_ns(ring) + timeout_ms * UINT64_C(1000000),
	    .done = fd_time_is_over};
	ring_submit(ring, &wait.timer);
	if (fd >= 0)
		ring_submit(ring, &wait.poll);
	res = ring_run_until(ring, &wait.over);
	return res < 0 ? res : wait.happened;
}

void ring_linger(struct ring *ring, uint64_t ns)
{
	if (ring->ops->linger)
		ring->ops->linger(ring, ns);
}

void ring_attend(struct ring *ring)
{
	if (ring->ops->attend)
		ring->ops->attend(ring);
}

uint64_t ring_came_ns(struct ring *ring)
{
	return ring->ops->came_ns ? ring->ops->came_ns(ring) : ring_now_ns(ring);
}

uint64_t ring_now_ns(struct ring *ring)
{
	return ring->ops->now_ns(ring);
}

struct ring *ring_free(struct ring *ring)
{
	if (ring)
		ring->ops->free(ring);
	return NULL;
}
