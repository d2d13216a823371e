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
