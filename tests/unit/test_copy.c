/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The copy engine on volumes in memory: long stretches of zeros, what it counts, what it says. */
#include "block/memory.h"
#include "filter/fault.h"
#include "sync/all_extents.h"
#include "sync/copy.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define GIB (1ull << 30)

struct world {
	struct ring *ring;
	struct block *source, *target; /* memory below a fault filter */
	struct block *below, *memory;  /* that of the source, of the target */
	struct extents *extents;
	struct copy *copy;
	bool done;
	int res;
};

static void world_init_with(struct world *world, uint64_t size, const struct copy_options *options)
{
	const struct memory_options memory = {0};
	const struct all_extents_options all = {.end = size};

	*world = (struct world){0};
	assert_int_equal(ring_new(&world->ring, 64, NULL), 0);
	assert_int_equal(memory_new(&world->below, world->ring, size, &memory, NULL), 0);
	assert_int_equal(fault_new(&world->source, world->below, 1, NULL), 0);
	assert_int_equal(memory_new(&world->memory, world->ring, size, &memory, NULL), 0);
	assert_int_equal(fault_new(&world->target, world->memory, 1, NULL), 0);
	assert_int_equal(all_extents_new(&world->extents, world->source, &all, NULL), 0);
	assert_int_equal(
	    copy_new(&world->copy, world->source, world->target, world->extents, options, NULL), 0);
}

static void world_init(struct world *world, uint64_t size)
{
	world_init_with(world, size, &(struct copy_options){0});
}

static void world_done(struct world *world)
{
	copy_free(world->copy);
	extents_free(world->extents);
	block_free(world->source);
	block_free(world->target);
	ring_free(world->ring);
}

static void copied(void *data, int res)
{
	struct world *world = data;

	world->done = true;
	world->res = res;
}

static void go(struct world *world)
{
	world->done = false;
	copy_start(world->copy, copied, world);
}

/* A stop waits for what is in flight: that must not be a whole empty volume. */
static void test_stop_amid_zeros(void **state)
{
	const uint64_t size = 100 * GIB + 12345;
	struct world world;

	world_init(&world, size);
	go(&world);
	while (copy_counts(world.copy)->zeroed == 0 && !world.done)
		assert_int_equal(world.ring->ops->step(world.ring), 0);
	copy_stop(world.copy);
	assert_int_equal(ring_run_until(world.ring, &world.done), 0);
	assert_int_equal(world.res, -ECANCELED);
	assert_in_range(copy_counts(world.copy)->zeroed, 1, 3 * GIB);
	/* It goes on with what is left, and leaves nothing out. */
	go(&world);
	assert_int_equal(ring_run_until(world.ring, &world.done), 0);
	assert_int_equal(world.res, 0);
	assert_int_equal(copy_counts(world.copy)->zeroed, size);
	assert_int_equal(memory_counts(world.memory)->bytes_zeroed, size);
	world_done(&world);
}

static void test_what_a_bad_medium_says(void **state)
{
	static const struct {
		int res;
		bool medium;
	} rows[] = {{-EIO, true}, {-ENODATA, true}, {-EILSEQ, true}, {-EREMOTEIO, true}, {0, false},
	    {4, false}, {-ENOTCONN, false}, {-EINVAL, false}, {-ENOMEM, false}, {-ETIMEDOUT, false}};
	struct world world;

	world_init(&world, 4096);
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_int_equal(block_medium_failed(world.source, rows[i].res), rows[i].medium);
	world_done(&world);
}

/* What a full target needs next depends on whether there is anything to go on with. */
static void test_what_a_full_target_says(void **state)
{
	const struct fault_rule full = {.kind = FAULT_ERROR, .result = -ENOSPC, .ops = 1u << BLOCK_WRITE};

	for (int resumable = 0; resumable < 2; resumable++) {
		const struct copy_options options = {.resumable = resumable};
		const char *text;
		struct world world;

		world_init_with(&world, 1 << 20, &options);
		assert_int_equal(memory_poke(world.below, 0, "x", 1), 0);
		assert_int_equal(fault_add(world.target, &full), 0);
		go(&world);
		assert_int_equal(ring_run_until(world.ring, &world.done), 0);
		assert_int_equal(world.res, -ENOSPC);
		text = copy_error(world.copy)->text;
		assert_non_null(strstr(text, "No space left on device; make room there"));
		assert_true(!strstr(text, "--resume") == !resumable);
		world_done(&world);
	}
}

static void note_bad(void *data, uint64_t offset, uint64_t length, int res)
{
	*(uint64_t *)data += length;
}

static void fill(struct world *world, uint64_t size)
{
	for (uint64_t at = 0; at < size; at += 4096)
		assert_int_equal(memory_poke(world->below, at, "x", 1), 0);
}

static void bad_ranges_are_counted_once(uint64_t read_max)
{
	const struct fault_rule bad = {
	    .kind = FAULT_ERROR, .result = -EIO, .ops = 1u << BLOCK_READ, .offset = 300000, .length = 1};
	const uint64_t size = (2 << 20) + 12345;
	uint64_t listed = 0;
	const struct copy_options options = {
	    .detect_zeroes = true, .bad_range = note_bad, .bad_range_data = &listed};
	const struct copy_counts *counts;
	struct world world;

	world_init_with(&world, size, &options);
	copy_set_read_max(world.copy, read_max);
	fill(&world, size);
	assert_int_equal(fault_add(world.source, &bad), 0);
	go(&world);
	assert_int_equal(ring_run_until(world.ring, &world.done), 0);
	assert_int_equal(world.res, 0);
	counts = copy_counts(world.copy);
	assert_int_equal(listed, 4096);
	assert_int_equal(counts->bad, 4096);
	assert_int_equal(counts->zeroed, 0);
	assert_int_equal(counts->data, size - 4096);
	world_done(&world);
}

/* Every byte is counted once: as data, as zeros, or as bad. */
static void test_bad_ranges_are_counted_once(void **state)
{
	bad_ranges_are_counted_once(0);
	bad_ranges_are_counted_once(16384);
}

/* Read in pieces, written as before. */
static void test_reads_in_pieces(void **state)
{
	const uint64_t size = (2 << 20) + 12345, read_max = 16384;
	struct world world;
	char byte;

	world_init(&world, size);
	copy_set_read_max(world.copy, read_max);
	fill(&world, size);
	go(&world);
	assert_int_equal(ring_run_until(world.ring, &world.done), 0);
	assert_int_equal(world.res, 0);
	assert_int_equal(copy_counts(world.copy)->data, size);
	assert_int_equal(memory_counts(world.below)->reads, size / read_max + 1);
	assert_int_equal(memory_counts(world.memory)->writes, 3);
	for (uint64_t at = 0; at < size; at += 4096) {
		memory_peek(world.memory, at, &byte, 1);
		assert_int_equal(byte, 'x');
	}
	world_done(&world);
}

/* With little room all of it is copied all the same. */
static void test_few_buffers(void **state)
{
	const struct copy_options options = {.large_max = 1};
	const uint64_t size = (5 << 20) + 12345;
	struct world world;
	char byte;

	world_init_with(&world, size, &options);
	fill(&world, size);
	go(&world);
	assert_int_equal(ring_run_until(world.ring, &world.done), 0);
	assert_int_equal(world.res, 0);
	assert_int_equal(copy_counts(world.copy)->data, size);
	for (uint64_t at = 0; at < size; at += 4096) {
		memory_peek(world.memory, at, &byte, 1);
		assert_int_equal(byte, 'x');
	}
	world_done(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_stop_amid_zeros),
	    cmocka_unit_test(test_what_a_full_target_says),
	    cmocka_unit_test(test_bad_ranges_are_counted_once),
	    cmocka_unit_test(test_reads_in_pieces),
	    cmocka_unit_test(test_few_buffers),
	    cmocka_unit_test(test_what_a_bad_medium_says),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
