/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The session's inside: session.c (life, handshake, time), session_send.c and session_receive.c. */
#pragma once

#include "wire/compress.h"
#include "wire/session.h"

#define SESSION_BATCH_FRAMES 128u
#define SESSION_STAGING      (256u << 10)

enum session_state {
	SESSION_LIVE,
	SESSION_FAREWELL, /* reads no more; the last words go out */
	SESSION_BROKEN,   /* operations are being cancelled */
	SESSION_CLOSED,
};

struct session_sender {
	struct list_node queue; /* not begun */
	struct list_node batch; /* in the operation under way, in order */
	struct ring_op op, later;
	struct iovec iov[2 * SESSION_BATCH_FRAMES];
	unsigned iov_first, iov_count;
	uint64_t begun_ns;         /* when the operation began */
	bool polling, dead;        /* dead: the peer takes no more; what it said may still come in */
	struct compress *compress; /* or NULL */
	uint8_t *packed;           /* compressed payloads of the batch */
	size_t packed_size, packed_used;
};

struct session_receiver {
	struct ring_op op;
	bool polling, direct; /* direct: the operation reads into the sink */
	bool first_seen;      /* a header has been read */
	uint8_t *staging;
	size_t start, end; /* what of staging is not yet parsed */
	size_t ahead;      /* bytes to read at once into staging */
	bool in_payload;
	struct frame frame;
	struct session_sink sink;
	uint8_t *to;       /* the payload, as sent, goes here */
	uint32_t received; /* of it */
	uint32_t crc;      /* of that */
	uint8_t *scratch;
	size_t scratch_size;
	struct decompress *decompress; /* made on first use */
};

struct session {
	/* set at open */
	struct ring *ring;
	struct session_options options;
	const char *peer;
	uint64_t timeout_ns;

	enum session_state state;
	bool closed, ended, greeted;
	struct error error;

	/* time */
	struct ring_op timer;
	uint64_t start_ns, heard_ns;
	bool patient;    /* the peer may be silent for longer */
	uint64_t end_ns; /* 0, or when to break with `error` at the latest */
	struct session_send ping, pong;
	bool pinging, ponging; /* queued or being sent */
	bool ping_due;         /* an answer to ping.frame.id is due */
	uint64_t ping_id;
	unsigned pings_heard; /* since the timer last fired */

	/* credits; `used` of what `limit` allows */
	struct session_credits limit, used;

	struct session_sender sender;
	struct session_receiver receiver;
};

/* session.c */
void session_maybe_closed(struct session *session);
/* Breaks with words of its own. */
void session_broke(struct session *session, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Breaks soon with these words, unless the peer's own words come in first. */
void session_break_soon(struct session *session, int code, const char *words);
/* HELLO, PING, PONG and the ERROR that ends it all. 1: it was none of these. */
int session_housekeeping(
    struct session *session, const struct frame *frame, const void *payload, struct error *error);

/* Submits the timer, or has it come back to be set anew. */
void session_set_timer(struct session *session);

/* session_hello.c */
int session_hello_send(struct session *session, struct error *error);
int session_hello_received(
    struct session *session, const struct frame *frame, const void *payload, struct error *error);

/* session_send.c */
void session_sender_init(struct session *session);
/* Ends all sends that have not begun. */
void session_sender_drop(struct session *session);
void session_sender_done(struct session *session);

/* session_receive.c */
int session_receiver_init(struct session *session, struct error *error);
void session_receiver_start(struct session *session);
/* True, with words, if what came first looks like text and not like a frame. */
bool session_got_text(const struct session *session, struct error *ret);
void session_receiver_done(struct session *session);
