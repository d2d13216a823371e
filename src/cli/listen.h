/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Options and steps that every command shares which serves NBD: where it listens, TLS, limits. */
#pragma once

#include "block/endpoint.h"
#include "export/nbd_address.h"
#include "export/nbd_server.h"

#include <argp.h>
#include <stdio.h>

#define LISTEN_MAX 8u

struct listen {
	/* options */
	bool given; /* any of them */
	const char *uris[LISTEN_MAX];
	unsigned uris_count;
	const char *tls_certificates, *tls_psk;
	bool tls_verify_peer, insecure_plaintext;
	unsigned connections_max;
	uint64_t inflight_bytes;
	bool optional; /* set by the command: it may do without */

	/* once listening */
	struct nbd_address addresses[LISTEN_MAX];
	struct tls *tls;
	int fds[LISTEN_MAX * NBD_ADDRESS_FDS]; /* until listen_start() gives them to the server */
	unsigned fds_count;
	char shown[LISTEN_MAX * NBD_ADDRESS_FDS][1024]; /* URIs for clients */
};

/* The group of options; its input is a struct listen. */
extern const struct argp cli_argp_listen;

/* Judges the options: TLS where it must be, addresses that can be. Before anything is opened. -EINVAL or -EPERM with words. */
int listen_check(struct listen *listen, struct error *error);
/* The export's name that an address has, or "". */
const char *listen_name(const struct listen *listen);
/*
 * Without --listen, takes over what systemd has opened for this process: before a fork, for it is this process's alone. Else
 * listen_bind() does so. 0, also when there is nothing, or -errno with words.
 */
int listen_inherit(struct listen *listen, struct error *error);
/* Loads keys and binds. -errno with words. */
int listen_bind(struct listen *listen, const char *name, struct error *error);
/*
 * Whether a volume may be served for writing: two that write to it without knowing of each other destroy it. -EPERM with words when
 * it is mounted, held, or open for writing elsewhere. Then the journal of an earlier copy to it is forgotten: clients will write.
 * *ret_facts is what was found; empty for what is read only, or behind NBD, where nothing of this can be seen.
 */
int listen_judge(struct block *block, const struct endpoint *endpoint, bool allow_mounted, bool allow_held,
    const char *state_dir, struct block_facts *ret_facts, struct error *error);
/* Of the i-th socket, between bind and start, for another export than the first. */
void listen_uri(const struct listen *listen, unsigned i, const char *name, char *ret, size_t length);
/* For struct nbd_server_options. */
void listen_fill(const struct listen *listen, struct nbd_server_options *ret);
/* Hands the sockets to the server. */
int listen_start(struct listen *listen, struct nbd_server *server, struct error *error);
/* systemd waits for this with Type=notify (sd_notify(3)): what depends on the volume is started when it can be had. */
void listen_tell_manager(void);
/* Removes unix sockets, closes what was not handed over, frees the keys. The server must be gone. */
void listen_done(struct listen *listen);
