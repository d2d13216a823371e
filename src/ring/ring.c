/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What all rings have in common: see ring.h. */
#include "ring/ring.h"

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

int ring_run_until(struct ring *ring, const bool *until)
{
	while (!*until) {
		int res = ring->ops->step(ring);

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
		int res = ring->ops->step(ring);

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
