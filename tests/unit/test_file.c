/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file driver on real files and loop devices: what is read past the page cache, what is zeroed and how,
 * how a file is made and locked. What needs root and loop devices is skipped without.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "block/file.h"
#include "block/open.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "own_folder.h"
#include "shell.h"

#include "loop.h"

#define MIB (1u << 20)

struct world {
	struct ring *ring;
	struct block *block;
	char path[128], device[64];
	struct block_open_options options;
	struct error error;
};

static void world_init(struct world *world)
{
	*world = (struct world){0};
	assert_int_equal(ring_new(&world->ring, 64, &world->error), 0);
	snprintf(world->path, sizeof(world->path), "%s/image", folder);
	unlink(world->path);
}

/* A loop device over the image. */
static void world_attach(struct world *world, uint64_t size, const char *options)
{
	need_loops();
	run("truncate -s %llu %s", (unsigned long long)size, world->path);
	loop_attach(world->device, options, world->path);
}

static int world_open(struct world *world)
{
	return file_open(&world->block, world->ring, world->device[0] ? world->device : world->path, NULL,
	    &world->options, &world->error);
}

static void world_must_open(struct world *world)
{
	if (world_open(world) < 0)
		fail_msg("%s", world->error.text);
}

static void world_done(struct world *world)
{
	world->block = block_free(world->block);
	world->ring = ring_free(world->ring);
	if (world->device[0])
		loop_detach(world->device);
	unlink(world->path);
}

static int io(struct world *world, enum block_op op, uint64_t offset, uint64_t length, void *buf)
{
	struct block_io io = {.op = op, .offset = offset, .length = length, .buf = buf};

	return block_wait(world->block, &io);
}

/* Writes behind the back of whoever has `path` open. */
static void poke(const char *path, uint64_t offset, const void *data, size_t length)
{
	_cleanup_(cleanup_close) int fd = open(path, O_WRONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, data, length, (off_t)offset), length);
}

/* The page cache of a device does not learn of what is written below it: a file system that is mounted writes
 * past it, too. */
static void test_stale_cache_of_device(void **state)
{
	static const enum cache_mode modes[] = {CACHE_AUTO, CACHE_DIRECT};
	_Alignas(4096) uint8_t buf[8192];
	struct world world;

	for (unsigned i = 0; i < 2; i++) {
		_cleanup_(cleanup_close) int reader = -1;

		world_init(&world);
		world.options.cache = modes[i];
		world_attach(&world, MIB, "");
		reader = open(world.device, O_RDONLY | O_CLOEXEC);
		assert_int_equal(pread(reader, buf, sizeof(buf), 0), sizeof(buf));
		poke(world.path, 4096, "news", 4);
		world_must_open(&world);
		assert_int_equal(io(&world, BLOCK_READ, 0, sizeof(buf), buf), 0);
		assert_memory_equal(buf + 4096, "news", 4);
		world_done(&world);
	}
}

/* What a verify reads comes from the medium, also where it cannot be read past the cache: no O_DIRECT, or odd
 * ends. */
static void test_fresh_reads(void **state)
{
	static const struct {
		uint64_t offset, length;
	} rows[] = {{0, 4096}, {4090, 20}, {8191, 2}, {100, 50}, {MIB - 100, 100}, {3000, 500000}};

	for (unsigned i = 0; i < 2 * sizeof(rows) / sizeof(rows[0]); i++) {
		uint64_t offset = rows[i / 2].offset, length = rows[i / 2].length;
		uint8_t *buf = aligned_alloc(4096, MIB), *news = malloc(length);
		struct file_options file = {.fd_direct = -1, .direct_align = 4096, .fresh_reads = true};
		struct world world;

		world_init(&world);
		world_attach(&world, MIB, "");
		file.info = (struct block_info){.size = MIB, .sector_size = 512, .request_align = 1};
		file.fd = open(world.device, O_RDONLY | O_CLOEXEC);
		if (i % 2)
			file.fd_direct = open(world.device, O_RDONLY | O_CLOEXEC | O_DIRECT);
		assert_int_equal(pread(file.fd, buf, MIB, 0), MIB);
		memset(news, 'n', length);
		poke(world.path, offset, news, length);
		assert_int_equal(file_new(&world.block, world.ring, &file, &world.error), 0);
		assert_int_equal(io(&world, BLOCK_READ, offset, length, buf), 0);
		assert_memory_equal(buf, news, length);
		world_done(&world);
		free(buf);
		free(news);
	}
}

static unsigned pages_cached(const char *path, uint64_t length)
{
	_cleanup_(cleanup_close) int fd = open(path, O_RDONLY | O_CLOEXEC);
	unsigned char pages[MIB / 4096];
	unsigned count = 0;
	void *map = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, 0);

	assert_true(map != MAP_FAILED && length <= MIB);
	assert_int_equal(mincore(map, length, pages), 0);
	for (uint64_t i = 0; i < length / 4096; i++)
		count += pages[i] & 1;
	munmap(map, length);
	return count;
}

/* With the page cache in use, what need not be there goes past it, and both kinds of writes see one volume. */
static void test_uncached_writes(void **state)
{
	uint8_t *data = aligned_alloc(4096, MIB), *seen = aligned_alloc(4096, MIB);
	struct block_io past = {.op = BLOCK_WRITE, .flags = BLOCK_UNCACHED, .length = MIB, .buf = data};
	struct world world;

	world_init(&world);
	world.options = (struct block_open_options){
	    .write = true, .create = true, .create_size = MIB, .cache = CACHE_BUFFERED};
	world_must_open(&world);
	memset(data, 1, MIB);
	assert_int_equal(block_wait(world.block, &past), 0);
	assert_int_equal(pages_cached(world.path, MIB), 0);
	assert_int_equal(io(&world, BLOCK_WRITE, 0, MIB, data), 0);
	assert_int_equal(pages_cached(world.path, MIB), MIB / 4096);
	/* Over dirty pages; then an odd piece, which cannot go past them. */
	memset(data, 2, MIB);
	past.length = MIB / 2;
	assert_int_equal(block_wait(world.block, &past), 0);
	assert_int_equal(pages_cached(world.path, MIB / 2), 0);
	past.offset = MIB / 2 + 100;
	past.length = 5000;
	assert_int_equal(block_wait(world.block, &past), 0);
	assert_int_equal(io(&world, BLOCK_READ, 0, MIB, seen), 0);
	for (unsigned i = 0; i < MIB; i++) {
		bool second = i < MIB / 2 || (i >= MIB / 2 + 100 && i < MIB / 2 + 5100);

		assert_int_equal(seen[i], second ? 2 : 1);
	}
	world_done(&world);
	free(data);
	free(seen);
}

struct one {
	struct block_io io;
	unsigned *left;
};

static void one_done(struct block_io *io, int res)
{
	assert_int_equal(res, 0);
	(*((struct one *)io)->left)--;
}

/* Leaves that were read while a write was under way, and so may be older than it, are not kept. */
static void test_digest_beside_write(void **state)
{
	static const enum block_op ops[] = {BLOCK_WRITE, BLOCK_ZERO};
	const struct digest_key key = {{3}};
	uint8_t *old = aligned_alloc(4096, MIB), *data = aligned_alloc(4096, MIB);
	uint8_t digests[2][DIGEST_BYTES], leaves[DIGEST_CHUNK / DIGEST_LEAF][DIGEST_BYTES];
	struct digest *digest;

	assert_int_equal(digest_new(&digest, &key, NULL), 0);
	memset(old, 1, MIB);
	for (unsigned i = 0; i < 40; i++) {
		enum block_op op = ops[i % 2];
		unsigned left = 2;
		struct one ask = {.left = &left}, write = {.left = &left};
		struct world world;

		memset(data, op == BLOCK_ZERO ? 0 : 2, MIB);
		world_init(&world);
		world.options =
		    (struct block_open_options){.write = true, .create = true, .create_size = MIB};
		world_must_open(&world);
		assert_int_equal(io(&world, BLOCK_WRITE, 0, MIB, old), 0);
		ask.io = (struct block_io){.op = BLOCK_DIGEST,
		    .length = MIB,
		    .granularity = DIGEST_CHUNK,
		    .key = &key,
		    .buf = digests[0],
		    .done = one_done};
		write.io = (struct block_io){.op = op, .length = MIB, .buf = data, .done = one_done};
		block_submit(world.block, &write.io);
		block_submit(world.block, &ask.io);
		while (left > 0)
			assert_int_equal(world.ring->ops->step(world.ring), 0);
		ask.io.done = NULL;
		ask.io.buf = digests[1];
		assert_int_equal(block_wait(world.block, &ask.io), 0);
		digest_leaves(digest, data, MIB, leaves[0]);
		digest_fold(digest, leaves[0], DIGEST_CHUNK / DIGEST_LEAF, DIGEST_CHUNK, digests[0]);
		assert_memory_equal(digests[0], digests[1], DIGEST_BYTES);
		world_done(&world);
	}
	digest_free(digest);
	free(old);
	free(data);
}

static uint64_t blocks_of(const char *path)
{
	struct stat stat_now;

	assert_int_equal(stat(path, &stat_now), 0);
	return (uint64_t)stat_now.st_blocks * 512;
}

/* Zeroes [offset, end) of a volume full of ones and looks whether that and nothing else is zero. */
static void check_zero(struct world *world, uint64_t size, uint64_t offset, uint64_t end)
{
	uint8_t *data = aligned_alloc(4096, (size + 4095) / 4096 * 4096);

	memset(data, 1, size);
	for (uint64_t at = 0; at < size; at += BLOCK_IO_MAX)
		assert_int_equal(io(world, BLOCK_WRITE, at, min_u64(BLOCK_IO_MAX, size - at), data + at), 0);
	assert_int_equal(io(world, BLOCK_ZERO, offset, end - offset, NULL), 0);
	assert_int_equal(io(world, BLOCK_FLUSH, 0, 0, NULL), 0);
	for (uint64_t at = 0; at < size; at += BLOCK_IO_MAX)
		assert_int_equal(io(world, BLOCK_READ, at, min_u64(BLOCK_IO_MAX, size - at), data + at), 0);
	for (uint64_t at = 0; at < size; at++)
		if (data[at] != (at < offset || at >= end))
			fail_msg("[%llu, %llu): byte %llu is %d", (unsigned long long)offset,
			    (unsigned long long)end, (unsigned long long)at, data[at]);
	free(data);
}

static const struct {
	uint64_t offset, end;
} zero_rows[] = {
    {0, 9 * MIB},
    {100, 9 * MIB - 77},
    {4096, 8 * MIB + 1},
    {1, 8 * MIB},
    {511, 513},
    {512, 1024},
    {5000, 5001},
    {4095, 8193},
};

/* Only what sticks out of the sectors is done by hand: the rest is freed. */
static void test_zero_unaligned_on_device(void **state)
{
	for (unsigned i = 0; i < 2 * sizeof(zero_rows) / sizeof(zero_rows[0]); i++) {
		uint64_t offset = zero_rows[i / 2].offset, end = zero_rows[i / 2].end;
		struct world world;

		world_init(&world);
		world.options.write = true;
		world_attach(&world, 9 * MIB, i % 2 ? "--sector-size 4096" : "");
		world_must_open(&world);
		check_zero(&world, 9 * MIB, offset, end);
		if (end - offset > 6 * MIB)
			assert_in_range(blocks_of(world.path), 0, 3 * MIB);
		world_done(&world);
	}
}

/* ramfs has no fallocate(2): all is done by hand. */
static void test_zero_by_hand(void **state)
{
	struct world world;

	if (geteuid() != 0) {
		print_message("skipped: this needs root\n");
		skip();
	}
	run("mkdir -p %s/ram && mount -t ramfs none %s/ram", folder, folder);
	for (unsigned i = 0; i < sizeof(zero_rows) / sizeof(zero_rows[0]); i++) {
		world_init(&world);
		snprintf(world.path, sizeof(world.path), "%s/ram/image", folder);
		world.options.write = world.options.create = true;
		world.options.create_size = 9 * MIB + 5;
		world_must_open(&world);
		check_zero(&world, 9 * MIB + 5, zero_rows[i].offset, zero_rows[i].end);
		/* Behind the end there is nothing to do, however far it reaches. */
		assert_int_equal(io(&world, BLOCK_ZERO, 9 * MIB, 1ull << 60, NULL), 0);
		assert_int_equal(io(&world, BLOCK_ZERO, 1ull << 60, MIB, NULL), 0);
		assert_int_equal(block_info(world.block)->size, 9 * MIB + 5);
		world_done(&world);
	}
	run("umount %s/ram", folder);
}

/* A dry run judges by the same facts as the real one, and still cannot write. */
static void test_file_opened_for_reading(void **state)
{
	uint8_t byte = 1;
	struct world world;

	world_init(&world);
	run("truncate -s 5000 %s", world.path);
	world_must_open(&world);
	assert_true(block_info(world.block)->resizable && !block_info(world.block)->writable);
	assert_int_equal(io(&world, BLOCK_RESIZE, 0, 1, NULL), -EROFS);
	assert_int_equal(io(&world, BLOCK_WRITE, 5000, 1, &byte), -EROFS);
	assert_int_equal(io(&world, BLOCK_READ, 5000, 1, &byte), -EINVAL);
	assert_int_equal(block_info(world.block)->size, 5000);
	world_done(&world);
}

/* The kernel keeps an open file for a while: for a child that has not executed its program yet, for what a ring has not cleaned up. */
static void test_lock_ends_with_the_block(void **state)
{
	struct world world;
	int status, res;
	pid_t child;

	world_init(&world);
	world.options = (struct block_open_options){.write = true, .create = true};
	world_must_open(&world);
	child = fork();
	if (child == 0) {
		pause();
		_exit(0);
	}
	world.block = block_free(world.block);
	res = world_open(&world);
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	assert_int_equal(res, 0);
	world_done(&world);
}

static void test_failed_open_leaves_no_file(void **state)
{
	struct world world;

	world_init(&world);
	world.options =
	    (struct block_open_options){.write = true, .create = true, .create_size = (uint64_t)INT64_MAX};
	assert_int_equal(world_open(&world), -EFBIG);
	assert_int_equal(access(world.path, F_OK), -1);
	/* One that was there stays. */
	world.options.create_size = 7000;
	world_must_open(&world);
	assert_true(block_info(world.block)->created && block_info(world.block)->zeroed);
	assert_int_equal(block_info(world.block)->size, 7000);
	world.block = block_free(world.block);
	run("truncate -s 6000 %s", world.path);
	world_must_open(&world);
	assert_false(block_info(world.block)->created || block_info(world.block)->zeroed);
	assert_int_equal(block_info(world.block)->size, 6000);
	/* Nor does a second writer, who is refused, take it away. */
	struct block *first = world.block;

	assert_int_equal(world_open(&world), -EALREADY);
	assert_int_equal(access(world.path, F_OK), 0);
	world.block = first;
	world_done(&world);
}

static void digest_tail(struct world *world, uint64_t length, uint8_t ret[DIGEST_BYTES])
{
	const struct digest_key key = {.bytes = {1}};
	struct block_io io = {.op = BLOCK_DIGEST,
	    .offset = 4096,
	    .length = length,
	    .buf = ret,
	    .granularity = DIGEST_LEAF,
	    .key = &key};

	assert_int_equal(block_wait(world->block, &io), 0);
}

static void test_a_file_that_has_grown(void **state)
{
	uint8_t digests[3][DIGEST_BYTES];
	char text[4];
	struct world world;

	world_init(&world);
	world.options = (struct block_open_options){.write = true, .create = true, .create_size = 5000};
	world_must_open(&world);
	assert_int_equal(block_measure(world.block, &world.error), 0);
	assert_true(block_info(world.block)->size == 5000 && block_info(world.block)->zeroed);
	digest_tail(&world, 904, digests[0]);
	run("truncate -s 9001 %s", world.path);
	poke(world.path, 8000, "news", 4);
	assert_int_equal(io(&world, BLOCK_READ, 8000, 4, text), -EINVAL);
	assert_int_equal(block_measure(world.block, &world.error), 0);
	assert_int_equal(block_info(world.block)->size, 9001);
	assert_false(block_info(world.block)->zeroed);
	assert_int_equal(io(&world, BLOCK_READ, 8000, 4, text), 0);
	assert_memory_equal(text, "news", 4);
	digest_tail(&world, 904, digests[1]);
	digest_tail(&world, 4096, digests[2]);
	assert_memory_equal(digests[0], digests[1], DIGEST_BYTES);
	assert_memory_not_equal(digests[0], digests[2], DIGEST_BYTES);
	run("truncate -s 9000 %s", world.path);
	assert_int_equal(block_measure(world.block, &world.error), -ENOSPC);
	assert_non_null(strstr(world.error.text, "has 9000 bytes now, and had 9001"));
	assert_int_equal(block_info(world.block)->size, 9001);
	world_done(&world);
}

static void test_a_device_that_has_grown(void **state)
{
	uint8_t buf[4096] = "there";
	struct world world;

	world_init(&world);
	world.options.write = true;
	world_attach(&world, MIB, "");
	world_must_open(&world);
	run("truncate -s %u %s", 3 * MIB, world.path);
	assert_int_equal(block_measure(world.block, &world.error), 0);
	assert_int_equal(block_info(world.block)->size, MIB);
	run("losetup -c %s", world.device);
	assert_int_equal(io(&world, BLOCK_WRITE, 3 * MIB - 4096, 4096, buf), -EINVAL);
	assert_int_equal(block_measure(world.block, &world.error), 0);
	assert_int_equal(block_info(world.block)->size, 3 * MIB);
	assert_int_equal(io(&world, BLOCK_WRITE, 3 * MIB - 4096, 4096, buf), 0);
	memset(buf, 0, sizeof(buf));
	assert_int_equal(io(&world, BLOCK_READ, 3 * MIB - 4096, 4096, buf), 0);
	assert_string_equal((char *)buf, "there");
	/* Written out after it, that would make the file as long as before. */
	assert_int_equal(io(&world, BLOCK_FLUSH, 0, 0, NULL), 0);
	run("truncate -s %u %s; losetup -c %s", 2 * MIB, world.path, world.device);
	assert_int_equal(block_measure(world.block, &world.error), -ENOSPC);
	world_done(&world);
}

static int remove_folder(void **state)
{
	char command[256];

	/* What a failed test left. */
	snprintf(command, sizeof(command), "umount %s/ram 2>/dev/null || :", folder);
	return system(command) == 0 ? own_folder_remove(state) : -1;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_stale_cache_of_device),
	    cmocka_unit_test(test_fresh_reads),
	    cmocka_unit_test(test_uncached_writes),
	    cmocka_unit_test(test_digest_beside_write),
	    cmocka_unit_test(test_file_opened_for_reading),
	    cmocka_unit_test(test_lock_ends_with_the_block),
	    cmocka_unit_test(test_failed_open_leaves_no_file),
	    cmocka_unit_test(test_a_file_that_has_grown),
	    cmocka_unit_test(test_a_device_that_has_grown),
	    cmocka_unit_test(test_zero_unaligned_on_device),
	    cmocka_unit_test(test_zero_by_hand),
	};

	return cmocka_run_group_tests(tests, own_folder_make, remove_folder);
}
