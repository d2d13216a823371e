/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Credentials: see nbd_tls.h. Owned by the server, borrowed by its sessions. */
#include "export/nbd_tls.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct nbd_tls {
	gnutls_psk_server_credentials_t psk;
	gnutls_certificate_credentials_t certificates;
	gnutls_priority_t priority;
	bool verify_peer;
};

static int gnutls_words(int code, const char *what, const char *path, struct error *error)
{
	return error_set(error, -EINVAL, "cannot use %s for TLS: %s%s", path, what, gnutls_strerror(code));
}

static int check_readable(const char *path, const char *next, struct error *error)
{
	if (access(path, R_OK) == 0)
		return 0;
	return error_set(error, -errno, "cannot read %s for TLS: %s; %s", path, strerror(errno), next);
}

static int load_psk(struct nbd_tls *tls, const char *path, struct error *error)
{
	int res = check_readable(path, "make it with psktool, or name another in --tls-psk", error);

	if (res < 0)
		return res;
	res = gnutls_psk_allocate_server_credentials(&tls->psk);
	if (res < 0)
		return error_set(error, -ENOMEM, "no memory for TLS");
	res = gnutls_psk_set_server_credentials_file(tls->psk, path);
	if (res < 0)
		return gnutls_words(res, "", path, error);
	res = gnutls_psk_set_server_known_dh_params(tls->psk, GNUTLS_SEC_PARAM_MEDIUM);
	return res < 0 ? gnutls_words(res, "", path, error) : 0;
}

static int load_certificates(struct nbd_tls *tls, const char *folder, struct error *error)
{
	static const char next[] = "the folder has ca-cert.pem, server-cert.pem and server-key.pem";
	char ca[4200], crl[4200], cert[4200], key[4200];
	int res = 0;

	snprintf(ca, sizeof(ca), "%.4096s/ca-cert.pem", folder);
	snprintf(crl, sizeof(crl), "%.4096s/ca-crl.pem", folder);
	snprintf(cert, sizeof(cert), "%.4096s/server-cert.pem", folder);
	snprintf(key, sizeof(key), "%.4096s/server-key.pem", folder);
	if (check_readable(ca, next, error) < 0 || check_readable(cert, next, error) < 0 ||
	    check_readable(key, next, error) < 0)
		return error->code;
	if (gnutls_certificate_allocate_credentials(&tls->certificates) < 0)
		return error_set(error, -ENOMEM, "no memory for TLS");
	res = gnutls_certificate_set_x509_trust_file(tls->certificates, ca, GNUTLS_X509_FMT_PEM);
	if (res <= 0)
		return gnutls_words(res, res == 0 ? "it has no certificate: " : "", ca, error);
	res = gnutls_certificate_set_x509_key_file(tls->certificates, cert, key, GNUTLS_X509_FMT_PEM);
	if (res < 0)
		return gnutls_words(res, "", cert, error);
	if (access(crl, F_OK) < 0)
		return 0;
	/* A list of what was revoked that cannot be read must not count as an empty one. */
	res = gnutls_certificate_set_x509_crl_file(tls->certificates, crl, GNUTLS_X509_FMT_PEM);
	return res < 0 ? gnutls_words(res, "", crl, error) : 0;
}

int nbd_tls_new(struct nbd_tls **ret, const struct nbd_tls_options *options, struct error *error)
{
	static const char psk_priority[] = "NORMAL:-KX-ALL:+ECDHE-PSK:+DHE-PSK";
	struct nbd_tls *tls = calloc(1, sizeof(*tls));
	int res;

	if (!tls)
		return error_set(error, -ENOMEM, "no memory for TLS");
	tls->verify_peer = options->verify_peer;
	res = options->psk_file ? load_psk(tls, options->psk_file, error)
	                        : load_certificates(tls, options->certificates, error);
	if (res == 0 &&
	    gnutls_priority_init(&tls->priority, options->psk_file ? psk_priority : "NORMAL", NULL) < 0)
		res =
		    error_set(error, -EINVAL, "TLS: this machine's GnuTLS allows none of the ciphers needed");
	if (res < 0) {
		nbd_tls_free(tls);
		return res;
	}
	*ret = tls;
	return 0;
}

struct nbd_tls *nbd_tls_free(struct nbd_tls *tls)
{
	if (!tls)
		return NULL;
	if (tls->psk)
		gnutls_psk_free_server_credentials(tls->psk);
	if (tls->certificates)
		gnutls_certificate_free_credentials(tls->certificates);
	if (tls->priority)
		gnutls_priority_deinit(tls->priority);
	free(tls);
	return NULL;
}

int nbd_tls_session(struct nbd_tls *tls, gnutls_session_t *ret)
{
	gnutls_session_t session;

	/* Without tickets: libnbd waits for ever for what follows one that comes with the first data. */
	if (gnutls_init(&session, GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS) < 0)
		return -ENOMEM;
	if (gnutls_priority_set(session, tls->priority) < 0 ||
	    (tls->psk && gnutls_credentials_set(session, GNUTLS_CRD_PSK, tls->psk) < 0) ||
	    (tls->certificates &&
	        gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, tls->certificates) < 0)) {
		gnutls_deinit(session);
		return -ENOMEM;
	}
	if (tls->certificates && tls->verify_peer) {
		gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUIRE);
		gnutls_session_set_verify_cert(session, NULL, 0);
	}
	*ret = session;
	return 0;
}
