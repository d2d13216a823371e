/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TLS between two buffers: GnuTLS reads from `in` and writes to `out`, which the owner alone fills and empties. So nothing here ever
 * waits, and what is written at once leaves in few records. Embedded in its owner, at its end: it is large and mostly untouched.
 */
#pragma once

#include "wire/tls.h"

#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#define TLS_CODEC_IN  (64u << 10)
#define TLS_CODEC_OUT (288u << 10)

struct tls_codec {
	gnutls_session_t session;
	int failed; /* GnuTLS's code, which the next read returns */

	/* the owner reads these */
	size_t in_start, in_end, out_start, out_end;
	bool ended; /* the peer's end was seen: nothing follows what is in `in` */
	uint8_t in[TLS_CODEC_IN], out[TLS_CODEC_OUT];
};

/* As tls_session(). */
int tls_codec_init(struct tls_codec *codec, struct tls *tls, bool server, const char *peer_name);
void tls_codec_done(struct tls_codec *codec);
/* `in` had nothing left and got so many bytes; none: the peer's end. */
void tls_codec_fed(struct tls_codec *codec, size_t length);
/* So many bytes of `out` are gone, from out_start on. Whether some are left. */
bool tls_codec_sent(struct tls_codec *codec, size_t length);

/*
 * Goes on with the handshake as far as that goes without the peer. 0: more must come; 1: done; or GnuTLS's code, about which
 * the peer is told in `out`.
 */
int tls_codec_shake(struct tls_codec *codec);
/* Bytes; 0: the peer ended in good order; GNUTLS_E_AGAIN: more must come; or GnuTLS's code, first of all that of a connection cut off. */
ssize_t tls_codec_read(struct tls_codec *codec, void *buf, size_t length);
/* As many bytes as fit become records in `out`; how many, or -EPROTO. With an empty `out` 192 KiB fit. */
ssize_t tls_codec_write(struct tls_codec *codec, const struct iovec *iov, unsigned count);
/* The peer is told that nothing more comes. */
void tls_codec_end(struct tls_codec *codec);
/* Says what a code of the above means, of a peer with this name. -EACCES: one of both does not accept the other; else -ENOTCONN or -EPROTO. */
int tls_codec_words(struct tls_codec *codec, int code, const char *peer, struct error *error);
