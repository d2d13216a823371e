/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bytes to and from one client on the ring, plain or under TLS. Embedded in its owner; one read and one write may be under way.
 * Ring thread only. received() and sent() run from the loop, never from within a call here.
 */
#pragma once

#include "ring/ring.h"
#include "wire/tls.h"

struct nbd_stream_tls;

struct nbd_stream {
	/* set by the owner before nbd_stream_init() */
	struct ring *ring;
	int fd;                                               /* blocking; closed by nbd_stream_done() */
	void (*received)(struct nbd_stream *stream, int res); /* bytes, 0 at the end, or -errno */
	void (*sent)(struct nbd_stream *stream, int res);     /* bytes of what was to be written, or -errno */
	void (*tls_started)(
	    struct nbd_stream *stream, int res, struct error *error); /* 0, or -errno with words */

	/* the stream's own */
	struct nbd_stream_tls *tls; /* NULL: plain */
	struct ring_op read_op, write_op;
};

void nbd_stream_init(struct nbd_stream *stream);
/* Nothing may be under way. */
void nbd_stream_done(struct nbd_stream *stream);
void nbd_stream_read(struct nbd_stream *stream, void *buf, size_t length);
/* May write less than all. The pieces stay as they are until sent(). */
void nbd_stream_write(struct nbd_stream *stream, const struct iovec *iov, unsigned count);
/* What lies in a pipe, `length` bytes of it; not under TLS. As nbd_stream_write(). */
void nbd_stream_splice(struct nbd_stream *stream, int pipe_fd, size_t length);
/* As nbd_stream_read(), into a pipe; not under TLS. -EAGAIN: the pipe is full. After an error nbd_stream_read() can say more. */
void nbd_stream_read_pipe(struct nbd_stream *stream, int pipe_fd, size_t length);
/* Nothing may be under way. Runs the TLS handshake, then tls_started(). 0, or -ENOMEM and no call. */
int nbd_stream_start_tls(struct nbd_stream *stream, struct tls *tls);
/* What is under way ends soon: by the end of the stream, or an error. */
void nbd_stream_shut(struct nbd_stream *stream);
