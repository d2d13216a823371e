/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a server proves itself with, and asks of its clients, over TLS: pre-shared keys or X.509 certificates. By GnuTLS. */
#pragma once

#include "base/error.h"

#include <gnutls/gnutls.h>
#include <stdbool.h>

struct nbd_tls;

struct nbd_tls_options {
	const char *psk_file; /* lines "user:hex key", as psktool(1) writes them; or NULL */
	const char *
	    certificates; /* a folder with ca-cert.pem, server-cert.pem, server-key.pem and perhaps ca-crl.pem; or NULL */
	bool verify_peer; /* clients must show a certificate that ca-cert.pem's authority signed */
};

/* Exactly one of psk_file and certificates. Control path: reads the files. -errno with words. */
int nbd_tls_new(struct nbd_tls **ret, const struct nbd_tls_options *options, struct error *error);
/* No session may be left. Takes NULL; returns NULL. */
struct nbd_tls *nbd_tls_free(struct nbd_tls *tls);
/* A new session for one connection; its transport functions are the caller's to set. 0 or -ENOMEM. */
int nbd_tls_session(struct nbd_tls *tls, gnutls_session_t *ret);
