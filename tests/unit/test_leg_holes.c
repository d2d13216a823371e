/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Holes of the legs of a mirror: when they are believed, and what a copy of a large volume with little in it costs. */
#include "block/driver.h"
#include "block/memory.h"
#include "filter/fault.h"
#include "filter/mirror.h"
#include "ring/ring_sim.h"
#include "sync/copy.h"
#include "sync/dirty_extents.h"
#include "sync/leg_holes.h"
#include "sync/live_verify.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define REGION   (64ull << 10)
#define SIZE     ((64ull << 30) + 5 * REGION + 512)
#define DATA_AT  (1000 * REGION)
#define DATA     (3 * REGION)
#define STALE_AT (5000 * REGION + 4096)
#define STALE    (20 * REGION)
#define TAIL     (SIZE - SIZE % REGION)
#define FAR_AWAY (500000 * REGION)

struct world {
	struct ring_sim *sim;
	struct ring *ring;
	struct block *memory[2], *faults[2], *mirror;
	struct bitmap_file *map;
	struct leg_holes holes;
	bool told, over;
};

static struct world world;
static uint8_t buf[STALE], held[STALE];

static void told(struct leg_holes *holes)
{
	world.told = true;
}

static void over(void *data)
{
	world.over = true;
}

/* Both are empty but for a piece of data in the source, another one in the target, and the source's last bytes. */
static void world_init(bool trusted)
{
	const struct ring_sim_disk_options disk = {.size_max = 1 << 20};
	const struct bitmap_super super = {.nonce = 7, .size = SIZE, .region_size = REGION, .records = 8};
	struct mirror_options options = {0};

	world = (struct world){.sim = ring_sim_new(1, 0)};
	world.ring = ring_sim_host_new(world.sim, "host");
	rand_bytes(ring_sim_rand(world.sim), buf, sizeof(buf));
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(memory_new(&world.memory[i], world.ring, SIZE, NULL, NULL), 0);
		assert_int_equal(fault_new(&world.faults[i], world.memory[i], 1, NULL), 0);
	}
	memory_poke(world.memory[0], DATA_AT, buf, DATA);
	memory_poke(world.memory[0], SIZE - 100, buf, 100);
	memory_poke(world.memory[1], STALE_AT, buf, STALE);
	world.faults[1]->info.holes_trusted = trusted;
	assert_int_equal(bitmap_file_create(
	                     &world.map, world.ring, ring_sim_disk_new(world.sim, &disk), &super, NULL, NULL),
	    0);
	options.map = world.map;
	assert_int_equal(mirror_new(&world.mirror, world.faults, &options, NULL), 0);
	world.holes = (struct leg_holes){.mirror = world.mirror, .done = told};
}

static void world_done(void)
{
	block_free(world.mirror);
	bitmap_file_free(world.map);
	for (unsigned i = 0; i < 2; i++)
		block_free(world.faults[i]);
	ring_free(world.ring);
	ring_sim_free(world.sim);
}

static void ask(uint64_t offset)
{
	world.told = false;
	leg_holes_ask(&world.holes, offset, SIZE - offset);
	assert_true(leg_holes_asking(&world.holes) && !world.told);
	assert_int_equal(ring_run_until(world.ring, &world.told), 0);
	assert_int_equal(world.holes.begin, offset);
}

static void expect(uint64_t offset, enum leg_hole hole, uint64_t end)
{
	uint64_t is_end;

	assert_int_equal(leg_holes_at(&world.holes, offset, REGION, &is_end), hole);
	assert_int_equal(is_end, end);
}

static int io(enum block_op op, uint64_t offset, uint64_t length)
{
	struct block_io request = {.op = op, .offset = offset, .length = length, .buf = buf};

	return block_wait(world.mirror, &request);
}

static void test_what_the_legs_say(void **state)
{
	world_init(true);
	ask(0);
	assert_int_equal(world.holes.end, SIZE);
	expect(0, LEG_HOLE_BOTH, DATA_AT);
	expect(DATA_AT, LEG_HOLE_NONE, DATA_AT + DATA);
	expect(DATA_AT + REGION, LEG_HOLE_NONE, DATA_AT + DATA);
	/* The target's data begin within a region. */
	expect(DATA_AT + DATA, LEG_HOLE_BOTH, 5000 * REGION);
	expect(5000 * REGION, LEG_HOLE_SOURCE, 5001 * REGION);
	expect(5001 * REGION, LEG_HOLE_SOURCE, 5020 * REGION);
	expect(5020 * REGION, LEG_HOLE_SOURCE, 5021 * REGION);
	expect(5021 * REGION, LEG_HOLE_BOTH, TAIL);
	expect(TAIL, LEG_HOLE_NONE, SIZE);
	world_done();
	world_init(false);
	ask(0);
	expect(0, LEG_HOLE_SOURCE, DATA_AT);
	expect(DATA_AT, LEG_HOLE_NONE, DATA_AT + DATA);
	world_done();
}

/* H04: what is said of a range counts for nothing once somebody has written there, before or after he asked. */
static void test_h04_nothing_is_believed_where_was_written(void **state)
{
	uint64_t end;

	world_init(true);
	ask(0);
	assert_int_equal(io(BLOCK_WRITE, FAR_AWAY + 512, 512), 0);
	expect(5021 * REGION, LEG_HOLE_BOTH, FAR_AWAY);
	expect(FAR_AWAY, LEG_HOLE_NONE, FAR_AWAY + REGION);
	assert_false(leg_holes_possible(&world.holes, FAR_AWAY, &end));
	assert_int_equal(end, FAR_AWAY + REGION);
	expect(FAR_AWAY + REGION, LEG_HOLE_BOTH, TAIL);
	/* A part of it that is zeroed changes nothing, all of it does. */
	assert_int_equal(io(BLOCK_ZERO, FAR_AWAY, 8192), 0);
	expect(FAR_AWAY, LEG_HOLE_NONE, FAR_AWAY + REGION);
	assert_int_equal(io(BLOCK_TRIM, FAR_AWAY, REGION), 0);
	assert_true(leg_holes_possible(&world.holes, FAR_AWAY, &end));
	expect(5021 * REGION, LEG_HOLE_BOTH, TAIL);
	/* A failed flush: what was zeroed may have its data back. */
	fault_add(world.faults[0],
	    &(struct fault_rule){.kind = FAULT_ERROR, .result = -EIO, .ops = 1u << BLOCK_FLUSH});
	assert_int_equal(io(BLOCK_FLUSH, 0, 0), -EIO);
	assert_false(leg_holes_possible(&world.holes, 0, &end));
	expect(0, LEG_HOLE_NONE, DATA_AT);
	world_done();
}

static void test_a_leg_that_went_says_nothing(void **state)
{
	uint64_t end;

	world_init(true);
	leg_holes_ask(&world.holes, 0, SIZE);
	mirror_detach(world.mirror);
	leg_holes_abandon(&world.holes);
	assert_int_equal(ring_run_until(world.ring, &world.told), 0);
	assert_int_equal(world.holes.end, world.holes.begin);
	assert_false(leg_holes_possible(&world.holes, 0, &end));
	world_done();
}

static void copy_ended(void *data, int res)
{
	assert_int_equal(res, -ECANCELED);
	world.over = true;
}

static void run_for(uint64_t ns)
{
	struct ring_op timer = {.opcode = RING_TIMER, .deadline_ns = ring_now_ns(world.ring) + ns};

	ring_wait(world.ring, &timer);
}

static void check_copied(void)
{
	memory_peek(world.memory[1], DATA_AT, held, DATA);
	assert_memory_equal(held, buf, DATA);
	memory_peek(world.memory[1], SIZE - 100, held, 100);
	assert_memory_equal(held, buf, 100);
	memory_peek(world.memory[1], STALE_AT, held, STALE);
	assert_true(held[0] == 0 && !memcmp(held, held + 1, STALE - 1));
}

/* 64 GiB: read and written is what there is, and the rest is not even asked for region by region. */
static void copy_all(bool trusted)
{
	const struct copy_options options = {.detect_zeroes = true};
	struct extents *extents;
	struct copy *copy;

	world_init(trusted);
	assert_int_equal(dirty_extents_new(&extents, world.mirror, NULL), 0);
	assert_int_equal(copy_new(&copy, mirror_copy_source(world.mirror), mirror_copy_target(world.mirror),
	                     extents, &options, NULL),
	    0);
	copy_start(copy, copy_ended, NULL);
	while (bitmap_file_dirty(world.map)->count > 0 || dirty_extents_active(extents))
		run_for(1000000);
	check_copied();
	assert_int_equal(dirty_extents_copied(extents), DATA + SIZE % REGION);
	assert_true(memory_counts(world.memory[0])->bytes_read <= DATA + REGION);
	assert_true(memory_counts(world.memory[0])->extents < 10);
	if (trusted)
		assert_true(memory_counts(world.memory[1])->bytes_zeroed <= STALE + 2 * REGION);
	assert_true(memory_counts(world.memory[1])->zeroes < 300);
	/* What was zeroed by a client in one step needs no reading, either. */
	memory_poke(world.memory[1], FAR_AWAY, buf, 4096);
	assert_int_equal(io(BLOCK_ZERO, FAR_AWAY - (4ull << 30), 8ull << 30), 0);
	dirty_extents_look(extents);
	while (bitmap_file_dirty(world.map)->count > 0 || dirty_extents_active(extents))
		run_for(1000000);
	memory_peek(world.memory[1], FAR_AWAY, held, 4096);
	assert_true(held[0] == 0 && !memcmp(held, held + 1, 4095));
	assert_true(memory_counts(world.memory[0])->bytes_read <= DATA + REGION);
	copy_stop(copy);
	assert_int_equal(ring_run_until(world.ring, &world.over), 0);
	copy_free(copy);
	extents_free(extents);
	world_done();
}

static void test_a_copy_costs_what_the_data_cost(void **state)
{
	copy_all(true);
	copy_all(false);
}

static void test_a_verification_costs_what_the_data_cost(void **state)
{
	const struct live_verify_options options = {.ended = over};
	struct live_verify *verify;

	world_init(true);
	mirror_set_mode(world.mirror, MIRROR_WRITE_THROUGH);
	assert_int_equal(live_verify_new(&verify, world.mirror, &options, NULL), 0);
	assert_int_equal(live_verify_start(verify, 0, true), 0);
	assert_int_equal(ring_run_until(world.ring, &world.over), 0);
	assert_int_equal(live_verify_counts(verify)->verified + live_verify_counts(verify)->holes, SIZE);
	/* Ranges of 256 KiB around what there is on either leg. */
	assert_true(live_verify_counts(verify)->verified <= DATA + STALE + (5u << 18));
	live_verify_free(verify);
	world_done();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_what_the_legs_say),
	    cmocka_unit_test(test_h04_nothing_is_believed_where_was_written),
	    cmocka_unit_test(test_a_leg_that_went_says_nothing),
	    cmocka_unit_test(test_a_copy_costs_what_the_data_cost),
	    cmocka_unit_test(test_a_verification_costs_what_the_data_cost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
