/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See replica_link.h. */
#include "replica/replica_link.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "replica/replica_wire.h"
#include "wire/control.h"
#include "wire/session.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define TIMEOUT_MS    30000u
#define PIECE_BYTES   (1u << 20) /* of bits in a frame */
#define PIECE_REGIONS (PIECE_BYTES * 8ull)

struct replica_link {
	struct ring *ring;
	struct replica_link_options options;
	struct session *session;
	bool closed;

	/* the map that comes */
	struct bitmap coming;
	uint8_t *piece;
	bool expected;

	/* the map that goes */
	struct bitmap going;
	uint64_t next; /* region */
	struct session_send send;
	uint8_t *bytes;
	bool sending;
};

/* Of so many regions: whole words. */
static uint32_t bytes_of(uint64_t regions)
{
	return (uint32_t)((regions + 63) / 64 * 8);
}

static int bad_map(struct error *error)
{
	return error_set(error, -EPROTO, "a piece of a map that is not due");
}

static int on_header(void *data, const struct frame *frame, struct session_sink *ret, struct error *error)
{
	struct replica_link *link = data;

	if (frame->type == FRAME_NODE && frame->id == 0)
		return 0;
	if (frame->type != FRAME_MAP || frame->id != 0)
		return error_set(
		    error, -EPROTO, "%s, which no node says to another", frame_type_name(frame->type));
	if (!link->expected || frame->length > PIECE_REGIONS || frame->offset % 64 != 0 ||
	    frame->offset + frame->length > link->coming.bits ||
	    (frame->length == 0) != (frame->payload_length == 0))
		return bad_map(error);
	if (frame->length > 0)
		*ret = (struct session_sink){.buf = link->piece, .length = bytes_of(frame->length)};
	return 0;
}

static void map_came(struct replica_link *link)
{
	link->expected = false;
	link->options.map(link->options.data, &link->coming);
	bitmap_done(&link->coming);
}

static int on_frame(void *data, const struct frame *frame, const void *payload, struct error *error)
{
	struct replica_link *link = data;
	_cleanup_(control_cleanup) json_t *json = NULL;
	struct replica_message message;

	if (frame->type == FRAME_MAP) {
		if (frame->length > 0)
			bitmap_load(&link->coming, frame->offset, link->piece, bytes_of(frame->length));
		else
			map_came(link);
		return 0;
	}
	json = control_parse(payload, frame->payload_length, error);
	if (!json || replica_message_parse(json, &message, error) < 0)
		return -EPROTO;
	link->options.heard(link->options.data, &message);
	return 0;
}

static void on_closed(void *data)
{
	struct replica_link *link = data;
	struct error error = {0};

	link->closed = true;
	session_error(link->session, &error);
	link->options.lost(link->options.data, &error);
}

int replica_link_new(struct replica_link **ret, struct ring *ring, const struct replica_link_options *options,
    struct error *error)
{
	unsigned timeout_ms = options->timeout_ms ? options->timeout_ms : TIMEOUT_MS;
	struct replica_link *link = calloc(1, sizeof(*link));
	struct session_options session = {
	    .fd_in = options->fd,
	    .fd_out = options->fd,
	    .server = options->server,
	    .peer = "other node",
	    .timeout_ms = timeout_ms,
	    .handshake_ms = timeout_ms,
	    .offer = {1, FRAME_PAYLOAD_MAX},
	    .compress = SESSION_COMPRESS_AUTO,
	    .compress_level = 1,
	    .header = on_header,
	    .frame = on_frame,
	    .closed = on_closed,
	    .data = link,
	};
	int res;

	if (link) {
		link->bytes = malloc(PIECE_BYTES);
		link->piece = malloc(PIECE_BYTES);
	}
	if (!link || !link->bytes || !link->piece) {
		close(options->fd);
		replica_link_free(link);
		return error_set(error, -ENOMEM, "no memory for a link to the other node");
	}
	link->ring = ring;
	link->options = *options;
	res = session_new(&link->session, ring, &session, error);
	if (res < 0) {
		link->closed = true;
		replica_link_free(link);
		return res;
	}
	*ret = link;
	return 0;
}

int replica_link_expect_map(struct replica_link *link, uint64_t regions)
{
	bitmap_done(&link->coming);
	link->expected = bitmap_init(&link->coming, regions) == 0;
	return link->expected ? 0 : -ENOMEM;
}

void replica_link_say(struct replica_link *link, const struct replica_message *message)
{
	json_t *json = replica_message_json(message);
	struct error error;

	if (link->closed) {
		json_decref(json);
		return;
	}
	if (!json)
		error_set(&error, -ENOMEM, "no memory for a message to the other node");
	if (!json || session_send_json(link->session, FRAME_NODE, 0, json, &error) < 0)
		session_break(link->session, &error);
}

/* The map that goes: a piece with bits after the other, then the end. */

static void send_piece(struct replica_link *link);

static void piece_sent(struct session_send *send, int res)
{
	struct replica_link *link = container_of(send, struct replica_link, send);

	link->sending = false;
	if (res == 0 && send->frame.length > 0)
		send_piece(link);
	else
		bitmap_done(&link->going);
}

static void send_piece(struct replica_link *link)
{
	const struct bitmap *going = &link->going;
	uint64_t set = bitmap_next_set(going, link->next), first = align_down(set, PIECE_REGIONS);
	uint64_t count = set < going->bits ? min_u64(PIECE_REGIONS, going->bits - first) : 0;

	link->next = first + count;
	if (count > 0)
		bitmap_store(going, first, link->bytes, bytes_of(count));
	link->send = (struct session_send){
	    .frame = {.type = FRAME_MAP,
	        .offset = count > 0 ? first : 0,
	        .length = count,
	        .payload_length = bytes_of(count)},
	    .payload = link->bytes,
	    .compressible = count > 0,
	    .sent = piece_sent,
	};
	link->sending = true;
	session_send(link->session, &link->send);
}

int replica_link_send_map(struct replica_link *link, const struct bitmap *bits)
{
	int res;

	if (link->closed || link->sending)
		return 0;
	res = bitmap_init(&link->going, bits->bits);
	if (res < 0)
		return res;
	bitmap_or(&link->going, bits);
	link->next = 0;
	send_piece(link);
	return 0;
}

void replica_link_drop(struct replica_link *link, const char *why)
{
	struct error error;

	error_set(&error, -ECONNABORTED, "%s", why);
	session_dismiss(link->session, &error);
}

struct replica_link *replica_link_free(struct replica_link *link)
{
	if (!link)
		return NULL;
	session_free(link->session);
	bitmap_done(&link->coming);
	bitmap_done(&link->going);
	free(link->bytes);
	free(link->piece);
	free(link);
	return NULL;
}
