/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Frames over a pair of stream descriptors: a queue of sends that go out in batches, a parser that receives
 * straight into the caller's memory, the handshake, keepalive, deadlines and credits. Client and server use
 * it alike. One ring, one thread; memory is bounded whatever the peer sends.
 */
#pragma once

#include "base/error.h"
#include "base/list.h"
#include "ring/ring.h"
#include "wire/frame.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct session;

/* What may be under way: requests, and bytes of frame_cost(). */
struct session_credits {
	uint32_t requests;
	uint64_t bytes;
};

enum session_compress { SESSION_COMPRESS_NONE, SESSION_COMPRESS_AUTO, SESSION_COMPRESS_ALWAYS };

/* A frame on its way out: the caller's memory until sent(). */
struct session_send {
	/* set by the caller; the session fills in payload_length, payload_crc and flags */
	struct frame frame;
	const void *payload; /* frame.payload_length bytes; unchanged until sent() */
	bool compressible;
	void (*started)(struct session_send *send);       /* or NULL: the peer may see it from now on */
	void (*sent)(struct session_send *send, int res); /* once: 0, or -ENOTCONN */

	/* the session's */
	struct list_node node;
	uint8_t header[FRAME_HEADER_BYTES];
};

/* Where a payload goes. */
struct session_sink {
	void *buf;       /* or NULL: memory of the session, handed to frame() */
	uint32_t length; /* with buf: exactly so many bytes are due, after decompression */
};

struct session_options {
	int fd_in, fd_out; /* taken; may be the same */
	bool server;
	const char *peer;               /* what it is called in errors; NULL: agent, client */
	unsigned timeout_ms;            /* longest silence */
	unsigned handshake_ms;          /* from the start to the peer's HELLO */
	struct session_credits offer;   /* server: what the client may have under way */
	enum session_compress compress; /* client: for both directions; a server follows its client */
	int compress_level;

	/*
	 * All from the loop. header() and frame() return 0, or -errno with words: then the session breaks.
	 * Neither may run the ring.
	 */
	int (*header)(void *data, const struct frame *frame, struct session_sink *ret, struct error *error);
	int (*frame)(void *data, const struct frame *frame, const void *payload, struct error *error);
	/* Every so often while it lives; as above. Or NULL. */
	int (*tick)(void *data, struct error *error);
	/* Once: nothing is under way any more, every send got its sent(), no memory of the caller is touched
	 * again. */
	void (*closed)(void *data);
	void *data;
};

/* Starts: the HELLO goes out at once. Takes the descriptors, also on failure. */
int session_new(
    struct session **ret, struct ring *ring, const struct session_options *options, struct error *error);
/* Breaks it if it lives and runs the ring until closed(). Takes NULL; returns NULL. */
struct session *session_free(struct session *session);

void session_send(struct session *session, struct session_send *send);
/* Sends JSON text; takes the reference, also on failure. NULL: no payload. */
int session_send_json(
    struct session *session, enum frame_type type, uint64_t id, json_t *json, struct error *error);
/* Ends it because of `error` (copied): what is under way is cancelled; closed() follows. The first reason
 * stays. */
void session_break(struct session *session, const struct error *error);
/* The same, but tells the peer first; bounded in time. */
void session_dismiss(struct session *session, const struct error *error);
/* 0 while it lives; then the code, with words. */
int session_error(const struct session *session, struct error *error);
/* The peer ended it in good order, between two frames. */
bool session_ended(const struct session *session);
/* While set, ten times as much silence is borne: the peer is at something that it cannot interrupt. */
void session_set_patient(struct session *session, bool patient);

/*
 * Client: true if a request of this cost may go out now, and counts it. Server: false if the client sent more
 * than it may.
 */
bool session_credit_take(struct session *session, uint64_t cost);
void session_credit_give(struct session *session, uint64_t cost);
