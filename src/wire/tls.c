/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Credentials: see tls.h. Owned by who serves or dials, borrowed by sessions. */
#include "wire/tls.h"

#include "base/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tls {
	enum tls_sides sides;
	gnutls_psk_server_credentials_t psk_server;
	gnutls_psk_client_credentials_t psk_client;
	gnutls_certificate_credentials_t certificates[2]; /* a client's, a server's */
	gnutls_priority_t priority;
	bool verify_peer;
	/* of the user that is the only one */
	char *user;
	gnutls_datum_t key;
};

static bool has_side(enum tls_sides sides, bool server)
{
	return sides == TLS_NODE || sides == (server ? TLS_SERVER : TLS_CLIENT);
}

static int gnutls_words(int code, const char *what, const char *path, struct error *error)
{
	return error_set(error, -EINVAL, "cannot use %s for TLS: %s%s", path, what, gnutls_strerror(code));
}

static int no_memory(struct error *error)
{
	return error_set(error, -ENOMEM, "no memory for TLS");
}

static int check_readable(const char *path, const char *next, struct error *error)
{
	if (access(path, R_OK) == 0)
		return 0;
	return error_set(error, -errno, "cannot read %s for TLS: %s; %s", path, strerror(errno), next);
}

/* Keys */

static int take_key(struct tls *tls, const char *path, char *hex, struct error *error)
{
	gnutls_datum_t text = {.data = (unsigned char *)hex, .size = (unsigned)strcspn(hex, "\r\n")};

	if (text.size == 0 || gnutls_hex_decode2(&text, &tls->key) < 0)
		return error_set(
		    error, -EINVAL, "cannot use %s for TLS: the key of %s is no hex number", path, tls->user);
	return 0;
}

/* Finds the user's line. */
static int load_key(struct tls *tls, const char *path, struct error *error)
{
	size_t length = strlen(tls->user), size = 0;
	FILE *file = fopen(path, "re");
	char *line = NULL;
	int res = -ENOENT;

	if (!file)
		return error_set(error, -errno, "cannot read %s for TLS: %s", path, strerror(errno));
	while (res == -ENOENT && getline(&line, &size, file) > 0)
		if (strncmp(line, tls->user, length) == 0 && line[length] == ':')
			res = take_key(tls, path, line + length + 1, error);
	if (res == -ENOENT)
		error_set(error, res, "cannot use %s for TLS: it has no key of %s; add one with psktool -u",
		    path, tls->user);
	if (line)
		gnutls_memset(line, 0, size);
	free(line);
	fclose(file);
	return res;
}

/* GnuTLS asks for a user's key: 1 is that there is no such user. */
static int find_key(gnutls_session_t session, const gnutls_datum_t *user, gnutls_datum_t *ret)
{
	const struct tls *tls = gnutls_session_get_ptr(session);

	if (user->size != strlen(tls->user) || memcmp(user->data, tls->user, user->size) != 0)
		return 1;
	ret->data = gnutls_malloc(tls->key.size);
	if (!ret->data)
		return -1;
	memcpy(ret->data, tls->key.data, tls->key.size);
	ret->size = tls->key.size;
	return 0;
}

static int load_psk_server(struct tls *tls, const char *path, struct error *error)
{
	int res = gnutls_psk_allocate_server_credentials(&tls->psk_server);

	if (res < 0)
		return no_memory(error);
	if (tls->user)
		gnutls_psk_set_server_credentials_function2(tls->psk_server, find_key);
	else
		res = gnutls_psk_set_server_credentials_file(tls->psk_server, path);
	if (res < 0)
		return gnutls_words(res, "", path, error);
	res = gnutls_psk_set_server_known_dh_params(tls->psk_server, GNUTLS_SEC_PARAM_MEDIUM);
	return res < 0 ? gnutls_words(res, "", path, error) : 0;
}

static int load_psk_client(struct tls *tls, const char *path, struct error *error)
{
	int res;

	if (gnutls_psk_allocate_client_credentials(&tls->psk_client) < 0)
		return no_memory(error);
	res = gnutls_psk_set_client_credentials(tls->psk_client, tls->user, &tls->key, GNUTLS_PSK_KEY_RAW);
	return res < 0 ? gnutls_words(res, "", path, error) : 0;
}

static int load_psk(struct tls *tls, const struct tls_options *options, struct error *error)
{
	const char *path = options->psk_file;
	int res = check_readable(path,
	    options->sides == TLS_SERVER ? "make it with psktool, or name another in --tls-psk"
	                                 : "make it with psktool",
	    error);

	if (res == 0 && options->user) {
		tls->user = strdup(options->user);
		res = tls->user ? load_key(tls, path, error) : no_memory(error);
	} else if (res == 0 && has_side(options->sides, false)) {
		res = error_set(
		    error, -EINVAL, "cannot use %s for TLS: it is not said whose key is to be shown", path);
	}
	if (res == 0 && has_side(options->sides, true))
		res = load_psk_server(tls, path, error);
	if (res == 0 && has_side(options->sides, false))
		res = load_psk_client(tls, path, error);
	return res;
}

/* Certificates */

/* A list of what was revoked that cannot be read must not count as an empty one. */
static int load_revoked(
    gnutls_certificate_credentials_t certificates, const char *folder, struct error *error)
{
	char crl[4200];
	int res;

	snprintf(crl, sizeof(crl), "%.4096s/ca-crl.pem", folder);
	if (access(crl, F_OK) < 0)
		return 0;
	res = gnutls_certificate_set_x509_crl_file(certificates, crl, GNUTLS_X509_FMT_PEM);
	return res < 0 ? gnutls_words(res, "", crl, error) : 0;
}

static int load_certificates(struct tls *tls, bool server, const char *folder, struct error *error)
{
	const char *side = server ? "server" : "client";
	const char *next = server ? "the folder has ca-cert.pem, server-cert.pem and server-key.pem"
	                          : "the folder has ca-cert.pem, client-cert.pem and client-key.pem";
	char ca[4200], cert[4200], key[4200];
	gnutls_certificate_credentials_t certificates;
	int res = 0;

	snprintf(ca, sizeof(ca), "%.4096s/ca-cert.pem", folder);
	snprintf(cert, sizeof(cert), "%.4096s/%s-cert.pem", folder, side);
	snprintf(key, sizeof(key), "%.4096s/%s-key.pem", folder, side);
	if (check_readable(ca, next, error) < 0 || check_readable(cert, next, error) < 0 ||
	    check_readable(key, next, error) < 0)
		return error->code;
	if (gnutls_certificate_allocate_credentials(&tls->certificates[server]) < 0)
		return no_memory(error);
	certificates = tls->certificates[server];
	res = gnutls_certificate_set_x509_trust_file(certificates, ca, GNUTLS_X509_FMT_PEM);
	if (res <= 0)
		return gnutls_words(res, res == 0 ? "it has no certificate: " : "", ca, error);
	res = gnutls_certificate_set_x509_key_file(certificates, cert, key, GNUTLS_X509_FMT_PEM);
	return res < 0 ? gnutls_words(res, "", cert, error) : load_revoked(certificates, folder, error);
}

static int load(struct tls *tls, const struct tls_options *options, struct error *error)
{
	/* With keys a client's first choice would be ChaCha20, a tenth as fast as AES where the processor knows that. */
	static const char psk_priority[] =
	    "NORMAL:-KX-ALL:+ECDHE-PSK:+DHE-PSK:-CHACHA20-POLY1305:+CHACHA20-POLY1305";
	int res = 0;

	if (options->psk_file)
		res = load_psk(tls, options, error);
	for (int server = 1; server >= 0 && res == 0 && !options->psk_file; server--)
		if (has_side(options->sides, server))
			res = load_certificates(tls, server, options->certificates, error);
	if (res == 0 &&
	    gnutls_priority_init(&tls->priority, options->psk_file ? psk_priority : "NORMAL", NULL) < 0)
		res =
		    error_set(error, -EINVAL, "TLS: this machine's GnuTLS allows none of the ciphers needed");
	return res;
}

int tls_new(struct tls **ret, const struct tls_options *options, struct error *error)
{
	struct tls *tls = calloc(1, sizeof(*tls));
	int res;

	if (!tls)
		return no_memory(error);
	tls->sides = options->sides;
	tls->verify_peer = options->verify_peer || options->sides == TLS_NODE;
	res = load(tls, options, error);
	if (res < 0) {
		tls_free(tls);
		return res;
	}
	*ret = tls;
	return 0;
}

struct tls *tls_free(struct tls *tls)
{
	if (!tls)
		return NULL;
	if (tls->psk_server)
		gnutls_psk_free_server_credentials(tls->psk_server);
	if (tls->psk_client)
		gnutls_psk_free_client_credentials(tls->psk_client);
	for (unsigned i = 0; i < 2; i++)
		if (tls->certificates[i])
			gnutls_certificate_free_credentials(tls->certificates[i]);
	if (tls->priority)
		gnutls_priority_deinit(tls->priority);
	if (tls->key.data)
		gnutls_memset(tls->key.data, 0, tls->key.size);
	gnutls_free(tls->key.data);
	free(tls->user);
	free(tls);
	return NULL;
}

static int set_credentials(const struct tls *tls, bool server, gnutls_session_t session)
{
	gnutls_certificate_credentials_t certificates = tls->certificates[server];
	void *psk = server ? (void *)tls->psk_server : (void *)tls->psk_client;

	if (gnutls_priority_set(session, tls->priority) < 0 ||
	    (psk && gnutls_credentials_set(session, GNUTLS_CRD_PSK, psk) < 0) ||
	    (certificates && gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, certificates) < 0))
		return -ENOMEM;
	return 0;
}

int tls_session(struct tls *tls, bool server, const char *peer_name, gnutls_session_t *ret)
{
	gnutls_certificate_credentials_t certificates = tls->certificates[server];
	gnutls_session_t session;

	assert(has_side(tls->sides, server) && (server || peer_name));
	/* Without tickets: libnbd waits for ever for what follows one that comes with the first data. */
	if (gnutls_init(&session, (server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NONBLOCK |
	                              GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS) < 0)
		return -ENOMEM;
	if (set_credentials(tls, server, session) < 0) {
		gnutls_deinit(session);
		return -ENOMEM;
	}
	gnutls_session_set_ptr(session, tls);
	if (certificates && server && tls->verify_peer)
		gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUIRE);
	if (certificates && (!server || tls->verify_peer))
		gnutls_session_set_verify_cert(session, peer_name, 0);
	*ret = session;
	return 0;
}
