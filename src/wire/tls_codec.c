/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See tls_codec.h. */
#include "wire/tls_codec.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#define PLAIN_MAX (192u << 10) /* of one write: with each record's overhead it fits into `out` */
#define SPARE     (32u << 10)  /* of `out`, for what GnuTLS itself has to say */

/* What GnuTLS calls */

static ssize_t pull(gnutls_transport_ptr_t pointer, void *buf, size_t length)
{
	struct tls_codec *codec = pointer;
	size_t have = codec->in_end - codec->in_start;

	if (have == 0 && codec->ended)
		return 0;
	if (have == 0) {
		gnutls_transport_set_errno(codec->session, EAGAIN);
		return -1;
	}
	length = length < have ? length : have;
	memcpy(buf, codec->in + codec->in_start, length);
	codec->in_start += length;
	return (ssize_t)length;
}

static ssize_t push(gnutls_transport_ptr_t pointer, const void *buf, size_t length)
{
	struct tls_codec *codec = pointer;
	size_t room = TLS_CODEC_OUT - codec->out_end;

	if (room == 0) {
		gnutls_transport_set_errno(codec->session, EAGAIN);
		return -1;
	}
	length = length < room ? length : room;
	memcpy(codec->out + codec->out_end, buf, length);
	codec->out_end += length;
	return (ssize_t)length;
}

/* The owner's part */

int tls_codec_init(struct tls_codec *codec, struct tls *tls, bool server, const char *peer_name)
{
	memset(codec, 0, offsetof(struct tls_codec, in));
	if (tls_session(tls, server, peer_name, &codec->session) < 0)
		return -ENOMEM;
	gnutls_transport_set_ptr(codec->session, codec);
	gnutls_transport_set_pull_function(codec->session, pull);
	gnutls_transport_set_push_function(codec->session, push);
	return 0;
}

void tls_codec_done(struct tls_codec *codec)
{
	gnutls_deinit(codec->session);
}

void tls_codec_fed(struct tls_codec *codec, size_t length)
{
	assert(codec->in_start == codec->in_end && length <= TLS_CODEC_IN);
	codec->in_start = 0;
	codec->in_end = length;
	codec->ended |= length == 0;
}

bool tls_codec_sent(struct tls_codec *codec, size_t length)
{
	codec->out_start += length;
	assert(codec->out_start <= codec->out_end);
	if (codec->out_start < codec->out_end)
		return true;
	codec->out_start = codec->out_end = 0;
	return false;
}

/*
 * Whether to call GnuTLS once more: it was interrupted; or a record that it took from `in` was only a part of what it reads, for which it
 * wants to be asked again although the next one may lie there.
 */
static bool asks_again(const struct tls_codec *codec, size_t start_before, ssize_t res)
{
	if (res == GNUTLS_E_AGAIN)
		return codec->in_start > start_before && codec->in_start < codec->in_end;
	return res < 0 && !gnutls_error_is_fatal((int)res);
}

int tls_codec_shake(struct tls_codec *codec)
{
	size_t start;
	int res;

	do {
		start = codec->in_start;
		res = gnutls_handshake(codec->session);
	} while (asks_again(codec, start, res));
	if (res == GNUTLS_E_AGAIN)
		return 0;
	/* The peer shall know why. */
	if (res < 0)
		gnutls_alert_send_appropriate(codec->session, res);
	return res < 0 ? res : 1;
}

ssize_t tls_codec_read(struct tls_codec *codec, void *buf, size_t length)
{
	size_t got = 0, start;
	ssize_t res = codec->failed ? codec->failed : 1;

	while (got < length && res > 0) {
		do {
			start = codec->in_start;
			res = gnutls_record_recv(codec->session, (uint8_t *)buf + got, length - got);
		} while (asks_again(codec, start, res));
		got += res > 0 ? (size_t)res : 0;
	}
	/* Asked once more GnuTLS would not say it again. */
	if (res < 0 && res != GNUTLS_E_AGAIN)
		codec->failed = (int)res;
	return got > 0 ? (ssize_t)got : res;
}

ssize_t tls_codec_write(struct tls_codec *codec, const struct iovec *iov, unsigned count)
{
	size_t room = TLS_CODEC_OUT - SPARE - codec->out_end, written = 0;
	int res;

	/* Only a peer that wants new keys all the time fills it so far. */
	if (codec->out_end > TLS_CODEC_OUT - SPARE)
		return -EPROTO;
	room = room < PLAIN_MAX ? room : PLAIN_MAX;
	gnutls_record_cork(codec->session);
	for (unsigned i = 0; i < count && room > 0; i++) {
		size_t length = iov[i].iov_len < room ? iov[i].iov_len : room;

		if (length == 0)
			continue;
		if (gnutls_record_send(codec->session, iov[i].iov_base, length) != (ssize_t)length)
			return -EPROTO;
		room -= length;
		written += length;
	}
	do
		res = gnutls_record_uncork(codec->session, 0);
	while (res == GNUTLS_E_INTERRUPTED);
	return res < 0 ? -EPROTO : (ssize_t)written;
}

void tls_codec_end(struct tls_codec *codec)
{
	gnutls_bye(codec->session, GNUTLS_SHUT_WR);
}

/* Words */

static int certificate_words(struct tls_codec *codec, const char *peer, struct error *error)
{
	unsigned status = gnutls_session_get_verify_cert_status(codec->session);
	gnutls_datum_t why = {0};

	if (gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &why, 0) < 0)
		why.data = NULL;
	while (why.data && why.size > 0 && why.data[why.size - 1] == ' ')
		why.data[--why.size] = '\0';
	error_set(error, -EACCES, "the certificate of %s is not accepted: %s", peer,
	    why.data ? (char *)why.data : "it could not be verified");
	gnutls_free(why.data);
	return -EACCES;
}

static int alert_words(struct tls_codec *codec, const char *peer, const char *next, struct error *error)
{
	const char *name = gnutls_alert_get_name(gnutls_alert_get(codec->session));

	return error_set(error, -EACCES, "%s refuses TLS with this machine: %s%s", peer,
	    name ? name : "it does not say why", next);
}

int tls_codec_words(struct tls_codec *codec, int code, const char *peer, struct error *error)
{
	bool keys = gnutls_credentials_get(codec->session, GNUTLS_CRD_PSK, NULL) == 0;
	const char *next = keys ? "; both must have the same key of the same user" : "";

	/* So GnuTLS calls an end in the midst of a record. */
	if (code == GNUTLS_E_UNEXPECTED_PACKET_LENGTH && codec->ended && codec->in_start == codec->in_end)
		code = GNUTLS_E_PREMATURE_TERMINATION;
	switch (code) {
	case GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR:
		return certificate_words(codec, peer, error);
	case GNUTLS_E_FATAL_ALERT_RECEIVED:
		return alert_words(codec, peer, next, error);
	case GNUTLS_E_CERTIFICATE_REQUIRED:
	case GNUTLS_E_NO_CERTIFICATE_FOUND:
		return error_set(error, -EACCES, "%s shows no certificate", peer);
	case GNUTLS_E_INSUFFICIENT_CREDENTIALS:
	case GNUTLS_E_NO_CIPHER_SUITES:
		return error_set(error, -EACCES,
		    "TLS with %s failed: %s; both must have pre-shared keys, or both certificates", peer,
		    gnutls_strerror(code));
	case GNUTLS_E_RECEIVED_ILLEGAL_PARAMETER:
		return error_set(error, keys ? -EACCES : -EPROTO, "TLS with %s failed: %s%s", peer,
		    gnutls_strerror(code), next);
	case GNUTLS_E_UNEXPECTED_PACKET:
	case GNUTLS_E_UNEXPECTED_PACKET_LENGTH:
	case GNUTLS_E_UNSUPPORTED_VERSION_PACKET:
	case GNUTLS_E_RECORD_OVERFLOW:
		return error_set(error, -EPROTO, "TLS with %s failed: %s; what it speaks may not be TLS",
		    peer, gnutls_strerror(code));
	case GNUTLS_E_PREMATURE_TERMINATION:
		return error_set(error, -ENOTCONN, "the connection to %s was cut off", peer);
	default:
		return error_set(error, -EPROTO, "TLS with %s failed: %s", peer, gnutls_strerror(code));
	}
}
