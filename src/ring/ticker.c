/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A timer that arms itself again: see ticker.h. */
#include "ring/ticker.h"

static void arm(struct ticker *ticker);

static void timer_done(struct ring_op *op, int res)
{
	struct ticker *ticker = container_of(op, struct ticker, op);

	if (ticker->stopping)
		return;
	ticker->tick(ticker->data);
	arm(ticker);
}

static void arm(struct ticker *ticker)
{
	ticker->op = (struct ring_op){.opcode = RING_TIMER,
	    .deadline_ns = ring_now_ns(ticker->ring) + ticker->interval_ns,
	    .done = timer_done};
	ring_submit(ticker->ring, &ticker->op);
}

void ticker_start(
    struct ticker *ticker, struct ring *ring, uint64_t interval_ns, void (*tick)(void *data), void *data)
{
	*ticker = (struct ticker){.ring = ring, .interval_ns = interval_ns, .tick = tick, .data = data};
	arm(ticker);
}

void ticker_stop(struct ticker *ticker)
{
	if (!ticker->ring)
		return;
	ticker->stopping = true;
	ring_cancel(ticker->ring, &ticker->op);
	while (ticker->op.active && ticker->ring->ops->step(ticker->ring) == 0)
		;
	ticker->ring = NULL;
}
