/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Stages: their bytes; a round in which each request fails once; and stages that are applied by another process, to volumes that are not what
 * they were. Power cuts and orders are simulated in tests/sim/sim_stage.c.
 */
#include "base/bytes.h"
#include "base/rand.h"
#include "block/memory.h"
#include "block/stage.h"
#include "block/stage_table.h"
#include "filter/fault.h"
#include "filter/stage_view.h"
#include "ring/ring_sim.h"
#include "seed.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define SIZE   200007u
#define LENGTH 280000u /* more than a stage of it takes */
#define ID     "memory"

/* What disks hold, between two processes. */
struct world {
	struct ring_sim *sim;
	struct ring *ring;
	struct rand rand;
	struct stage_layout layout;
	uint8_t old[SIZE], fresh[SIZE], volume_bytes[SIZE], stage_bytes[LENGTH];
	bool stage_there;

	/* while a process runs */
	struct block *volume, *file;               /* what is below the faults */
	struct block *faulty_volume, *faulty_file; /* what is used */
};

static struct world *world_new(void)
{
	struct world *world = calloc(1, sizeof(*world));

	world->sim = ring_sim_new(1, UINT64_MAX);
	world->ring = ring_sim_host_new(world->sim, "host");
	rand_init(&world->rand, seed_of_run());
	assert_true(stage_layout(SIZE, &world->layout));
	assert_true(world->layout.length <= LENGTH);
	rand_bytes(&world->rand, world->old, SIZE);
	memcpy(world->volume_bytes, world->old, SIZE);
	memcpy(world->fresh, world->old, SIZE);
	rand_bytes(&world->rand, world->fresh + 5000, 9000);
	memset(world->fresh + 60000, 0, 50000);
	rand_bytes(&world->rand, world->fresh + SIZE - 5, 5);
	return world;
}

static void world_free(struct world *world)
{
	ring_free(world->ring);
	ring_sim_free(world->sim);
	free(world);
}

static void begin(struct world *world)
{
	const struct memory_options options = {.name = "memory"};

	assert_int_equal(memory_new(&world->volume, world->ring, SIZE, &options, NULL), 0);
	assert_int_equal(memory_new(&world->file, world->ring, world->layout.length, &options, NULL), 0);
	assert_int_equal(memory_poke(world->volume, 0, world->volume_bytes, SIZE), 0);
	if (!bytes_are_zero(world->stage_bytes, world->layout.length))
		assert_int_equal(memory_poke(world->file, 0, world->stage_bytes, world->layout.length), 0);
	assert_int_equal(fault_new(&world->faulty_volume, world->volume, 1, NULL), 0);
	assert_int_equal(fault_new(&world->faulty_file, world->file, 2, NULL), 0);
}

/* What a kill -9 leaves: before anything is freed. */
static void keep(struct world *world)
{
	memory_peek(world->volume, 0, world->volume_bytes, SIZE);
	memory_peek(world->file, 0, world->stage_bytes, world->layout.length);
}

static void end(struct world *world)
{
	keep(world);
	block_free(world->faulty_volume);
	block_free(world->faulty_file);
}

static void remove_stage(void *data)
{
	((struct world *)data)->stage_there = false;
}

static struct block *open_view(struct world *world, struct error *error)
{
	const struct stage_view_options options = {
	    .target_id = ID, .name = "/memory", .remove = remove_stage, .data = world};
	struct block *view;

	memset(world->stage_bytes, 0, LENGTH);
	world->stage_there = true;
	return stage_view_new(&view, world->faulty_volume, world->faulty_file, &options, error) < 0 ? NULL
	                                                                                            : view;
}

static int view_io(struct block *view, enum block_op op, uint64_t offset, uint64_t length, void *buf)
{
	struct block_io io = {.op = op, .offset = offset, .length = length, .buf = buf};

	return block_wait(view, &io);
}

static int write_fresh(struct world *world, struct block *view)
{
	int res = view_io(view, BLOCK_WRITE, 5000, 9000, world->fresh + 5000);

	if (res == 0)
		res = view_io(view, BLOCK_ZERO, 60000, 50000, NULL);
	if (res == 0)
		res = view_io(view, BLOCK_WRITE, SIZE - 5, 5, world->fresh + SIZE - 5);
	return res < 0 ? res : view_io(view, BLOCK_FLUSH, 0, 0, NULL);
}

static int commit(struct block *view, struct error *error)
{
	struct block_io io = {.op = BLOCK_FLUSH, .flags = BLOCK_COMMIT, .error = error};

	return block_wait(view, &io);
}

/* As file_open() does for who writes. */
static int settle(struct world *world, struct error *error)
{
	struct stage stage;
	int res;

	if (!world->stage_there)
		return 0;
	begin(world);
	res = stage_look(world->file, &stage, error);
	if (res == 0 && stage.state == STAGE_COMMITTED) {
		res = stage_check(world->file, &stage, world->volume, error);
		assert_int_equal(memory_counts(world->volume)->writes, 0);
		if (res == 0)
			res = stage_apply(world->file, &stage, world->volume, error);
	}
	end(world);
	return res == -ENODATA ? 0 : res;
}

/* Committed; the volume's disk fails each write from then on. */
static void half_apply(struct world *world)
{
	const struct fault_rule rule = {.result = -EIO, .ops = 1u << BLOCK_WRITE, .nth = 1};
	struct error error = {0};
	struct block *view;

	begin(world);
	fault_add(world->faulty_volume, &rule);
	view = open_view(world, &error);
	assert_int_equal(write_fresh(world, view), 0);
	assert_int_equal(commit(view, &error), -EIO);
	assert_non_null(strstr(error.text, "blkmove recover"));
	keep(world);
	block_free(view);
	assert_true(world->stage_there);
}

/* The bytes */

static void test_layout(void **state)
{
	static const uint64_t sizes[] = {1, 4095, 4096, 4097, 1u << 27, (1u << 27) + 1, UINT64_C(16) << 40};
	struct stage_layout layout;

	assert_false(stage_layout(0, &layout));
	assert_false(stage_layout(UINT64_MAX / 2, &layout));
	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		assert_true(stage_layout(sizes[i], &layout));
		assert_true(layout.map_at >= sizes[i] && layout.map_length * 8 * STAGE_BLOCK >= sizes[i]);
		assert_true(layout.table_at == layout.map_at + layout.map_length);
		/* Each block an entry of its own. */
		assert_true(layout.table_max >= (sizes[i] + 4095) / 4096 * (STAGE_ENTRY_BYTES + 8 * 4));
		assert_true(
		    layout.length == layout.header_at + STAGE_BLOCK && layout.length % STAGE_BLOCK == 0);
	}
}

static void test_blocks(void **state)
{
	const struct stage_header header = {
	    .id = {1, 2, 3}, .size = 12345, .created = 7, .target_id = "wwid:x", .name = "/dev/x"};
	const struct stage_commit first = {
	    .id = {9}, .committed = 5, .entries = 3, .table_length = 100, .table_crc = 77};
	uint8_t block[STAGE_BLOCK] = {0}, twice[STAGE_BLOCK];
	struct stage_header parsed;
	struct stage_commit again;

	assert_int_equal(stage_parse_header(block, &parsed), -ENODATA);
	assert_int_equal(stage_parse_commit(block, STAGE_MARK_COMMIT, &again), -ENODATA);
	stage_encode_header(block, &header);
	assert_int_equal(stage_parse_header(block, &parsed), 0);
	assert_memory_equal(&parsed, &header, sizeof(header));
	for (unsigned bit = 0; bit < STAGE_BLOCK * 8; bit += 37) {
		block[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(stage_parse_header(block, &parsed), -EBADMSG);
		block[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	stage_encode_commit(block, STAGE_MARK_COMMIT, &first);
	assert_true(bytes_are_zero(block + STAGE_SECTOR, STAGE_BLOCK - STAGE_SECTOR));
	assert_int_equal(stage_parse_commit(block, STAGE_MARK_APPLIED, &again), -EBADMSG);
	assert_int_equal(stage_parse_commit(block, STAGE_MARK_COMMIT, &again), 0);
	stage_encode_commit(twice, STAGE_MARK_COMMIT, &again);
	assert_memory_equal(twice, block, sizeof(block));
	for (unsigned bit = 0; bit < STAGE_SECTOR * 8; bit++) {
		block[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(stage_parse_commit(block, STAGE_MARK_COMMIT, &again), -EBADMSG);
		block[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

static void test_entries(void **state)
{
	static const struct {
		struct stage_entry entry;
		uint64_t from;
		int res;
	} rows[] = {
	    {{0, 4096, EXTENT_DATA, 1}, 0, 0},
	    {{8192, 10007 - 8192, EXTENT_DATA, 1}, 8192, 0}, /* to the end */
	    {{0, 10007, EXTENT_ZERO, 0}, 0, 0},
	    {{0, 4096, EXTENT_DATA, 1}, 4096, -EBADMSG}, /* comes back */
	    {{1, 4096, EXTENT_DATA, 1}, 0, -EBADMSG},
	    {{0, 4095, EXTENT_DATA, 1}, 0, -EBADMSG},
	    {{0, 0, EXTENT_DATA, 1}, 0, -EBADMSG},
	    {{8192, 4096, EXTENT_DATA, 1}, 0, -EBADMSG}, /* beyond */
	    {{12288, 4096, EXTENT_ZERO, 1}, 0, -EBADMSG},
	    {{0, 4096, (enum extent_kind)2, 1}, 0, -EBADMSG},
	    {{0, UINT64_MAX, EXTENT_ZERO, 0}, 0, -EBADMSG},
	};
	uint8_t bytes[STAGE_ENTRY_BYTES];
	struct stage_entry entry;

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		stage_encode_entry(bytes, &rows[i].entry);
		assert_int_equal(stage_parse_entry(bytes, rows[i].from, 10007, &entry), rows[i].res);
	}
	for (unsigned kind = EXTENT_DATA; kind <= EXTENT_ZERO; kind++) {
		stage_encode_entry(bytes, &(struct stage_entry){0, STAGE_PIECE + 4096, kind, 0});
		assert_int_equal(stage_parse_entry(bytes, 0, UINT64_C(1) << 40, &entry), -EBADMSG);
	}
}

/* Rounds */

static void test_a_round(void **state)
{
	struct world *world = world_new();
	struct error error = {0};
	uint8_t *seen = malloc(SIZE);
	struct block *view;

	begin(world);
	view = open_view(world, &error);
	assert_non_null(view);
	assert_true(block_info(view)->staged);
	assert_int_equal(write_fresh(world, view), 0);
	assert_int_equal(view_io(view, BLOCK_READ, 0, SIZE, seen), 0);
	assert_memory_equal(seen, world->fresh, SIZE);
	assert_int_equal(memory_counts(world->volume)->writes + memory_counts(world->volume)->zeroes, 0);
	assert_int_equal(commit(view, &error), 0);
	assert_false(world->stage_there);
	/* It is over: what is read is the volume, and nothing more is written. */
	assert_int_equal(view_io(view, BLOCK_READ, 0, SIZE, seen), 0);
	assert_memory_equal(seen, world->fresh, SIZE);
	assert_int_equal(view_io(view, BLOCK_WRITE, 0, 1, seen), -EROFS);
	assert_int_equal(view_io(view, BLOCK_FLUSH, 0, 0, NULL), 0);
	keep(world);
	block_free(view);
	assert_memory_equal(world->volume_bytes, world->fresh, SIZE);
	free(seen);
	world_free(world);
}

static void test_an_empty_round(void **state)
{
	struct world *world = world_new();
	struct error error = {0};
	struct block *view;

	begin(world);
	view = open_view(world, &error);
	assert_int_equal(view_io(view, BLOCK_WRITE, 5000, 9000, world->old + 5000), 0);
	assert_int_equal(commit(view, &error), 0);
	assert_int_equal(memory_counts(world->volume)->writes, 0);
	block_free(view);
	/* And one that nobody wrote to leaves no file. */
	begin(world);
	view = open_view(world, &error);
	block_free(view);
	assert_false(world->stage_there);
	world_free(world);
}

/* Whether the fault was met. */
static bool run_with_fault(bool file, unsigned nth, int code)
{
	const struct fault_rule rule = {.result = code, .nth = nth, .times = 1};
	struct world *world = world_new();
	struct error error = {0};
	struct block *view;
	unsigned hits;
	int res = -1;

	begin(world);
	fault_add(file ? world->faulty_file : world->faulty_volume, &rule);
	view = open_view(world, &error);
	if (view) {
		res = write_fresh(world, view);
		if (res == 0)
			res = commit(view, &error);
		hits = fault_hits(file ? world->faulty_file : world->faulty_volume);
		assert_true(res == 0 || hits > 0);
		keep(world);
		block_free(view);
	} else {
		assert_true(error.text[0]);
		hits = 1;
		memset(world->stage_bytes, 0, LENGTH);
	}
	assert_int_equal(settle(world, &error), 0);
	if (res == 0 || memcmp(world->volume_bytes, world->old, SIZE))
		assert_memory_equal(world->volume_bytes, world->fresh, SIZE);
	world_free(world);
	return hits > 0;
}

static void test_h02_every_request_fails_once(void **state)
{
	static const int codes[] = {-EIO, -ENOSPC};

	for (unsigned file = 0; file < 2; file++)
		for (unsigned c = 0; c < 2; c++) {
			unsigned nth = 1;

			while (run_with_fault(file, nth, codes[c]))
				nth++;
			assert_in_range(nth, 3, 200);
		}
}

static void test_h27_full(void **state)
{
	const struct fault_rule rule = {.result = -ENOSPC, .ops = 1u << BLOCK_WRITE, .nth = 3};
	struct world *world = world_new();
	struct error error = {0};
	struct block *view;

	begin(world);
	fault_add(world->faulty_file, &rule);
	view = open_view(world, &error);
	assert_int_equal(write_fresh(world, view), -ENOSPC);
	keep(world);
	block_free(view);
	assert_false(world->stage_there);
	assert_memory_equal(world->volume_bytes, world->old, SIZE);
	world_free(world);
}

static void test_h10_written_during_the_round(void **state)
{
	struct world *world = world_new();
	struct error error = {0};
	struct block *view;
	uint8_t byte = 1;

	begin(world);
	view = open_view(world, &error);
	assert_int_equal(write_fresh(world, view), 0);
	assert_int_equal(view_io(world->volume, BLOCK_WRITE, 190000, 1, &byte), 0);
	assert_int_equal(commit(view, &error), -ESTALE);
	assert_non_null(strstr(error.text, "somebody else"));
	keep(world);
	block_free(view);
	assert_int_equal(memcmp(world->volume_bytes, world->old, 190000), 0);
	world_free(world);
}

struct asked {
	struct block_io io;
	bool done;
	int res;
};

static void answered(struct block_io *io, int res)
{
	struct asked *asked = container_of(io, struct asked, io);

	asked->done = true;
	asked->res = res;
}

/* What comes after the commit was asked for is in no table; nor is what has not ended by then. */
static void test_h10_writes_beside_the_commit(void **state)
{
	struct world *world = world_new();
	struct error error = {0};
	uint8_t byte = 1;
	struct asked write = {
	    .io = {.op = BLOCK_WRITE, .offset = 9, .length = 1, .buf = &byte, .done = answered}};
	struct asked commit = {.io = {.op = BLOCK_FLUSH, .flags = BLOCK_COMMIT, .done = answered}};
	struct asked again = commit, late = write;
	struct block *view;

	begin(world);
	view = open_view(world, &error);
	assert_int_equal(write_fresh(world, view), 0);
	block_submit(view, &write.io);
	block_submit(view, &commit.io);
	assert_int_equal(ring_run_until(world->ring, &commit.done), 0);
	assert_int_equal(ring_run_until(world->ring, &write.done), 0);
	assert_int_equal(write.res, 0);
	assert_int_equal(commit.res, -EBUSY);
	block_submit(view, &again.io);
	block_submit(view, &late.io);
	assert_int_equal(ring_run_until(world->ring, &again.done), 0);
	assert_int_equal(ring_run_until(world->ring, &late.done), 0);
	assert_int_equal(late.res, -EROFS);
	assert_int_equal(again.res, 0);
	keep(world);
	assert_int_equal(world->volume_bytes[9], 1);
	block_free(view);
	world_free(world);
}

/* Recovery */

static void test_h25_committed_is_completed(void **state)
{
	struct world *world = world_new();
	struct error error = {0};

	half_apply(world);
	assert_int_equal(settle(world, &error), 0);
	assert_memory_equal(world->volume_bytes, world->fresh, SIZE);
	/* It is over: whatever is written now stays. */
	world->volume_bytes[6000] ^= 1;
	assert_int_equal(settle(world, &error), 0);
	assert_int_equal(world->volume_bytes[6000], world->fresh[6000] ^ 1);
	world_free(world);
}

static void test_h10_written_since(void **state)
{
	static const unsigned staged[] = {5000, 13999, 8192, SIZE - 1};

	for (unsigned i = 0; i < 4; i++) {
		struct world *world = world_new();
		struct error error = {0};
		uint8_t *before = malloc(SIZE);

		half_apply(world);
		/* One byte of a sector, which is neither what it was nor what it is to become. */
		world->volume_bytes[staged[i]] = (uint8_t)(world->old[staged[i]] ^ 0x55);
		if (world->volume_bytes[staged[i]] == world->fresh[staged[i]])
			world->volume_bytes[staged[i]] ^= 0x80;
		memcpy(before, world->volume_bytes, SIZE);
		assert_int_equal(settle(world, &error), -ESTALE);
		assert_memory_equal(world->volume_bytes, before, SIZE);
		free(before);
		world_free(world);
	}
}

static void test_damaged(void **state)
{
	struct world *world = world_new();
	uint64_t places[] = {5000, 9000, world->layout.table_at + 1, world->layout.table_at + 20,
	    world->layout.table_at + 30, world->layout.commit_at, world->layout.commit_at + 40,
	    world->layout.header_at + 20};
	uint8_t *before = malloc(SIZE);
	struct error error;

	half_apply(world);
	memcpy(before, world->volume_bytes, SIZE);
	for (unsigned i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		world->stage_bytes[places[i]] ^= 4;
		assert_int_equal(settle(world, &error), -EBADMSG);
		assert_non_null(strstr(error.text, "damaged"));
		assert_memory_equal(world->volume_bytes, before, SIZE);
		world->stage_bytes[places[i]] ^= 4;
	}
	assert_int_equal(settle(world, &error), 0);
	assert_memory_equal(world->volume_bytes, world->fresh, SIZE);
	free(before);
	world_free(world);
}

/* The kernel's code for a bad medium is the one of a stage that was never begun. */
static void test_h02_unreadable(void **state)
{
	const struct fault_rule rule = {.result = -ENODATA, .ops = 1u << BLOCK_READ, .nth = 1, .times = 1};
	struct world *world = world_new();
	struct error error = {0};
	struct stage stage;

	half_apply(world);
	begin(world);
	fault_add(world->faulty_file, &rule);
	assert_int_equal(stage_look(world->faulty_file, &stage, &error), -EIO);
	assert_non_null(strstr(error.text, "cannot read the stage"));
	assert_int_equal(stage_look(world->faulty_file, &stage, &error), 0);
	assert_int_equal(stage.state, STAGE_COMMITTED);
	end(world);
	world_free(world);
}

static void test_h17_resumable(void **state)
{
	struct world *world = world_new();
	struct error error = {0};
	struct block *view;

	begin(world);
	view = open_view(world, &error);
	assert_int_equal(write_fresh(world, view), 0);
	assert_true(stage_is_resumable(world->file, ID, SIZE));
	assert_false(stage_is_resumable(world->file, "another", SIZE));
	assert_false(stage_is_resumable(world->file, ID, SIZE + 1));
	block_free(view);
	half_apply(world);
	begin(world);
	assert_false(stage_is_resumable(world->file, ID, SIZE));
	end(world);
	world_free(world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_layout),
	    cmocka_unit_test(test_blocks),
	    cmocka_unit_test(test_entries),
	    cmocka_unit_test(test_a_round),
	    cmocka_unit_test(test_an_empty_round),
	    cmocka_unit_test(test_h02_every_request_fails_once),
	    cmocka_unit_test(test_h27_full),
	    cmocka_unit_test(test_h10_written_during_the_round),
	    cmocka_unit_test(test_h10_writes_beside_the_commit),
	    cmocka_unit_test(test_h25_committed_is_completed),
	    cmocka_unit_test(test_h10_written_since),
	    cmocka_unit_test(test_damaged),
	    cmocka_unit_test(test_h02_unreadable),
	    cmocka_unit_test(test_h17_resumable),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
