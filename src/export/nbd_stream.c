/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Plain streams are one ring operation a call. Under TLS the ring alone fills and empties the buffers of tls_codec.h: so a turn's
 * replies leave in few records and one write.
 */
#include "export/nbd_stream.h"

#include "base/bytes.h"
#include "wire/tls_codec.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct nbd_stream_tls {
	bool shaking; /* the handshake is not done */
	int verdict;  /* of the handshake: 0 under way, 1 done, or negative GnuTLS code */
	/* of the owner's calls */
	uint8_t *read_buf;
	size_t read_length, written; /* `written`: of the owner's bytes, in the codec */

	struct tls_codec codec;
};

/* The ring's part */

/* The ring still has one of its operations. */
static bool is_busy(const struct nbd_stream *stream)
{
	return stream->read_op.active || stream->write_op.active;
}

static void tls_fill(struct nbd_stream *stream)
{
	stream->read_op.opcode = RING_READ;
	stream->read_op.buf = stream->tls->codec.in;
	stream->read_op.length = TLS_CODEC_IN;
	ring_submit(stream->ring, &stream->read_op);
}

static void tls_empty(struct nbd_stream *stream)
{
	struct tls_codec *codec = &stream->tls->codec;

	stream->write_op.opcode = RING_WRITE;
	stream->write_op.buf = codec->out + codec->out_start;
	stream->write_op.length = codec->out_end - codec->out_start;
	ring_submit(stream->ring, &stream->write_op);
}

/* Goes on with the handshake, as far as that goes without the peer. */
static void tls_shake(struct nbd_stream *stream)
{
	struct nbd_stream_tls *tls = stream->tls;
	struct error error;

	if (tls->verdict == 0)
		tls->verdict = tls_codec_shake(&tls->codec);
	if (tls->codec.out_end > tls->codec.out_start && !stream->write_op.active)
		tls_empty(stream);
	if (tls->verdict == 0 && !stream->read_op.active)
		tls_fill(stream);
	if (tls->verdict == 0 || is_busy(stream))
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
	ssize_t res = tls_codec_read(&tls->codec, tls->read_buf, tls->read_length);

	/* A peer that just closes is as usual; what is cut off, the protocol above notices. */
	if (res == GNUTLS_E_AGAIN)
		tls_fill(stream);
	else if (res < 0)
		stream->received(stream, res == GNUTLS_E_PREMATURE_TERMINATION ? 0 : -EPROTO);
	else
		stream->received(stream, (int)res);
}

static void tls_read_done(struct nbd_stream *stream, int res)
{
	struct nbd_stream_tls *tls = stream->tls;

	/* An interrupted read says nothing of the peer: GnuTLS is told to come again, and it is read again. */
	if (stream->read_op.opcode != RING_NOP && res != -EINTR && res != -EAGAIN)
		tls_codec_fed(&tls->codec, res > 0 ? (size_t)res : 0);
	if (tls->shaking)
		tls_shake(stream);
	else
		tls_read_on(stream);
}

static void tls_write_done(struct nbd_stream *stream, int res)
{
	struct nbd_stream_tls *tls = stream->tls;
	struct tls_codec *codec = &tls->codec;

	if (stream->write_op.opcode != RING_NOP && res > 0 && tls_codec_sent(codec, (size_t)res)) {
		tls_empty(stream);
		return;
	}
	codec->out_start = codec->out_end = 0;
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
	assert(!is_busy(stream));
	if (stream->tls)
		tls_codec_done(&stream->tls->codec);
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
		ssize_t res = tls_codec_write(&stream->tls->codec, iov, count);

		stream->tls->written = res > 0 ? (size_t)res : 0;
		if (res < 0)
			ring_defer(stream->ring, op, (int)res);
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

	assert(!stream->tls && !is_busy(stream));
	if (!tls)
		return -ENOMEM;
	memset(tls, 0, offsetof(struct nbd_stream_tls, codec));
	if (tls_codec_init(&tls->codec, credentials, true, NULL) < 0) {
		free(tls);
		return -ENOMEM;
	}
	tls->shaking = true;
	stream->tls = tls;
	tls_fill(stream);
	return 0;
}

void nbd_stream_shut(struct nbd_stream *stream)
{
	shutdown(stream->fd, SHUT_RDWR);
}
