/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Switches whose map cannot be written, and those that have to wait for a copy that is held back: clients go on, and no leg is guessed. */
#include "base/bytes.h"
#include "block/memory.h"
#include "filter/delay.h"
#include "ring/ring_sim.h"
#include "sync/mirror_job.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "job_run.h"

#define SIZE      (1u << 20)
#define MS        1000000ull
#define WINDOW_NS (200 * MS)
#define SUPERS    8192u /* bytes of both superblocks */

enum breakage { BREAK_BEFORE, BREAK_UNDECIDED, BREAK_RECORDED };

struct world {
	struct ring_sim *sim;
	struct ring *ring;
	int map_fd;
	bool map_exists;
	struct mirror_job *job;
	struct mirror_job_options options;
	struct error error;
	struct block_io io;
	uint8_t buf[4096];
	uint64_t writes, begun_ns, longest_ns; /* of the client */
	bool serving, busy;
	enum cutover_state to; /* the switch in question */
	enum breakage how;
	bool breaking, broken;
	uint64_t heal_after_ns;
	uint64_t writes_broken; /* when it broke */
	uint64_t writes_paused, dirty_length;
	uint64_t told_generation, told_pause_ns; /* of the switch */
	unsigned maps_lost;
};

static struct world world;

static int open_leg(void *data, enum mirror_leg_index leg, struct block **ret, struct error *error)
{
	static const struct delay_options usual = {.min_ns = 500000, .max_ns = 1500000, .seed = 1};
	static uint8_t content[SIZE];
	struct block *memory;

	assert_int_equal(memory_new(&memory, world.ring, SIZE, NULL, error), 0);
	/* No hole. */
	memset(content, 0xa5, SIZE);
	assert_int_equal(memory_poke(memory, 0, content, SIZE), 0);
	return delay_new(ret, memory, &usual, error);
}

static int open_map(void *data, bool create)
{
	world.map_exists = true;
	return world.map_fd;
}

/* Told before anybody who was held has his answer. */
static void map_lost(void *data)
{
	world.maps_lost++;
	/* One was under way before clients were held. */
	assert_in_range(
	    world.writes, world.writes_broken, world.writes_broken + (world.how == BREAK_UNDECIDED));
}

static void heal(void *data)
{
	ring_sim_disk_heal(world.sim, world.map_fd);
}

/* What a load would find first. */
static bool map_says(enum cutover_state state)
{
	struct bitmap_super super;
	uint64_t size;

	return bitmap_super_decode(ring_sim_disk_data(world.sim, world.map_fd, &size), &super, NULL) == 0 &&
	       super.state == state;
}

static bool is_time_to_break(void)
{
	if (!world.breaking || world.broken)
		return false;
	return world.how == BREAK_BEFORE ||
	       (world.how == BREAK_UNDECIDED
	               ? bitmap_file_super(mirror_map(mirror_job_block(world.job)))->undecided
	               : map_says(world.to));
}

/* From now on the map cannot be written, at all or for a while. */
static void on_step(void *data)
{
	if (!is_time_to_break())
		return;
	world.broken = true;
	world.writes_broken = world.writes;
	ring_sim_disk_bad(world.sim, world.map_fd, RING_SIM_BAD_WRITE, 0, 1 << 21);
	if (world.heal_after_ns)
		ring_sim_after(world.sim, world.heal_after_ns, heal, NULL);
}

static void world_init(void)
{
	const struct ring_sim_disk_options disk = {.size_max = 2 << 20};

	world = (struct world){.sim = ring_sim_new(1, 0), .to = CUTOVER_SWITCHED};
	world.ring = ring_sim_host_new(world.sim, "host");
	world.map_fd = ring_sim_disk_new(world.sim, &disk);
	ring_sim_on_step(world.sim, on_step, NULL);
	/* All regions stay logged: no write of the client needs the map. */
	world.options = (struct mirror_job_options){.nonce = 1,
	    .region_size = 4096,
	    .settle_ns = 1000000 * MS,
	    .settle_busy_ns = 1000000 * MS,
	    .retry_ns = 20 * MS,
	    .cutover_window_ns = WINDOW_NS,
	    .open_leg = open_leg,
	    .open_map = open_map,
	    .map_lost = map_lost};
}

static int job_open(void)
{
	assert_int_equal(mirror_job_new(&world.job, world.ring, &world.options, NULL), 0);
	return mirror_job_open(world.job, &world.error);
}

static void client_begin(void);

static void client_done(struct block_io *io, int res)
{
	assert_int_equal(res, 0);
	world.busy = false;
	world.writes++;
	world.longest_ns = max_u64(world.longest_ns, ring_now_ns(world.ring) - world.begun_ns);
	if (world.serving)
		client_begin();
}

static void client_begin(void)
{
	world.io = (struct block_io){.op = BLOCK_WRITE,
	    .offset = rand_between(ring_sim_rand(world.sim), 1, SIZE / 4096 - 1) * 4096,
	    .length = 4096,
	    .buf = world.buf,
	    .done = client_done};
	world.busy = true;
	world.begun_ns = ring_now_ns(world.ring);
	block_submit(mirror_job_block(world.job), &world.io);
}

static void stop_client(void *data)
{
	world.serving = false;
}

static enum cutover_state run_for(uint64_t ns)
{
	return job_run_for(world.ring, world.job, ns, &world.error);
}

static void job_close(void)
{
	world.serving = world.breaking = false;
	while (world.busy)
		assert_int_equal(ring_step(world.ring), 0);
	world.job = mirror_job_free(world.job);
}

static void world_done(void)
{
	job_close();
	ring_sim_on_step(world.sim, NULL, NULL);
	ring_free(world.ring);
	ring_sim_free(world.sim);
}

/* Ready, or switched and ready to go back, with a client at work; then the order, during which the map breaks. */
static enum cutover_state switch_and_break(enum cutover_state to, enum breakage how, uint64_t heal_after_ns)
{
	world_init();
	assert_int_equal(job_open(), 0);
	assert_int_equal(run_for(1000 * MS), CUTOVER_READY);
	if (to == CUTOVER_REVERTED) {
		assert_int_equal(mirror_job_cutover(world.job), 0);
		assert_int_equal(run_for(1000 * MS), CUTOVER_SWITCHED);
	}
	world.serving = true;
	client_begin();
	world.to = to;
	world.how = how;
	world.heal_after_ns = heal_after_ns;
	world.breaking = true;
	if (to == CUTOVER_REVERTED)
		assert_int_equal(mirror_job_revert(world.job), 0);
	else
		assert_int_equal(mirror_job_cutover(world.job), 0);
	return run_for(1900 * MS);
}

/* Clients go on, with the leg of before, which is the only one from then on. */
static void check_old_leg(enum cutover_state to)
{
	struct mirror_job_status status;

	assert_true(world.broken);
	while (world.writes < world.writes_broken + 1000)
		assert_int_equal(ring_step(world.ring), 0);
	mirror_job_status(world.job, &status);
	assert_int_equal(status.authoritative, to == CUTOVER_REVERTED ? MIRROR_TARGET : MIRROR_SOURCE);
	assert_int_equal(world.maps_lost, 1);
	assert_false(status.attached);
	/* A few attempts may be under way when the time is up. */
	assert_in_range(world.longest_ns, WINDOW_NS / 2, 3 * WINDOW_NS);
}

/* H16: it is not known which state the map has got. Nobody waits for ever, and no later run believes it. */
static void test_h16_a_map_that_breaks_during_a_switch(void **state)
{
	for (unsigned i = 0; i < 4; i++) {
		enum cutover_state to = i & 1 ? CUTOVER_REVERTED : CUTOVER_SWITCHED;
		enum breakage how = i & 2 ? BREAK_RECORDED : BREAK_UNDECIDED;
		enum cutover_state end = switch_and_break(to, how, 0);

		assert_int_equal(end, i & 1 ? CUTOVER_SWITCHED : CUTOVER_FAILED);
		check_old_leg(to);
		job_close();
		heal(NULL);
		/* The danger is real: */
		assert_true(map_says(to) == (how == BREAK_RECORDED));
		world.options.resume = world.options.distrust = true;
		for (unsigned j = 0; j < 2; j++) {
			assert_int_equal(job_open(), -ENOTRECOVERABLE);
			assert_non_null(strstr(world.error.text, "cannot be known which leg"));
			job_close();
		}
		world_done();
	}
}

/* The map is given up as it is in effect, once that can be: then it is known again which leg is the newer one. */
static void test_h16_a_map_that_comes_back_after_the_window(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		enum cutover_state to = i & 1 ? CUTOVER_REVERTED : CUTOVER_SWITCHED;
		struct mirror_job_status status;

		switch_and_break(to, BREAK_RECORDED, 900 * MS);
		check_old_leg(to);
		ring_sim_after(world.sim, 3000 * MS, stop_client, NULL);
		while (world.busy)
			assert_int_equal(ring_step(world.ring), 0);
		job_close();
		assert_false(map_says(to));
		world.options.resume = world.options.distrust = true;
		assert_int_equal(job_open(), 0);
		mirror_job_status(world.job, &status);
		assert_int_equal(status.authoritative, i & 1 ? MIRROR_TARGET : MIRROR_SOURCE);
		assert_int_equal(status.dirty, SIZE);
		world_done();
	}
}

/* Within the window nothing is lost: the old state is in the map again, and the next attempt succeeds. */
static void test_a_map_that_comes_back_within_the_window(void **state)
{
	struct mirror_job_status status;

	assert_int_equal(switch_and_break(CUTOVER_SWITCHED, BREAK_RECORDED, 40 * MS), CUTOVER_SWITCHED);
	mirror_job_status(world.job, &status);
	assert_int_equal(status.cutovers_deferred, 1);
	assert_int_equal(world.maps_lost, 0);
	assert_false(bitmap_file_super(mirror_map(mirror_job_block(world.job)))->undecided);
	/* And a crash from now on is one like any other. */
	job_close();
	world.options.resume = world.options.distrust = true;
	assert_int_equal(job_open(), 0);
	mirror_job_status(world.job, &status);
	assert_int_equal(status.authoritative, MIRROR_TARGET);
	world_done();
}

/* One that is dead before is found before anybody waits. */
static void test_a_map_that_is_dead_before_the_switch(void **state)
{
	struct mirror_job_status status;

	assert_int_equal(switch_and_break(CUTOVER_SWITCHED, BREAK_BEFORE, 0), CUTOVER_READY);
	mirror_job_status(world.job, &status);
	assert_in_range(status.cutovers_deferred, 2, 3);
	assert_in_range(world.longest_ns, 0, 20 * MS);
	assert_int_equal(world.maps_lost, 0);
	heal(NULL);
	assert_int_equal(run_for(2000 * MS), CUTOVER_SWITCHED);
	world_done();
}

/* Much is written and could not go to both legs at once, just before clients are held. */
static void make_dirty(uint64_t length)
{
	struct bitmap_file *map = mirror_map(mirror_job_block(world.job));
	struct bitmap_claim claim = {.done = NULL};

	assert_int_equal(bitmap_file_claim(map, &claim, 0, length), 1);
	bitmap_file_mark(map, &claim);
	bitmap_file_release(map, &claim);
}

static void on_state(void *data, enum cutover_state state)
{
	if (state == CUTOVER_CUTTING)
		make_dirty(world.dirty_length);
}

/* A receipt is written then: how long clients waited is known, and who gave the order still waits. */
static void switched(void *data)
{
	struct mirror_job_status status;

	mirror_job_status(world.job, &status);
	assert_true(status.ordered && mirror_pause_is_over(mirror_job_block(world.job)));
	world.told_generation = status.generation;
	world.told_pause_ns = status.pause_ns;
}

static void throttled(uint64_t rate, uint64_t dirty_length)
{
	const struct governor_options slow = {.max_rate = rate, .min_rate = 1};

	world_init();
	world.dirty_length = dirty_length;
	world.options.late = MIRROR_LATE_WAIT;
	world.options.state_changed = on_state;
	world.options.switched = switched;
	assert_int_equal(job_open(), 0);
	assert_int_equal(run_for(1000 * MS), CUTOVER_READY);
	mirror_job_govern(world.job, &slow);
	assert_int_equal(run_for(500 * MS), CUTOVER_READY);
	world.serving = true;
	client_begin();
	assert_int_equal(mirror_job_cutover(world.job), 0);
}

/* While clients wait for the copy it goes as fast as it can, whatever it was told before; afterwards it heeds that again. */
static void test_limits_do_not_hold_clients(void **state)
{
	struct mirror_job_status status;

	throttled(64 << 10, SIZE);
	assert_int_equal(run_for(3000 * MS), CUTOVER_SWITCHED);
	mirror_job_status(world.job, &status);
	assert_in_range(status.pause_ns, 1, 500 * MS);
	assert_int_equal(world.told_pause_ns, status.pause_ns);
	assert_true(!status.ordered && status.generation == 1 && world.told_generation == 1);
	make_dirty(SIZE);
	run_for(2000 * MS);
	mirror_job_status(world.job, &status);
	assert_in_range(status.dirty, SIZE / 2, SIZE);
	world_done();
}

static void pause_it(void *data)
{
	world.writes_paused = world.writes;
	mirror_job_pause(world.job, true);
}

/* They were held until the pause, and are not any more. */
static void look_at_writes(void *data)
{
	assert_in_range(world.writes_paused, 0, 300);
	if (*(bool *)data)
		assert_in_range(world.writes, world.writes_paused + 100, UINT64_MAX);
}

/* What is dirty cannot be copied for as long as it is locked; clients need not wait for it with no end. */
static void give_up(bool pause)
{
	struct range_lock lock = {.offset = 0, .length = 4096, .kind = MIRROR_LOCK_COPY};
	uint64_t writes;

	throttled(0, 4096);
	assert_true(range_lock_take(mirror_locks(mirror_job_block(world.job)), &lock));
	if (pause)
		ring_sim_after(world.sim, 500 * MS, pause_it, NULL);
	ring_sim_after(world.sim, 900 * MS, look_at_writes, &pause);
	assert_int_equal(run_for(1000 * MS), CUTOVER_SYNCING);
	range_lock_drop(&lock);
	writes = world.writes;
	run_for(100 * MS);
	assert_in_range(world.writes, writes + 10, UINT64_MAX);
	if (pause) {
		/* The order stands, and is carried out later. */
		run_for(2000 * MS);
		mirror_job_pause(world.job, false);
	}
	assert_int_equal(run_for(3000 * MS), CUTOVER_SWITCHED);
	world_done();
}

static void test_a_pause_lets_clients_go(void **state)
{
	give_up(true);
}

static void test_a_stop_lets_clients_go(void **state)
{
	give_up(false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_h16_a_map_that_breaks_during_a_switch),
	    cmocka_unit_test(test_h16_a_map_that_comes_back_after_the_window),
	    cmocka_unit_test(test_a_map_that_comes_back_within_the_window),
	    cmocka_unit_test(test_a_map_that_is_dead_before_the_switch),
	    cmocka_unit_test(test_limits_do_not_hold_clients),
	    cmocka_unit_test(test_a_pause_lets_clients_go),
	    cmocka_unit_test(test_a_stop_lets_clients_go),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
