/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Between two ends of a connection somebody who lets so many bytes of one direction through, and then does harm. After cmocka.h. */
#pragma once

#include "base/bytes.h"
#include "ring/ring.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum harm { HARM_CUT, HARM_FLIP, HARM_STALL, HARM_SKIP, HARMS };

struct relay {
	struct ring *ring;
	struct way {
		struct relay *relay;
		struct ring_op op;
		int to;
		uint64_t left; /* until the harm; UINT64_MAX: never, or done */
		uint8_t bytes[4096];
		size_t length;
	} ways[2];
	enum harm harm;
	int fds[2];
};

static void relay_cut(struct relay *relay)
{
	for (unsigned i = 0; i < 2; i++)
		shutdown(relay->fds[i], SHUT_RDWR);
}

/* Whether the way goes on. */
static bool relay_harm(struct way *way)
{
	if (way->length <= way->left) {
		way->left -= way->left == UINT64_MAX ? 0 : way->length;
		return true;
	}
	if (way->relay->harm == HARM_CUT)
		relay_cut(way->relay);
	else if (way->relay->harm == HARM_FLIP)
		way->bytes[way->left] ^= 1;
	else if (way->relay->harm == HARM_SKIP)
		memmove(way->bytes + way->left, way->bytes + way->left + 1, --way->length - way->left);
	way->left = UINT64_MAX;
	return way->relay->harm == HARM_FLIP || way->relay->harm == HARM_SKIP;
}

static void relay_read(struct way *way)
{
	way->op.buf = way->bytes;
	way->op.length = sizeof(way->bytes);
	ring_submit(way->relay->ring, &way->op);
}

static void relay_came(struct ring_op *op, int res)
{
	struct way *way = container_of(op, struct way, op);

	way->length = res > 0 ? (size_t)res : 0;
	if (res <= 0) {
		shutdown(way->to, SHUT_WR);
	} else if (relay_harm(way)) {
		/* The relay's sockets take more than both have to say here. */
		(void)send(way->to, way->bytes, way->length, MSG_NOSIGNAL | MSG_DONTWAIT);
		relay_read(way);
	}
}

static __attribute__((unused)) void relay_start(
    struct relay *relay, struct ring *ring, const int fds[2], enum harm harm, unsigned way, uint64_t after)
{
	*relay = (struct relay){.ring = ring, .harm = harm, .fds = {fds[0], fds[1]}};
	for (unsigned i = 0; i < 2; i++) {
		relay->ways[i] = (struct way){.relay = relay, .to = fds[!i], .left = UINT64_MAX};
		relay->ways[i].op = (struct ring_op){
		    .opcode = RING_READ, .fd = fds[i], .offset = RING_STREAM, .done = relay_came};
	}
	relay->ways[way].left = after;
	for (unsigned i = 0; i < 2; i++)
		relay_read(&relay->ways[i]);
}

static __attribute__((unused)) void relay_end(struct relay *relay)
{
	relay_cut(relay);
	while (relay->ways[0].op.active || relay->ways[1].op.active)
		assert_int_equal(ring_step(relay->ring), 0);
	close(relay->fds[0]);
	close(relay->fds[1]);
}
