/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NBD driver's inside. nbd.c turns requests into NBD commands, nbd_align.c fits them to the server's
 * blocks, nbd_bitmaps.c asks which dirty bitmaps there are, nbd_connection.c moves connections on by
 * the ring, nbd_open.c connects and asks what the export is. All on the ring's thread, but for the look-up of
 * a host's name.
 */
#pragma once

#include "block/captive.h"
#include "block/digest_reader.h"
#include "block/driver.h"
#include "block/open.h"

#include <libnbd.h>

#define NBD_PARTS        32 /* commands in flight on each connection */
#define NBD_DIRTY_BITMAP "qemu:dirty-bitmap:"

struct nbd_volume;
struct nbd_dial;

/* One command: a whole request or a part of one. In `parts_free`, a connection's `in_flight`, or `finished`.
 */
struct nbd_part {
	struct list_node node;
	struct nbd_volume *volume;
	struct nbd_connection *connection;
	struct block_io *io;
	uint64_t offset, length;
	uint32_t extents; /* EXTENTS: how many came */
	int result;       /* 0 or -errno, once finished */
	bool finished;
};

struct nbd_connection {
	struct nbd_volume *volume;
	struct nbd_handle *handle;                         /* NULL: not yet, or no longer */
	struct nbd_dial *dial;                             /* connecting in a thread, or NULL */
	enum { OPTION_LIST, OPTION_GO, OPTION_NONE } next; /* nbd_bitmaps.c's */
	struct error refusal;                              /* the same */
	bool usable;                                       /* the handshake is done */
	bool failed;                                       /* it ended; `why` says how */
	struct error why;
	struct ring_op poll_in, poll_out, dialled;
	struct list_node in_flight;
	unsigned count;    /* of in_flight */
	uint64_t heard_ns; /* when it last moved, or began to have something to do */
};

struct nbd_volume {
	struct block block;

	/* set at open */
	const char *uri; /* NULL for a captive server */
	struct link_options link;
	struct captive *captive;
	unsigned timeout_ms;
	uint64_t least;               /* the server's smallest block, bytes; a power of two */
	uint64_t read_max, write_max; /* of one command */
	bool can_flush, can_extents, can_trim, can_fast, use_fua;
	char *changes;         /* the meta context of the bitmap that was asked for; or NULL */
	bool list_bitmaps;     /* the first connection asks which there are */
	bool target;           /* its signature is asked for */
	char *zeroes;          /* where the server cannot zero by itself: zeroes_bytes of them */
	uint64_t zeroes_bytes; /* > 0 with can_zero false */
	bool can_zero;

	/* ring thread */
	struct nbd_connection connections[NBD_CONNECTIONS_MAX];
	unsigned connections_count;
	struct nbd_part *parts;
	struct list_node parts_free, finished;
	struct list_node queue;  /* requests of which not all commands are issued */
	struct list_node writes; /* nbd_align.c's */
	struct ring_op kick, timer;
	bool open;    /* handshakes are done: from now on the end of one connection is the end of the link */
	bool closing; /* nothing is armed again */
	bool broken;
	struct error link_error;
	bool expired; /* while opening: the deadline passed */
	bool settled; /* while opening: what is waited for has come; while closing: nothing is under way */
	struct digest_reader *digests;
};

static inline struct nbd_volume *to_nbd(struct block *block)
{
	return container_of(block, struct nbd_volume, block);
}

/* nbd.c */
void nbd_submit(struct block *block, struct block_io *io);
/* For nbd_align.c: a READ, WRITE or ZERO of whole blocks goes out. */
void nbd_enqueue(struct nbd_volume *volume, struct block_io *io);
/* Goes on: ends what is finished, issues what waits. Never from within submit. */
void nbd_turn(struct nbd_volume *volume);
/* The link is lost: everything ends with -ENOTCONN. The first words stay. */
void nbd_break(struct nbd_volume *volume, const char *why);
/* Keeps the watch over silent connections running while there is something to wait for. */
void nbd_watch(struct nbd_volume *volume);

/* nbd_align.c: takes a READ, WRITE or ZERO that nbd_enqueue() must not get as it is; else false. */
bool nbd_align_submit(struct nbd_volume *volume, struct block_io *io);

/* nbd_bitmaps.c: whether a connection asks which bitmaps there are, before it takes the export: it is in libnbd's opt mode then. */
bool nbd_bitmaps_wanted(const struct nbd_connection *connection);
/* The next step, whenever libnbd is ready to negotiate. Returns NULL; or why there is none. */
const char *nbd_bitmaps_negotiate(struct nbd_connection *connection);

/* nbd_connection.c */
/* All that is asked of the export. Returns 0, or -1 with libnbd's words. */
int nbd_connection_add_contexts(const struct nbd_volume *volume, struct nbd_handle *handle);
void nbd_connection_init(struct nbd_connection *connection, struct nbd_volume *volume);
/* Begins to connect. When it cannot, `failed` and `why` are set at once. */
void nbd_connection_start(struct nbd_connection *connection);
/* Arms what the connection now waits for; call after each use of the handle. */
void nbd_connection_arm(struct nbd_connection *connection);
/* Closes the handle and cancels; what was in flight stays in `in_flight` and libnbd no longer touches its
 * memory. */
void nbd_connection_close(struct nbd_connection *connection, bool politely);
/* True while the ring still has one of its operations. */
bool nbd_connection_is_busy(const struct nbd_connection *connection);

/* nbd_open.c */
void nbd_check_settled(struct nbd_volume *volume);
