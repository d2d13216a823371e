/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The remote driver's inside: remote.c (requests) and remote_open.c (the link: made, asked, ended). */
#pragma once

#include "block/driver.h"
#include "block/remote.h"
#include "wire/session.h"
#include "wire/transport.h"

#define REMOTE_SLOTS   1024u /* requests on the wire; the agent's credits usually allow fewer */
#define REMOTE_CONTROL 2047u /* in the low bits of an id: a control request */

/* A request on the wire. Its id is a running number and the slot's, so that an old answer fits nothing. */
struct remote_slot {
	struct remote *remote;
	struct block_io *io; /* NULL: free */
	struct session_send send;
	uint64_t cost;
	uint32_t due; /* payload bytes of a DATA answer */
	bool sent, answered;
	int res;
	uint8_t request[20];   /* a short payload */
	struct list_node node; /* free or flying */
};

/* A control request, waited for. */
struct remote_call {
	enum frame_type answer;
	uint64_t id;
	void *ret; /* struct block_info or block_facts */
	bool done;
	int res;
	struct error error;
};

struct remote {
	struct block block;
	struct session *session;
	struct transport *transport; /* or NULL */
	uint64_t timeout_ns;
	bool prompt; /* as link_options.prompt */

	struct remote_slot *slots;
	struct list_node free, flying;
	struct list_node waiting;  /* block_io without credit */
	struct list_node finished; /* block_io whose done() is due; the result is in driver_u64[0] */
	struct ring_op later;      /* runs them */
	bool idle;                 /* it is not under way */
	uint64_t number;           /* of the last request */
	uint64_t progress_ns;      /* when something was last answered, or begun after idleness */

	struct remote_call *call; /* under way, or NULL */
	bool broken;              /* nothing of the session is under way any more */
	bool explained;
	struct error error;
};

/* remote.c */
int remote_init(struct remote *remote, struct error *error);
void remote_submit(struct block *block, struct block_io *io);
uint64_t remote_next_id(struct remote *remote, uint32_t slot);
/* The session's handlers; data is the remote. */
int remote_header(void *data, const struct frame *frame, struct session_sink *ret, struct error *error);
int remote_frame(void *data, const struct frame *frame, const void *payload, struct error *error);
int remote_tick(void *data, struct error *error);
void remote_closed(void *data);

/* remote_open.c: an answer to the control request under way. */
int remote_call_frame(
    struct remote *remote, const struct frame *frame, const void *payload, struct error *error);
