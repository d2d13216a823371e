/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The overlay against a model in memory: requests of any size, many at once that share blocks, over slow volumes. What is below
 * never changes. Once with a real file.
 */
#include "base/bytes.h"
#include "base/rand.h"
#include "block/memory.h"
#include "filter/delay.h"
#include "filter/fault.h"
#include "filter/overlay.h"
#include "filter/overlay_map.h"
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

#define SIZE  300007u
#define BATCH 40u

struct world {
	struct ring_sim *sim;
	struct ring *ring;
	struct block *below, *upper, *upper_fault, *overlay;
	uint8_t base[SIZE], model[SIZE];
};

static struct block *slow(struct block *block, uint64_t seed)
{
	const struct delay_options options = {.min_ns = 1000, .max_ns = 1000000, .seed = seed};
	struct block *delay;

	assert_int_equal(delay_new(&delay, block, &options, NULL), 0);
	return delay;
}

/* Random bytes and holes below, garbage above. */
static struct world *world_new(uint64_t seed)
{
	const struct memory_options read_only = {.read_only = true};
	struct world *world = calloc(1, sizeof(*world));
	struct rand rand;

	rand_init(&rand, seed);
	world->sim = ring_sim_new(seed, 0);
	world->ring = ring_sim_host_new(world->sim, "host");
	assert_int_equal(memory_new(&world->below, world->ring, SIZE, &read_only, NULL), 0);
	assert_int_equal(memory_new(&world->upper, world->ring, SIZE, NULL, NULL), 0);
	rand_bytes(&rand, world->base, SIZE);
	assert_int_equal(memory_poke(world->upper, 0, world->base, SIZE), 0);
	rand_bytes(&rand, world->base, SIZE);
	memset(world->base + 100000, 0, 80000);
	assert_int_equal(memory_poke(world->below, 0, world->base, 100000), 0);
	assert_int_equal(memory_poke(world->below, 180000, world->base + 180000, SIZE - 180000), 0);
	memcpy(world->model, world->base, SIZE);
	assert_int_equal(fault_new(&world->upper_fault, world->upper, seed, NULL), 0);
	assert_int_equal(
	    overlay_new(&world->overlay, slow(world->below, seed), slow(world->upper_fault, seed + 1), NULL),
	    0);
	return world;
}

static void world_free(struct world *world)
{
	uint8_t *now = malloc(SIZE);

	memory_peek(world->below, 0, now, SIZE);
	assert_memory_equal(now, world->base, SIZE);
	free(now);
	block_free(world->overlay);
	ring_free(world->ring);
	ring_sim_free(world->sim);
	free(world);
}

static int io(struct world *world, enum block_op op, uint64_t offset, uint64_t length, void *buf)
{
	struct block_io request = {.op = op, .offset = offset, .length = length, .buf = buf};

	return block_wait(world->overlay, &request);
}

static void check_all(struct world *world)
{
	uint8_t *found = malloc(SIZE);

	assert_int_equal(io(world, BLOCK_READ, 0, SIZE, found), 0);
	assert_memory_equal(found, world->model, SIZE);
	free(found);
}

static void check_extents(struct world *world)
{
	struct extent extents[3];

	for (uint64_t at = 0; at < SIZE;) {
		struct block_io request = {.op = BLOCK_EXTENTS,
		    .offset = at,
		    .length = SIZE - at,
		    .extents = extents,
		    .extents_max = 3};
		int count = block_wait(world->overlay, &request);

		assert_in_range(count, 1, 3);
		assert_int_equal(request.length, SIZE - at);
		for (int i = 0; i < count; i++) {
			assert_int_equal(extents[i].offset, at);
			if (extents[i].kind == EXTENT_ZERO)
				assert_true(bytes_are_zero(world->model + at, extents[i].length));
			at += extents[i].length;
		}
		assert_true(at <= SIZE);
	}
}

struct flying {
	struct block_io io;
	uint8_t *data;
	unsigned *left;
};

static void flying_done(struct block_io *io, int res)
{
	struct flying *flying = container_of(io, struct flying, io);

	assert_int_equal(res, 0);
	(*flying->left)--;
}

/* Requests side by side that touch no byte of each other, but the same blocks, all at once. */
static void batch(struct world *world, struct rand *rand)
{
	struct flying flying[BATCH] = {0};
	unsigned left = 0, count = 0;
	uint64_t offset = rand_below(rand, SIZE);

	for (; count < BATCH && offset < SIZE; count++) {
		struct flying *one = &flying[count];
		uint64_t most = rand_one_in(rand, 5) ? 40000 : rand_one_in(rand, 2) ? 5000 : 700;
		uint64_t length = rand_between(rand, 1, min_u64(SIZE - offset, most));
		static const enum block_op kinds[] = {BLOCK_WRITE, BLOCK_WRITE, BLOCK_ZERO, BLOCK_READ};

		one->data = malloc(length);
		one->left = &left;
		one->io = (struct block_io){.op = kinds[rand_below(rand, 4)],
		    .flags = rand_one_in(rand, 3) ? BLOCK_FUA | BLOCK_NO_HOLE : 0,
		    .offset = offset,
		    .length = length,
		    .buf = one->data,
		    .done = flying_done};
		rand_bytes(rand, one->data, length);
		if (one->io.op == BLOCK_WRITE)
			memcpy(world->model + offset, one->data, length);
		else if (one->io.op == BLOCK_ZERO)
			memset(world->model + offset, 0, length);
		left++;
		block_submit(world->overlay, &one->io);
		offset += length;
	}
	while (left > 0)
		assert_int_equal(ring_sim_step(world->sim), 0);
	for (unsigned i = 0; i < count; i++) {
		if (flying[i].io.op == BLOCK_READ)
			assert_memory_equal(
			    flying[i].data, world->model + flying[i].io.offset, flying[i].io.length);
		free(flying[i].data);
	}
}

static void test_h12_h13_behaves_like_a_flat_array(void **state)
{
	uint64_t seed = seed_of_run();

	for (unsigned i = 0; i < 30; i++) {
		struct world *world = world_new(seed + i);
		struct rand rand;

		rand_init(&rand, seed + i);
		for (unsigned step = 0; step < 12; step++) {
			batch(world, &rand);
			check_extents(world);
		}
		check_all(world);
		world_free(world);
	}
}

/* One byte after the other. */
static void test_single_bytes(void **state)
{
	struct world *world = world_new(5);

	for (uint64_t at = 4000; at < 4200; at += 3) {
		uint8_t byte = (uint8_t)at;

		assert_int_equal(io(world, BLOCK_WRITE, at, 1, &byte), 0);
		world->model[at] = byte;
		assert_int_equal(io(world, BLOCK_ZERO, SIZE - 1 - (at - 4000), 1, NULL), 0);
		world->model[SIZE - 1 - (at - 4000)] = 0;
	}
	check_all(world);
	world_free(world);
}

/* Trimmed bytes may be anything; others are as they were. */
static void test_trim(void **state)
{
	struct world *world = world_new(9);
	uint8_t *data = malloc(SIZE);

	memset(data, 4, 20000);
	memset(world->model + 5000, 4, 20000);
	assert_int_equal(io(world, BLOCK_WRITE, 5000, 20000, data), 0);
	assert_int_equal(io(world, BLOCK_TRIM, 7001, 10000, NULL), 0);
	assert_int_equal(io(world, BLOCK_TRIM, 50000, 10000, NULL), 0);
	assert_int_equal(io(world, BLOCK_FLUSH, 0, 0, NULL), 0);
	assert_int_equal(io(world, BLOCK_READ, 0, SIZE, data), 0);
	assert_memory_equal(data, world->model, 7001);
	assert_memory_equal(data + 17001, world->model + 17001, 50000 - 17001);
	assert_memory_equal(data + 60000, world->model + 60000, SIZE - 60000);
	free(data);
	world_free(world);
}

/* No space above: the client hears of it, and what was there before is still read. */
static void test_full(void **state)
{
	const struct fault_rule rule = {.ops = 1u << BLOCK_WRITE,
	    .kind = FAULT_ERROR,
	    .result = -ENOSPC,
	    .offset = 40960,
	    .length = 8192};
	struct world *world = world_new(11);
	uint8_t *data = malloc(SIZE);

	memset(data, 7, SIZE);
	fault_add(world->upper_fault, &rule);
	assert_int_equal(io(world, BLOCK_WRITE, 41000, 100, data), -ENOSPC);
	assert_int_equal(io(world, BLOCK_WRITE, 40960, 4096, data), -ENOSPC);
	check_all(world);
	assert_int_equal(io(world, BLOCK_WRITE, 4096, 4096, data), 0);
	memcpy(world->model + 4096, data, 4096);
	fault_clear(world->upper_fault);
	assert_int_equal(io(world, BLOCK_WRITE, 41000, 100, data), 0);
	memcpy(world->model + 41000, data, 100);
	check_all(world);
	free(data);
	world_free(world);
}

static void test_digests_see_writes(void **state)
{
	const struct digest_key key = {{1, 2, 3}};
	struct world *world = world_new(13);
	uint8_t before[DIGEST_BYTES], after[DIGEST_BYTES], byte = 1;
	struct block_io digest = {.op = BLOCK_DIGEST,
	    .offset = 8192,
	    .length = 4096,
	    .granularity = DIGEST_LEAF,
	    .key = &key,
	    .buf = before};

	assert_int_equal(block_wait(world->overlay, &digest), 0);
	byte = (uint8_t)~world->model[9000];
	assert_int_equal(io(world, BLOCK_WRITE, 9000, 1, &byte), 0);
	digest.buf = after;
	assert_int_equal(block_wait(world->overlay, &digest), 0);
	assert_memory_not_equal(before, after, DIGEST_BYTES);
	world_free(world);
}

/* Zeroing all of 16 TiB costs no memory to speak of; the map against a list of bools over the border of two leaves. */
static void test_map(void **state)
{
	const uint64_t size = UINT64_C(16) << 40, border = UINT64_C(128) << 20;
	static bool model[64];
	struct overlay_map *map;
	struct rand rand;
	bool set;

	assert_int_equal(overlay_map_new(&map, size), 0);
	rand_init(&rand, seed_of_run());
	for (unsigned i = 0; i < 20; i++) {
		uint64_t first = rand_below(&rand, 64), last = rand_between(&rand, first, 63);
		uint64_t base = border - 32 * OVERLAY_BLOCK;

		last = min_u64(last, first + 3);
		assert_int_equal(
		    overlay_map_set(map, base + first * OVERLAY_BLOCK + 5, base + last * OVERLAY_BLOCK + 6),
		    0);
		for (uint64_t block = first; block <= last; block++)
			model[block] = true;
		for (unsigned block = 0, next; block < 64; block = next) {
			for (next = block; next < 64 && model[next] == model[block]; next++)
				assert_int_equal(
				    overlay_map_has(map, base + next * OVERLAY_BLOCK), model[next]);
			assert_int_equal(overlay_map_run(map, base + block * OVERLAY_BLOCK + 7,
			                     base + 64 * OVERLAY_BLOCK, &set),
			    base + next * OVERLAY_BLOCK);
			assert_int_equal(set, model[block]);
		}
	}
	assert_int_equal(overlay_map_set(map, 0, size), 0);
	assert_int_equal(overlay_map_run(map, 0, size, &set), size);
	assert_true(set);
	overlay_map_free(map);
}

static void test_real_file(void **state)
{
	const struct memory_options read_only = {.read_only = true};
	struct block *below, *overlay;
	uint8_t *data = malloc(SIZE), *found = malloc(SIZE);
	struct extent extent;
	struct block_io extents = {.op = BLOCK_EXTENTS, .length = 8192, .extents = &extent, .extents_max = 1};
	struct error error;
	struct ring *ring;

	assert_int_equal(ring_new(&ring, 64, &error), 0);
	assert_int_equal(memory_new(&below, ring, SIZE, &read_only, NULL), 0);
	memset(data, 3, SIZE);
	assert_int_equal(memory_poke(below, 0, data, SIZE), 0);
	assert_int_equal(overlay_open(&overlay, below, "/var/tmp", &error), 0);
	struct world world = {.overlay = overlay};

	memset(data + SIZE - 5, 9, 5);
	assert_int_equal(io(&world, BLOCK_WRITE, SIZE - 5, 5, data + SIZE - 5), 0);
	memset(data + 10, 0, 70000);
	assert_int_equal(io(&world, BLOCK_ZERO, 10, 70000, NULL), 0);
	assert_int_equal(io(&world, BLOCK_READ, 0, SIZE, found), 0);
	assert_memory_equal(found, data, SIZE);
	extents.offset = 8192;
	assert_int_equal(block_wait(overlay, &extents), 1);
	assert_int_equal(extent.kind, EXTENT_ZERO);
	block_free(overlay);
	assert_int_equal(memory_new(&below, ring, SIZE, &read_only, NULL), 0);
	assert_int_equal(overlay_open(&overlay, below, "/nowhere", &error), -ENOENT);
	assert_non_null(strstr(error.text, "--overlay-dir"));
	ring_free(ring);
	free(data);
	free(found);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_h12_h13_behaves_like_a_flat_array),
	    cmocka_unit_test(test_single_bytes),
	    cmocka_unit_test(test_trim),
	    cmocka_unit_test(test_full),
	    cmocka_unit_test(test_digests_see_writes),
	    cmocka_unit_test(test_map),
	    cmocka_unit_test(test_real_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
