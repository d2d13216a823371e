/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A ring for fuzzing: one stream whose input is the fuzzer's bytes, in pieces; writes go nowhere. No kernel,
 * no time but timers: when nothing else is left, the next timer fires. A run of the same input is the same
 * run.
 */
#pragma once

#include "ring/ring.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

struct fuzz_ring {
	struct ring ring;
	struct list_node ready; /* done() is due, the result is set */
	struct list_node timers;
	struct ring_op *reader; /* waits for input */
	const uint8_t *data;
	size_t size, piece; /* bytes given by one read at most */
	uint64_t now_ns;
	unsigned under_way;
};

static inline struct fuzz_ring *to_fuzz(struct ring *ring)
{
	return container_of(ring, struct fuzz_ring, ring);
}

static inline void fuzz_ready(struct fuzz_ring *ring, struct ring_op *op, int res)
{
	op->result = res;
	list_append(&ring->ready, &op->node);
}

static inline void fuzz_submit(struct ring *base, struct ring_op *op)
{
	struct fuzz_ring *ring = to_fuzz(base);
	uint64_t length = 0;

	ring->under_way++;
	switch (op->opcode) {
	case RING_NOP:
		fuzz_ready(ring, op, op->result);
		break;
	case RING_TIMER:
		list_append(&ring->timers, &op->node);
		break;
	case RING_READ:
		assert(!ring->reader);
		ring->reader = op;
		break;
	case RING_WRITEV:
		for (unsigned i = 0; i < op->iov_count; i++)
			length += op->iov[i].iov_len;
		fuzz_ready(ring, op, (int)length);
		break;
	default:
		assert(!"not for a stream");
	}
}

static inline void fuzz_cancel(struct ring *base, struct ring_op *op)
{
	struct fuzz_ring *ring = to_fuzz(base);

	if (op == ring->reader) {
		ring->reader = NULL;
		fuzz_ready(ring, op, -ECANCELED);
	} else if (op->opcode == RING_TIMER) {
		list_remove(&op->node);
		fuzz_ready(ring, op, -ECANCELED);
	}
}

static inline void fuzz_deliver(struct fuzz_ring *ring, struct ring_op *op, int res)
{
	ring->under_way--;
	op->active = false;
	op->done(op, res);
}

static inline void fuzz_feed(struct fuzz_ring *ring)
{
	struct ring_op *op = ring->reader;
	size_t length = op->length < ring->size ? op->length : ring->size;

	if (ring->piece && length > ring->piece)
		length = ring->piece;
	/* The last byte that the read allows is touched, so that a wrong length is seen even when less comes. */
	((uint8_t *)op->buf)[op->length - 1] = 0;
	if (length)
		memcpy(op->buf, ring->data, length);
	ring->data += length;
	ring->size -= length;
	ring->reader = NULL;
	fuzz_deliver(ring, op, (int)length);
}

static inline int fuzz_step(struct ring *base)
{
	struct fuzz_ring *ring = to_fuzz(base);
	struct list_node *node = list_pop(&ring->ready);
	struct ring_op *first = NULL;

	if (node) {
		struct ring_op *op = container_of(node, struct ring_op, node);

		fuzz_deliver(ring, op, op->result);
		return 0;
	}
	if (ring->reader) {
		fuzz_feed(ring);
		return 0;
	}
	list_for_each (at, &ring->timers) {
		struct ring_op *op = container_of(at, struct ring_op, node);

		if (!first || op->deadline_ns < first->deadline_ns)
			first = op;
	}
	if (!first)
		return -EDEADLK;
	list_remove(&first->node);
	if (first->deadline_ns > ring->now_ns)
		ring->now_ns = first->deadline_ns;
	fuzz_deliver(ring, first, 0);
	return 0;
}

static inline uint64_t fuzz_now_ns(struct ring *ring)
{
	return to_fuzz(ring)->now_ns;
}

static inline void fuzz_free(struct ring *ring)
{
	assert(to_fuzz(ring)->under_way == 0);
}

/* `simulated`: the descriptors are made up, nobody may close them. */
static inline void fuzz_ring_init(struct fuzz_ring *ring, const uint8_t *data, size_t size, size_t piece)
{
	static const struct ring_ops ops = {
	    .submit = fuzz_submit,
	    .cancel = fuzz_cancel,
	    .step = fuzz_step,
	    .now_ns = fuzz_now_ns,
	    .free = fuzz_free,
	};

	*ring = (struct fuzz_ring){
	    .ring = {.ops = &ops, .simulated = true}, .data = data, .size = size, .piece = piece};
	ring->now_ns = 1000000000;
	list_init(&ring->ready);
	list_init(&ring->timers);
}
