/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Real NBD servers (nbdkit, qemu-nbd) for tests of the NBD driver: started, found by their socket, ended with
 * the test. Header only: each test program has its own copy.
 */
#pragma once

#include "base/bytes.h"
#include "base/rand.h"
#include "block/block.h"
#include "block/endpoint.h"
#include "block/open.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "own_folder.h"
#include "seed.h"
#include "shell.h"

struct world {
	struct ring *ring;
	struct block *block;
	struct error error;
	pid_t server;
	unsigned port; /* its own, of 127.0.0.1; 0: it has none */
	struct block_open_options options;
};

static __attribute__((unused)) int make_folder(void **state)
{
	signal(SIGPIPE, SIG_IGN);
	return own_folder_make(state);
}

static __attribute__((unused)) double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static __attribute__((unused)) void world_init(struct world *world)
{
	struct error error;

	*world = (struct world){.options = {.write = true}};
	assert_int_equal(ring_new(&world->ring, 64, &error), 0);
}

/* As systemd hands a socket over, from fd 3 on. */
static void world_activate(int listener)
{
	char pid[16];

	if (listener == 3)
		fcntl(3, F_SETFD, 0);
	else
		dup2(listener, 3);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "1", 1);
}

static void world_start(struct world *world, const char *line, int listener)
{
	char command[1024];

	snprintf(command, sizeof(command), "%s/s", folder);
	unlink(command);
	snprintf(command, sizeof(command), "cd %s && %s", folder, line);
	world->server = fork();
	if (world->server == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (listener >= 0)
			world_activate(listener);
		execl("/bin/sh", "sh", "-c", command, NULL);
		_exit(127);
	}
}

/* Runs a shell line in the test's folder; what it executes in the end is the server, and ends with the test.
 */
static __attribute__((unused)) void world_serve(struct world *world, const char *line)
{
	world_start(world, line, -1);
}

/* The same, and the server is given a socket that listens already: nobody else can have its port, and no connection is refused. */
static __attribute__((unused)) void world_serve_tcp(struct world *world, const char *line)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&address, length), 0);
	assert_int_equal(listen(fd, 64), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
	world->port = ntohs(address.sin_port);
	world_start(world, line, fd);
	close(fd);
}

static __attribute__((unused)) int world_try(struct world *world, const char *text)
{
	char *words[32], *copy = strdup(text), *rest = copy;
	struct endpoint endpoint;
	int count = 0, used, res;

	while (count < 32 && rest)
		words[count++] = strsep(&rest, " ");
	assert_int_equal(endpoint_parse(&endpoint, words, count, &used, &world->error), 0);
	assert_int_equal(used, count);
	res = nbd_open(&world->block, world->ring, &endpoint, &world->options, &world->error);
	endpoint_done(&endpoint);
	free(copy);
	return res;
}

/* Opens an endpoint; a server that has just been started gets some time. "@" stands for the socket in the
 * folder, PORT for the server's. */
static __attribute__((unused)) int world_open(struct world *world, const char *text)
{
	const char *mark = strstr(text, "PORT");
	char full[512], path[96];
	int res = 0;

	snprintf(full, sizeof(full), "%s", text);
	if (mark)
		snprintf(full, sizeof(full), "%.*s%u%s", (int)(mark - text), text, world->port, mark + 4);
	if (strcmp(text, "@") == 0) {
		snprintf(path, sizeof(path), "%s/s", folder);
		snprintf(full, sizeof(full), "nbd+unix:///?socket=%s", path);
		for (int i = 0; i < 1500 && access(path, F_OK) < 0; i++)
			usleep(20000);
	}
	for (int i = 0; i < 400; i++) {
		res = world_try(world, full);
		if (res == 0 || world->port || !strstr(world->error.text, "refused"))
			break;
		usleep(50000);
	}
	return res;
}

static __attribute__((unused)) void world_must_open(struct world *world, const char *text)
{
	if (world_open(world, text) < 0)
		fail_msg("cannot open %s: %s", text, world->error.text);
}

static __attribute__((unused)) void world_end_server(struct world *world)
{
	if (world->server <= 0)
		return;
	kill(world->server, SIGCONT);
	kill(world->server, SIGTERM);
	waitpid(world->server, NULL, 0);
	world->server = 0;
}

static __attribute__((unused)) void world_done(struct world *world)
{
	world->block = block_free(world->block);
	world->ring = ring_free(world->ring);
	world_end_server(world);
}

static __attribute__((unused)) int wait_op(
    struct world *world, enum block_op op, uint64_t offset, uint64_t length, void *buf)
{
	struct block_io io = {.op = op, .offset = offset, .length = length, .buf = buf};

	return block_wait(world->block, &io);
}

/* Many requests at once. */
struct batch {
	struct block_io io;
	int res;
	bool done;
	unsigned *left;
};

static __attribute__((unused)) void batch_done(struct block_io *io, int res)
{
	struct batch *batch = io->user;

	assert_false(batch->done);
	batch->done = true;
	batch->res = res;
	(*batch->left)--;
}

static __attribute__((unused)) void batch_submit(struct world *world, struct batch *batch, enum block_op op,
    uint64_t offset, uint64_t length, void *buf, unsigned *left)
{
	*batch = (struct batch){.left = left};
	batch->io = (struct block_io){
	    .op = op, .offset = offset, .length = length, .buf = buf, .done = batch_done, .user = batch};
	(*left)++;
	block_submit(world->block, &batch->io);
	assert_false(batch->done);
}

static __attribute__((unused)) void batch_run(struct world *world, const unsigned *left)
{
	while (*left > 0)
		assert_int_equal(world->ring->ops->step(world->ring), 0);
}
