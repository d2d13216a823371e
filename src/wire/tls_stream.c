/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two pumps between the plain end's other half and the peer's socket, with TLS's buffers (tls_codec.h) between. Whatever comes back from
 * the ring is noted, then go() begins all that can begin. It ends in one way: stop() cancels, and the last operation to come
 * back calls ended().
 */
#include "wire/tls_stream.h"

#include "base/cleanup.h"
#include "wire/tls_codec.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#define HANDSHAKE_MS 10000u
#define LINGER_MS    2000u
#define WATCH_MS     500u
#define PIECE        (64u << 10)
#define OPS          6u

enum state {
	SHAKING,
	REFUSING, /* the handshake has failed: the peer is told why */
	OPEN,
	STOPPING, /* operations are cancelled */
	OVER,
};

struct tls_stream {
	/* set when made */
	struct ring *ring;
	int fd, plain_fd;
	char *peer; /* or NULL */
	void (*ended)(void *data, const struct error *error);
	void *data;

	enum state state;
	bool over;          /* state is OVER; for ring_run_until() */
	bool peer_ended;    /* it says that nothing more comes */
	bool user_told;     /* that, by the plain end */
	bool user_ended;    /* nothing more is written to the plain end; the peer is told */
	bool peer_told;     /* that has gone out */
	bool user_gone;     /* the plain end is closed */
	bool user_deaf;     /* nobody reads what the peer says */
	bool peer_deaf;     /* what goes to the peer does not arrive */
	bool hurried;       /* deadline_ns holds */
	int lost;           /* errno of a read from the peer */
	struct error error; /* code 0: it ended in good order */
	uint64_t deadline_ns;

	union {
		struct {
			struct ring_op from_peer, to_peer, from_user, to_user;
			struct ring_op watch; /* sees that the plain end is closed */
			struct ring_op timer;
		};
		struct ring_op ops[OPS];
	};
	size_t to_user_start, to_user_end;
	uint8_t user_bytes[PIECE]; /* on their way to the user */
	uint8_t peer_bytes[PIECE]; /* to the peer */
	struct tls_codec codec;
};

static void go(struct tls_stream *stream);

static const char *peer_of(const struct tls_stream *stream)
{
	return stream->peer ? stream->peer : "the other machine";
}

/* The end */

static void maybe_over(struct tls_stream *stream)
{
	for (unsigned i = 0; i < OPS; i++)
		if (stream->ops[i].active)
			return;
	stream->state = OVER;
	stream->over = true;
	close(take_fd(&stream->fd));
	close(take_fd(&stream->plain_fd));
	/* It may free the stream. */
	if (stream->ended)
		stream->ended(stream->data, stream->error.code ? &stream->error : NULL);
}

/* Something is always under way, so that the end comes from the loop. */
static void stop(struct tls_stream *stream)
{
	stream->state = STOPPING;
	for (unsigned i = 0; i < OPS; i++)
		ring_cancel(stream->ring, &stream->ops[i]);
}

static void set_timer(struct tls_stream *stream, uint64_t timeout_ms)
{
	stream->hurried = true;
	stream->deadline_ns = ring_now_ns(stream->ring) + timeout_ms * 1000000;
	if (stream->timer.active) {
		ring_cancel(stream->ring, &stream->timer);
		return;
	}
	stream->timer.opcode = RING_TIMER;
	stream->timer.deadline_ns = stream->deadline_ns;
	ring_submit(stream->ring, &stream->timer);
}

static void time_is_over(struct tls_stream *stream)
{
	if (stream->state == SHAKING)
		error_set(&stream->error, -ETIMEDOUT,
		    "TLS with %s failed: the handshake was not done in time", peer_of(stream));
	else if (stream->state == OPEN && !stream->peer_told)
		error_set(
		    &stream->error, -ETIMEDOUT, "%s did not take what was left to be sent", peer_of(stream));
	stop(stream);
}

static void timer_done(struct ring_op *op, int res)
{
	struct tls_stream *stream = container_of(op, struct tls_stream, timer);

	if (stream->state < STOPPING && stream->hurried) {
		if (ring_now_ns(stream->ring) >= stream->deadline_ns) {
			time_is_over(stream);
		} else {
			stream->timer.deadline_ns = stream->deadline_ns;
			ring_submit(stream->ring, &stream->timer);
		}
	}
	go(stream);
}

/* The plain end was closed. What was written to it before shall still arrive. */
static void leave(struct tls_stream *stream)
{
	if (stream->state >= STOPPING || stream->user_gone)
		return;
	stream->user_gone = stream->user_deaf = true;
	if (stream->state == SHAKING) {
		error_set(
		    &stream->error, -ECANCELED, "TLS with %s was given up in the handshake", peer_of(stream));
		stop(stream);
	} else {
		set_timer(stream, LINGER_MS);
	}
}

static bool user_has_closed(const struct tls_stream *stream)
{
	struct pollfd plain = {.fd = stream->plain_fd};

	return poll(&plain, 1, 0) > 0 && (plain.revents & POLLHUP);
}

/* Once one direction is shut, the ring's poll can no more wait for the other: so from then on it is looked at twice a second. */
static void watch_done(struct ring_op *op, int res)
{
	struct tls_stream *stream = container_of(op, struct tls_stream, watch);

	/* Once the user was told, a hang-up means no more than that both directions are shut. */
	if (stream->state < STOPPING && !stream->user_told) {
		if (user_has_closed(stream)) {
			leave(stream);
		} else {
			op->opcode = RING_TIMER;
			op->deadline_ns = ring_now_ns(stream->ring) + WATCH_MS * 1000000ull;
			ring_submit(stream->ring, op);
		}
	}
	go(stream);
}

/* From the peer to the user */

static void fill(struct tls_stream *stream)
{
	struct ring_op *op = &stream->from_peer;

	if (op->active || stream->codec.ended)
		return;
	op->opcode = RING_READ;
	op->fd = stream->fd;
	op->buf = stream->codec.in;
	op->length = TLS_CODEC_IN;
	ring_submit(stream->ring, op);
}

static void from_peer_done(struct ring_op *op, int res)
{
	struct tls_stream *stream = container_of(op, struct tls_stream, from_peer);

	if (stream->state < STOPPING && res != -EINTR && res != -EAGAIN) {
		stream->lost = res < 0 ? -res : 0;
		tls_codec_fed(&stream->codec, res > 0 ? (size_t)res : 0);
	}
	go(stream);
}

static void lose(struct tls_stream *stream, int code)
{
	int res = tls_codec_words(&stream->codec, code, peer_of(stream), &stream->error);

	if (res == -ENOTCONN && stream->lost)
		error_set(&stream->error, -ENOTCONN, "the connection to %s was cut off: %s", peer_of(stream),
		    strerror(stream->lost));
}

static void give(struct tls_stream *stream)
{
	struct ring_op *op = &stream->to_user;

	op->opcode = RING_WRITE;
	op->fd = stream->plain_fd;
	op->buf = stream->user_bytes + stream->to_user_start;
	op->length = stream->to_user_end - stream->to_user_start;
	ring_submit(stream->ring, op);
}

/* Hands on what has come, or gets more. */
static void pump_to_user(struct tls_stream *stream)
{
	ssize_t res;

	if (stream->to_user.active || stream->user_told)
		return;
	while (!stream->peer_ended && stream->to_user_start == stream->to_user_end) {
		res = tls_codec_read(&stream->codec, stream->user_bytes, PIECE);
		if (res == GNUTLS_E_AGAIN) {
			fill(stream);
			return;
		}
		if (res < 0) {
			lose(stream, (int)res);
			stop(stream);
			return;
		}
		stream->peer_ended = res == 0;
		stream->to_user_start = 0;
		stream->to_user_end = stream->user_deaf ? 0 : (size_t)res;
	}
	if (stream->to_user_start < stream->to_user_end) {
		give(stream);
		return;
	}
	shutdown(stream->plain_fd, SHUT_WR);
	stream->user_told = true;
}

static void to_user_done(struct ring_op *op, int res)
{
	struct tls_stream *stream = container_of(op, struct tls_stream, to_user);

	if (res > 0)
		stream->to_user_start += (size_t)res;
	stream->user_deaf |= res < 0 && res != -EINTR && res != -EAGAIN;
	if (stream->user_deaf)
		stream->to_user_start = stream->to_user_end;
	go(stream);
}

/* From the user to the peer */

static void pump_to_peer(struct tls_stream *stream)
{
	struct tls_codec *codec = &stream->codec;
	struct ring_op *op = &stream->to_peer;

	if (op->active)
		return;
	if (stream->peer_deaf)
		codec->out_start = codec->out_end = 0;
	if (codec->out_start < codec->out_end) {
		op->opcode = RING_WRITE;
		op->fd = stream->fd;
		op->buf = codec->out + codec->out_start;
		op->length = codec->out_end - codec->out_start;
		ring_submit(stream->ring, op);
	} else if (stream->user_ended && !stream->peer_told) {
		shutdown(stream->fd, SHUT_WR);
		stream->peer_told = true;
	} else if (stream->state == OPEN && !stream->user_ended && !stream->peer_deaf &&
	           !stream->from_user.active) {
		op = &stream->from_user;
		op->opcode = RING_READ;
		op->fd = stream->plain_fd;
		op->buf = stream->peer_bytes;
		op->length = PIECE;
		ring_submit(stream->ring, op);
	}
}

/* What the peer said last may still lie there: that is heard before the end. */
static void to_peer_done(struct ring_op *op, int res)
{
	struct tls_stream *stream = container_of(op, struct tls_stream, to_peer);

	if (res > 0) {
		tls_codec_sent(&stream->codec, (size_t)res);
		/* A slow peer gets its time, but not from who waits in tls_stream_free(). */
		if (stream->user_gone && stream->ended)
			stream->deadline_ns = ring_now_ns(stream->ring) + LINGER_MS * 1000000ull;
	} else if (stream->state < STOPPING && res != -EINTR && res != -EAGAIN) {
		stream->peer_deaf = true;
		if (stream->state != REFUSING)
			error_set(&stream->error, -ENOTCONN, "the connection to %s broke: %s",
			    peer_of(stream), strerror(-res));
	}
	go(stream);
}

static void from_user_done(struct ring_op *op, int res)
{
	struct tls_stream *stream = container_of(op, struct tls_stream, from_user);
	const struct iovec bytes = {.iov_base = stream->peer_bytes, .iov_len = res > 0 ? (size_t)res : 0};

	if (stream->state == OPEN && res > 0) {
		if (tls_codec_write(&stream->codec, &bytes, 1) != res) {
			error_set(&stream->error, -EPROTO, "TLS with %s failed: it leaves no room",
			    peer_of(stream));
			stop(stream);
		}
	} else if (stream->state == OPEN && res != -EINTR && res != -EAGAIN) {
		/* Also an error: the user closed it without having read all. */
		stream->user_ended = true;
		tls_codec_end(&stream->codec);
	}
	go(stream);
}

/* All together */

static void shake(struct tls_stream *stream)
{
	int verdict = tls_codec_shake(&stream->codec);

	if (verdict == 0) {
		fill(stream);
	} else if (verdict == 1) {
		stream->state = OPEN;
		stream->hurried = false;
		ring_cancel(stream->ring, &stream->timer);
	} else {
		stream->state = REFUSING;
		lose(stream, verdict);
	}
}

static bool is_done(const struct tls_stream *stream)
{
	bool peer_has_all = stream->peer_deaf || stream->peer_told;

	if (stream->state == REFUSING)
		return !stream->to_peer.active;
	return stream->state == OPEN && peer_has_all &&
	       (stream->user_told || (stream->peer_deaf && stream->user_gone));
}

static void go(struct tls_stream *stream)
{
	if (stream->state == SHAKING)
		shake(stream);
	if (stream->state == OPEN)
		pump_to_user(stream);
	if (stream->state < STOPPING)
		pump_to_peer(stream);
	if (is_done(stream))
		stop(stream);
	if (stream->state == STOPPING)
		maybe_over(stream);
}

static void start(struct tls_stream *stream)
{
	void (*const done[OPS])(struct ring_op *, int) = {
	    from_peer_done, to_peer_done, from_user_done, to_user_done, watch_done, timer_done};

	for (unsigned i = 0; i < OPS; i++)
		stream->ops[i] = (struct ring_op){.offset = RING_STREAM, .done = done[i]};
	stream->watch.opcode = RING_POLL;
	stream->watch.fd = stream->plain_fd;
	ring_submit(stream->ring, &stream->watch);
	set_timer(stream, HANDSHAKE_MS);
	go(stream);
}

/* Memory, TLS, and the two ends. What was made before something failed is the caller's to undo. */
static int make(struct tls_stream *stream, bool server, struct tls *credentials, const char *peer_name,
    int ret_fds[2], struct error *error)
{
	int flags = fcntl(stream->fd, F_GETFL), on = 1;

	stream->peer = peer_name ? strdup(peer_name) : NULL;
	if ((peer_name && !stream->peer) ||
	    tls_codec_init(&stream->codec, credentials, server, stream->peer) < 0)
		return error_set(error, -ENOMEM, "no memory for TLS");
	/* What is small was put together before; it fails where there is no TCP. */
	setsockopt(stream->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	/* The ring waits where a descriptor does. */
	if (flags < 0 || fcntl(stream->fd, F_SETFL, flags & ~O_NONBLOCK) < 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ret_fds) < 0) {
		error_set(error, -errno, "cannot make a stream for TLS: %s", strerror(errno));
		tls_codec_done(&stream->codec);
		return error->code;
	}
	return 0;
}

int tls_stream_new(struct tls_stream **ret, struct ring *ring, int take_fd, bool server,
    struct tls *credentials, const char *peer_name, void (*ended)(void *data, const struct error *error),
    void *data, int *ret_plain_fd, struct error *error)
{
	struct tls_stream *stream = malloc(sizeof(*stream));
	int fds[2], res;

	assert(server || peer_name);
	if (!stream) {
		close(take_fd);
		return error_set(error, -ENOMEM, "no memory for TLS");
	}
	memset(stream, 0, offsetof(struct tls_stream, user_bytes));
	stream->ring = ring;
	stream->fd = take_fd;
	stream->ended = ended;
	stream->data = data;
	res = make(stream, server, credentials, peer_name, fds, error);
	if (res < 0) {
		close(take_fd);
		free(stream->peer);
		free(stream);
		return res;
	}
	stream->plain_fd = fds[0];
	start(stream);
	*ret_plain_fd = fds[1];
	*ret = stream;
	return 0;
}

void tls_stream_set_deadline(struct tls_stream *stream, unsigned timeout_ms)
{
	if (stream->state == SHAKING)
		set_timer(stream, timeout_ms);
}

bool tls_stream_is_open(const struct tls_stream *stream)
{
	return stream->state == OPEN;
}

struct tls_stream *tls_stream_free(struct tls_stream *stream, bool gently)
{
	if (!stream)
		return NULL;
	stream->ended = NULL;
	if (gently)
		leave(stream);
	else if (stream->state < STOPPING)
		stop(stream);
	/* If the loop itself broke, the kernel may still use the memory: better to keep it. */
	if (ring_run_until(stream->ring, &stream->over) < 0)
		return NULL;
	tls_codec_done(&stream->codec);
	free(stream->peer);
	free(stream);
	return NULL;
}
