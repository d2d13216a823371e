/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An NBD server on the ring: named exports, each a block, to any number of clients. One thread, that of the ring and the blocks.
 * What a client sends is not trusted: memory and time are bounded, and a client that does not read its replies keeps back nobody
 * but itself. All connections of an export share one block, so a flush on any of them covers what was acknowledged on all.
 * A block that becomes larger (block_measure()) does so for the clients that there are, too; those that connect then are told its size.
 * A block that answers -ESHUTDOWN has closed: the client is cut off, without an answer, so that it may connect and ask again.
 */
#pragma once

#include "block/block.h"
#include "wire/tls.h"

#define NBD_EXPORTS_MAX    256u
#define NBD_EXPORT_TEXT    256u /* bytes of a name or a description, with the NUL */
#define NBD_CONNECTIONS    64u
#define NBD_INFLIGHT_BYTES (32u << 20)
#define NBD_HANDSHAKE_MS   10000u

struct nbd_server;

struct nbd_export {
	const char *name;        /* copied; "" is a name, too */
	const char *description; /* copied; or NULL */
	struct block *block;     /* borrowed until nbd_server_remove() or nbd_server_free(); not a stream */
	bool read_only;          /* also when the block is not writable */
};

struct nbd_server_options {
	unsigned connections_max; /* further clients are turned away; 0: NBD_CONNECTIONS */
	/*
	 * Bytes of data that requests may have under way; 0: NBD_INFLIGHT_BYTES. One connection takes at most a quarter. Each
	 * connection may have one request beyond that, of at most 4 MiB, so that all go on; longer ones have 32 MiB more, all together.
	 */
	uint64_t inflight_bytes;
	unsigned handshake_ms; /* from the connection to the first request; 0: NBD_HANDSHAKE_MS */
	struct tls *tls;       /* borrowed; NULL: no TLS */
	bool tls_required;     /* refuses everything before TLS */
	bool named_only;       /* who asks for "" gets nothing, rather than the first export */
	/* Nothing else is done on the ring, and no block waits for anything but files: the loop may sleep a little (nbd_pace.h). */
	bool paced;

	/* From the loop; all may be NULL. They may not free the server. */
	void *data;
	void (*clients_changed)(void *data, unsigned count);
	void (*client_failed)(
	    void *data, const struct error *why); /* a client broke the rules, or its link broke */
	/* A request was answered, `ns` nanoseconds after it was read: what a foreground latency is made of. */
	void (*answered)(void *data, enum block_op op, uint64_t length, int res, uint64_t ns);
};

int nbd_server_new(struct nbd_server **ret, struct ring *ring, const struct nbd_server_options *options,
    struct error *error);
/* The first export is also the default, unless named_only: what a client gets that asks for "". -EEXIST, -E2BIG, -EINVAL with words. */
int nbd_server_add(struct nbd_server *server, const struct nbd_export *export, struct error *error);
/*
 * Takes an export away, with its clients: requests under way are answered, the links closed; who does not take his answers is cut
 * off after `patience_ms`. Returns when the block has no request any more, however long that takes it. Nothing is flushed. The others
 * go on. There may be none of that name. Control path: runs the ring.
 */
void nbd_server_remove(struct nbd_server *server, const char *name, unsigned patience_ms);
/* Takes a listening socket and accepts its clients. */
int nbd_server_listen(struct nbd_server *server, int fd, struct error *error);
/* Takes a connected socket as a client. */
int nbd_server_connect(struct nbd_server *server, int fd, struct error *error);
/* Those that have chosen the export of this name. */
unsigned nbd_server_clients_of(const struct nbd_server *server, const char *name);
/*
 * Ends in good order: no new clients and requests, those under way are answered, the links closed. A client that does not take
 * its answers is cut off after `patience_ms`. Then flushes the exports: -errno with words when one fails. Control path: runs the ring.
 */
int nbd_server_stop(struct nbd_server *server, unsigned patience_ms, struct error *error);
/* After nbd_server_stop(), or at once: then clients are cut off. Runs the ring. Takes NULL; returns NULL. */
struct nbd_server *nbd_server_free(struct nbd_server *server);
