/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two machines with a TLS stream each, on one ring, over a socket pair or loopback TCP, with the keys of node_keys.h. After
 * cmocka.h.
 */
#pragma once

#include "base/bytes.h"
#include "base/cleanup.h"
#include "ring/ring.h"
#include "wire/tls_stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <sys/socket.h>

#include "node_keys.h"

struct end {
	struct tls_stream *stream;
	int plain;
	bool ended;
	struct error error; /* code 0: in good order */
};

struct pair {
	struct ring *ring;
	struct tls *tls[2];
	struct end ends[2]; /* [0] dials, [1] is dialled */
};

/* A node's: "FILE.psk" of `user`, or a folder with certificates. */
static __attribute__((unused)) struct tls *node_of(const char *name, const char *user)
{
	bool psk = strstr(name, ".psk");
	const struct tls_options options = {.sides = TLS_NODE,
	    .psk_file = psk ? path_of(name) : NULL,
	    .user = psk ? user : NULL,
	    .certificates = psk ? NULL : path_of(name)};

	return tls_of(&options);
}

/* A connection: fds[0] has dialled fds[1]. */
static __attribute__((unused)) void connect_tcp(int fds[2])
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &length), 0);
	/* Not blocking, as who dials without waiting has it. */
	fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_true(
	    connect(fds[0], (struct sockaddr *)&address, sizeof(address)) == 0 || errno == EINPROGRESS);
	fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(fds[1] >= 0);
	close(listener);
}

static __attribute__((unused)) void connect_unix(int fds[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
}

/* An end of file, or an error: the plain end gives nothing more. */
static __attribute__((unused)) bool shows_end(int fd)
{
	char byte;
	ssize_t res = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

	return res == 0 || (res < 0 && errno != EAGAIN);
}

static __attribute__((unused)) void end_ended(void *data, const struct error *error)
{
	struct end *end = data;

	assert_false(end->ended);
	end->ended = true;
	end->error = error ? *error : (struct error){0};
	assert_true(!error || (error->code < 0 && error->text[0]));
}

static __attribute__((unused)) void end_start(
    struct pair *pair, unsigned i, int fd, struct tls *tls, const char *peer_name)
{
	struct end *end = &pair->ends[i];

	*end = (struct end){.plain = -1};
	assert_int_equal(tls_stream_new(&end->stream, pair->ring, fd, i == 1, tls, peer_name, end_ended, end,
	                     &end->plain, NULL),
	    0);
}

/* Nodes of the same kind, which trust each other. */
static __attribute__((unused)) void pair_start(struct pair *pair, bool psk, const int fds[2])
{
	assert_int_equal(ring_new(&pair->ring, 64, NULL), 0);
	for (unsigned i = 0; i < 2; i++) {
		pair->tls[i] = node_of(psk ? "keys.psk" : "pki", "node");
		end_start(pair, i, fds[i], pair->tls[i], i ? NULL : "127.0.0.1");
	}
}

static __attribute__((unused)) void pair_step(struct pair *pair)
{
	assert_int_equal(ring_step(pair->ring), 0);
}

static __attribute__((unused)) void wait_ended(struct pair *pair, unsigned i)
{
	assert_int_equal(ring_run_until(pair->ring, &pair->ends[i].ended), 0);
}

static __attribute__((unused)) void run_for_ms(struct ring *ring, uint64_t ms)
{
	struct ring_op timer = {.opcode = RING_TIMER, .deadline_ns = ring_now_ns(ring) + ms * 1000000};

	ring_wait(ring, &timer);
}

static __attribute__((unused)) void end_close(struct end *end)
{
	cleanup_close(&end->plain);
	end->plain = -1;
}

static __attribute__((unused)) void pair_free(struct pair *pair)
{
	for (unsigned i = 0; i < 2; i++) {
		pair->ends[i].stream = tls_stream_free(pair->ends[i].stream, false);
		end_close(&pair->ends[i]);
		pair->tls[i] = tls_free(pair->tls[i]);
	}
	pair->ring = ring_free(pair->ring);
}
