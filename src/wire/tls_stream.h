/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A plain stream whose bytes go to another machine under TLS: for a session, which knows nothing of that. On the ring of its owner, who
 * ignores SIGPIPE. Takes less than 512 KiB, whatever the peer does.
 */
#pragma once

#include "ring/ring.h"
#include "wire/tls.h"

struct tls_stream;

/*
 * Puts TLS on a connected socket, as who has dialled or, `server`, has been dialled. *ret_plain_fd is the caller's at once: what is
 * written to it goes to the peer, in order, once both have proved who they are, and what the peer wrote is read from it. Each direction
 * may be shut by itself; a reader who is slow slows the peer down. Takes take_fd, also on failure, and sees to
 * O_NONBLOCK and TCP_NODELAY. A session gets the plain end:
 *
 *     tls_stream_new(&stream, ring, fd, false, tls, "beta.example", ended, data, &plain, error)      dials
 *     tls_stream_new(&stream, ring, fd, true, tls, NULL, ended, data, &plain, error)                 is dialled
 *
 * `peer_name` is whom the certificate must be for (tls.h), and what errors call the peer; a server's may be NULL. `credentials` are
 * borrowed.
 *
 * ended() comes once, from the loop, unless the stream is freed before; it may free it. NULL: each told the other that nothing more
 * comes, and has all; or the caller closed the plain end, and the peer has all. Else, with words, and only then the plain end shows an
 * end of file: -EACCES: one of the two does not accept the other; -ETIMEDOUT: the peer did not shake hands in time, or took nothing
 * more for 2 s of what was left when the plain end was closed; -EPROTO: that was no TLS, or is none any more; -ENOTCONN: the
 * connection was lost; -ECANCELED: the plain end was closed in the handshake.
 */
int tls_stream_new(struct tls_stream **ret, struct ring *ring, int take_fd, bool server,
    struct tls *credentials, const char *peer_name, void (*ended)(void *data, const struct error *error),
    void *data, int *ret_plain_fd, struct error *error);
/* The handshake must be done so long from now; 10,000 ms unless this is called. */
void tls_stream_set_deadline(struct tls_stream *stream, unsigned timeout_ms);
/* Both have proved who they are; a client may still hear that the server does not accept it. */
bool tls_stream_is_open(const struct tls_stream *stream);
/*
 * Ends it. `gently`: the plain end is closed by now, and what was written to it gets up to 2 s to arrive; else that is cut off. Runs the
 * ring until then. Takes NULL; returns NULL.
 */
struct tls_stream *tls_stream_free(struct tls_stream *stream, bool gently);
