/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Throttle, delay, fault and powercut over a volume in memory, under simulated time. */
#include "base/bytes.h"
#include "block/driver.h"
#include "block/memory.h"
#include "filter/delay.h"
#include "filter/fault.h"
#include "filter/powercut.h"
#include "filter/share.h"
#include "filter/throttle.h"
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

#define SIZE (1u << 20)
#define MS   1000000u

struct world {
	struct ring_sim *sim;
	struct ring *ring;
	struct block *memory, *top;
};

static void world_init(struct world *world, uint64_t seed)
{
	world->sim = ring_sim_new(seed, 0);
	world->ring = ring_sim_host_new(world->sim, "host");
	assert_int_equal(memory_new(&world->memory, world->ring, SIZE, NULL, NULL), 0);
	world->top = world->memory;
}

static void world_done(struct world *world)
{
	block_free(world->top);
	ring_free(world->ring);
	ring_sim_free(world->sim);
}

static int io(struct world *world, enum block_op op, uint64_t offset, uint64_t length, void *buf)
{
	struct block_io request = {.op = op, .offset = offset, .length = length, .buf = buf};

	return block_wait(world->top, &request);
}

static uint64_t elapsed_ms(struct world *world, enum block_op op, uint64_t length)
{
	static uint8_t buf[SIZE];
	uint64_t start = ring_now_ns(world->ring);

	assert_int_equal(io(world, op, 0, length, buf), 0);
	return (ring_now_ns(world->ring) - start) / MS;
}

struct counted {
	struct block_io io;
	unsigned ended;
	uint64_t at_ns;
	int res;
};

static void counted_done(struct block_io *request, int res)
{
	struct counted *counted = container_of(request, struct counted, io);

	assert_true(res == 0 || res == -ECANCELED);
	counted->res = res;
	counted->ended++;
	counted->at_ns = ring_now_ns(block_ring(request->block));
}

static uint8_t scratch[SIZE];

static void submit_reads(struct world *world, struct counted *reads, unsigned count, uint64_t length)
{
	for (unsigned i = 0; i < count; i++) {
		reads[i] = (struct counted){
		    .io = {.op = BLOCK_READ, .length = length, .buf = scratch, .done = counted_done}};
		block_submit(world->top, &reads[i].io);
	}
}

static unsigned ended(const struct counted *reads, unsigned count)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < count; i++)
		sum += reads[i].ended;
	return sum;
}

static void run_for(struct world *world, uint64_t ns)
{
	uint64_t end = ring_now_ns(world->ring) + ns;
	struct ring_op timer = {.opcode = RING_TIMER, .deadline_ns = end};

	ring_wait(world->ring, &timer);
}

static void run_dry(struct world *world)
{
	while (ring_sim_step(world->sim) == 0)
		;
}

static void test_throttle_holds_to_the_rate(void **state)
{
	struct world world;
	struct counted reads[20];
	uint64_t start;

	world_init(&world, 1);
	assert_int_equal(throttle_new(&world.top, world.memory, 1000000, NULL), 0);
	start = ring_now_ns(world.ring);
	submit_reads(&world, reads, 20, 100000);
	assert_true(elapsed_ms(&world, BLOCK_FLUSH, 0) == 0);
	assert_true(elapsed_ms(&world, BLOCK_ZERO, SIZE) == 0);
	run_dry(&world);
	assert_int_equal(ended(reads, 20), 20);
	/* 2 MB at 1 MB/s, but the last one's own cost is not waited for; in order. */
	assert_in_range((reads[19].at_ns - start) / MS, 1850, 1960);
	for (int i = 1; i < 20; i++)
		assert_true(reads[i].at_ns >= reads[i - 1].at_ns);
	world_done(&world);
}

static void test_throttle_rate_changes_at_once(void **state)
{
	struct world world;
	struct counted reads[4];
	uint64_t start;

	world_init(&world, 2);
	assert_int_equal(throttle_new(&world.top, world.memory, 1000, NULL), 0);
	start = ring_now_ns(world.ring);
	submit_reads(&world, reads, 4, 1000000);
	run_for(&world, 100 * MS);
	assert_int_equal(ended(reads, 4), 1);
	throttle_set_rate(world.top, 10000000);
	run_for(&world, 120 * MS);
	assert_int_equal(ended(reads, 4), 2);
	throttle_set_rate(world.top, 0);
	run_dry(&world);
	assert_int_equal(ended(reads, 4), 4);
	assert_in_range((ring_now_ns(world.ring) - start) / MS, 219, 230);
	world_done(&world);
}

static void test_throttle_pause_holds_everything(void **state)
{
	struct world world;
	struct counted reads[5];
	struct counted flush = {.io = {.op = BLOCK_FLUSH, .done = counted_done}};

	for (int limited = 0; limited < 2; limited++) {
		world_init(&world, 3);
		assert_int_equal(throttle_new(&world.top, world.memory, limited ? 1000000 : 0, NULL), 0);
		submit_reads(&world, reads, 1, 100000);
		throttle_pause(world.top);
		throttle_pause(world.top);
		submit_reads(&world, reads + 1, 4, 100000);
		flush.ended = 0;
		block_submit(world.top, &flush.io);
		run_for(&world, 10000 * (uint64_t)MS);
		assert_int_equal(ended(reads, 5), 1);
		assert_int_equal(flush.ended, 0);
		throttle_go_on(world.top);
		throttle_pause(world.top);
		throttle_go_on(world.top);
		run_dry(&world);
		assert_int_equal(ended(reads, 5), 5);
		assert_int_equal(flush.ended, 1);
		world_done(&world);
	}
}

static void test_throttle_cancel_ends_what_is_held(void **state)
{
	struct world world;
	struct counted reads[6];

	for (int paused = 0; paused < 2; paused++) {
		world_init(&world, 4);
		assert_int_equal(throttle_new(&world.top, world.memory, 1000000, NULL), 0);
		submit_reads(&world, reads, 5, 100000);
		run_for(&world, 5 * MS);
		assert_int_equal(ended(reads, 5), 1);
		if (paused)
			throttle_pause(world.top);
		throttle_cancel(world.top);
		assert_int_equal(ended(reads, 5), 1);
		submit_reads(&world, reads + 5, 1, 100000);
		run_dry(&world);
		for (int i = 0; i < 6; i++)
			assert_int_equal(reads[i].res, i == 0 || i == 5 ? 0 : -ECANCELED);
		world_done(&world);
	}
}

/* Rate changes and pauses at random moments lose no request and answer each once. */
static void test_throttle_under_random_changes(void **state)
{
	uint64_t seed = seed_of_run();

	for (int run = 0; run < 50; run++) {
		struct world world;
		struct counted reads[40];
		struct rand *rand;

		world_init(&world, seed + run);
		rand = ring_sim_rand(world.sim);
		assert_int_equal(throttle_new(&world.top, world.memory, 1000000, NULL), 0);
		for (int i = 0; i < 40; i++) {
			submit_reads(&world, reads + i, 1, rand_below(rand, 200000));
			if (rand_one_in(rand, 3))
				throttle_set_rate(world.top, rand_below(rand, 3) * 5000000);
			if (rand_one_in(rand, 4))
				throttle_pause(world.top);
			if (rand_one_in(rand, 3))
				throttle_go_on(world.top);
			if (rand_one_in(rand, 3))
				run_for(&world, rand_below(rand, 50 * MS));
		}
		throttle_go_on(world.top);
		run_dry(&world);
		for (int i = 0; i < 40; i++)
			assert_int_equal(reads[i].ended, 1);
		world_done(&world);
	}
}

static void test_delay_waits(void **state)
{
	const struct delay_options options = {
	    .min_ns = 10 * MS, .max_ns = 20 * MS, .ops = 1u << BLOCK_READ, .seed = 1};
	struct world world;

	world_init(&world, 4);
	assert_int_equal(delay_new(&world.top, world.memory, &options, NULL), 0);
	for (int i = 0; i < 20; i++)
		assert_in_range(elapsed_ms(&world, BLOCK_READ, 4096), 10, 21);
	assert_int_equal(elapsed_ms(&world, BLOCK_WRITE, 4096), 0);
	delay_set(world.top, &(struct delay_options){0});
	assert_int_equal(elapsed_ms(&world, BLOCK_READ, 4096), 0);
	world_done(&world);
}

static void test_fault_rules(void **state)
{
	struct world world;
	uint8_t buf[512] = {5}, back[512];

	world_init(&world, 5);
	assert_int_equal(fault_new(&world.top, world.memory, 1, NULL), 0);
	fault_add(world.top,
	    &(struct fault_rule){.result = -EIO, .ops = 1u << BLOCK_WRITE, .offset = 4096, .length = 512});
	fault_add(world.top, &(struct fault_rule){.result = -ENOSPC, .ops = 1u << BLOCK_FLUSH, .nth = 2});
	assert_int_equal(io(&world, BLOCK_WRITE, 0, 512, buf), 0);
	assert_int_equal(io(&world, BLOCK_WRITE, 4000, 97, buf), -EIO);
	assert_int_equal(io(&world, BLOCK_WRITE, 4608, 512, buf), 0);
	assert_int_equal(io(&world, BLOCK_READ, 4096, 512, back), 0);
	assert_true(bytes_are_zero(back, 512));
	assert_int_equal(io(&world, BLOCK_FLUSH, 0, 0, NULL), 0);
	assert_int_equal(io(&world, BLOCK_FLUSH, 0, 0, NULL), -ENOSPC);
	assert_int_equal(io(&world, BLOCK_FLUSH, 0, 0, NULL), 0);
	assert_int_equal(fault_hits(world.top), 2);
	fault_clear(world.top);
	assert_int_equal(io(&world, BLOCK_WRITE, 4096, 512, buf), 0);
	world_done(&world);
}

static void test_fault_lies(void **state)
{
	struct world world;
	uint8_t buf[512], back[512];

	world_init(&world, 6);
	memset(buf, 5, sizeof(buf));
	assert_int_equal(fault_new(&world.top, world.memory, 1, NULL), 0);
	/* A lost write. */
	fault_add(world.top, &(struct fault_rule){.ops = 1u << BLOCK_WRITE, .times = 1});
	assert_int_equal(io(&world, BLOCK_WRITE, 0, 512, buf), 0);
	memory_peek(world.memory, 0, back, 512);
	assert_true(bytes_are_zero(back, 512));
	/* A lost acknowledgement. */
	fault_clear(world.top);
	fault_add(world.top,
	    &(struct fault_rule){.kind = FAULT_ERROR_AFTER, .result = -ETIMEDOUT, .ops = 1u << BLOCK_WRITE});
	assert_int_equal(io(&world, BLOCK_WRITE, 0, 512, buf), -ETIMEDOUT);
	memory_peek(world.memory, 0, back, 512);
	assert_memory_equal(buf, back, 512);
	/* A flipped bit. */
	fault_clear(world.top);
	fault_add(world.top, &(struct fault_rule){.kind = FAULT_CORRUPT, .ops = 1u << BLOCK_READ});
	assert_int_equal(io(&world, BLOCK_READ, 0, 512, back), 0);
	assert_memory_not_equal(buf, back, 512);
	world_done(&world);
}

static void test_fault_by_chance_is_reproducible(void **state)
{
	unsigned hits[2];

	for (int run = 0; run < 2; run++) {
		struct world world;

		world_init(&world, 7);
		assert_int_equal(fault_new(&world.top, world.memory, 9, NULL), 0);
		fault_add(world.top, &(struct fault_rule){.result = -EIO, .ppm = 300000});
		for (int i = 0; i < 200; i++)
			io(&world, BLOCK_FLUSH, 0, 0, NULL);
		hits[run] = fault_hits(world.top);
		world_done(&world);
	}
	assert_int_equal(hits[0], hits[1]);
	assert_in_range(hits[0], 20, 120);
}

/* Reads and digests see what was written, flushed or not; below only what was flushed arrives. */
static void test_powercut_shows_and_withholds(void **state)
{
	struct digest_key key = {{1}};
	struct world world;
	uint8_t buf[1000], back[4096], digest[16], digest_memory[16];
	struct block_io request = {
	    .op = BLOCK_DIGEST, .length = 4096, .granularity = 4096, .key = &key, .buf = digest};

	world_init(&world, 8);
	memset(buf, 5, sizeof(buf));
	assert_int_equal(powercut_new(&world.top, world.memory, 1, NULL), 0);
	assert_int_equal(io(&world, BLOCK_WRITE, 100, 1000, buf), 0);
	assert_int_equal(io(&world, BLOCK_ZERO, 500, 100, NULL), 0);
	assert_int_equal(powercut_unflushed(world.top), 1100);
	assert_int_equal(io(&world, BLOCK_READ, 0, 4096, back), 0);
	assert_true(bytes_are_zero(back, 100) && bytes_are_zero(back + 500, 100));
	assert_true(back[100] == 5 && back[499] == 5 && back[600] == 5 && back[1099] == 5 && back[1100] == 0);
	memory_peek(world.memory, 0, back, 4096);
	assert_true(bytes_are_zero(back, 4096));
	assert_int_equal(block_wait(world.top, &request), 0);
	assert_int_equal(io(&world, BLOCK_FLUSH, 0, 0, NULL), 0);
	assert_int_equal(powercut_unflushed(world.top), 0);
	request.buf = digest_memory;
	assert_int_equal(block_wait(world.memory, &request), 0);
	assert_memory_equal(digest, digest_memory, 16);
	world_done(&world);
}

static void test_powercut_keeps_loses_and_tears(void **state)
{
	uint64_t seed = seed_of_run();
	int seen[3] = {0};

	for (int run = 0; run < 60; run++) {
		struct world world;
		uint8_t buf[4096], back[8192];
		int sectors = 0;

		world_init(&world, 1);
		memset(buf, 5, sizeof(buf));
		assert_int_equal(powercut_new(&world.top, world.memory, seed + run, NULL), 0);
		assert_int_equal(io(&world, BLOCK_WRITE, 0, 4096, buf), 0);
		assert_int_equal(io(&world, BLOCK_FLUSH, 0, 0, NULL), 0);
		assert_int_equal(io(&world, BLOCK_WRITE, 4096, 4096, buf), 0);
		assert_int_equal(powercut_cut(world.top), 0);
		assert_int_equal(io(&world, BLOCK_READ, 0, 512, back), -EIO);
		assert_int_equal(io(&world, BLOCK_FLUSH, 0, 0, NULL), -EIO);
		powercut_restore(world.top);
		assert_int_equal(io(&world, BLOCK_READ, 0, 8192, back), 0);
		assert_memory_equal(back, buf, 4096);
		for (int i = 0; i < 8; i++)
			sectors += back[4096 + 512 * i] == 5;
		seen[sectors == 0 ? 0 : sectors == 8 ? 1 : 2]++;
		world_done(&world);
	}
	assert_true(seen[0] && seen[1] && seen[2]);
}

static void test_filters_stack(void **state)
{
	struct world world;
	struct block *block;

	world_init(&world, 9);
	assert_int_equal(fault_new(&block, world.memory, 1, NULL), 0);
	assert_int_equal(powercut_new(&block, block, 1, NULL), 0);
	assert_int_equal(delay_new(&block, block, &(struct delay_options){.max_ns = MS}, NULL), 0);
	assert_int_equal(throttle_new(&world.top, block, 100000000, NULL), 0);
	assert_int_equal(block_info(world.top)->size, SIZE);
	for (int i = 0; i < 20; i++) {
		uint8_t buf[4096], back[4096];

		rand_bytes(ring_sim_rand(world.sim), buf, sizeof(buf));
		assert_int_equal(io(&world, BLOCK_WRITE, 4096 * i, 4096, buf), 0);
		if (i % 3 == 0)
			assert_int_equal(io(&world, BLOCK_FLUSH, 0, 0, NULL), 0);
		assert_int_equal(io(&world, BLOCK_READ, 4096 * i, 4096, back), 0);
		assert_memory_equal(buf, back, 4096);
	}
	world_done(&world);
}

/* A volume that others make larger. */

static uint64_t real_size;

static void grown_submit(struct block *block, struct block_io *io)
{
	block_complete_later(block, io, 0);
}

static int grown_measure(struct block *block, struct error *error)
{
	block->info.size = real_size;
	return 0;
}

static void grown_free(struct block *block)
{
}

static void test_a_new_size_is_seen_above(void **state)
{
	static const struct block_driver driver = {
	    .name = "grown", .submit = grown_submit, .measure = grown_measure, .free = grown_free};
	struct block grown = {.driver = &driver, .info = {.size = 8192, .request_align = 1}}, *head;
	struct world world;

	world_init(&world, 1);
	grown.ring = world.ring;
	assert_int_equal(delay_new(&world.top, &grown, &(struct delay_options){.min_ns = 1}, NULL), 0);
	assert_int_equal(fault_new(&world.top, world.top, 1, NULL), 0);
	assert_int_equal(throttle_new(&world.top, world.top, 0, NULL), 0);
	real_size = 12288;
	assert_int_equal(block_measure(world.top, NULL), 0);
	assert_int_equal(block_info(world.top)->size, 12288);
	/* A head is no longer for it. */
	assert_int_equal(share_take(&head, world.top, 5000, NULL), 0);
	real_size = 20000;
	assert_int_equal(block_measure(head, NULL), 0);
	assert_int_equal(block_info(head)->size, 5000);
	assert_int_equal(block_info(world.top)->size, 20000);
	/* Nor a volume that does not tell. */
	assert_int_equal(block_measure(world.memory, NULL), 0);
	assert_int_equal(block_info(world.memory)->size, SIZE);
	block_free(head);
	world.top = world.memory;
	world_done(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_throttle_holds_to_the_rate),
	    cmocka_unit_test(test_throttle_rate_changes_at_once),
	    cmocka_unit_test(test_throttle_pause_holds_everything),
	    cmocka_unit_test(test_throttle_cancel_ends_what_is_held),
	    cmocka_unit_test(test_throttle_under_random_changes),
	    cmocka_unit_test(test_delay_waits),
	    cmocka_unit_test(test_fault_rules),
	    cmocka_unit_test(test_fault_lies),
	    cmocka_unit_test(test_fault_by_chance_is_reproducible),
	    cmocka_unit_test(test_powercut_shows_and_withholds),
	    cmocka_unit_test(test_powercut_keeps_loses_and_tears),
	    cmocka_unit_test(test_filters_stack),
	    cmocka_unit_test(test_a_new_size_is_seen_above),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
