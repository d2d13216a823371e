/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The remote driver's requests: each becomes a frame as soon as the agent's credits allow, its answer
 * completes it. Data goes from and into the caller's buffer. A buffer is let go only when neither an answer
 * nor the sending can touch it.
 */
#include "block/remote_private.h"

#include "base/bytes.h"
#include "wire/control.h"

#include <errno.h>
#include <string.h>

#define STALL_TIMEOUTS       10u   /* longest wait for any answer while requests are out, in timeouts */
#define STALL_TIMEOUTS_FLUSH 120u  /* a cache of many GiB may have to go to a slow disk */
#define STALL_BYTES_PER_NS   0.016 /* slowest zeroing or digesting of a long range that is believed */

uint64_t remote_next_id(struct remote *remote, uint32_t slot)
{
	return ++remote->number * 2048 + slot;
}

static void run_later(struct remote *remote)
{
	if (!remote->later.active)
		ring_defer(remote->block.ring, &remote->later, 0);
	remote->idle = false;
}

static void finish_io(struct remote *remote, struct block_io *io, int res)
{
	io->driver_u64[0] = (uint64_t)(int64_t)res;
	list_append(&remote->finished, &io->node);
	run_later(remote);
}

/* Answered, and its frame has left: the caller's memory is free. */
static void finish_slot(struct remote_slot *slot, int res)
{
	struct remote *remote = slot->remote;

	session_credit_give(remote->session, slot->cost);
	finish_io(remote, slot->io, res);
	slot->io = NULL;
	slot->send.frame.id = 0;
	list_remove(&slot->node);
	list_append(&remote->free, &slot->node);
}

static void slot_sent(struct session_send *send, int res)
{
	struct remote_slot *slot = container_of(send, struct remote_slot, send);

	slot->sent = true;
	if (slot->answered)
		/* Answered before all of it had left, and then it never left: the answer was a lie. */
		finish_slot(slot, res < 0 ? -ENOTCONN : slot->res);
}

static void slot_answered(struct remote_slot *slot, int res)
{
	slot->remote->progress_ns = ring_now_ns(slot->remote->block.ring);
	slot->answered = true;
	slot->res = res;
	/* The answer to the first frames of a batch may overtake the news that the batch is out. */
	if (slot->sent)
		finish_slot(slot, res);
}

static const enum frame_type request_types[] = {
    [BLOCK_READ] = FRAME_READ,
    [BLOCK_WRITE] = FRAME_WRITE,
    [BLOCK_ZERO] = FRAME_ZERO,
    [BLOCK_FLUSH] = FRAME_FLUSH,
    [BLOCK_EXTENTS] = FRAME_EXTENTS,
    [BLOCK_DIGEST] = FRAME_DIGEST,
    [BLOCK_SHA256] = FRAME_SHA256,
    [BLOCK_RESIZE] = FRAME_RESIZE,
};

static enum frame_type request_type(const struct block_io *io)
{
	return io->op == BLOCK_FLUSH && io->flags & BLOCK_COMMIT ? FRAME_COMMIT : request_types[io->op];
}

static void fill_payload(struct remote_slot *slot, const struct block_io *io)
{
	struct session_send *send = &slot->send;

	send->payload = slot->request;
	switch (io->op) {
	case BLOCK_WRITE:
		send->payload = io->buf;
		send->frame.payload_length = (uint32_t)io->length;
		send->compressible = true;
		break;
	case BLOCK_EXTENTS:
		put_le32(slot->request, (uint32_t)min_u64(io->extents_max, FRAME_EXTENTS_MAX));
		send->frame.payload_length = 4;
		break;
	case BLOCK_DIGEST:
		put_le32(slot->request, io->granularity);
		memcpy(slot->request + 4, io->key->bytes, sizeof(io->key->bytes));
		send->frame.payload_length = 20;
		break;
	default:
		break;
	}
}

static uint32_t answer_due(const struct block_io *io)
{
	switch (io->op) {
	case BLOCK_READ:
		return (uint32_t)io->length;
	case BLOCK_DIGEST:
		return (uint32_t)digest_count(io->length, io->granularity) * DIGEST_BYTES;
	case BLOCK_SHA256:
		return 32;
	default:
		return 0;
	}
}

/* False: no credit now. */
static bool send_io(struct remote *remote, struct block_io *io)
{
	struct frame frame = {.type = request_type(io), .offset = io->offset, .length = io->length};
	struct remote_slot *slot;

	if (io->op == BLOCK_FLUSH)
		frame.offset = frame.length = 0;
	else if (io->op == BLOCK_RESIZE)
		frame.offset = 0;
	if (list_empty(&remote->free) || !session_credit_take(remote->session, frame_cost(&frame)))
		return false;
	if (list_empty(&remote->flying))
		remote->progress_ns = ring_now_ns(remote->block.ring);
	slot = container_of(list_pop(&remote->free), struct remote_slot, node);
	frame.id = remote_next_id(remote, (uint32_t)(slot - remote->slots));
	slot->io = io;
	slot->cost = frame_cost(&frame);
	slot->due = answer_due(io);
	slot->sent = slot->answered = false;
	slot->send = (struct session_send){.frame = frame, .sent = slot_sent};
	fill_payload(slot, io);
	list_append(&remote->flying, &slot->node);
	session_send(remote->session, &slot->send);
	return true;
}

static void pump(struct remote *remote)
{
	while (!list_empty(&remote->waiting) && session_error(remote->session, NULL) == 0) {
		struct block_io *io = container_of(remote->waiting.next, struct block_io, node);

		list_remove(&io->node);
		if (!send_io(remote, io)) {
			list_prepend(&remote->waiting, &io->node);
			return;
		}
	}
}

void remote_submit(struct block *block, struct block_io *io)
{
	struct remote *remote = container_of(block, struct remote, block);

	if (remote->broken || io->op == BLOCK_TRIM) {
		/* The wire has no frame for advice. */
		finish_io(remote, io, remote->broken ? -ENOTCONN : 0);
	} else {
		list_append(&remote->waiting, &io->node);
		pump(remote);
	}
}

/* Callers' done() runs from here only: it may submit, and it may run the loop. */
static void later_done(struct ring_op *op, int res)
{
	struct remote *remote = container_of(op, struct remote, later);
	struct list_node *node;

	remote->idle = true;
	while ((node = list_pop(&remote->finished))) {
		struct block_io *io = container_of(node, struct block_io, node);

		block_complete(io, (int)(int64_t)io->driver_u64[0]);
	}
	if (!remote->broken)
		pump(remote);
}

int remote_init(struct remote *remote, struct error *error)
{
	list_init(&remote->free);
	list_init(&remote->flying);
	list_init(&remote->waiting);
	list_init(&remote->finished);
	remote->later.done = later_done;
	remote->idle = true;
	remote->slots = calloc(REMOTE_SLOTS, sizeof(*remote->slots));
	if (!remote->slots)
		return error_set(error, -ENOMEM, "no memory for requests");
	for (unsigned i = 0; i < REMOTE_SLOTS; i++) {
		remote->slots[i].remote = remote;
		list_append(&remote->free, &remote->slots[i].node);
	}
	return 0;
}

/* Answers. The peer is not trusted: what was not asked for, or does not fit, breaks the link. */

static bool answers(enum block_op op, enum frame_type type)
{
	switch (op) {
	case BLOCK_READ:
		return type == FRAME_DATA || type == FRAME_ZEROES;
	case BLOCK_DIGEST:
	case BLOCK_SHA256:
		return type == FRAME_DATA;
	case BLOCK_EXTENTS:
		return type == FRAME_EXTENT_LIST;
	default:
		return type == FRAME_DONE;
	}
}

static struct remote_slot *slot_of(struct remote *remote, uint64_t id)
{
	uint64_t index = id % 2048;
	struct remote_slot *slot = index < REMOTE_SLOTS ? &remote->slots[index] : NULL;

	return slot && slot->io && !slot->answered && slot->send.frame.id == id ? slot : NULL;
}

int remote_header(void *data, const struct frame *frame, struct session_sink *ret, struct error *error)
{
	struct remote *remote = data;
	struct remote_slot *slot;
	struct block_io *io;

	if (remote->call && frame->id == remote->call->id) {
		if (frame->type == remote->call->answer || frame->type == FRAME_ERROR)
			return 0;
		return error_set(
		    error, -EPROTO, "%s in answer to a control request", frame_type_name(frame->type));
	}
	slot = slot_of(remote, frame->id);
	if (!slot)
		return error_set(error, -EPROTO, "%s that nobody asked for (id %llu)",
		    frame_type_name(frame->type), (unsigned long long)frame->id);
	if (frame->type == FRAME_ERROR)
		return 0;
	io = slot->io;
	if (!answers(io->op, frame->type))
		return error_set(error, -EPROTO, "%s in answer to %s", frame_type_name(frame->type),
		    frame_type_name(slot->send.frame.type));
	if (frame->type != FRAME_DONE && frame->offset != io->offset)
		return error_set(
		    error, -EPROTO, "%s of another range than was asked", frame_type_name(frame->type));
	if (frame->type == FRAME_DATA) {
		if (frame->length != slot->due)
			return error_set(error, -EPROTO, "DATA of %llu bytes where %u were due",
			    (unsigned long long)frame->length, slot->due);
		*ret = (struct session_sink){.buf = io->buf, .length = slot->due};
	}
	if (frame->type == FRAME_ZEROES && frame->length != io->length)
		return error_set(error, -EPROTO, "ZEROES of %llu bytes where %llu were asked",
		    (unsigned long long)frame->length, (unsigned long long)io->length);
	return 0;
}

/* Returns the count, or -EPROTO with words. */
static int parse_extents(struct block_io *io, const uint8_t *payload, uint32_t length, struct error *error)
{
	uint32_t count = length / 16;
	uint64_t offset = io->offset, rest = io->length;

	if (count > io->extents_max)
		return error_set(error, -EPROTO, "%u extents where %u were asked", count, io->extents_max);
	for (uint32_t i = 0; i < count; i++) {
		uint64_t bytes = get_le64(payload + i * 16), kind = get_le64(payload + i * 16 + 8);

		if (bytes == 0 || bytes > rest || kind > EXTENT_ZERO)
			return error_set(error, -EPROTO,
			    "an extent of %llu bytes, kind %llu, where %llu are left",
			    (unsigned long long)bytes, (unsigned long long)kind, (unsigned long long)rest);
		io->extents[i] =
		    (struct extent){.offset = offset, .length = bytes, .kind = (enum extent_kind)kind};
		offset += bytes;
		rest -= bytes;
	}
	return (int)count;
}

static int failure(
    const struct block_io *io, const struct frame *frame, const void *payload, int *ret, struct error *error)
{
	struct error said;
	int res = control_error_parse(payload, frame->payload_length, &said, error);

	if (res == 0)
		*ret = said.code;
	if (res == 0 && io->flags & BLOCK_COMMIT && io->error)
		*io->error = said;
	return res;
}

int remote_frame(void *data, const struct frame *frame, const void *payload, struct error *error)
{
	struct remote *remote = data;
	struct remote_slot *slot;
	int answer = 0, res = 0;

	if (remote->call && frame->id == remote->call->id)
		return remote_call_frame(remote, frame, payload, error);
	slot = slot_of(remote, frame->id);
	if (frame->type == FRAME_ERROR)
		res = failure(slot->io, frame, payload, &answer, error);
	else if (frame->type == FRAME_EXTENT_LIST)
		res = answer = parse_extents(slot->io, payload, frame->payload_length, error);
	else if (frame->type == FRAME_ZEROES)
		memset(slot->io->buf, 0, slot->io->length);
	else if (slot->io->op == BLOCK_RESIZE)
		remote->block.info.size = slot->io->length;
	if (res < 0)
		return res;
	slot_answered(slot, answer);
	return 0;
}

static uint64_t patience_ns(const struct remote *remote, const struct block_io *io)
{
	bool syncs = io->op == BLOCK_FLUSH || io->op == BLOCK_RESIZE;
	/* What a commit applies may be all of the volume. */
	uint64_t length = io->flags & BLOCK_COMMIT ? remote->block.info.size : io->length;

	return remote->timeout_ns * (syncs ? STALL_TIMEOUTS_FLUSH : STALL_TIMEOUTS) +
	       (uint64_t)((double)length / STALL_BYTES_PER_NS);
}

/* An agent that answers pings and nothing else is as good as gone. */
int remote_tick(void *data, struct error *error)
{
	struct remote *remote = data;
	uint64_t patience = remote->timeout_ns * STALL_TIMEOUTS;
	uint64_t waited = ring_now_ns(remote->block.ring) - remote->progress_ns;

	if (list_empty(&remote->flying) && !remote->call)
		return 0;
	list_for_each (node, &remote->flying)
		patience =
		    max_u64(patience, patience_ns(remote, container_of(node, struct remote_slot, node)->io));
	if (waited < patience)
		return 0;
	return error_set(error, -ENOTCONN, "the agent is there, but has answered no request for %llu s",
	    (unsigned long long)(waited / 1000000000));
}

void remote_closed(void *data)
{
	struct remote *remote = data;

	remote->broken = true;
	session_error(remote->session, &remote->error);
	while (!list_empty(&remote->flying)) {
		struct remote_slot *slot = container_of(remote->flying.next, struct remote_slot, node);

		finish_slot(slot, -ENOTCONN);
	}
	for (struct list_node *node; (node = list_pop(&remote->waiting));)
		finish_io(remote, container_of(node, struct block_io, node), -ENOTCONN);
	if (remote->call) {
		remote->call->res = remote->error.code;
		remote->call->error = remote->error;
		remote->call->done = true;
	}
}
