/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The mirror over two volumes in memory, with delays and faults, its map on a simulated disk. */
#include "base/bytes.h"
#include "block/memory.h"
#include "filter/delay.h"
#include "filter/fault.h"
#include "filter/filter.h"
#include "filter/mirror.h"
#include "ring/ring_sim.h"
#include "sync/copy.h"
#include "sync/dirty_extents.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "seed.h"

#define REGION     4096u
#define SIZE       (64u * REGION + 1536u)
#define TIMEOUT_NS 1000000000u
#define MS         1000000u

struct world {
	struct ring_sim *sim;
	struct ring *ring;
	struct block *delays[2], *faults[2], *watches[2], *memory[2], *mirror;
	struct bitmap_file *map;
	int map_fd;
	unsigned detached, dirtied, drained, lost;
	struct extents *extents;
	unsigned writes[2], uncached[2], apart[2];
};

static struct world world;

static void claim_done(struct bitmap_claim *claim, int res)
{
	assert_int_equal(res, 0);
}

static uint8_t buf[SIZE + 4096];

static void event(void *data, enum mirror_event what)
{
	world.detached += what == MIRROR_DETACHED;
	world.dirtied += what == MIRROR_DIRTIED;
	world.drained += what == MIRROR_DRAINED;
	world.lost += what == MIRROR_MAP_LOST;
	if (world.extents && what == MIRROR_DIRTIED)
		dirty_extents_look(world.extents);
	if (world.extents && what == MIRROR_DETACHED)
		dirty_extents_abandon(world.extents);
}

/* Counts what comes to a leg. */
static void watch_submit(struct block *block, struct block_io *io)
{
	unsigned leg = block == world.watches[1];

	world.writes[leg] += io->op == BLOCK_WRITE;
	world.uncached[leg] += io->op == BLOCK_WRITE && io->flags & BLOCK_UNCACHED;
	world.apart[leg] += io->op == BLOCK_WRITE && io->flags & BLOCK_APART;
	filter_forward(filter_of(block), io);
}

static void watch_free(struct block *block)
{
	filter_done(filter_of(block));
	free(filter_of(block));
}

static struct block *watch(struct block *below)
{
	static const struct block_driver driver = {
	    .name = "watch", .submit = watch_submit, .facts = filter_facts, .free = watch_free};
	struct filter *filter = calloc(1, sizeof(*filter));

	assert_non_null(filter);
	filter_init(filter, &driver, below);
	return &filter->block;
}

/* The legs hold random bytes of their own; nothing is called dirty but what is written from now on. */
static void world_init(uint64_t seed)
{
	const struct ring_sim_disk_options disk = {.size_max = 64 * BITMAP_BLOCK};
	const struct bitmap_super super = {.nonce = 7, .size = SIZE, .region_size = REGION, .records = 8};
	struct mirror_options options = {.follower_timeout_ns = TIMEOUT_NS, .event = event};
	struct delay_options fast = {.min_ns = 1000, .max_ns = 2000, .seed = seed};
	struct bitmap none;

	world = (struct world){.sim = ring_sim_new(seed, 0)};
	world.ring = ring_sim_host_new(world.sim, "host");
	world.map_fd = ring_sim_disk_new(world.sim, &disk);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(memory_new(&world.memory[i], world.ring, SIZE, NULL, NULL), 0);
		rand_bytes(ring_sim_rand(world.sim), buf, SIZE);
		assert_int_equal(memory_poke(world.memory[i], 0, buf, SIZE), 0);
		world.watches[i] = watch(world.memory[i]);
		assert_int_equal(fault_new(&world.faults[i], world.watches[i], seed, NULL), 0);
		assert_int_equal(delay_new(&world.delays[i], world.faults[i], &fast, NULL), 0);
	}
	assert_int_equal(bitmap_init(&none, bitmap_super_regions(&super)), 0);
	assert_int_equal(bitmap_file_create(&world.map, world.ring, world.map_fd, &super, &none, NULL), 0);
	bitmap_done(&none);
	options.map = world.map;
	assert_int_equal(mirror_new(&world.mirror, world.delays, &options, NULL), 0);
}

static void mirror_new_withholding(void)
{
	const struct mirror_options options = {
	    .map = world.map, .follower_timeout_ns = TIMEOUT_NS, .event = event, .withholds = true};

	block_free(world.mirror);
	assert_int_equal(mirror_new(&world.mirror, world.delays, &options, NULL), 0);
}

static void world_done(void)
{
	block_free(world.mirror);
	bitmap_file_free(world.map);
	for (unsigned i = 0; i < 2; i++)
		block_free(world.delays[i]);
	ring_free(world.ring);
	ring_sim_free(world.sim);
}

static int io(enum block_op op, uint64_t offset, uint64_t length)
{
	struct block_io request = {.op = op, .offset = offset, .length = length, .buf = buf};

	return block_wait(world.mirror, &request);
}

static int write_at(uint64_t offset, uint64_t length)
{
	rand_bytes(ring_sim_rand(world.sim), buf, length);
	return io(BLOCK_WRITE, offset, length);
}

static bool holds(unsigned leg, uint64_t offset, uint64_t length)
{
	static uint8_t held[SIZE];

	memory_peek(world.memory[leg], offset, held, length);
	return !memcmp(held, buf, length);
}

static bool dirty(uint64_t region)
{
	return bitmap_test(bitmap_file_dirty(world.map), region);
}

static void run_for(uint64_t ns)
{
	struct ring_op timer = {.opcode = RING_TIMER, .deadline_ns = ring_now_ns(world.ring) + ns};

	ring_wait(world.ring, &timer);
}

static void slow_down(unsigned leg, uint64_t ns)
{
	delay_set(world.delays[leg], &(struct delay_options){.min_ns = ns, .max_ns = ns});
}

static void fail_writes(unsigned leg, int res)
{
	fault_add(world.faults[leg],
	    &(struct fault_rule){
	        .kind = FAULT_ERROR, .result = res, .ops = 1u << BLOCK_WRITE | 1u << BLOCK_FLUSH});
}

static void test_background(void **state)
{
	world_init(1);
	assert_int_equal(write_at(5000, 512), 0);
	assert_true(holds(0, 5000, 512));
	assert_false(holds(1, 5000, 512));
	assert_true(dirty(1) && !dirty(0) && !dirty(2));
	assert_int_equal(world.dirtied, 1);
	assert_int_equal(mirror_counts(world.mirror)->written_behind, 1);
	world_done();
}

static void test_write_through(void **state)
{
	world_init(1);
	mirror_set_mode(world.mirror, MIRROR_WRITE_THROUGH);
	assert_int_equal(write_at(SIZE - 700, 700), 0);
	assert_true(holds(0, SIZE - 700, 700) && holds(1, SIZE - 700, 700));
	assert_int_equal(bitmap_file_dirty(world.map)->count, 0);
	/* Until both are flushed, a power cut may undo one of them. */
	assert_int_equal(bitmap_file_logged(world.map)->count, 1);
	memset(buf, 0, 6000);
	assert_int_equal(io(BLOCK_TRIM, 100, 6000), 0);
	assert_true(holds(0, 100, 6000) && holds(1, 100, 6000));
	assert_int_equal(io(BLOCK_READ, 0, 200), 0);
	assert_true(holds(0, 0, 200));
	world_done();
}

struct request {
	struct block_io io;
	bool ended;
	int res;
	uint64_t ended_ns;
};

static void request_done(struct block_io *request_io, int res)
{
	struct request *request = container_of(request_io, struct request, io);

	request->ended = true;
	request->res = res;
	request->ended_ns = ring_now_ns(world.ring);
}

static void begin(struct request *request, enum block_op op, uint64_t offset, uint64_t length, void *memory)
{
	*request = (struct request){
	    .io = {.op = op, .offset = offset, .length = length, .buf = memory, .done = request_done}};
	block_submit(world.mirror, &request->io);
}

static int end(struct request *request)
{
	assert_int_equal(ring_run_until(world.ring, &request->ended), 0);
	return request->res;
}

/* H19: what the client does to its memory while it is written reaches both legs or none. */
static void test_h19_the_buffer_changes(void **state)
{
	static uint8_t legs[2][2048];

	world_init(seed_of_run());
	mirror_set_mode(world.mirror, MIRROR_WRITE_THROUGH);
	for (unsigned i = 0; i < 200; i++) {
		uint64_t offset = rand_below(ring_sim_rand(world.sim), SIZE - sizeof(legs[0]));
		struct request request;

		slow_down(0, rand_below(ring_sim_rand(world.sim), 5 * MS));
		slow_down(1, rand_below(ring_sim_rand(world.sim), 5 * MS));
		rand_bytes(ring_sim_rand(world.sim), buf, sizeof(legs[0]));
		begin(&request, BLOCK_WRITE, offset, sizeof(legs[0]), buf);
		while (!request.ended) {
			assert_int_equal(ring_sim_step(world.sim), 0);
			buf[rand_below(ring_sim_rand(world.sim), sizeof(legs[0]))] ^= 0xff;
		}
		assert_int_equal(request.res, 0);
		for (unsigned leg = 0; leg < 2; leg++)
			memory_peek(world.memory[leg], offset, legs[leg], sizeof(legs[0]));
		assert_memory_equal(legs[0], legs[1], sizeof(legs[0]));
	}
	assert_int_equal(mirror_counts(world.mirror)->written_through, 200);
	world_done();
}

/* H24: a follower that answers no more costs one time-out, once. */
static void test_h24_a_stuck_follower(void **state)
{
	struct request first, second;
	uint64_t start_ns;

	world_init(1);
	mirror_set_mode(world.mirror, MIRROR_WRITE_THROUGH);
	slow_down(1, 100 * (uint64_t)TIMEOUT_NS);
	start_ns = ring_now_ns(world.ring);
	begin(&first, BLOCK_WRITE, 0, 512, buf);
	run_for(TIMEOUT_NS / 2);
	begin(&second, BLOCK_WRITE, 10 * REGION, 512, buf);
	assert_int_equal(end(&first), 0);
	assert_int_equal(end(&second), 0);
	assert_in_range(second.ended_ns - start_ns, TIMEOUT_NS / 2, TIMEOUT_NS + 20 * MS);
	assert_int_equal(world.detached, 1);
	assert_int_equal(mirror_detach_reason(world.mirror), -ETIMEDOUT);
	assert_true(dirty(0) && dirty(10));
	start_ns = ring_now_ns(world.ring);
	assert_int_equal(write_at(20 * REGION, 3 * REGION), 0);
	assert_in_range(ring_now_ns(world.ring) - start_ns, 0, 20 * MS);
	assert_true(dirty(20) && dirty(22));
	/* It still has what it was given; it may not come back before that has ended. */
	assert_false(mirror_leg_idle(world.mirror, MIRROR_TARGET));
	run_for(101 * (uint64_t)TIMEOUT_NS);
	assert_true(mirror_leg_idle(world.mirror, MIRROR_TARGET));
	slow_down(1, 1000);
	assert_int_equal(mirror_attach(world.mirror, world.delays[1], false, NULL), 0);
	assert_int_equal(write_at(30 * REGION, 512), 0);
	assert_true(holds(1, 30 * REGION, 512));
	assert_false(dirty(30));
	world_done();
}

static void test_follower_errors_are_its_own(void **state)
{
	world_init(1);
	mirror_set_mode(world.mirror, MIRROR_WRITE_THROUGH);
	fail_writes(1, -ENOSPC);
	assert_int_equal(write_at(0, 4096), 0);
	assert_int_equal(mirror_detach_reason(world.mirror), -ENOSPC);
	assert_true(dirty(0));
	assert_int_equal(io(BLOCK_FLUSH, 0, 0), 0);
	world_done();
}

/* What was on the follower's side of a flush that never came is in doubt when it is lost. */
static void test_unflushed_is_dirty_after_a_loss(void **state)
{
	world_init(1);
	mirror_set_mode(world.mirror, MIRROR_WRITE_THROUGH);
	assert_int_equal(write_at(7 * REGION, 4096), 0);
	assert_false(dirty(7));
	fail_writes(1, -EIO);
	assert_int_equal(write_at(0, 512), 0);
	assert_true(dirty(0) && dirty(7));
	world_done();
}

/* The follower that came back does not get what the lost one was asked for: it is not the same as long as the leader is at that. */
static void test_a_write_that_outlasts_a_follower_is_behind(void **state)
{
	struct request slow;

	world_init(1);
	mirror_set_mode(world.mirror, MIRROR_WRITE_THROUGH);
	slow_down(0, 100 * MS);
	begin(&slow, BLOCK_WRITE, 3 * REGION, 512, buf);
	run_for(10 * MS);
	assert_false(slow.ended || mirror_writes_behind(world.mirror));
	mirror_detach(world.mirror);
	assert_int_equal(mirror_attach(world.mirror, world.delays[1], false, NULL), 0);
	assert_true(!slow.ended && mirror_writes_behind(world.mirror));
	run_for(200 * MS);
	assert_true(slow.ended && slow.res == 0);
	assert_true(dirty(3) && !mirror_writes_behind(world.mirror));
	world_done();
}

/* For a replica: nothing is acknowledged that the lost follower lacks, before its loss is recorded. */
static void test_answers_are_withheld(void **state)
{
	struct request written, behind, flush;

	world_init(1);
	mirror_new_withholding();
	mirror_set_mode(world.mirror, MIRROR_WRITE_THROUGH);
	slow_down(1, 100 * MS);
	begin(&written, BLOCK_WRITE, 0, 4096, buf);
	run_for(10 * MS);
	mirror_detach(world.mirror);
	begin(&behind, BLOCK_WRITE, 5 * REGION, 512, buf);
	begin(&flush, BLOCK_FLUSH, 0, 0, NULL);
	run_for(200 * MS);
	assert_true(mirror_writes_behind(world.mirror));
	assert_false(written.ended || behind.ended || flush.ended);
	assert_int_equal(io(BLOCK_READ, 5 * REGION, 512), 0);
	mirror_give_answers(world.mirror);
	assert_true(written.ended && behind.ended && flush.ended);
	assert_int_equal(written.res | behind.res | flush.res, 0);
	assert_true(dirty(0) && dirty(5) && !mirror_writes_behind(world.mirror));
	/* From now on nobody waits, until a follower comes and goes. */
	assert_int_equal(write_at(9 * REGION, 512), 0);
	assert_int_equal(mirror_attach(world.mirror, world.delays[1], false, NULL), 0);
	slow_down(1, 1000);
	assert_int_equal(write_at(20 * REGION, 512), 0);
	fail_writes(1, -EIO);
	begin(&written, BLOCK_WRITE, 21 * REGION, 512, buf);
	run_for(10 * MS);
	assert_int_equal(mirror_detach_reason(world.mirror), -EIO);
	assert_false(written.ended);
	mirror_give_answers(world.mirror);
	assert_true(written.ended);
	/* Or they never get one, nor do those who come later; then it is as before. */
	mirror_withhold(world.mirror);
	begin(&written, BLOCK_WRITE, 22 * REGION, 512, buf);
	run_for(10 * MS);
	assert_false(written.ended);
	mirror_refuse_answers(world.mirror, true);
	assert_true(written.ended && written.res == -ESHUTDOWN && dirty(22));
	assert_int_equal(write_at(24 * REGION, 512), -ESHUTDOWN);
	mirror_refuse_answers(world.mirror, false);
	begin(&written, BLOCK_WRITE, 23 * REGION, 512, buf);
	run_for(10 * MS);
	assert_false(written.ended);
	mirror_give_answers(world.mirror);
	assert_true(written.ended && written.res == 0);
	/* An error of the leader is told at once. */
	assert_int_equal(mirror_attach(world.mirror, world.delays[1], false, NULL), 0);
	mirror_detach(world.mirror);
	fail_writes(0, -EIO);
	assert_int_equal(write_at(30 * REGION, 512), -EIO);
	world_done();
}

static void test_authoritative_errors_are_the_clients(void **state)
{
	world_init(1);
	mirror_set_mode(world.mirror, MIRROR_WRITE_THROUGH);
	fail_writes(0, -EIO);
	assert_int_equal(write_at(0, 4096), -EIO);
	assert_true(dirty(0));
	assert_true(mirror_attached(world.mirror));
	assert_int_equal(io(BLOCK_FLUSH, 0, 0), -EIO);
	world_done();
}

static void flushed(void *data, int res)
{
	*(int *)data = res;
}

static void fail_a_flush_of_its_own(void)
{
	int res = 1;

	mirror_set_mode(world.mirror, MIRROR_WRITE_THROUGH);
	assert_int_equal(write_at(0, 4096), 0);
	fault_add(world.faults[0],
	    &(struct fault_rule){.kind = FAULT_ERROR, .result = -EIO, .ops = 1u << BLOCK_FLUSH, .times = 1});
	mirror_flush_legs(world.mirror, false, flushed, &res);
	while (mirror_flushing(world.mirror))
		ring_sim_step(world.sim);
	assert_int_equal(res, -EIO);
}

/* A flush that nobody asked for takes a failure from the kernel that is told only once: a client must hear of it. */
static void test_a_failed_flush_is_not_swallowed(void **state)
{
	world_init(1);
	fail_a_flush_of_its_own();
	/* The follower has what this leg may have lost. */
	assert_true(dirty(0) && mirror_attached(world.mirror));
	assert_int_equal(write_at(0, 512), 0);
	assert_int_equal(io(BLOCK_FLUSH, 0, 0), -EIO);
	assert_int_equal(io(BLOCK_FLUSH, 0, 0), 0);
	world_done();
}

/* A trim that is left undone is no error; but not that all before it is on the disk, either. */
static void test_a_refused_trim_tells_of_a_failed_flush(void **state)
{
	struct block_io trim = {.op = BLOCK_TRIM, .flags = BLOCK_FUA, .length = 4096};

	world_init(1);
	fail_a_flush_of_its_own();
	for (int i = 0; i < 2; i++) {
		fault_add(world.faults[0],
		    &(struct fault_rule){
		        .kind = FAULT_ERROR, .result = -EOPNOTSUPP, .ops = 1u << BLOCK_ZERO, .times = 1});
		assert_int_equal(block_wait(world.mirror, &trim), i == 0 ? -EIO : 0);
		assert_true(dirty(0));
	}
	world_done();
}

/* Clients ask for what a leg may not be able to do, and then in another way: that costs no copy of all that was written. */
static void test_a_refusal_is_no_failed_flush(void **state)
{
	struct fault_rule rule = {.kind = FAULT_ERROR, .ops = 1u << BLOCK_ZERO, .times = 1};
	static const int refusals[] = {-EOPNOTSUPP, -EINVAL, -EIO};

	world_init(1);
	mirror_set_mode(world.mirror, MIRROR_WRITE_THROUGH);
	assert_int_equal(write_at(7 * REGION, 4096), 0);
	for (unsigned i = 0; i < 3; i++) {
		struct block_io zero = {.op = BLOCK_ZERO, .flags = BLOCK_FUA | BLOCK_NO_HOLE, .length = 4096};

		rule.result = refusals[i];
		fault_add(world.faults[0], &rule);
		assert_int_equal(block_wait(world.mirror, &zero), refusals[i]);
		assert_true(dirty(0));
		/* Only an error that may be a flush's says something of other writes. */
		assert_int_equal(dirty(7), refusals[i] == -EIO);
	}
	world_done();
}

static void test_hold_and_swap(void **state)
{
	struct bitmap_super super;
	struct request before, held[3];

	world_init(1);
	mirror_set_mode(world.mirror, MIRROR_WRITE_THROUGH);
	slow_down(0, 5 * MS);
	begin(&before, BLOCK_WRITE, 0, 4096, buf);
	mirror_hold(world.mirror);
	for (unsigned i = 0; i < 3; i++)
		begin(&held[i], BLOCK_WRITE, 8 * REGION, 512, buf + i * 512);
	assert_int_equal(end(&before), 0);
	run_for(20 * MS);
	assert_true(mirror_drained(world.mirror));
	assert_int_equal(world.drained, 1);
	assert_false(held[0].ended);
	super = *bitmap_file_super(world.map);
	super.authoritative = MIRROR_TARGET;
	assert_int_equal(bitmap_file_record(world.map, &super, NULL), 0);
	mirror_swap(world.mirror);
	assert_false(mirror_pause_is_over(world.mirror));
	mirror_release(world.mirror);
	for (unsigned i = 0; i < 3; i++) {
		assert_false(mirror_pause_is_over(world.mirror));
		assert_int_equal(end(&held[i]), 0);
	}
	assert_true(mirror_pause_is_over(world.mirror));
	/* Overlapping writes in the order of their coming, on both legs. */
	memmove(buf, buf + 1024, 512);
	assert_true(holds(0, 8 * REGION, 512) && holds(1, 8 * REGION, 512));
	assert_in_range(mirror_pause_ns(world.mirror), 20 * MS, 60 * MS);
	assert_int_equal(mirror_authoritative(world.mirror), MIRROR_TARGET);
	/* The old one follows now; its errors are nobody's. */
	fail_writes(0, -EIO);
	assert_int_equal(write_at(0, 4096), 0);
	assert_true(holds(1, 0, 4096) && dirty(0));
	world_done();
}

static void test_a_lost_map(void **state)
{
	world_init(1);
	mirror_set_mode(world.mirror, MIRROR_WRITE_THROUGH);
	ring_sim_disk_bad(world.sim, world.map_fd, RING_SIM_BAD_WRITE, 0, 1 << 20);
	assert_int_equal(write_at(0, 4096), 0);
	assert_int_equal(world.lost, 1);
	assert_true(holds(0, 0, 4096) && !mirror_attached(world.mirror));
	assert_int_equal(write_at(4096, 4096), 0);
	assert_true(mirror_attach(world.mirror, world.delays[1], false, NULL) < 0);
	world_done();
}

/* After its end it is a volume like others: no lock, no map. */
static void test_the_end(void **state)
{
	uint64_t writes;

	world_init(1);
	mirror_set_mode(world.mirror, MIRROR_WRITE_THROUGH);
	mirror_end(world.mirror);
	writes = ring_sim_disk_counts(world.sim, world.map_fd)->writes;
	assert_int_equal(write_at(3 * REGION, 4096), 0);
	assert_true(holds(0, 3 * REGION, 4096) && !holds(1, 3 * REGION, 4096));
	assert_int_equal(io(BLOCK_FLUSH, 0, 0), 0);
	assert_int_equal(ring_sim_disk_counts(world.sim, world.map_fd)->writes, writes);
	assert_int_equal(bitmap_file_logged(world.map)->count, 0);
	world_done();
}

/* A size that is not the map's, in new and in attach. */
static void test_sizes_must_agree(void **state)
{
	struct block *small;
	struct error error;

	world_init(1);
	mirror_detach(world.mirror);
	assert_int_equal(memory_new(&small, world.ring, SIZE - 512, NULL, NULL), 0);
	assert_int_equal(mirror_attach(world.mirror, small, false, &error), -EINVAL);
	assert_non_null(strstr(error.text, "one size"));
	block_free(small);
	world_done();
}

static bool legs_are_equal(void)
{
	static uint8_t legs[2][SIZE];

	for (unsigned leg = 0; leg < 2; leg++)
		memory_peek(world.memory[leg], 0, legs[leg], SIZE);
	return !memcmp(legs[0], legs[1], SIZE);
}

static void never_done(void *data, int res)
{
	*(bool *)data = true;
}

/* H13: writes of 512 bytes while their regions are copied, in both modes. */
static void copy_under_writes(enum mirror_mode mode, uint64_t seed)
{
	const struct dirty_limits limits = {.extent_max = 2 * REGION};
	const struct copy_options options = {.detect_zeroes = true};
	struct bitmap_claim claim = {0};
	struct copy *copy;
	bool ended = false;

	world_init(seed);
	claim.done = claim_done;
	assert_int_equal(bitmap_file_claim(world.map, &claim, 0, SIZE), 0);
	while (!bitmap_file_idle(world.map))
		ring_sim_step(world.sim);
	bitmap_file_mark(world.map, &claim);
	bitmap_file_release(world.map, &claim);
	mirror_set_mode(world.mirror, mode);
	slow_down(0, MS / 4);
	slow_down(1, MS);
	assert_int_equal(dirty_extents_new(&world.extents, world.mirror, NULL), 0);
	dirty_extents_set_limits(world.extents, &limits);
	assert_int_equal(copy_new(&copy, mirror_copy_source(world.mirror), mirror_copy_target(world.mirror),
	                     world.extents, &options, NULL),
	    0);
	copy_start(copy, never_done, &ended);
	for (unsigned i = 0; i < 150; i++)
		assert_int_equal(write_at(rand_below(ring_sim_rand(world.sim), SIZE / 512) * 512, 512), 0);
	while (bitmap_file_dirty(world.map)->count || dirty_extents_active(world.extents))
		ring_sim_step(world.sim);
	assert_true(legs_are_equal());
	/* What is copied behind clients' backs leaves nothing to be written back, and nobody waits within a submit for the follower. */
	assert_int_equal(world.uncached[1], mode == MIRROR_BACKGROUND ? world.writes[1] : 0);
	assert_int_equal(world.apart[1], world.writes[1]);
	assert_int_equal(world.uncached[0] + world.apart[0], 0);
	copy_stop(copy);
	assert_int_equal(ring_run_until(world.ring, &ended), 0);
	copy_free(copy);
	world.extents = extents_free(world.extents);
	world_done();
}

static void test_h13_small_writes_during_a_copy(void **state)
{
	uint64_t seed = seed_of_run();

	for (unsigned i = 0; i < 10; i++) {
		copy_under_writes(MIRROR_BACKGROUND, seed + i);
		copy_under_writes(MIRROR_WRITE_THROUGH, seed + i);
	}
}

/* In a paused sync no lock is held, and a limit of rate is kept. */
static void test_rate_and_pause(void **state)
{
	struct dirty_limits limits = {.rate = 1 << 20};
	struct extent extent;
	uint64_t start_ns, given = 0;

	world_init(1);
	for (unsigned i = 0; i < 30; i++)
		assert_int_equal(write_at(i * 2ull * REGION, 512), 0);
	assert_int_equal(dirty_extents_new(&world.extents, world.mirror, NULL), 0);
	dirty_extents_set_limits(world.extents, &limits);
	start_ns = ring_now_ns(world.ring);
	while (given < 29) {
		int res = extents_next(world.extents, 1 << 20, &extent);

		assert_in_range(res, 0, 1);
		if (res == 1)
			extents_finish(world.extents, &extent, 0);
		given += (unsigned)res;
		if (res == 0)
			run_for(MS);
	}
	/* 29 regions of 4 KiB at 1 MiB/s are 113 ms, of which a burst may save 50. */
	assert_in_range(ring_now_ns(world.ring) - start_ns, 60 * MS, 130 * MS);
	dirty_extents_hold(world.extents, true);
	run_for(100 * MS);
	assert_int_equal(extents_next(world.extents, 1 << 20, &extent), 0);
	assert_int_equal(mirror_locks(world.mirror)->count, 0);
	world.extents = extents_free(world.extents);
	world_done();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_background),
	    cmocka_unit_test(test_write_through),
	    cmocka_unit_test(test_h19_the_buffer_changes),
	    cmocka_unit_test(test_h24_a_stuck_follower),
	    cmocka_unit_test(test_follower_errors_are_its_own),
	    cmocka_unit_test(test_unflushed_is_dirty_after_a_loss),
	    cmocka_unit_test(test_a_write_that_outlasts_a_follower_is_behind),
	    cmocka_unit_test(test_answers_are_withheld),
	    cmocka_unit_test(test_authoritative_errors_are_the_clients),
	    cmocka_unit_test(test_a_failed_flush_is_not_swallowed),
	    cmocka_unit_test(test_a_refused_trim_tells_of_a_failed_flush),
	    cmocka_unit_test(test_a_refusal_is_no_failed_flush),
	    cmocka_unit_test(test_hold_and_swap),
	    cmocka_unit_test(test_a_lost_map),
	    cmocka_unit_test(test_the_end),
	    cmocka_unit_test(test_sizes_must_agree),
	    cmocka_unit_test(test_h13_small_writes_during_a_copy),
	    cmocka_unit_test(test_rate_and_pause),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
