/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The way in: reads into `staging`, parses frame by frame, and reads the rest of a long payload straight into
 * its sink. The peer is not trusted: a length is checked against what is due before a byte of it is taken.
 */
#include "base/crc32c.h"
#include "wire/session_private.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define DIRECT_MIN  (16u << 10) /* shorter rests go through staging, together with the next headers */
#define AHEAD_SHORT (16u << 10) /* between long payloads */

static void submit(struct session *session)
{
	struct session_receiver *receiver = &session->receiver;
	struct ring_op *op = &receiver->op;
	uint32_t rest = receiver->in_payload ? receiver->frame.payload_length - receiver->received : 0;

	op->fd = session->options.fd_in;
	op->offset = RING_STREAM;
	op->opcode = receiver->polling ? RING_POLL : RING_READ;
	op->events = POLLIN;
	receiver->direct = rest >= DIRECT_MIN;
	if (receiver->direct) {
		op->buf = receiver->to + receiver->received;
		op->length = rest;
	} else {
		size_t room = SESSION_STAGING - receiver->end;

		op->buf = receiver->staging + receiver->end;
		op->length = receiver->ahead < room ? receiver->ahead : room;
	}
	ring_submit(session->ring, op);
}

static int scratch_room(struct session_receiver *receiver, size_t size, struct error *error)
{
	uint8_t *more;

	if (size <= receiver->scratch_size)
		return 0;
	more = realloc(receiver->scratch, size);
	if (!more)
		return error_set(error, -ENOMEM, "no memory to receive %zu bytes", size);
	receiver->scratch = more;
	receiver->scratch_size = size;
	return 0;
}

/* Compressed payloads shrank when they were made: larger is a lie. */
static int check_due(const struct frame *frame, const struct session_sink *sink, struct error *error)
{
	bool packed = frame->flags & FRAME_FLAG_ZSTD;

	if (packed && (!sink->buf || frame->payload_length >= sink->length))
		return error_set(error, -EPROTO, "%s with %u compressed bytes where %u were due",
		    frame_type_name(frame->type), frame->payload_length, sink->buf ? sink->length : 0);
	if (!packed && sink->buf && frame->payload_length != sink->length)
		return error_set(error, -EPROTO, "%s with %u bytes where %u were due",
		    frame_type_name(frame->type), frame->payload_length, sink->length);
	return 0;
}

/* A header is whole: finds out where its payload goes. */
static int begin_frame(struct session *session, struct error *error)
{
	struct session_receiver *receiver = &session->receiver;
	const struct frame *frame = &receiver->frame;
	int res = 0;

	receiver->sink = (struct session_sink){0};
	receiver->received = 0;
	receiver->crc = 0;
	if (!session->greeted && frame->type != FRAME_HELLO && frame->type != FRAME_ERROR)
		return error_set(error, -EPROTO, "%s before HELLO", frame_type_name(frame->type));
	if (frame->type >= FRAME_OPEN && frame->type < FRAME_PING &&
	    !(frame->type == FRAME_ERROR && frame->id == 0))
		res = session->options.header(session->options.data, frame, &receiver->sink, error);
	if (res == 0)
		res = check_due(frame, &receiver->sink, error);
	if (res < 0 || frame->payload_length == 0)
		return res;
	if (receiver->sink.buf && !(frame->flags & FRAME_FLAG_ZSTD)) {
		receiver->to = receiver->sink.buf;
		return 0;
	}
	res = scratch_room(receiver, frame->payload_length, error);
	receiver->to = receiver->scratch;
	return res;
}

static int unpack(struct session_receiver *receiver, struct error *error)
{
	int res = 0;

	if (!receiver->decompress)
		res = decompress_new(&receiver->decompress, error);
	return res < 0 ? res
	               : decompress_run(receiver->decompress, receiver->to, receiver->frame.payload_length,
	                     receiver->sink.buf, receiver->sink.length, error);
}

/* A frame is whole. */
static int end_frame(struct session *session, struct error *error)
{
	struct session_receiver *receiver = &session->receiver;
	const struct frame *frame = &receiver->frame;
	const void *payload = receiver->sink.buf ? receiver->sink.buf : receiver->to;
	int res = 0;

	receiver->ahead = frame->payload_length >= 4 * DIRECT_MIN ? AHEAD_SHORT : SESSION_STAGING;
	if (receiver->crc != frame->payload_crc)
		return error_set(error, -EPROTO, "the checksum of a %s's payload does not fit",
		    frame_type_name(frame->type));
	if (frame->flags & FRAME_FLAG_ZSTD)
		res = unpack(receiver, error);
	if (res == 0)
		res = session_housekeeping(session, frame, payload, error);
	if (res == 1)
		res = session->options.frame(session->options.data, frame, payload, error);
	return res;
}

/* Takes what staging holds of the payload; 1 when it is whole. */
static int take_payload(struct session_receiver *receiver)
{
	size_t rest = receiver->frame.payload_length - receiver->received;
	size_t have = receiver->end - receiver->start;
	size_t part = rest < have ? rest : have;

	memcpy(receiver->to + receiver->received, receiver->staging + receiver->start, part);
	receiver->crc = crc32c(receiver->crc, receiver->staging + receiver->start, part);
	receiver->received += (uint32_t)part;
	receiver->start += part;
	return part == rest;
}

/* One step of parsing: 1 went on, 0 needs more bytes, or -errno. */
static int parse(struct session *session, struct error *error)
{
	struct session_receiver *receiver = &session->receiver;
	int res;

	if (!receiver->in_payload) {
		if (receiver->end - receiver->start < FRAME_HEADER_BYTES)
			return 0;
		res = frame_decode(receiver->staging + receiver->start, &receiver->frame, error);
		if (res == 0)
			res = begin_frame(session, error);
		if (res < 0)
			return res;
		receiver->start += FRAME_HEADER_BYTES;
		receiver->first_seen = true;
		receiver->in_payload = receiver->frame.payload_length > 0;
	} else if (!take_payload(receiver)) {
		return 0;
	} else {
		receiver->in_payload = false;
	}
	if (receiver->in_payload)
		return 1;
	res = end_frame(session, error);
	return res < 0 ? res : 1;
}

/* Login scripts that print are the usual reason why the first bytes are no frame. True if it looks so. */
bool session_got_text(const struct session *session, struct error *ret)
{
	const struct session_receiver *receiver = &session->receiver;
	const uint8_t *at = receiver->staging + receiver->start;
	size_t length = 0, have = receiver->end - receiver->start;

	while (length < have && length < 60 && isprint(at[length]))
		length++;
	if (receiver->first_seen || length < 4)
		return false;
	error_set(ret, -EPROTO,
	    "what came does not look like the %s: it begins with \"%.*s\"; a login script over there may "
	    "print "
	    "text: make it silent when it has no terminal",
	    session->peer, (int)length, (const char *)at);
	return true;
}

static void complain(struct session *session, const struct error *error)
{
	struct error words;

	if (!session_got_text(session, &words))
		error_set(&words, error->code,
		    error->code == -EPROTO ? "the %s sent a damaged frame: %.440s"
		                           : "cannot talk to the %s: %.440s",
		    session->peer, error->text);
	if (session->options.server)
		session_dismiss(session, &words);
	else
		session_break(session, &words);
}

/* Also after a write that found the other end closed: this says more than "Broken pipe". */
static void end_of_stream(struct session *session)
{
	const struct session_receiver *receiver = &session->receiver;
	struct error words;

	session->ended = !receiver->in_payload && receiver->start == receiver->end;
	if (session->ended)
		session_broke(session, -ENOTCONN, "the %s closed the connection", session->peer);
	else if (session_got_text(session, &words))
		session_break(session, &words);
	else
		session_broke(session, -ENOTCONN, "the connection ended in the middle of a frame");
}

static void received(struct session *session, int res)
{
	struct session_receiver *receiver = &session->receiver;
	struct error error = {0};

	if (receiver->direct) {
		receiver->crc = crc32c(receiver->crc, receiver->to + receiver->received, (size_t)res);
		receiver->received += (uint32_t)res;
	} else {
		receiver->end += (size_t)res;
	}
	do
		res = parse(session, &error);
	while (res > 0 && session->state == SESSION_LIVE);
	if (res < 0 && session->state == SESSION_LIVE)
		complain(session, &error);
	/* What remains is less than a header. */
	memmove(receiver->staging, receiver->staging + receiver->start, receiver->end - receiver->start);
	receiver->end -= receiver->start;
	receiver->start = 0;
}

static void op_done(struct ring_op *op, int res)
{
	struct session *session = container_of(op, struct session, receiver.op);
	struct session_receiver *receiver = &session->receiver;
	bool was_poll = receiver->polling;

	receiver->polling = false;
	if (session->state == SESSION_LIVE) {
		if (res == -EAGAIN && !was_poll) {
			receiver->polling = true;
		} else if (res < 0 && res != -EINTR && res != -EAGAIN) {
			session_broke(session, -ENOTCONN, "the connection to the %s broke: %s", session->peer,
			    strerror(-res));
		} else if (res == 0 && !was_poll) {
			end_of_stream(session);
		} else if (res > 0 && !was_poll) {
			session->heard_ns = ring_now_ns(session->ring);
			received(session, res);
		}
		if (session->state == SESSION_LIVE)
			submit(session);
	}
	session_maybe_closed(session);
}

int session_receiver_init(struct session *session, struct error *error)
{
	struct session_receiver *receiver = &session->receiver;

	receiver->op.done = op_done;
	receiver->ahead = SESSION_STAGING;
	receiver->staging = malloc(SESSION_STAGING);
	return receiver->staging ? 0 : error_set(error, -ENOMEM, "no memory for a connection");
}

void session_receiver_start(struct session *session)
{
	submit(session);
}

void session_receiver_done(struct session *session)
{
	decompress_free(session->receiver.decompress);
	free(session->receiver.scratch);
	free(session->receiver.staging);
}
