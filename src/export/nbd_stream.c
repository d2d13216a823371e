/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Plain streams are one ring operation a call. Under TLS, GnuTLS reads from `in` and writes to `out`, which alone the ring fills
 * and empties: so it never waits, and a turn's replies leave in few records and one write.
 */
#include "export/nbd_stream.h"

#include "base/bytes.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TLS_IN    (64u << 10)
#define TLS_OUT   (288u << 10)
#define TLS_PLAIN (192u << 10) /* of one write: with each record's overhead it fits into `out` */
#define TLS_SPARE (32u << 10)  /* of `out`, for what GnuTLS itself has to say */

struct nbd_stream_tls {
	gnutls_session_t session;
	bool shaking; /* the handshake is not done */
	int verdict;  /* of the handshake: 0 under way, 1 done, or negative GnuTLS code */
	/* of the owner's calls */
	uint8_t *read_buf;
	size_t read_length, written; /* `written`: of the owner's bytes, in `out` */

	size_t in_start, in_end, out_start, out_end;
	bool ended; /* the peer's end was seen */
	uint8_t in[TLS_IN], out[TLS_OUT];
};

/* What GnuTLS calls */

static ssize_t tls_pull(gnutls_transport_ptr_t pointer, void *buf, size_t length)
{
	struct nbd_stream *stream = pointer;
	struct nbd_stream_tls *tls = stream->tls;
	size_t have = tls->in_end - tls->in_start;

	if (have == 0 && tls->ended)
		return 0;
	if (have == 0) {
		gnutls_transport_set_errno(tls->session, EAGAIN);
		return -1;
	}
	length = length < have ? length : have;
	memcpy(buf, tls->in + tls->in_start, length);
	tls->in_start += length;
	return (ssize_t)length;
}

static ssize_t tls_push(gnutls_transport_ptr_t pointer, const void *buf, size_t length)
{
	struct nbd_stream *stream = pointer;
	struct nbd_stream_tls *tls = stream->tls;
	size_t room = TLS_OUT - tls->out_end;

	if (room == 0) {
		gnutls_transport_set_errno(tls->session, EAGAIN);
		return -1;
	}
	length = length < room ? length : room;
	memcpy(tls->out + tls->out_end, buf, length);
	tls->out_end += length;
	return (ssize_t)length;
}

/* The ring's part */

static void tls_fill(struct nbd_stream *stream)
{
	struct nbd_stream_tls *tls = stream->tls;

	assert(tls->in_start == tls->in_end);
	tls->in_start = tls->in_end = 0;
	stream->read_op.opcode = RING_READ;
	stream->read_op.buf = tls->in;
	stream->read_op.length = sizeof(tls->in);
	ring_submit(stream->ring, &stream->read_op);
}

static void tls_empty(struct nbd_stream *stream)
{
	struct nbd_stream_tls *tls = stream->tls;

	stream->write_op.opcode = RING_WRITE;
	stream->write_op.buf = tls->out + tls->out_start;
	stream->write_op.length = tls->out_end - tls->out_start;
	ring_submit(stream->ring, &stream->write_op);
}

/*
 * Whether to call GnuTLS once more: it was interrupted; or a record that it took from `in` was only a part of what it reads, for which it
 * wants to be asked again although the next one may lie there.
 */
static bool tls_asks_again(const struct nbd_stream_tls *tls, size_t start_before, ssize_t res)
{
	if (res == GNUTLS_E_AGAIN)
		return tls->in_start > start_before && tls->in_start < tls->in_end;
	return res < 0 && !gnutls_error_is_fatal((int)res);
}

/* Goes on with the handshake, as far as that goes without the peer. */
static void tls_shake(struct nbd_stream *stream)
{
	struct nbd_stream_tls *tls = stream->tls;
	struct error error;
	size_t start;
	int res;

	if (tls->verdict == 0) {
		do {
			start = tls->in_start;
			res = gnutls_handshake(tls->session);
		} while (tls_asks_again(tls, start, res));
		if (res != GNUTLS_E_AGAIN)
			tls->verdict = res < 0 ? res : 1;
		/* The peer shall know why. */
		if (tls->verdict < 0)
			gnutls_alert_send_appropriate(tls->session, res);
	}
	if (tls->out_end > tls->out_start && !stream->write_op.active)
		tls_empty(stream);
	if (tls->verdict == 0 && !stream->read_op.active)
		tls_fill(stream);
	if (tls->verdict == 0 || nbd_stream_is_busy(stream))
		return;
	tls->shaking = false;
	if (tls->verdict == 1)
		stream->tls_started(stream, 0, NULL);
	else
		stream->tls_started(
		    stream, error_set(&error, -EPROTO, "TLS: %s", gnutls_strerror(tls->verdict)), &error);
}

/* Hands over what could be decrypted, or gets more. */
static void tls_read_on(struct nbd_stream *stream)
{
	struct nbd_stream_tls *tls = stream->tls;
	size_t got = 0, start;
	ssize_t res = 1;

	while (got < tls->read_length && res > 0) {
		do {
			start = tls->in_start;
			res = gnutls_record_recv(tls->session, tls->read_buf + got, tls->read_length - got);
		} while (tls_asks_again(tls, start, res));
		got += res > 0 ? (size_t)res : 0;
	}
	if (got == 0 && res == GNUTLS_E_AGAIN) {
		tls_fill(stream);
		return;
	}
	/* A peer that just closes is as usual; what is cut off, the protocol above notices. */
	if (got == 0 && res < 0)
		stream->received(stream, res == GNUTLS_E_PREMATURE_TERMINATION ? 0 : -EPROTO);
	else
		stream->received(stream, (int)got);
}

static void tls_read_done(struct nbd_stream *stream, int res)
{
	struct nbd_stream_tls *tls = stream->tls;

	if (stream->read_op.opcode != RING_NOP) {
		/* An interrupted read says nothing of the peer: GnuTLS is told to come again, and it is read again. */
		tls->ended |= res <= 0 && res != -EINTR && res != -EAGAIN;
		tls->in_end = res > 0 ? (size_t)res : 0;
	}
	if (tls->shaking)
		tls_shake(stream);
	else
		tls_read_on(stream);
}

static void tls_write_done(struct nbd_stream *stream, int res)
{
	struct nbd_stream_tls *tls = stream->tls;

	if (stream->write_op.opcode != RING_NOP && res > 0)
		tls->out_start += (size_t)res;
	if (res > 0 && tls->out_start < tls->out_end) {
		tls_empty(stream);
		return;
	}
	tls->out_start = tls->out_end = 0;
	if (tls->shaking) {
		if (res < 0 && tls->verdict == 0)
			tls->verdict = GNUTLS_E_PUSH_ERROR;
		if (tls->verdict && stream->read_op.active)
			nbd_stream_shut(stream);
		tls_shake(stream);
		return;
	}
	stream->sent(stream, res < 0 ? res : (int)tls->written);
}

/* As many of the bytes as fit become records in `out`. */
static int tls_encrypt(struct nbd_stream_tls *tls, const struct iovec *iov, unsigned count)
{
	size_t room = TLS_OUT - TLS_SPARE - tls->out_end;
	int res;

	/* Only a peer that wants new keys all the time fills it so far. */
	if (tls->out_end > TLS_OUT - TLS_SPARE)
		return -EPROTO;
	room = room < TLS_PLAIN ? room : TLS_PLAIN;
	tls->written = 0;
	gnutls_record_cork(tls->session);
	for (unsigned i = 0; i < count && room > 0; i++) {
		size_t length = iov[i].iov_len < room ? iov[i].iov_len : room;

		if (length == 0)
			continue;
		if (gnutls_record_send(tls->session, iov[i].iov_base, length) != (ssize_t)length)
			return -EPROTO;
		room -= length;
		tls->written += length;
	}
	do
		res = gnutls_record_uncork(tls->session, 0);
	while (res == GNUTLS_E_INTERRUPTED);
	return res < 0 ? -EPROTO : 0;
}

/* For both */

static void read_done(struct ring_op *op, int res)
{
	struct nbd_stream *stream = container_of(op, struct nbd_stream, read_op);

	if (op->opcode == RING_POLL && res > 0) {
		ssize_t got = splice(op->fd, NULL, op->fd_to, NULL, op->length, SPLICE_F_NONBLOCK);

		res = got < 0 ? -errno : (int)got;
	}
	if (stream->tls)
		tls_read_done(stream, res);
	else
		stream->received(stream, res);
}

static void write_done(struct ring_op *op, int res)
{
	struct nbd_stream *stream = container_of(op, struct nbd_stream, write_op);

	if (stream->tls)
		tls_write_done(stream, res);
	else
		stream->sent(stream, res);
}

void nbd_stream_init(struct nbd_stream *stream)
{
	stream->tls = NULL;
	stream->read_op = (struct ring_op){.fd = stream->fd, .offset = RING_STREAM, .done = read_done};
	stream->write_op = (struct ring_op){.fd = stream->fd, .offset = RING_STREAM, .done = write_done};
}

void nbd_stream_done(struct nbd_stream *stream)
{
	assert(!nbd_stream_is_busy(stream));
	if (stream->tls)
		gnutls_deinit(stream->tls->session);
	free(stream->tls);
	stream->tls = NULL;
	close(stream->fd);
	stream->fd = -1;
}

void nbd_stream_read(struct nbd_stream *stream, void *buf, size_t length)
{
	struct ring_op *op = &stream->read_op;

	assert(!op->active && length > 0);
	if (stream->tls) {
		stream->tls->read_buf = buf;
		stream->tls->read_length = length;
		/* There may be something already; but the answer must come from the loop. */
		ring_defer(stream->ring, op, 0);
		return;
	}
	op->opcode = RING_READ;
	op->buf = buf;
	op->length = min_u64(length, INT32_MAX);
	ring_submit(stream->ring, op);
}

void nbd_stream_write(struct nbd_stream *stream, const struct iovec *iov, unsigned count)
{
	struct ring_op *op = &stream->write_op;

	assert(!op->active && count > 0);
	if (stream->tls) {
		int res = tls_encrypt(stream->tls, iov, count);

		if (res < 0)
			ring_defer(stream->ring, op, res);
		else
			tls_empty(stream);
		return;
	}
	op->opcode = RING_WRITEV;
	op->fd = stream->fd;
	op->iov = iov;
	op->iov_count = count;
	ring_submit(stream->ring, op);
}

void nbd_stream_splice(struct nbd_stream *stream, int pipe_fd, size_t length)
{
	struct ring_op *op = &stream->write_op;

	assert(!op->active && length > 0 && !stream->tls);
	op->opcode = RING_SPLICE;
	op->fd = pipe_fd;
	op->fd_to = stream->fd;
	op->length = length;
	ring_submit(stream->ring, op);
}

/* Not RING_SPLICE, whose thread costs more than it does. */
void nbd_stream_read_pipe(struct nbd_stream *stream, int pipe_fd, size_t length)
{
	struct ring_op *op = &stream->read_op;

	assert(!op->active && length > 0 && !stream->tls);
	op->opcode = RING_POLL;
	op->events = POLLIN;
	op->fd_to = pipe_fd;
	op->length = length;
	ring_submit(stream->ring, op);
}

int nbd_stream_start_tls(struct nbd_stream *stream, struct tls *credentials)
{
	struct nbd_stream_tls *tls = malloc(sizeof(*tls));

	assert(!stream->tls && !nbd_stream_is_busy(stream));
	if (!tls)
		return -ENOMEM;
	memset(tls, 0, offsetof(struct nbd_stream_tls, in));
	if (tls_session(credentials, true, NULL, &tls->session) < 0) {
		free(tls);
		return -ENOMEM;
	}
	gnutls_transport_set_ptr(tls->session, stream);
	gnutls_transport_set_pull_function(tls->session, tls_pull);
	gnutls_transport_set_push_function(tls->session, tls_push);
	tls->shaking = true;
	stream->tls = tls;
	tls_fill(stream);
	return 0;
}

void nbd_stream_shut(struct nbd_stream *stream)
{
	shutdown(stream->fd, SHUT_RDWR);
}

bool nbd_stream_is_busy(const struct nbd_stream *stream)
{
	return stream->read_op.active || stream->write_op.active;
}
