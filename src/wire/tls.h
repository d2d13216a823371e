/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What one proves oneself with, and asks of the peer, over TLS: pre-shared keys or X.509 certificates. By GnuTLS. An NBD server has
 * one side of it, a node both: it is dialled and dials.
 */
#pragma once

#include "base/error.h"

#include <gnutls/gnutls.h>
#include <stdbool.h>

struct tls;

enum tls_sides {
	TLS_SERVER,
	TLS_CLIENT,
	TLS_NODE, /* both; verify_peer holds whatever is said */
};

struct tls_options {
	enum tls_sides sides;
	const char *psk_file; /* lines "user:hex key", as psktool(1) writes them; or NULL */
	/* Whose key a client shows, and the only one that a server takes. A client needs it, a server's NULL is all of the file. */
	const char *user;
	/*
	 * A folder with ca-cert.pem, perhaps ca-crl.pem, and for a server server-cert.pem and server-key.pem, for a client
	 * client-cert.pem and client-key.pem; or NULL
	 */
	const char *certificates;
	/* Clients must show a certificate that ca-cert.pem's authority signed. Servers always must. */
	bool verify_peer;
};

/* Exactly one of psk_file and certificates. Control path: reads the files. -errno with words. */
int tls_new(struct tls **ret, const struct tls_options *options, struct error *error);
/* No session may be left. Takes NULL; returns NULL. */
struct tls *tls_free(struct tls *tls);
/*
 * A new session for one connection, as a server or a client; its transport functions are the caller's to set, its pointer
 * (gnutls_session_set_ptr()) is not. A certificate that the peer must show must be for `peer_name`, a host's name or address, which is
 * kept until the session is gone; a client must name one, a server's NULL is any. 0 or -ENOMEM.
 */
int tls_session(struct tls *tls, bool server, const char *peer_name, gnutls_session_t *ret);
