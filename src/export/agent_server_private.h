/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The agent's server inside: agent_server.c (its life, opening, facts) and agent_request.c (requests on the
 * volume). */
#pragma once

#include "base/page_buffers.h"
#include "block/driver.h"
#include "block/remote_json.h"
#include "export/agent_server.h"
#include "wire/session.h"

#define AGENT_REQUESTS 256u
#define AGENT_BYTES    (16u << 20)
/* Answers that the client may have seen while their sending still holds a slot: one batch, and some. */
#define AGENT_SLOTS (AGENT_REQUESTS + 256u)

/* A request from its header to the last byte of its answer. */
struct agent_slot {
	struct agent_server *server;
	struct list_node node; /* free or busy */
	struct frame request;
	struct block_io io;
	bool credited; /* still counts against the client */
	void *buf;
	size_t buf_size;
	char *text;         /* an answer in JSON */
	struct error words; /* of a COMMIT that failed */
	struct digest_key key;
	struct session_send send;
};

struct agent_server {
	/* set at open */
	struct ring *ring;
	struct agent_server_options options;
	void (*done)(void *data, int res);
	void *done_data;

	struct session *session;
	struct block *block;
	struct page_buffers buffers;
	struct agent_slot *slots;
	struct list_node free;
	unsigned busy;                /* slots in use */
	struct agent_slot *receiving; /* its payload is on the way */

	/* OPEN and FACTS, one at a time, run from the loop and not from within the parser */
	struct ring_op later;
	struct agent_slot *control;
	bool control_running;
	bool opening;
	struct remote_open open;
	bool noted; /* the note of who wrote last was taken: it is `last_writer` */
	uint64_t last_writer;

	bool broken; /* the session is closed */
	bool over;   /* done() has run */
	struct ring_op end;
	struct error error;
};

/* agent_request.c */
/* Checks a request's header against the volume and the credits, and takes a slot. */
int agent_request_header(
    struct agent_server *server, const struct frame *frame, struct session_sink *ret, struct error *error);
/* It is whole: on to the block. */
void agent_request_submit(struct agent_slot *slot, const void *payload);

/* agent_server.c */
int agent_slot_take(
    struct agent_server *server, const struct frame *frame, struct agent_slot **ret, struct error *error);
void agent_slot_release(struct agent_slot *slot);
/* Answers with send.frame's type, offset, length and payload set; JSON and errors have their own ways. */
void agent_slot_answer(struct agent_slot *slot);
void agent_slot_answer_error(struct agent_slot *slot, int code, const char *words);
