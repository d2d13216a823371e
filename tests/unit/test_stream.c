/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The stream driver over pipes and files: order, the end of the input, a closed reader, non-blocking
 * descriptors. */
#include "base/cleanup.h"
#include "block/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define COUNT 40

struct request {
	struct block_io io;
	char data[8192];
	int res;
	bool done;
	unsigned *left;
};

static void request_done(struct block_io *io, int res)
{
	struct request *request = io->user;

	assert_false(request->done);
	request->done = true;
	request->res = res;
	(*request->left)--;
}

static void submit(struct block *block, struct request *request, enum block_op op, uint64_t offset,
    uint64_t length, unsigned *left)
{
	request->io = (struct block_io){.op = op,
	    .offset = offset,
	    .length = length,
	    .buf = request->data,
	    .done = request_done,
	    .user = request};
	request->done = false;
	request->left = left;
	(*left)++;
	block_submit(block, &request->io);
	assert_false(request->done);
}

static void run(struct ring *ring, const unsigned *left)
{
	while (*left > 0)
		assert_int_equal(ring->ops->step(ring), 0);
}

struct world {
	struct ring *ring;
	struct block *block;
	int fds[2];
	struct request requests[COUNT];
	unsigned left;
};

static void world_open(struct world *world, bool write, int pipe_flags)
{
	struct error error;

	assert_int_equal(pipe2(world->fds, O_CLOEXEC | pipe_flags), 0);
	assert_int_equal(ring_new(&world->ring, 64, &error), 0);
	assert_int_equal(stream_new(&world->block, world->ring, world->fds[write], write, "-", &error), 0);
	assert_true(block_info(world->block)->stream);
	assert_false(block_info(world->block)->zeroed);
	world->left = 0;
}

static void world_close(struct world *world)
{
	block_free(world->block);
	ring_free(world->ring);
	cleanup_close(&world->fds[0]);
	cleanup_close(&world->fds[1]);
}

static char pattern(uint64_t offset)
{
	return (char)(1 + (offset * 2654435761u >> 16) % 250);
}

struct reader {
	int fd;
	char *data;
	size_t length, got;
	unsigned nap_us;
};

static void *reader_run(void *data)
{
	struct reader *reader = data;
	ssize_t res;

	usleep(reader->nap_us);
	while (reader->got < reader->length) {
		res = read(reader->fd, reader->data + reader->got, reader->length - reader->got);
		if (res == 0 || (res < 0 && errno != EAGAIN))
			break;
		if (res > 0)
			reader->got += (size_t)res;
	}
	return NULL;
}

/* Writes and zeroes are submitted in a shuffled order; what comes out is in order of the offset. */
static void check_output_order(int pipe_flags)
{
	static struct world world;
	static char got[COUNT * 5000];
	struct reader reader = {.data = got, .length = sizeof(got), .nap_us = 20000};
	pthread_t thread;

	world_open(&world, true, pipe_flags);
	reader.fd = world.fds[0];
	assert_int_equal(pthread_create(&thread, NULL, reader_run, &reader), 0);
	for (unsigned i = 0; i < COUNT; i++) {
		unsigned piece = i * 27 % COUNT; /* 27 and 40 have no common divisor */
		struct request *request = &world.requests[piece];

		for (unsigned at = 0; at < 5000; at++)
			request->data[at] = pattern(piece * 5000 + at);
		submit(world.block, request, piece % 4 == 3 ? BLOCK_ZERO : BLOCK_WRITE, piece * 5000, 5000,
		    &world.left);
	}
	run(world.ring, &world.left);
	for (unsigned i = 0; i < COUNT; i++)
		assert_int_equal(world.requests[i].res, 0);
	submit(world.block, &world.requests[0], BLOCK_FLUSH, 0, 0, &world.left);
	run(world.ring, &world.left);
	assert_int_equal(world.requests[0].res, 0);
	pthread_join(thread, NULL);
	assert_int_equal(reader.got, sizeof(got));
	for (size_t i = 0; i < sizeof(got); i++)
		assert_int_equal(got[i], i / 5000 % 4 == 3 ? 0 : pattern(i));
	world_close(&world);
}

static void test_output_is_in_order(void **state)
{
	check_output_order(0);
}

static void test_output_to_a_nonblocking_pipe(void **state)
{
	check_output_order(O_NONBLOCK);
}

static void test_long_zero(void **state)
{
	static struct world world;
	static char got[3 << 20];
	struct reader reader = {.data = got, .length = sizeof(got)};
	pthread_t thread;

	memset(got, 'x', sizeof(got));
	world_open(&world, true, 0);
	reader.fd = world.fds[0];
	assert_int_equal(pthread_create(&thread, NULL, reader_run, &reader), 0);
	submit(world.block, &world.requests[0], BLOCK_ZERO, 0, sizeof(got) - 1, &world.left);
	world.requests[1].data[0] = 'e';
	submit(world.block, &world.requests[1], BLOCK_WRITE, sizeof(got) - 1, 1, &world.left);
	run(world.ring, &world.left);
	pthread_join(thread, NULL);
	for (size_t i = 0; i < sizeof(got); i++)
		assert_int_equal(got[i], i == sizeof(got) - 1 ? 'e' : 0);
	world_close(&world);
}

static void test_closed_output_fails_all(void **state)
{
	static struct world world;

	world_open(&world, true, 0);
	close(world.fds[0]);
	world.fds[0] = -1;
	submit(world.block, &world.requests[1], BLOCK_WRITE, 100, 100, &world.left);
	submit(world.block, &world.requests[0], BLOCK_WRITE, 0, 100, &world.left);
	submit(world.block, &world.requests[2], BLOCK_WRITE, 5000, 100, &world.left);
	run(world.ring, &world.left);
	for (int i = 0; i < 3; i++)
		assert_int_equal(world.requests[i].res, -EPIPE);
	submit(world.block, &world.requests[0], BLOCK_FLUSH, 0, 0, &world.left);
	run(world.ring, &world.left);
	assert_int_equal(world.requests[0].res, -EPIPE);
	world_close(&world);
}

static void test_overlap_is_refused(void **state)
{
	static struct world world;

	world_open(&world, true, 0);
	submit(world.block, &world.requests[0], BLOCK_WRITE, 0, 100, &world.left);
	run(world.ring, &world.left);
	submit(world.block, &world.requests[1], BLOCK_WRITE, 50, 100, &world.left);
	submit(world.block, &world.requests[2], BLOCK_READ, 0, 100, &world.left);
	run(world.ring, &world.left);
	assert_int_equal(world.requests[0].res, 0);
	assert_int_equal(world.requests[1].res, -EINVAL);
	assert_int_equal(world.requests[2].res, -EOPNOTSUPP);
	world_close(&world);
}

struct writer {
	int fd;
	size_t length;
};

/* Gives the input in pieces of odd sizes. */
static void *writer_run(void *data)
{
	struct writer *writer = data;
	char piece[977];

	for (size_t at = 0; at < writer->length;) {
		size_t length = writer->length - at < sizeof(piece) ? writer->length - at : sizeof(piece);
		ssize_t res;

		for (size_t i = 0; i < length; i++)
			piece[i] = pattern(at + i);
		res = write(writer->fd, piece, length);
		if (res > 0)
			at += (size_t)res;
		if (at % 5 == 0)
			usleep(500);
	}
	close(writer->fd);
	return NULL;
}

/* 8,192-byte reads in a shuffled order over an input that ends in the middle of the fourth. */
static void check_input(int pipe_flags)
{
	static struct world world;
	struct writer writer = {.length = 3 * 8192 + 1234};
	static const int order[] = {2, 0, 5, 1, 4, 3};
	pthread_t thread;

	world_open(&world, false, pipe_flags);
	writer.fd = dup(world.fds[1]);
	close(world.fds[1]);
	world.fds[1] = -1;
	for (int i = 0; i < 6; i++)
		submit(world.block, &world.requests[order[i]], BLOCK_READ, (uint64_t)order[i] * 8192, 8192,
		    &world.left);
	assert_int_equal(pthread_create(&thread, NULL, writer_run, &writer), 0);
	run(world.ring, &world.left);
	pthread_join(thread, NULL);
	for (int i = 0; i < 6; i++) {
		int expected = i < 3 ? 8192 : i == 3 ? 1234 : 0;

		assert_int_equal(world.requests[i].res, expected);
		for (int at = 0; at < expected; at++)
			assert_int_equal(world.requests[i].data[at], pattern((uint64_t)(i * 8192 + at)));
	}
	submit(world.block, &world.requests[0], BLOCK_READ, 3 * 8192 + 1234, 10, &world.left);
	submit(world.block, &world.requests[1], BLOCK_WRITE, 0, 10, &world.left);
	run(world.ring, &world.left);
	assert_int_equal(world.requests[0].res, 0);
	assert_int_equal(world.requests[1].res, -EROFS);
	world_close(&world);
}

static void test_input_until_its_end(void **state)
{
	check_input(0);
}

static void test_input_from_a_nonblocking_pipe(void **state)
{
	check_input(O_NONBLOCK);
}

static void test_empty_input(void **state)
{
	static struct world world;

	world_open(&world, false, 0);
	close(world.fds[1]);
	world.fds[1] = -1;
	submit(world.block, &world.requests[0], BLOCK_READ, 0, 8192, &world.left);
	run(world.ring, &world.left);
	assert_int_equal(world.requests[0].res, 0);
	world_close(&world);
}

/* A file keeps its position: what was in it before stays, and what is read begins where the file stood. */
static void test_files(void **state)
{
	static struct world world;
	char got[16] = "";
	FILE *file = tmpfile();
	int fd = fileno(file);
	struct error error;
	struct block *block;

	assert_int_equal(write(fd, "before", 6), 6);
	world_open(&world, true, 0);
	assert_int_equal(stream_new(&block, world.ring, fd, true, "-", &error), 0);
	memcpy(world.requests[0].data, "after", 5);
	submit(block, &world.requests[0], BLOCK_WRITE, 0, 5, &world.left);
	submit(block, &world.requests[1], BLOCK_FLUSH, 0, 0, &world.left);
	run(world.ring, &world.left);
	assert_int_equal(world.requests[1].res, 0);
	block_free(block);
	assert_int_equal(pread(fd, got, 16, 0), 11);
	assert_memory_equal(got, "beforeafter", 11);
	lseek(fd, 3, SEEK_SET);
	assert_int_equal(stream_new(&block, world.ring, fd, false, "-", &error), 0);
	submit(block, &world.requests[0], BLOCK_READ, 0, 100, &world.left);
	run(world.ring, &world.left);
	assert_int_equal(world.requests[0].res, 8);
	assert_memory_equal(world.requests[0].data, "oreafter", 8);
	block_free(block);
	fclose(file);
	world_close(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_output_is_in_order),
	    cmocka_unit_test(test_output_to_a_nonblocking_pipe),
	    cmocka_unit_test(test_long_zero),
	    cmocka_unit_test(test_closed_output_fails_all),
	    cmocka_unit_test(test_overlap_is_refused),
	    cmocka_unit_test(test_input_until_its_end),
	    cmocka_unit_test(test_input_from_a_nonblocking_pipe),
	    cmocka_unit_test(test_empty_input),
	    cmocka_unit_test(test_files),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
