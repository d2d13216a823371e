/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NBD server's inside. nbd_server.c has exports, listeners and the server's life; nbd_client.c one client's bytes in and out
 * and its end; nbd_handshake.c the negotiation; nbd_slot.c requests. All on the ring's thread.
 */
#pragma once

#include "base/page_buffers.h"
#include "export/nbd_pace.h"
#include "export/nbd_pipe.h"
#include "export/nbd_protocol.h"
#include "export/nbd_server.h"
#include "export/nbd_stream.h"

#define NBD_INPUT_BYTES   (128u << 10) /* what is read ahead of one client */
#define NBD_ANSWERS_BYTES (160u << 10) /* of negotiation; a full list fits */
#define NBD_SLOTS         128u         /* requests of one client */
#define NBD_BATCH         64u          /* replies in one write */
#define NBD_EXTENTS       512u         /* in one BLOCK_STATUS */
#define NBD_PIPED_MIN     (64u << 10)  /* a READ that is worth a pipe */
#define NBD_ALLOCATION_ID 1u           /* of base:allocation, the one context there is */

struct nbd_listener {
	struct list_node node;
	struct nbd_server *server;
	int fd;
	struct ring_op op;
};

struct nbd_served {
	char name[NBD_EXPORT_TEXT], description[NBD_EXPORT_TEXT];
	struct block *block;
	bool read_only, leaving; /* leaving: nobody finds it any more */
};

struct nbd_server {
	struct ring *ring;
	struct nbd_server_options options;
	struct nbd_served *exports[NBD_EXPORTS_MAX];
	unsigned exports_count;
	struct list_node listeners, clients;
	unsigned clients_count;
	struct page_buffers buffers;
	struct nbd_pipes pipes;
	struct nbd_pace pace;
	uint64_t inflight_bytes;
	struct list_node starved; /* clients that wait for bytes */
	bool stopping, idle;      /* idle: neither clients nor listeners are left */
};

/* One request. In `free`, under way (in no list), then in `answered` or `sending`. */
struct nbd_slot {
	struct list_node node;
	struct nbd_client *client;
	struct nbd_request request;
	struct block_io io;
	void *buf;             /* NULL: none */
	struct nbd_pipe *pipe; /* of a long READ or WRITE, instead of a buffer; or NULL */
	size_t buf_size;
	uint64_t done; /* bytes of a long READ or WRITE */
	uint64_t begun_ns;
	uint8_t header[NBD_REPLY_BYTES + 12];
	size_t header_length, payload_length; /* of the reply; the payload lies in buf */
};

enum nbd_phase {
	NBD_PHASE_FLAGS,
	NBD_PHASE_OPTIONS,
	NBD_PHASE_TLS,
	NBD_PHASE_REQUESTS,
};

/* What a client's input leads to. */
enum nbd_step {
	NBD_STEP_ON,   /* something was taken: go on */
	NBD_STEP_MORE, /* more bytes are needed */
	NBD_STEP_WAIT, /* something of ours must happen first; nbd_client_pump() follows */
	NBD_STEP_END,  /* the client was ended */
};

struct nbd_client {
	struct nbd_server *server;
	struct list_node node, starved;
	struct nbd_stream stream;
	struct ring_op timer, later;
	enum nbd_phase phase;
	bool ending;   /* nothing more is read; what is under way is answered */
	bool broken;   /* nothing more is written either */
	char peer[64]; /* for messages: its address, or its process */

	/* input: bytes [in_start, in_end) of in */
	uint8_t *in;
	size_t in_start, in_end;
	struct nbd_slot *payload; /* the WRITE whose data come */
	size_t payload_have;
	bool payload_direct; /* the read under way goes into it */
	bool long_payloads;  /* the last request had one */
	uint64_t discard;    /* bytes of a refused WRITE still to come */

	/* negotiation */
	struct nbd_answers answers;
	size_t answers_sent;
	enum nbd_phase phase_next; /* once the answers are out */
	bool end_next, no_zeroes, structured;
	const struct nbd_served *allocation_of; /* base:allocation was asked for, of this export */

	/* transmission */
	const struct nbd_served *export;
	struct nbd_shape shape;
	struct nbd_slot *slots;
	struct list_node free, answered, sending;
	unsigned under_way; /* slots that the block has */
	uint64_t bytes;     /* of slots' buffers */
	struct iovec iov[2 * NBD_BATCH];
	unsigned iov_first, iov_count;
	struct nbd_slot *piped; /* the last of those that are sent: its payload follows from its pipe */
	size_t piped_left;
};

/* nbd_server.c */
const struct nbd_served *nbd_server_find(const struct nbd_server *server, struct nbd_text name);
/* Whether a request of so many bytes may begin; takes them. If not, nbd_client_pump() follows when it may. */
bool nbd_server_take_bytes(struct nbd_client *client, uint64_t bytes);
void nbd_server_give_bytes(struct nbd_client *client, uint64_t bytes);
/* Lets those go on that waited for bytes. */
void nbd_server_feed(struct nbd_server *server);
void nbd_server_check_idle(struct nbd_server *server);

/* nbd_client.c */
/* Takes the descriptor, also on failure. */
int nbd_client_new(struct nbd_server *server, int fd, struct error *error);
/* Takes what has come, as far as that goes. The client may be gone afterwards. */
void nbd_client_pump(struct nbd_client *client);
/* Reads no more. `why` is NULL when that is in order; else nothing is written any more either, and the owner is told. */
void nbd_client_end(struct nbd_client *client, const struct error *why);
/* Sends what was answered, soon. */
void nbd_client_send_soon(struct nbd_client *client);
/* Frees the client when it ended and nothing is under way. Last in each callback. */
void nbd_client_check_end(struct nbd_client *client);

/* nbd_handshake.c */
void nbd_handshake_begin(struct nbd_client *client);
enum nbd_step nbd_handshake_step(struct nbd_client *client);

/* nbd_slot.c */
int nbd_slots_new(struct nbd_client *client);
/* Takes one request, or what has come of its payload. */
enum nbd_step nbd_slot_step(struct nbd_client *client);
/* The payload cannot go on into its pipe: what has come of it is in a buffer now. 0, or -errno and the client must end. */
int nbd_slot_leave_pipe(struct nbd_slot *slot, size_t have);
/* Gives back the buffer and the slot. */
void nbd_slot_release(struct nbd_slot *slot);
