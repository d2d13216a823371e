/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An NBD server in a thread of its own over a unix socket, and a client by hand for tests: whatever bytes it likes. Header only:
 * each test program has its own copy.
 */
#pragma once

#include "base/bytes.h"
#include "block/memory.h"
#include "export/nbd_protocol.h"
#include "export/nbd_server.h"
#include "filter/delay.h"
#include "filter/fault.h"
#include "filter/powercut.h"
#include "filter/share.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define HOST_SIZE 1000003u

struct host {
	/* set before host_start() */
	struct nbd_server_options options;
	struct memory_options memory_options;
	struct delay_options delay;         /* max_ns 0: none */
	struct fault_rule fault;            /* result 0: none */
	uint64_t size;                      /* 0: HOST_SIZE */
	uint64_t shown;                     /* 0: all of it; clients have only so much, until host_grow() */
	void (*wrap)(struct block **block); /* NULL, or puts something of the test's own above */
	bool read_only, two_exports;
	unsigned patience_ms; /* of the stop */
	uint64_t power_seed;  /* not 0: ends by a power cut instead, and what was left is in `left` */

	/* the server's thread until host_stop() */
	pthread_t thread;
	int control[2]; /* a byte: stop */
	char path[64];
	struct ring *ring;
	struct block *memory, *block, *second;
	struct nbd_server *server;
	volatile unsigned clients, failed;
	volatile uint64_t answered;
	int stop_res;
	uint8_t left[65536];
	struct error error;
};

static void host_clients_changed(void *data, unsigned count)
{
	((struct host *)data)->clients = count;
}

static void host_client_failed(void *data, const struct error *why)
{
	struct host *host = data;

	host->failed++;
	host->error = *why;
}

static void host_answered(void *data, enum block_op op, uint64_t length, int res, uint64_t ns)
{
	((struct host *)data)->answered++;
}

static int host_listen(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 64) < 0)
		abort();
	return fd;
}

static void host_open(struct host *host)
{
	struct nbd_export export = {.name = "disk", .description = "a disk", .read_only = host->read_only};

	if (memory_new(&host->memory, host->ring, host->size ? host->size : HOST_SIZE, &host->memory_options,
	        NULL) < 0)
		abort();
	host->block = host->memory;
	if (host->shown && share_new(&host->block, host->memory, host->shown, NULL) < 0)
		abort();
	if (host->power_seed && powercut_new(&host->block, host->memory, host->power_seed, NULL) < 0)
		abort();
	if (host->fault.result && fault_new(&host->block, host->block, 1, NULL) == 0)
		fault_add(host->block, &host->fault);
	if (host->delay.max_ns && delay_new(&host->block, host->block, &host->delay, NULL) < 0)
		abort();
	if (host->wrap)
		host->wrap(&host->block);
	export.block = host->block;
	if (nbd_server_add(host->server, &export, NULL) < 0)
		abort();
	if (!host->two_exports)
		return;
	if (memory_new(&host->second, host->ring, 4096, NULL, NULL) < 0)
		abort();
	export = (struct nbd_export){.name = "second", .block = host->second};
	if (nbd_server_add(host->server, &export, NULL) < 0)
		abort();
}

static void *host_run(void *data)
{
	struct host *host = data;
	struct ring_op wait = {.opcode = RING_READ, .offset = RING_STREAM, .length = 1};
	char byte;

	host->options.data = host;
	host->options.clients_changed = host_clients_changed;
	host->options.client_failed = host_client_failed;
	host->options.answered = host_answered;
	if (ring_new(&host->ring, 256, NULL) < 0 ||
	    nbd_server_new(&host->server, host->ring, &host->options, NULL) < 0)
		abort();
	host_open(host);
	if (nbd_server_listen(host->server, host_listen(host->path), NULL) < 0)
		abort();
	if (write(host->control[1], "r", 1) != 1)
		abort();
	wait.fd = host->control[1];
	wait.buf = &byte;
	while (ring_wait(host->ring, &wait) == 1 && byte != 's') {
		if (byte == 'x')
			nbd_server_remove(host->server, "disk", host->patience_ms);
		else
			share_measure(host->block, block_info(host->memory)->size);
		if (write(host->control[1], "r", 1) != 1)
			abort();
	}
	if (!host->power_seed)
		host->stop_res = nbd_server_stop(host->server, host->patience_ms, &host->error);
	nbd_server_free(host->server);
	if (host->power_seed) {
		powercut_cut(host->block);
		memory_peek(host->memory, 0, host->left, sizeof(host->left));
	}
	block_free(host->block);
	if (host->shown)
		block_free(host->memory);
	block_free(host->second);
	ring_free(host->ring);
	return NULL;
}

static __attribute__((unused)) void host_start(struct host *host)
{
	char byte;

	snprintf(host->path, sizeof(host->path), "/var/tmp/blkmove-host-%d.sock", (int)getpid());
	unlink(host->path);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, host->control), 0);
	assert_int_equal(pthread_create(&host->thread, NULL, host_run, host), 0);
	assert_int_equal(read(host->control[0], &byte, 1), 1);
}

static __attribute__((unused)) void host_tell(struct host *host, char what)
{
	char byte;

	assert_int_equal(write(host->control[0], &what, 1), 1);
	assert_int_equal(read(host->control[0], &byte, 1), 1);
}

/* Takes the first export away. */
static __attribute__((unused)) void host_remove(struct host *host)
{
	host_tell(host, 'x');
}

/* It has all of its size by now. */
static __attribute__((unused)) void host_grow(struct host *host)
{
	host_tell(host, 'g');
}

/* No request may be left under way; ends the server as it would end in the program. */
static __attribute__((unused)) void host_stop(struct host *host)
{
	assert_int_equal(write(host->control[0], "s", 1), 1);
	assert_int_equal(pthread_join(host->thread, NULL), 0);
	close(host->control[0]);
	close(host->control[1]);
	unlink(host->path);
}

static __attribute__((unused)) void wait_for_clients(struct host *host, unsigned count)
{
	for (int i = 0; i < 5000 && host->clients != count; i++)
		usleep(1000);
	assert_int_equal(host->clients, count);
}

/* The client */

static __attribute__((unused)) int dial(struct host *host)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", host->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static __attribute__((unused)) void put(int fd, const void *data, size_t length)
{
	assert_int_equal(send(fd, data, length, MSG_NOSIGNAL), length);
}

static __attribute__((unused)) void get(int fd, void *data, size_t length)
{
	for (size_t have = 0; have < length;) {
		struct pollfd poll_for = {.fd = fd, .events = POLLIN};
		ssize_t res;

		if (poll(&poll_for, 1, 20000) != 1)
			fail_msg("the server says nothing");
		res = read(fd, (char *)data + have, length - have);
		if (res <= 0)
			fail_msg("the server closed the link %zu bytes early", length - have);
		have += (size_t)res;
	}
}

/* The server ends the link, whatever it still sends. */
static __attribute__((unused)) void expect_end(int fd)
{
	char rest[4096];
	ssize_t res;

	do {
		struct pollfd poll_for = {.fd = fd, .events = POLLIN};

		if (poll(&poll_for, 1, 20000) != 1)
			fail_msg("the server keeps the link");
		res = read(fd, rest, sizeof(rest));
	} while (res > 0);
	close(fd);
}

static __attribute__((unused)) int greet(struct host *host)
{
	uint8_t greeting[NBD_GREETING_BYTES], flags[4];
	int fd = dial(host);

	get(fd, greeting, sizeof(greeting));
	assert_memory_equal(greeting, "NBDMAGICIHAVEOPT", 16);
	put_be32(flags, 3);
	put(fd, flags, sizeof(flags));
	return fd;
}

static __attribute__((unused)) void send_option(int fd, uint32_t type, const void *data, uint32_t length)
{
	uint8_t head[16];

	memcpy(head, "IHAVEOPT", 8);
	put_be32(head + 8, type);
	put_be32(head + 12, length);
	put(fd, head, sizeof(head));
	if (length)
		put(fd, data, length);
}

/* Reads one answer; returns its type. Its data go to `data`, at most 4096 bytes. */
static __attribute__((unused)) uint32_t get_answer(int fd, uint32_t option, void *data, uint32_t *ret_length)
{
	uint8_t head[20], dummy[4096];
	uint32_t length;

	get(fd, head, sizeof(head));
	assert_int_equal(get_be64(head), UINT64_C(0x3e889045565a9));
	assert_int_equal(get_be32(head + 8), option);
	length = get_be32(head + 16);
	assert_in_range(length, 0, 4096);
	get(fd, data ? data : dummy, length);
	if (ret_length)
		*ret_length = length;
	return get_be32(head + 12);
}

static __attribute__((unused)) uint32_t ask(int fd, uint32_t type, const void *data, uint32_t length)
{
	send_option(fd, type, data, length);
	return get_answer(fd, type, NULL, NULL);
}

/* Into transmission, with structured replies and base:allocation when asked. Returns the export's flags. */
static __attribute__((unused)) uint16_t go(int fd, bool structured)
{
	static const char meta[] = "\0\0\0\4disk\0\0\0\1\0\0\0\17base:allocation";
	uint8_t data[4096];
	uint16_t flags = 0;

	if (structured) {
		assert_int_equal(ask(fd, NBD_OPTION_STRUCTURED_REPLY, NULL, 0), NBD_ANSWER_ACK);
		assert_int_equal(
		    ask(fd, NBD_OPTION_SET_META_CONTEXT, meta, sizeof(meta) - 1), NBD_ANSWER_META_CONTEXT);
		assert_int_equal(get_answer(fd, NBD_OPTION_SET_META_CONTEXT, NULL, NULL), NBD_ANSWER_ACK);
	}
	send_option(fd, NBD_OPTION_GO, "\0\0\0\4disk\0\0", 10);
	while (get_answer(fd, NBD_OPTION_GO, data, NULL) == NBD_ANSWER_INFO)
		if (get_be16(data) == NBD_INFO_EXPORT)
			flags = get_be16(data + 10);
	assert_true(flags & NBD_EXPORT_HAS_FLAGS);
	return flags;
}

static __attribute__((unused)) int enter(struct host *host, bool structured)
{
	int fd = greet(host);

	go(fd, structured);
	return fd;
}

static __attribute__((unused)) void request(
    int fd, uint16_t type, uint16_t flags, uint64_t cookie, uint64_t offset, uint32_t length)
{
	uint8_t bytes[NBD_REQUEST_BYTES];

	put_be32(bytes, 0x25609513);
	put_be16(bytes + 4, flags);
	put_be16(bytes + 6, type);
	put_be64(bytes + 8, cookie);
	put_be64(bytes + 16, offset);
	put_be32(bytes + 24, length);
	put(fd, bytes, sizeof(bytes));
}

/* A simple reply; returns the protocol's error number. */
static __attribute__((unused)) uint32_t reply(int fd, uint64_t *ret_cookie)
{
	uint8_t bytes[16];

	get(fd, bytes, sizeof(bytes));
	assert_int_equal(get_be32(bytes), 0x67446698);
	if (ret_cookie)
		*ret_cookie = get_be64(bytes + 8);
	return get_be32(bytes + 4);
}

/* Request and simple reply. */
static __attribute__((unused)) uint32_t call(
    int fd, uint16_t type, uint16_t flags, uint64_t offset, uint32_t length, void *data)
{
	uint64_t cookie = 0;
	uint32_t error;

	request(fd, type, flags, 77, offset, length);
	if (type == NBD_COMMAND_WRITE)
		put(fd, data, length);
	error = reply(fd, &cookie);
	assert_int_equal(cookie, 77);
	if (type == NBD_COMMAND_READ && error == 0)
		get(fd, data, length);
	return error;
}
