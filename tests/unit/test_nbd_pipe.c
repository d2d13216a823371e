/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Long reads and writes through pipes: a volume that fills or empties them, one that fails in the middle, one that cannot after all;
 * clients that do not take what they asked for, or send it in crumbs, or a part of it. (Real files: tests/interop.)
 */
#include "base/rand.h"
#include "export/nbd_pipe.h"
#include "filter/filter.h"

#include "nbd_host.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>

#define SIZE (8u << 20)
#define MIB  (1u << 20)

enum how {
	HOW_FILL,
	HOW_FAIL_ONCE, /* -EIO, with something in the pipe */
	HOW_CANNOT,
};

/* Of the one server that there is at a time; read when it has ended. */
static struct {
	enum how how;
	unsigned piped, plain; /* long reads */
	unsigned piped_writes, plain_writes, wrong;
} volume;

static uint8_t byte_at(uint64_t offset)
{
	return (uint8_t)(offset ^ offset >> 8 ^ offset >> 16);
}

static int fill_pipe(int fd, uint64_t offset, uint64_t length)
{
	uint8_t *bytes = malloc(length);
	ssize_t res;

	assert_non_null(bytes);
	for (uint64_t i = 0; i < length; i++)
		bytes[i] = byte_at(offset + i);
	res = write(fd, bytes, length);
	free(bytes);
	return res == (ssize_t)length ? 0 : -EPROTO;
}

/* All of it must be there, and nothing else. */
static int take_pipe(const struct block_io *io)
{
	uint8_t *bytes = malloc(io->length);
	int have = 0;

	assert_non_null(bytes);
	volume.wrong +=
	    ioctl(io->pipe_fd, FIONREAD, &have) < 0 || (uint64_t)have != io->length || io->flags & BLOCK_FUA;
	for (uint64_t got = 0; got < (uint64_t)have;) {
		ssize_t res = read(io->pipe_fd, bytes + got, (uint64_t)have - got);

		if (res <= 0)
			break;
		got += (uint64_t)res;
	}
	for (uint64_t i = 0; i < io->length; i++)
		volume.wrong += bytes[i] != byte_at(io->offset + i);
	free(bytes);
	return 0;
}

static void piping_write(struct block *block, struct block_io *io)
{
	char some[100];
	int res = 0;

	if (!(io->flags & BLOCK_PIPE)) {
		volume.plain_writes++;
		filter_forward(filter_of(block), io);
		return;
	}
	volume.piped_writes++;
	if (volume.how == HOW_CANNOT) {
		res = -EOPNOTSUPP;
	} else if (volume.how == HOW_FAIL_ONCE) {
		volume.how = HOW_FILL;
		res = read(io->pipe_fd, some, sizeof(some)) == sizeof(some) ? -ENOSPC : -EPROTO;
	} else {
		res = take_pipe(io);
	}
	block_complete_later(block, io, res);
}

static void piping_submit(struct block *block, struct block_io *io)
{
	int res;

	if (io->op == BLOCK_WRITE) {
		piping_write(block, io);
		return;
	}
	if (io->op != BLOCK_READ || !(io->flags & BLOCK_PIPE)) {
		volume.plain += io->op == BLOCK_READ && io->length >= 65536;
		filter_forward(filter_of(block), io);
		return;
	}
	volume.piped++;
	if (volume.how == HOW_CANNOT) {
		res = -EOPNOTSUPP;
	} else if (volume.how == HOW_FAIL_ONCE) {
		volume.how = HOW_FILL;
		res = write(io->pipe_fd, "not what was asked for", 22) == 22 ? -EIO : -EPROTO;
	} else {
		res = fill_pipe(io->pipe_fd, io->offset, io->length);
	}
	block_complete_later(block, io, res);
}

static bool piping_takes_pipe(const struct block *block, enum block_op op)
{
	return true;
}

static void piping_free(struct block *block)
{
	filter_done(filter_of(block));
	free(filter_of(block));
}

static const struct block_driver piping = {
    .name = "piping",
    .submit = piping_submit,
    .takes_pipe = piping_takes_pipe,
    .facts = filter_facts,
    .free = piping_free,
};

static void wrap(struct block **block)
{
	struct filter *filter = calloc(1, sizeof(*filter));

	assert_non_null(filter);
	filter_init(filter, &piping, *block);
	*block = &filter->block;
}

static int begin(struct host *host, enum how how)
{
	uint8_t *bytes = malloc(SIZE);
	int fd;

	assert_non_null(bytes);
	memset(&volume, 0, sizeof(volume));
	volume.how = how;
	host->size = SIZE;
	host->wrap = wrap;
	host_start(host);
	fd = enter(host, false);
	for (unsigned i = 0; i < SIZE; i++)
		bytes[i] = byte_at(i);
	assert_int_equal(call(fd, NBD_COMMAND_WRITE, 0, 0, SIZE, bytes), 0);
	free(bytes);
	volume.plain_writes = 0;
	return fd;
}

static void check(const uint8_t *bytes, uint64_t offset, uint32_t length)
{
	for (uint32_t i = 0; i < length; i++)
		if (bytes[i] != byte_at(offset + i))
			fail_msg("byte %u of %u at %llu is wrong", i, length, (unsigned long long)offset);
}

static void test_what_fits(void **state)
{
	assert_true(nbd_pipe_fits(0, MIB));
	assert_true(nbd_pipe_fits(4096 * 3, MIB));
	assert_false(nbd_pipe_fits(4096 * 3, MIB + 1));
	/* A part of a page takes a page of the pipe. */
	assert_false(nbd_pipe_fits(512, MIB));
	assert_true(nbd_pipe_fits(512, MIB - 512));
	assert_false(nbd_pipe_fits(4095, MIB - 4094));
	assert_false(nbd_pipe_fits(0, UINT64_MAX));
}

static void test_kept_and_bounded(void **state)
{
	struct nbd_pipe *taken[NBD_PIPES_MAX], *first;
	struct nbd_pipes pipes;

	nbd_pipes_init(&pipes);
	first = nbd_pipes_get(&pipes);
	if (!first) {
		print_message("skipped: no pipe of 1 MiB for this user now\n");
		skip();
	}
	first->empty = true;
	nbd_pipes_put(&pipes, first);
	assert_ptr_equal(nbd_pipes_get(&pipes), first);
	assert_false(first->empty);
	/* One that still has something in it is not for anybody else. */
	nbd_pipes_put(&pipes, first);
	assert_int_equal(pipes.count, 0);
	for (unsigned i = 0; i < NBD_PIPES_MAX; i++) {
		taken[i] = nbd_pipes_get(&pipes);
		assert_non_null(taken[i]);
	}
	assert_null(nbd_pipes_get(&pipes));
	for (unsigned i = 0; i < NBD_PIPES_MAX; i++) {
		taken[i]->empty = true;
		nbd_pipes_put(&pipes, taken[i]);
	}
	assert_int_equal(pipes.count, NBD_PIPES_MAX);
	nbd_pipes_done(&pipes);
	assert_int_equal(pipes.count, 0);
}

#define FLIGHT 60u

/* Long and short reads at once, in one stream of replies, simple and structured. */
static void test_long_reads_among_short_ones(void **state)
{
	struct host host = {0};
	struct {
		uint64_t offset;
		uint32_t length;
	} asked[FLIGHT];
	uint8_t *bytes = malloc(MIB);
	struct rand rand;
	int fd = begin(&host, HOW_FILL);

	assert_non_null(bytes);
	rand_init(&rand, 5);
	for (unsigned i = 0; i < FLIGHT; i++) {
		asked[i].length =
		    (uint32_t)(i % 3 ? rand_between(&rand, 65536, MIB) : rand_between(&rand, 1, 65535));
		asked[i].offset = rand_below(&rand, SIZE - asked[i].length);
		request(fd, NBD_COMMAND_READ, 0, i, asked[i].offset, asked[i].length);
	}
	for (unsigned i = 0; i < FLIGHT; i++) {
		uint64_t cookie;

		assert_int_equal(reply(fd, &cookie), 0);
		assert_true(cookie < FLIGHT);
		get(fd, bytes, asked[cookie].length);
		check(bytes, asked[cookie].offset, asked[cookie].length);
	}
	close(fd);
	host_stop(&host);
	assert_true(volume.piped > FLIGHT / 3);
	assert_int_equal(host.failed, 0);
	free(bytes);
}

/* What a failed read has left in its pipe, no other reply brings. */
static void test_h30_error_in_the_middle(void **state)
{
	struct host host = {0};
	uint8_t *bytes = malloc(MIB);
	int fd = begin(&host, HOW_FAIL_ONCE);

	assert_non_null(bytes);
	assert_int_equal(call(fd, NBD_COMMAND_READ, 0, 0, MIB, bytes), 5);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(call(fd, NBD_COMMAND_READ, 0, 70000 * i, 100000, bytes), 0);
		check(bytes, 70000 * i, 100000);
	}
	close(fd);
	host_stop(&host);
	assert_int_equal(volume.piped, 4);
	free(bytes);
}

static void test_cannot_after_all(void **state)
{
	struct host host = {0};
	uint8_t *bytes = malloc(MIB);
	int fd = begin(&host, HOW_CANNOT);

	assert_non_null(bytes);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(call(fd, NBD_COMMAND_READ, 0, 4096 * i, MIB, bytes), 0);
		check(bytes, 4096 * i, MIB);
	}
	close(fd);
	host_stop(&host);
	assert_int_equal(volume.piped, 1);
	assert_int_equal(volume.plain, 3);
	free(bytes);
}

/* Clients that ask for much and take nothing, or a part, and go: nothing of theirs stays, others are served. */
static void test_clients_that_go(void **state)
{
	struct host host = {0};
	uint8_t *bytes = malloc(MIB);
	int fd = begin(&host, HOW_FILL);

	assert_non_null(bytes);
	for (unsigned i = 0; i < 8; i++) {
		int other = enter(&host, false);

		for (unsigned k = 0; k < 6; k++)
			request(other, NBD_COMMAND_READ, 0, k, k * MIB, MIB);
		if (i % 2) {
			assert_int_equal(reply(other, NULL), 0);
			get(other, bytes, 100001);
		}
		assert_int_equal(call(fd, NBD_COMMAND_READ, 0, 777, 200000, bytes), 0);
		check(bytes, 777, 200000);
		if (i < 6)
			close(other);
	}
	close(fd);
	wait_for_clients(&host, 2);
	/* Two stay, and take nothing: the stop cuts them off. */
	host_stop(&host);
	assert_true(volume.piped > 8);
	free(bytes);
}

/* Bytes of the pattern; the caller's to free. */
static uint8_t *pattern(uint64_t offset, uint32_t length)
{
	uint8_t *bytes = malloc(length);

	assert_non_null(bytes);
	for (uint32_t i = 0; i < length; i++)
		bytes[i] = byte_at(offset + i);
	return bytes;
}

static void must_write(int fd, uint16_t flags, uint64_t offset, uint32_t length)
{
	uint8_t *bytes = pattern(offset, length);

	assert_int_equal(call(fd, NBD_COMMAND_WRITE, flags, offset, length, bytes), 0);
	free(bytes);
}

/* Odd sizes and places, with short ones between them; what must be on stable storage, or is too long, has a buffer. */
static void test_long_writes(void **state)
{
	struct host host = {0};
	struct rand rand;
	int fd = begin(&host, HOW_FILL);

	rand_init(&rand, 7);
	for (unsigned i = 0; i < 40; i++) {
		uint32_t length = (uint32_t)rand_between(&rand, 131073, MIB - 4096);

		must_write(fd, 0, rand_below(&rand, SIZE - length), length);
		if (i % 8 == 7)
			must_write(fd, 0, 4099 * i, 1 + 511 * i);
	}
	/* The read behind a short one may take a part of the payload, and then it has a buffer. */
	assert_true(volume.piped_writes >= 36);
	assert_int_equal(volume.piped_writes + volume.plain_writes, 45);
	must_write(fd, 0, 4096, MIB);
	volume.piped_writes = volume.plain_writes = 0;
	must_write(fd, NBD_FLAG_FUA, 4096, 300000);
	must_write(fd, 0, 4096, MIB + 1);
	assert_int_equal(volume.plain_writes, 2);
	must_write(fd, 0, 4096, MIB);
	assert_int_equal(volume.piped_writes, 1);
	close(fd);
	host_stop(&host);
	assert_int_equal(volume.wrong, 0);
	assert_int_equal(host.failed, 0);
}

/* A full disk: the client is told, and what was left in the pipe goes nowhere. */
static void test_write_error_in_the_middle(void **state)
{
	struct host host = {0};
	int fd = begin(&host, HOW_FAIL_ONCE);
	uint8_t *bytes = pattern(512, MIB - 512);

	assert_int_equal(call(fd, NBD_COMMAND_WRITE, 0, 512, MIB - 512, bytes), 28);
	for (unsigned i = 0; i < 3; i++)
		must_write(fd, 0, 70000 * i, 200000);
	close(fd);
	host_stop(&host);
	assert_int_equal(volume.piped_writes, 4);
	assert_int_equal(volume.wrong, 0);
	free(bytes);
}

static void test_cannot_write_after_all(void **state)
{
	struct host host = {0};
	uint8_t *bytes = calloc(1, MIB);
	int fd = begin(&host, HOW_CANNOT);

	assert_non_null(bytes);
	memset(bytes, 0xaa, MIB);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(call(fd, NBD_COMMAND_WRITE, 0, MIB * i, MIB, bytes), 0);
		memset(bytes, 0, MIB);
		assert_int_equal(call(fd, NBD_COMMAND_READ, 0, MIB * i, MIB, bytes), 0);
		for (unsigned k = 0; k < MIB; k++)
			if (bytes[k] != 0xaa)
				fail_msg("byte %u of write %u is wrong", k, i);
	}
	close(fd);
	host_stop(&host);
	assert_int_equal(volume.piped_writes, 1);
	assert_int_equal(volume.plain_writes, 3);
	free(bytes);
}

/* A payload that does not come whole is not written, neither through a pipe nor without one; others are served meanwhile. */
static void test_h02_payloads_cut_off(void **state)
{
	struct host host = {0};
	int fd = begin(&host, HOW_FILL);
	uint8_t *bytes = pattern(0, MIB);

	for (unsigned i = 0; i < 12; i++) {
		int other = enter(&host, false);
		unsigned before;

		must_write(other, 0, 0, 200000);
		must_write(other, 0, 0, 200000);
		before = volume.piped_writes + volume.plain_writes;
		request(other, NBD_COMMAND_WRITE, 0, i, 0, MIB);
		put(other, bytes, i == 0 ? 1 : i == 1 ? MIB - 1 : 90001 * i);
		must_write(fd, 0, 777, 200000);
		if (i < 10)
			close(other);
		assert_int_equal(volume.piped_writes + volume.plain_writes, before + 1);
	}
	close(fd);
	wait_for_clients(&host, 2);
	/* Two stay and send no more: the stop cuts them off. */
	host_stop(&host);
	assert_true(volume.piped_writes >= 12 + 12);
	assert_int_equal(volume.wrong, 0);
	free(bytes);
}

/* So many pieces that no pipe holds them. */
static void test_payload_in_crumbs(void **state)
{
	struct host host = {0};
	int fd = begin(&host, HOW_FILL), unsent = 0;
	uint8_t *bytes = pattern(5, MIB);

	request(fd, NBD_COMMAND_WRITE, 0, 1, 5, 400000);
	for (unsigned at = 0; at < 400000; at += 1000) {
		put(fd, bytes + at, 1000);
		do
			assert_int_equal(ioctl(fd, SIOCOUTQ, &unsent), 0);
		while (unsent > 0);
	}
	assert_int_equal(reply(fd, NULL), 0);
	assert_int_equal(volume.plain_writes, 1);
	assert_int_equal(call(fd, NBD_COMMAND_READ, 0, 5, 400000, bytes), 0);
	check(bytes, 5, 400000);
	for (unsigned i = 0; i < 2; i++)
		must_write(fd, 0, 5, MIB - 5);
	close(fd);
	host_stop(&host);
	assert_true(volume.piped_writes >= 1);
	assert_int_equal(volume.wrong, 0);
	free(bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_what_fits),
	    cmocka_unit_test(test_kept_and_bounded),
	    cmocka_unit_test(test_long_reads_among_short_ones),
	    cmocka_unit_test(test_h30_error_in_the_middle),
	    cmocka_unit_test(test_cannot_after_all),
	    cmocka_unit_test(test_clients_that_go),
	    cmocka_unit_test(test_long_writes),
	    cmocka_unit_test(test_write_error_in_the_middle),
	    cmocka_unit_test(test_cannot_write_after_all),
	    cmocka_unit_test(test_h02_payloads_cut_off),
	    cmocka_unit_test(test_payload_in_crumbs),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
