/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The volume in memory against a flat model, and its extents, digests and lies. */
#include "base/bytes.h"
#include "base/rand.h"
#include "block/memory.h"
#include "ring/ring_sim.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "seed.h"

struct world {
	struct ring_sim *sim;
	struct ring *ring;
	struct block *block;
};

static void world_init(
    struct world *world, uint64_t seed, uint64_t size, const struct memory_options *options)
{
	world->sim = ring_sim_new(seed, 0);
	world->ring = ring_sim_host_new(world->sim, "host");
	assert_int_equal(memory_new(&world->block, world->ring, size, options, NULL), 0);
}

static void world_done(struct world *world)
{
	block_free(world->block);
	ring_free(world->ring);
	ring_sim_free(world->sim);
}

static int io(struct world *world, enum block_op op, uint64_t offset, uint64_t length, void *buf)
{
	struct block_io request = {.op = op, .offset = offset, .length = length, .buf = buf};

	return block_wait(world->block, &request);
}

#define MODEL_SIZE 100003u

static void random_step(struct world *world, struct rand *rand, uint8_t *model, uint8_t *buf)
{
	uint64_t offset = rand_below(rand, MODEL_SIZE);
	uint64_t length = rand_below(rand, MODEL_SIZE - offset + 1);

	if (rand_one_in(rand, 2))
		length = min_u64(length, 5000);
	switch (rand_below(rand, 3)) {
	case 0:
		rand_bytes(rand, buf, length);
		memcpy(model + offset, buf, length);
		assert_int_equal(io(world, BLOCK_WRITE, offset, length, buf), 0);
		break;
	case 1:
		memset(model + offset, 0, length);
		assert_int_equal(io(world, BLOCK_ZERO, offset, length, NULL), 0);
		break;
	default:
		memset(buf, 0x55, MODEL_SIZE);
		assert_int_equal(io(world, BLOCK_READ, offset, length, buf), 0);
		assert_memory_equal(buf, model + offset, length);
	}
}

/* Holes that it reports are zero in the model, and the extents cover all without gaps. */
static void check_extents(struct world *world, const uint8_t *model)
{
	struct extent extents[7];
	uint64_t at = 0;

	while (at < MODEL_SIZE) {
		struct block_io request = {.op = BLOCK_EXTENTS,
		    .offset = at,
		    .length = MODEL_SIZE - at,
		    .extents = extents,
		    .extents_max = 7};
		int count = block_wait(world->block, &request);

		assert_in_range(count, 1, 7);
		for (int i = 0; i < count; i++) {
			assert_int_equal(extents[i].offset, at);
			if (extents[i].kind == EXTENT_ZERO)
				assert_true(bytes_are_zero(model + at, extents[i].length));
			at += extents[i].length;
		}
	}
	assert_int_equal(at, MODEL_SIZE);
}

static void test_behaves_like_a_flat_array(void **state)
{
	struct world world;
	struct rand rand;
	uint8_t *model = calloc(1, MODEL_SIZE), *buf = calloc(1, MODEL_SIZE);

	world_init(&world, seed_of_run(), MODEL_SIZE, NULL);
	rand_init(&rand, seed_of_run());
	for (int i = 0; i < 500; i++) {
		random_step(&world, &rand, model, buf);
		check_extents(&world, model);
	}
	world_done(&world);
	free(model);
	free(buf);
}

static void test_h12_last_bytes_and_bounds(void **state)
{
	struct world world;
	uint8_t buf[4096] = {9};

	world_init(&world, 1, 4097, NULL);
	assert_int_equal(io(&world, BLOCK_WRITE, 4096, 1, buf), 0);
	assert_int_equal(io(&world, BLOCK_WRITE, 4096, 2, buf), -EINVAL);
	buf[0] = 0;
	assert_int_equal(io(&world, BLOCK_READ, 4096, 1, buf), 0);
	assert_int_equal(buf[0], 9);
	assert_int_equal(io(&world, BLOCK_RESIZE, 0, 4097, NULL), 0);
	assert_int_equal(io(&world, BLOCK_RESIZE, 0, 5000, NULL), -EOPNOTSUPP);
	world_done(&world);
}

static void test_resize(void **state)
{
	const struct memory_options options = {.resizable = true};
	struct world world;
	uint8_t buf[100];

	world_init(&world, 1, 1000, &options);
	memset(buf, 3, sizeof(buf));
	assert_int_equal(io(&world, BLOCK_WRITE, 900, 100, buf), 0);
	assert_int_equal(io(&world, BLOCK_RESIZE, 0, 950, NULL), 0);
	assert_int_equal(io(&world, BLOCK_RESIZE, 0, 64 << 20, NULL), 0);
	assert_int_equal(io(&world, BLOCK_READ, 900, 100, buf), 0);
	assert_true(buf[49] == 3 && bytes_are_zero(buf + 50, 50));
	assert_int_equal(io(&world, BLOCK_WRITE, (64 << 20) - 100, 100, buf), 0);
	world_done(&world);
}

static void test_16_tib_is_sparse_and_quick(void **state)
{
	struct world world;
	uint64_t size = (uint64_t)16 << 40;
	struct extent extents[3];
	uint8_t one = 1;
	struct block_io request = {.op = BLOCK_EXTENTS, .length = size, .extents = extents, .extents_max = 3};

	world_init(&world, 1, size, NULL);
	assert_int_equal(memory_poke(world.block, size / 2, &one, 1), 0);
	assert_int_equal(block_wait(world.block, &request), 3);
	assert_int_equal(extents[1].offset, size / 2);
	assert_int_equal(extents[1].length, 4096);
	assert_int_equal(extents[2].length, size / 2 - 4096);
	assert_int_equal(io(&world, BLOCK_ZERO, 0, size, NULL), 0);
	assert_int_equal(block_wait(world.block, &request), 1);
	world_done(&world);
}

static void test_digests_see_writes(void **state)
{
	struct digest_key key = {{1, 2, 3}};
	struct world world;
	uint8_t digests[256 * DIGEST_BYTES], again[256 * DIGEST_BYTES];
	uint8_t one = 1;
	struct block_io request = {
	    .op = BLOCK_DIGEST, .length = 1 << 20, .granularity = DIGEST_LEAF, .key = &key, .buf = digests};

	world_init(&world, 1, 1 << 20, NULL);
	assert_int_equal(block_wait(world.block, &request), 0);
	assert_int_equal(io(&world, BLOCK_WRITE, 8192, 1, &one), 0);
	request.buf = again;
	assert_int_equal(block_wait(world.block, &request), 0);
	assert_memory_equal(digests, again, 2 * DIGEST_BYTES);
	assert_memory_not_equal(digests + 2 * DIGEST_BYTES, again + 2 * DIGEST_BYTES, DIGEST_BYTES);
	assert_memory_equal(digests + 3 * DIGEST_BYTES, again + 3 * DIGEST_BYTES, DIGEST_BYTES);
	assert_int_equal(memory_counts(world.block)->digests, 2);
	world_done(&world);
}

static void test_h04_lies_about_holes_when_asked(void **state)
{
	const struct memory_options options = {.lie_seed = 7};
	struct world world;
	struct extent extents[64];
	struct block_io request = {
	    .op = BLOCK_EXTENTS, .length = 1 << 18, .extents = extents, .extents_max = 64};
	uint8_t buf[4096] = {1};
	int count, lies = 0;

	world_init(&world, 1, 1 << 18, &options);
	for (uint64_t at = 0; at < 1 << 18; at += 4096)
		assert_int_equal(io(&world, BLOCK_WRITE, at, 4096, buf), 0);
	count = block_wait(world.block, &request);
	for (int i = 0; i < count; i++)
		lies += extents[i].kind == EXTENT_ZERO;
	assert_true(lies > 0);
	world_done(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_behaves_like_a_flat_array),
	    cmocka_unit_test(test_h12_last_bytes_and_bounds),
	    cmocka_unit_test(test_resize),
	    cmocka_unit_test(test_16_tib_is_sparse_and_quick),
	    cmocka_unit_test(test_digests_see_writes),
	    cmocka_unit_test(test_h04_lies_about_holes_when_asked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
