/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * BLOCK_FUA, BLOCK_NO_HOLE, BLOCK_FAST and BLOCK_TRIM on every driver: what survives a power cut, what stays allocated, what is
 * refused at once. What needs root, loop devices or nbdkit is skipped without.
 */
#include "nbd_world.h"

#include "block/file.h"
#include "block/memory.h"
#include "filter/powercut.h"
#include "filter/throttle.h"
#include "ring/ring_sim.h"

#include "loop.h"

#include <sys/stat.h>

#define SIZE     (1u << 20)
#define UNIX_LOG "exec nbdkit -f -U s --filter=log "

static int flagged(
    struct block *block, enum block_op op, uint32_t flags, uint64_t offset, uint64_t length, void *buf)
{
	struct block_io io = {.op = op, .flags = flags, .offset = offset, .length = length, .buf = buf};
	int res = block_wait(block, &io);

	/* The request is as it was. */
	assert_true(io.op == op && io.flags == flags && io.offset == offset && io.length == length);
	assert_ptr_equal(io.buf, buf);
	return res;
}

static void test_memory_heeds_flags(void **state)
{
	struct ring_sim *sim = ring_sim_new(1, 0);
	struct ring *ring = ring_sim_host_new(sim, "host");
	struct block *block;
	uint8_t data[100] = {7};

	assert_int_equal(memory_new(&block, ring, SIZE, NULL, NULL), 0);
	assert_int_equal(flagged(block, BLOCK_WRITE, BLOCK_FUA, 5, sizeof(data), data), 0);
	assert_int_equal(flagged(block, BLOCK_ZERO, BLOCK_FUA | BLOCK_FAST, 5, 50, NULL), 0);
	assert_int_equal(flagged(block, BLOCK_TRIM, BLOCK_FUA, 0, SIZE, NULL), 0);
	assert_int_equal(flagged(block, BLOCK_READ, BLOCK_FUA, 5, sizeof(data), data), 0);
	assert_int_equal(memory_counts(block)->fuas, 3);
	assert_int_equal(memory_counts(block)->flushes, 0);
	assert_int_equal(memory_counts(block)->trims, 1);
	assert_int_equal(flagged(block, BLOCK_TRIM, 0, SIZE, 1, NULL), -EINVAL);
	block_free(block);
	ring_free(ring);
	ring_sim_free(sim);
}

static uint64_t allocated(struct block *block)
{
	struct block_facts facts;

	assert_int_equal(block_facts(block, &facts, NULL), 0);
	return facts.allocated;
}

/* Of a volume that heeds no flag itself, also through a filter. */
static void test_flags_are_emulated(void **state)
{
	const struct memory_options options = {.no_fua = true};
	struct ring_sim *sim = ring_sim_new(1, 0);
	struct ring *ring = ring_sim_host_new(sim, "host");
	struct block *memory, *top;
	uint8_t data[100] = {7};

	assert_int_equal(memory_new(&memory, ring, SIZE, &options, NULL), 0);
	assert_int_equal(throttle_new(&top, memory, 0, NULL), 0);
	for (int i = 0; i < 2; i++) {
		struct block *block = i ? top : memory;
		struct memory_counts before = *memory_counts(memory);

		assert_int_equal(flagged(block, BLOCK_WRITE, BLOCK_FUA, 5, sizeof(data), data), 0);
		assert_int_equal(memory_counts(memory)->flushes - before.flushes, 1);
		assert_int_equal(flagged(block, BLOCK_ZERO, 0, 0, SIZE, NULL), 0);
		assert_int_equal(allocated(memory), 0);
		assert_int_equal(flagged(block, BLOCK_ZERO, BLOCK_FAST, 0, SIZE, NULL), -EOPNOTSUPP);
		assert_int_equal(
		    flagged(block, BLOCK_ZERO, BLOCK_NO_HOLE | BLOCK_FUA, 4096, 300001, NULL), 0);
		assert_int_equal(allocated(memory), align_up(300001, 4096));
		assert_int_equal(memory_counts(memory)->flushes - before.flushes, 2);
		assert_int_equal(flagged(block, BLOCK_TRIM, BLOCK_FUA, 0, SIZE, NULL), 0);
		assert_int_equal(memory_counts(memory)->flushes - before.flushes, 3);
		assert_int_equal(memory_counts(memory)->fuas, 0);
	}
	block_free(top);
	ring_free(ring);
	ring_sim_free(sim);
}

/* With FUA a write is there after a power cut, whatever its kind; without, it may be lost. */
static void test_fua_survives_a_power_cut(void **state)
{
	unsigned lost = 0;

	for (uint64_t seed = 1; seed <= 40; seed++) {
		const struct ring_sim_disk_options disk = {.size = SIZE, .short_ppm = 200000};
		struct ring_sim *sim = ring_sim_new(seed, 0);
		struct ring *ring = ring_sim_host_new(sim, "host");
		struct file_options file = {.fd = ring_sim_disk_new(sim, &disk), .fd_direct = -1};
		static uint8_t data[9000], found[9000];
		struct block *block;

		file.info = (struct block_info){.size = SIZE, .sector_size = 512, .writable = true};
		if (seed % 2)
			ring_sim_disk_options(sim, file.fd)->no_fallocate = true;
		assert_int_equal(file_new(&block, ring, &file, NULL), 0);
		memset(data, 1, sizeof(data));
		assert_int_equal(flagged(block, BLOCK_WRITE, 0, 700, sizeof(data), data), 0);
		memset(data, 2, sizeof(data));
		assert_int_equal(flagged(block, BLOCK_WRITE, BLOCK_FUA, 700, sizeof(data), data), 0);
		assert_int_equal(flagged(block, BLOCK_WRITE, BLOCK_FUA, 20000, sizeof(data), data), 0);
		assert_int_equal(
		    flagged(block, BLOCK_ZERO, BLOCK_FUA | seed % 3 ? BLOCK_NO_HOLE | BLOCK_FUA : BLOCK_FUA,
		        20000, sizeof(data), NULL),
		    0);
		assert_int_equal(flagged(block, BLOCK_WRITE, 0, 40000, sizeof(data), data), 0);
		ring_sim_power_cut(sim, file.fd);
		ring_sim_power_on(sim, file.fd);
		assert_int_equal(flagged(block, BLOCK_READ, 0, 700, sizeof(data), found), 0);
		assert_memory_equal(found, data, sizeof(data));
		assert_int_equal(flagged(block, BLOCK_READ, 0, 20000, sizeof(data), found), 0);
		assert_true(bytes_are_zero(found, sizeof(found)));
		assert_int_equal(flagged(block, BLOCK_READ, 0, 40000, sizeof(data), found), 0);
		lost += memcmp(found, data, sizeof(data)) != 0;
		block_free(block);
		ring_free(ring);
		ring_sim_free(sim);
	}
	assert_in_range(lost, 5, 40);
}

static void test_fua_through_powercut(void **state)
{
	struct ring_sim *sim = ring_sim_new(3, 0);
	struct ring *ring = ring_sim_host_new(sim, "host");
	struct block *memory, *block;
	uint8_t data[512] = {9}, found[512];

	assert_int_equal(memory_new(&memory, ring, SIZE, NULL, NULL), 0);
	assert_int_equal(powercut_new(&block, memory, 3, NULL), 0);
	assert_int_equal(flagged(block, BLOCK_WRITE, BLOCK_FUA, 512, sizeof(data), data), 0);
	assert_int_equal(powercut_unflushed(block), 0);
	assert_int_equal(flagged(block, BLOCK_ZERO, BLOCK_NO_HOLE, 8192, 8192, NULL), 0);
	assert_int_equal(flagged(block, BLOCK_TRIM, BLOCK_FUA, 0, SIZE, NULL), 0);
	assert_int_equal(allocated(memory), 3 * 4096);
	assert_int_equal(powercut_cut(block), 0);
	memory_peek(memory, 512, found, sizeof(found));
	assert_memory_equal(found, data, sizeof(data));
	block_free(block);
	ring_free(ring);
	ring_sim_free(sim);
}

static uint64_t blocks_of(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static void test_file_holes(void **state)
{
	static _Alignas(4096) uint8_t data[SIZE];
	struct world world;
	char path[96];

	world_init(&world);
	snprintf(path, sizeof(path), "%s/image", folder);
	world.options.create = true;
	world.options.create_size = SIZE + 5;
	assert_int_equal(file_open(&world.block, world.ring, path, NULL, &world.options, &world.error), 0);
	assert_int_equal(flagged(world.block, BLOCK_ZERO, BLOCK_NO_HOLE, 0, SIZE, NULL), 0);
	assert_in_range(blocks_of(path), SIZE, 2 * SIZE);
	memset(data, 5, sizeof(data));
	assert_int_equal(flagged(world.block, BLOCK_WRITE, BLOCK_FUA, 0, SIZE, data), 0);
	assert_int_equal(flagged(world.block, BLOCK_WRITE, BLOCK_FUA, SIZE - 3, 8, data), 0);
	assert_int_equal(flagged(world.block, BLOCK_ZERO, BLOCK_NO_HOLE | BLOCK_FUA, 4096, 65536, NULL), 0);
	assert_in_range(blocks_of(path), SIZE, 2 * SIZE);
	assert_int_equal(flagged(world.block, BLOCK_TRIM, 0, 0, SIZE + 5, NULL), 0);
	assert_in_range(blocks_of(path), 0, 65536);
	assert_int_equal(flagged(world.block, BLOCK_ZERO, BLOCK_FAST, 0, SIZE, NULL), 0);
	world.block = block_free(world.block);
	ring_free(world.ring);
	unlink(path);
}

/* ramfs can neither: a fast zero is refused, advice is dropped, and what must not be a hole is written. */
static void test_file_that_cannot(void **state)
{
	static uint8_t data[65536];
	struct world world;
	char path[96];

	if (geteuid() != 0) {
		print_message("skipped: this needs root\n");
		skip();
	}
	run("mkdir -p %s/ram && mount -t ramfs none %s/ram", folder, folder);
	world_init(&world);
	snprintf(path, sizeof(path), "%s/ram/image", folder);
	world.options.create = true;
	world.options.create_size = SIZE;
	world.options.cache = CACHE_BUFFERED;
	assert_int_equal(file_open(&world.block, world.ring, path, NULL, &world.options, &world.error), 0);
	memset(data, 5, sizeof(data));
	assert_int_equal(flagged(world.block, BLOCK_WRITE, BLOCK_FUA, 100, sizeof(data), data), 0);
	for (int i = 0; i < 2; i++) {
		uint32_t no_hole = i ? BLOCK_NO_HOLE : 0;

		assert_int_equal(
		    flagged(world.block, BLOCK_ZERO, BLOCK_FAST | no_hole, 0, SIZE, NULL), -EOPNOTSUPP);
		assert_int_equal(
		    flagged(world.block, BLOCK_ZERO, BLOCK_FAST | no_hole, 0, SIZE, NULL), -EOPNOTSUPP);
	}
	assert_int_equal(flagged(world.block, BLOCK_TRIM, BLOCK_FUA, 0, SIZE, NULL), 0);
	assert_int_equal(flagged(world.block, BLOCK_READ, 0, 100, sizeof(data), data), 0);
	assert_int_equal(data[65535], 5);
	assert_int_equal(flagged(world.block, BLOCK_ZERO, BLOCK_NO_HOLE | BLOCK_FUA, 3, SIZE - 7, NULL), 0);
	assert_int_equal(flagged(world.block, BLOCK_READ, 0, 100, sizeof(data), data), 0);
	assert_true(bytes_are_zero(data, sizeof(data)));
	block_free(world.block);
	ring_free(world.ring);
	run("umount %s/ram", folder);
}

/* A loop device discards by punching its file; sectors that are covered in part stay. */
static void test_trim_of_a_device(void **state)
{
	static _Alignas(4096) uint8_t data[SIZE];
	char path[96], device[64];
	struct world world;

	need_loops();
	world_init(&world);
	snprintf(path, sizeof(path), "%s/disk", folder);
	run("truncate -s 1M %s", path);
	loop_attach(device, "", path);
	if (file_open(&world.block, world.ring, device, NULL, &world.options, &world.error) < 0)
		fail_msg("%s", world.error.text);
	memset(data, 5, sizeof(data));
	assert_int_equal(flagged(world.block, BLOCK_WRITE, BLOCK_FUA, 0, SIZE, data), 0);
	assert_in_range(blocks_of(path), SIZE, 2 * SIZE);
	assert_int_equal(flagged(world.block, BLOCK_TRIM, BLOCK_FUA, 100, SIZE - 200, NULL), 0);
	assert_in_range(blocks_of(path), 0, 65536);
	assert_int_equal(flagged(world.block, BLOCK_TRIM, 0, 10, 400, NULL), 0);
	assert_int_equal(flagged(world.block, BLOCK_READ, 0, 0, 512, data), 0);
	assert_int_equal(data[10], 5);
	assert_int_equal(
	    flagged(world.block, BLOCK_ZERO, BLOCK_NO_HOLE | BLOCK_FAST, 0, SIZE, NULL), -EOPNOTSUPP);
	assert_int_equal(flagged(world.block, BLOCK_ZERO, BLOCK_NO_HOLE, 0, SIZE, NULL), 0);
	block_free(world.block);
	ring_free(world.ring);
	loop_detach(device);
}

static void test_nbd_passes_flags_on(void **state)
{
	static char data[4096];
	struct world world;

	need("nbdkit");
	world_init(&world);
	world_serve(&world, UNIX_LOG "memory 1G logfile=log");
	world_must_open(&world, "@");
	assert_int_equal(flagged(world.block, BLOCK_WRITE, BLOCK_FUA, 0, 4096, data), 0);
	assert_int_equal(flagged(world.block, BLOCK_ZERO, BLOCK_NO_HOLE, 0, 4096, NULL), 0);
	assert_int_equal(flagged(world.block, BLOCK_ZERO, BLOCK_FAST, 0, 8192, NULL), 0);
	assert_int_equal(flagged(world.block, BLOCK_TRIM, BLOCK_FUA, 4096, 5000, NULL), 0);
	world_done(&world);
	run("cd %s && grep -q 'Write.*fua=1' log && grep -q 'Zero.*count=0x1000 trim=0' log && "
	    "grep -q 'Zero.*count=0x2000 .*fast=1' log && grep -q 'Trim.*count=0x1388 fua=1' log && ! grep ' "
	    "Flush ' log && rm log",
	    folder);
}

/* Trim in whole blocks only; no trim, no fast zero and no FUA on a server that has none of them. */
static void test_nbd_without(void **state)
{
	static char data[4096];
	struct world world;

	need("nbdkit");
	world_init(&world);
	world_serve(&world, UNIX_LOG
	    "--filter=blocksize-policy eval logfile=log get_size='echo 1M' pread='head -c $3 /dev/zero' "
	    "pwrite='cat >/dev/null' can_write='exit 0' can_flush='exit 0' flush='exit 0' can_fua='echo "
	    "none' "
	    "can_trim='exit 0' trim='exit 0' can_zero='echo none' blocksize-minimum=4096 "
	    "blocksize-preferred=4096 "
	    "blocksize-maximum=1M blocksize-error-policy=error");
	world_must_open(&world, "@");
	assert_int_equal(flagged(world.block, BLOCK_WRITE, BLOCK_FUA, 0, 4096, data), 0);
	assert_int_equal(flagged(world.block, BLOCK_ZERO, BLOCK_FAST, 0, 4096, NULL), -EOPNOTSUPP);
	assert_int_equal(flagged(world.block, BLOCK_TRIM, 0, 100, 9000, NULL), 0);
	assert_int_equal(flagged(world.block, BLOCK_TRIM, 0, 100, 4000, NULL), 0);
	world_done(&world);
	run("cd %s && test $(grep -c ' Trim .*offset=0x1000 count=0x1000' log) = 1 && test $(grep -c ' Flush "
	    "' log) -ge 1 && rm log",
	    folder);
	world_init(&world);
	world_serve(&world, UNIX_LOG "eval logfile=log get_size='echo 1M' pread='head -c $3 /dev/zero' "
	                             "pwrite='cat >/dev/null' can_write='exit 0' "
	                             "can_trim='exit 3'");
	world_must_open(&world, "@");
	assert_int_equal(flagged(world.block, BLOCK_TRIM, 0, 0, 4096, NULL), 0);
	world_done(&world);
	run("cd %s && ! grep ' Trim ' log && rm log", folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_memory_heeds_flags),
	    cmocka_unit_test(test_flags_are_emulated),
	    cmocka_unit_test(test_fua_survives_a_power_cut),
	    cmocka_unit_test(test_fua_through_powercut),
	    cmocka_unit_test(test_file_holes),
	    cmocka_unit_test(test_file_that_cannot),
	    cmocka_unit_test(test_trim_of_a_device),
	    cmocka_unit_test(test_nbd_passes_flags_on),
	    cmocka_unit_test(test_nbd_without),
	};

	return cmocka_run_group_tests(tests, make_folder, own_folder_remove);
}
