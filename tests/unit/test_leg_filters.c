/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What lies around a mirror's target: saved digests that hold until something is written, and the first bytes of a larger volume. */
#include "base/bytes.h"
#include "base/rand.h"
#include "block/memory.h"
#include "filter/fault.h"
#include "filter/known_digests.h"
#include "filter/share.h"
#include "ring/ring_sim.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "seed.h"

#define NODE   (64u << 10)
#define SIZE   (20 * NODE + 4608u)
#define NODES  (SIZE / NODE + 1)
#define ROUNDS 400u

struct world {
	struct ring_sim *sim;
	struct ring *ring;
	struct rand rand;
	struct block *memory, *fault, *saved, *top;
	struct digest_key key;
	bool written[NODES];
};

static struct block *filled(struct world *world)
{
	static uint8_t content[SIZE];
	struct block *block;

	rand_bytes(&world->rand, content, SIZE);
	assert_int_equal(memory_new(&block, world->ring, SIZE, NULL, NULL), 0);
	assert_int_equal(memory_poke(block, 0, content, SIZE), 0);
	return block;
}

/* The volume holds something else than the saved digests say, so that it is seen who answers. */
static void setup(struct world *world)
{
	*world = (struct world){.sim = ring_sim_new(1, 0)};
	rand_init(&world->rand, seed_of_run());
	world->ring = ring_sim_host_new(world->sim, "host");
	rand_bytes(&world->rand, world->key.bytes, sizeof(world->key.bytes));
	world->memory = filled(world);
	world->saved = filled(world);
	assert_int_equal(fault_new(&world->fault, world->memory, 1, NULL), 0);
	assert_int_equal(known_digests_new(&world->top, world->fault, world->saved, &world->key, NULL), 0);
}

static void teardown(struct world *world)
{
	block_free(world->top);
	ring_free(world->ring);
	ring_sim_free(world->sim);
}

static void get_digests(
    struct block *block, uint64_t node, unsigned nodes, const struct digest_key *key, uint8_t *ret)
{
	uint64_t end = min_u64((node + nodes) * NODE, SIZE);
	struct block_io io = {.op = BLOCK_DIGEST,
	    .offset = node * NODE,
	    .length = end - node * NODE,
	    .granularity = DIGEST_LEAF,
	    .key = key,
	    .buf = ret};

	memset(ret, 0, NODES * 16 * DIGEST_BYTES);
	assert_int_equal(block_wait(block, &io), 0);
}

/* Whose digests come through the filter. */
static void assert_from(
    struct world *world, uint64_t node, unsigned nodes, const struct digest_key *key, const struct block *who)
{
	static uint8_t got[NODES * 16 * DIGEST_BYTES], want[sizeof(got)];

	get_digests(world->top, node, nodes, key, got);
	get_digests((struct block *)who, node, nodes, key, want);
	assert_memory_equal(got, want, sizeof(got));
}

static void write_somewhere(struct world *world)
{
	static const enum block_op ops[] = {BLOCK_WRITE, BLOCK_ZERO, BLOCK_TRIM};
	static uint8_t content[3 * NODE];
	uint64_t offset = rand_below(&world->rand, SIZE);
	uint64_t length = min_u64(1 + rand_below(&world->rand, sizeof(content)), SIZE - offset);
	struct block_io io = {.op = ops[rand_below(&world->rand, 3)],
	    .offset = offset,
	    .length = rand_one_in(&world->rand, 3) ? length : 1,
	    .buf = content};

	rand_bytes(&world->rand, content, io.length);
	(void)block_wait(world->top, &io);
	for (uint64_t node = offset / NODE; node <= (offset + io.length - 1) / NODE; node++)
		world->written[node] = true;
}

/* Also when the write failed: nobody knows how much of it is there. */
static void test_h10_saved_digests_hold_where_nothing_was_written(void **state)
{
	const struct fault_rule rule = {.kind = FAULT_ERROR_AFTER,
	    .result = -EIO,
	    .ops = 1u << BLOCK_WRITE | 1u << BLOCK_ZERO,
	    .ppm = 300000};
	struct world world;

	for (unsigned i = 0; i < ROUNDS; i++) {
		if (i % 20 == 0) {
			if (i > 0)
				teardown(&world);
			setup(&world);
			fault_add(world.fault, &rule);
		}
		uint64_t node = rand_below(&world.rand, NODES);
		unsigned nodes = (unsigned)min_u64(1 + rand_below(&world.rand, 4), NODES - node);
		bool written = false;

		/* A range that lies within one chunk. */
		nodes = (unsigned)min_u64(nodes, 16 - node % 16);
		for (unsigned j = 0; j < nodes; j++)
			written |= world.written[node + j];
		assert_from(&world, node, nodes, &world.key, written ? world.memory : world.saved);
		write_somewhere(&world);
	}
	teardown(&world);
}

static void test_digests_with_another_key_are_the_volumes(void **state)
{
	struct world world;
	struct digest_key other;

	setup(&world);
	other = world.key;
	other.bytes[15] ^= 1;
	assert_from(&world, 0, 4, &other, world.memory);
	assert_from(&world, NODES - 1, 1, &world.key, world.saved);
	teardown(&world);
}

/* The first bytes of a volume in memory. */
static int head_of(struct world *world, uint64_t size, uint32_t request_align, struct error *error)
{
	const struct memory_options options = {.request_align = request_align};
	static uint8_t content[SIZE];

	*world = (struct world){.sim = ring_sim_new(1, 0)};
	rand_init(&world->rand, seed_of_run());
	world->ring = ring_sim_host_new(world->sim, "host");
	assert_int_equal(memory_new(&world->memory, world->ring, SIZE, &options, NULL), 0);
	rand_bytes(&world->rand, content, SIZE);
	assert_int_equal(memory_poke(world->memory, 0, content, SIZE), 0);
	return share_take(&world->top, world->memory, size, error);
}

static int ask(struct world *world, enum block_op op, uint64_t offset, uint64_t length, void *buf)
{
	struct block_io io = {.op = op, .offset = offset, .length = length, .buf = buf};

	return block_wait(world->top, &io);
}

static void test_the_head_of_a_volume_ends_where_it_ends(void **state)
{
	static uint8_t before[SIZE], after[SIZE], zeros[NODE];
	const uint64_t size = 3 * NODE + 517;
	struct world world;

	assert_int_equal(head_of(&world, size, 1, NULL), 0);
	memory_peek(world.memory, 0, before, SIZE);
	assert_int_equal(block_info(world.top)->size, size);
	assert_int_equal(ask(&world, BLOCK_WRITE, size - NODE, NODE, zeros), 0);
	assert_int_equal(ask(&world, BLOCK_WRITE, size - NODE, NODE + 1, zeros), -EINVAL);
	assert_int_equal(ask(&world, BLOCK_ZERO, 0, size, NULL), 0);
	assert_int_equal(ask(&world, BLOCK_ZERO, size - 1, 2, NULL), -EINVAL);
	assert_int_equal(ask(&world, BLOCK_TRIM, size, 1, NULL), -EINVAL);
	assert_int_equal(ask(&world, BLOCK_READ, size, 1, zeros), -EINVAL);
	assert_int_equal(ask(&world, BLOCK_FLUSH, 0, 0, NULL), 0);
	assert_int_equal(memory_counts(world.memory)->flushes, 1);
	memory_peek(world.memory, 0, after, SIZE);
	assert_memory_equal(after + size, before + size, SIZE - size);
	memset(before, 0, size);
	assert_memory_equal(after, before, size);
	teardown(&world);
}

static void test_the_head_of_a_volume_keeps_its_size(void **state)
{
	struct world world;

	assert_int_equal(head_of(&world, NODE, 1, NULL), 0);
	assert_false(block_info(world.top)->resizable);
	assert_int_equal(ask(&world, BLOCK_RESIZE, 0, NODE, NULL), 0);
	assert_int_equal(ask(&world, BLOCK_RESIZE, 0, NODE - 1, NULL), -EOPNOTSUPP);
	assert_int_equal(block_info(world.memory)->size, SIZE);
	teardown(&world);
}

static void test_an_end_within_a_block_is_refused(void **state)
{
	struct world world;
	struct error error;

	assert_int_equal(head_of(&world, NODE + 512, 4096, &error), -EINVAL);
	assert_non_null(strstr(error.text, "4096"));
	world.top = NULL;
	teardown(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_h10_saved_digests_hold_where_nothing_was_written),
	    cmocka_unit_test(test_digests_with_another_key_are_the_volumes),
	    cmocka_unit_test(test_the_head_of_a_volume_ends_where_it_ends),
	    cmocka_unit_test(test_the_head_of_a_volume_keeps_its_size),
	    cmocka_unit_test(test_an_end_within_a_block_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
