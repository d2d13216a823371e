/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The way out. While one writev is under way, further frames queue up and go out together with the next: many
 * small frames cost one call. Payloads are written from where they lie, or from `packed` when compression
 * gains.
 */
#include "base/crc32c.h"
#include "wire/session_private.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_BYTES (512u << 10)

static void go(struct session *session);

static struct session_send *first(struct list_node *list)
{
	return container_of(list->next, struct session_send, node);
}

/* Room for another compressed payload, or NULL. The memory may only move while the batch has none in it. */
static uint8_t *packed_room(struct session_sender *sender, size_t room)
{
	if (sender->packed_used == 0 && room > sender->packed_size) {
		uint8_t *more = realloc(sender->packed, room);

		if (!more)
			return NULL;
		sender->packed = more;
		sender->packed_size = room;
	}
	return sender->packed_size - sender->packed_used >= room ? sender->packed + sender->packed_used
	                                                         : NULL;
}

/* The payload as it goes out; sets the frame's length and flags. */
static const void *pack(struct session_sender *sender, struct session_send *send)
{
	uint32_t length = send->frame.payload_length;
	size_t room = compress_room(length), size;
	uint8_t *out;

	send->frame.flags = 0;
	if (!send->compressible || !sender->compress)
		return send->payload;
	out = packed_room(sender, room > BATCH_BYTES ? room : BATCH_BYTES);
	if (!out)
		out = packed_room(sender, room);
	size = out ? compress_try(sender->compress, send->payload, length, out, room) : 0;
	if (size == 0)
		return send->payload;
	sender->packed_used += size;
	send->frame.flags = FRAME_FLAG_ZSTD;
	send->frame.payload_length = (uint32_t)size;
	return out;
}

static size_t add(struct session_sender *sender, struct session_send *send)
{
	const void *payload = send->frame.payload_length ? pack(sender, send) : NULL;
	struct iovec *iov = &sender->iov[sender->iov_count];

	send->frame.payload_crc = payload ? crc32c(0, payload, send->frame.payload_length) : 0;
	frame_encode(&send->frame, send->header);
	iov[0] = (struct iovec){.iov_base = send->header, .iov_len = FRAME_HEADER_BYTES};
	sender->iov_count++;
	if (payload) {
		iov[1] = (struct iovec){.iov_base = (void *)payload, .iov_len = send->frame.payload_length};
		sender->iov_count++;
	}
	list_remove(&send->node);
	list_append(&sender->batch, &send->node);
	if (send->started)
		send->started(send);
	return FRAME_HEADER_BYTES + send->frame.payload_length;
}

static void submit(struct session *session)
{
	struct session_sender *sender = &session->sender;
	struct ring_op *op = &sender->op;

	op->fd = session->options.fd_out;
	if (sender->compress && !sender->polling)
		sender->begun_ns = ring_now_ns(session->ring);
	if (sender->polling) {
		op->opcode = RING_POLL;
		op->events = POLLOUT;
	} else {
		op->opcode = RING_WRITEV;
		op->iov = sender->iov + sender->iov_first;
		op->iov_count = sender->iov_count - sender->iov_first;
		op->offset = RING_STREAM;
	}
	ring_submit(session->ring, op);
}

/* A payload for which this batch has no room to be compressed waits for the next one. */
static bool has_room(const struct session_sender *sender, const struct session_send *send)
{
	return !send->compressible || !sender->compress || sender->packed_used == 0 ||
	       sender->packed_size - sender->packed_used >= compress_room(send->frame.payload_length);
}

static void go(struct session *session)
{
	struct session_sender *sender = &session->sender;
	size_t bytes = 0;

	if (sender->op.active || sender->dead || session->state >= SESSION_BROKEN ||
	    list_empty(&sender->queue))
		return;
	sender->iov_first = sender->iov_count = 0;
	sender->packed_used = 0;
	for (unsigned i = 0; i < SESSION_BATCH_FRAMES && bytes < BATCH_BYTES && !list_empty(&sender->queue) &&
	                     has_room(sender, first(&sender->queue));
	     i++)
		bytes += add(sender, first(&sender->queue));
	submit(session);
}

static void later_done(struct ring_op *op, int res)
{
	struct session *session = container_of(op, struct session, sender.later);

	go(session);
	session_maybe_closed(session);
}

/* Passes over what has been written. True when that was all. */
static bool advance(struct session_sender *sender, size_t written)
{
	while (sender->iov_first < sender->iov_count) {
		struct iovec *iov = &sender->iov[sender->iov_first];

		if (written < iov->iov_len) {
			iov->iov_base = (char *)iov->iov_base + written;
			iov->iov_len -= written;
			return false;
		}
		written -= iov->iov_len;
		sender->iov_first++;
	}
	return true;
}

static void end_list(struct list_node *list, int res)
{
	while (!list_empty(list)) {
		struct session_send *send = first(list);

		list_remove(&send->node);
		send->sent(send, res);
	}
}

static void written(struct session *session, int res)
{
	struct session_sender *sender = &session->sender;

	if (sender->compress && sender->begun_ns && !sender->polling)
		compress_waited(sender->compress, ring_now_ns(session->ring) - sender->begun_ns);
	if (sender->polling) {
		sender->polling = false;
		submit(session);
	} else if (res == -EAGAIN || res == -EINTR) {
		sender->polling = res == -EAGAIN;
		submit(session);
	} else if (res < 0) {
		sender->dead = true;
		session_break_soon(session, -ENOTCONN, strerror(-res));
	} else if (!advance(sender, (size_t)res)) {
		submit(session);
	} else {
		end_list(&sender->batch, 0);
		go(session);
	}
}

static void op_done(struct ring_op *op, int res)
{
	struct session *session = container_of(op, struct session, sender.op);

	if (session->state < SESSION_BROKEN)
		written(session, res);
	session_maybe_closed(session);
}

void session_send(struct session *session, struct session_send *send)
{
	struct session_sender *sender = &session->sender;

	assert(session->state != SESSION_CLOSED);
	list_append(&sender->queue, &send->node);
	/* Once a turn of the loop, so that what this turn still adds goes along. */
	if (!sender->op.active && !sender->later.active)
		ring_defer(session->ring, &sender->later, 0);
}

void session_sender_init(struct session *session)
{
	struct session_sender *sender = &session->sender;

	list_init(&sender->queue);
	list_init(&sender->batch);
	sender->op.done = op_done;
	sender->later.done = later_done;
}

void session_sender_drop(struct session *session)
{
	end_list(&session->sender.queue, -ENOTCONN);
	if (!session->sender.op.active)
		end_list(&session->sender.batch, -ENOTCONN);
}

void session_sender_done(struct session *session)
{
	compress_free(session->sender.compress);
	free(session->sender.packed);
}
