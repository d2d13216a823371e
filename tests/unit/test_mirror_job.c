/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A live mirror from its begin to its end: orders, identities, lost legs, windows; once on the real ring. */
#include "base/bytes.h"
#include "block/memory.h"
#include "filter/delay.h"
#include "filter/filter.h"
#include "ring/ring_sim.h"
#include "sync/mirror_job.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "job_clients.h"
#include "job_run.h"

#define SIZE    ((1u << 20) + 4608u)
#define MS      1000000u
#define CLIENTS 8u

struct world {
	struct ring_sim *sim; /* NULL: the real ring */
	struct ring *ring;
	struct rand rand;
	int map_fd;
	bool map_exists;
	/* What the legs hold outlives their blocks. */
	uint8_t data[MIRROR_LEGS][SIZE + 4096];
	uint64_t sizes[MIRROR_LEGS];
	const char *ids[MIRROR_LEGS];
	unsigned opened[MIRROR_LEGS];
	struct block *delays[MIRROR_LEGS];
	uint64_t unflushed[MIRROR_LEGS]; /* bytes */
	bool flushes_take_long;
	bool away, new_target;
	char warning[600];
	unsigned warnings;
	struct mirror_job *job;
	struct mirror_job_options options;
	struct error error;
	struct job_clients clients;
	unsigned states; /* bits of those that were seen */
	void (*on_state)(enum cutover_state state);
};

static struct world world;

/* A volume with an identity, over memory that is copied out when it is closed. */

struct named {
	struct filter filter;
	enum mirror_leg_index leg;
	struct block *memory;
};

static const struct delay_options usual_delay = {.min_ns = 20000, .max_ns = 200000, .seed = 1};

/* As disks are: what was written makes the next flush take longer. */
static void named_submit(struct block *block, struct block_io *io)
{
	enum mirror_leg_index leg = container_of(filter_of(block), struct named, filter)->leg;
	uint64_t flush_ns = world.unflushed[leg] / 2;

	if (io->op == BLOCK_WRITE)
		world.unflushed[leg] += io->length;
	if (!world.flushes_take_long || io->op != BLOCK_FLUSH) {
		filter_forward(filter_of(block), io);
		return;
	}
	world.unflushed[leg] = 0;
	delay_set(world.delays[leg], &(struct delay_options){.min_ns = flush_ns, .max_ns = flush_ns});
	filter_forward(filter_of(block), io);
	delay_set(world.delays[leg], &usual_delay);
}

static int named_facts(struct block *block, struct block_facts *ret, struct error *error)
{
	snprintf(ret->id, sizeof(ret->id), "%s",
	    world.ids[container_of(filter_of(block), struct named, filter)->leg]);
	return 0;
}

static void named_free(struct block *block)
{
	struct named *named = container_of(filter_of(block), struct named, filter);

	memory_peek(named->memory, 0, world.data[named->leg], block->info.size);
	world.delays[named->leg] = NULL;
	filter_done(&named->filter);
	free(named);
}

static int open_leg(void *data, enum mirror_leg_index leg, struct block **ret, struct error *error)
{
	static const struct block_driver driver = {
	    .name = "named", .submit = named_submit, .facts = named_facts, .free = named_free};
	struct named *named;

	if (world.away && leg == MIRROR_TARGET)
		return error_set(error, -ENOENT, "there is nothing");
	named = calloc(1, sizeof(*named));
	assert_non_null(named);
	named->leg = leg;
	assert_int_equal(memory_new(&named->memory, world.ring, world.sizes[leg], NULL, NULL), 0);
	assert_int_equal(memory_poke(named->memory, 0, world.data[leg], world.sizes[leg]), 0);
	assert_int_equal(delay_new(&world.delays[leg], named->memory, &usual_delay, NULL), 0);
	filter_init(&named->filter, &driver, world.delays[leg]);
	named->filter.block.info.zeroed = world.new_target && leg == MIRROR_TARGET && world.opened[leg] == 0;
	world.opened[leg]++;
	*ret = &named->filter.block;
	return 0;
}

static int open_map(void *data, bool create)
{
	if (!create && !world.map_exists)
		return -ENOENT;
	world.map_exists = true;
	return world.map_fd;
}

static void state_changed(void *data, enum cutover_state state)
{
	world.states |= 1u << state;
	if (world.on_state)
		world.on_state(state);
}

static void warning(void *data, const char *text)
{
	snprintf(world.warning, sizeof(world.warning), "%s", text);
	world.warnings++;
}

static void place(struct block_io *io)
{
	io->length = 4096;
	io->offset = rand_below(&world.rand, SIZE / 512 - 7) * 512;
}

static void serve(void)
{
	job_clients_serve(&world.clients, world.job, CLIENTS);
}

static void world_init(bool real)
{
	const struct ring_sim_disk_options disk = {.size_max = 2 << 20};

	world = (struct world){.sizes = {SIZE, SIZE}, .ids = {"one", "two"}};
	rand_init(&world.rand, 1);
	world.clients.rand = &world.rand;
	world.clients.place = place;
	for (unsigned i = 0; i < MIRROR_LEGS; i++)
		rand_bytes(&world.rand, world.data[i], sizeof(world.data[i]));
	if (real) {
		assert_int_equal(ring_new(&world.ring, 64, NULL), 0);
		world.map_fd = memfd_create("map", MFD_CLOEXEC);
	} else {
		world.sim = ring_sim_new(1, 0);
		world.ring = ring_sim_host_new(world.sim, "host");
		world.map_fd = ring_sim_disk_new(world.sim, &disk);
	}
	world.options = (struct mirror_job_options){.nonce = 1,
	    .region_size = 4096,
	    .settle_ns = 20 * MS,
	    .settle_busy_ns = 20 * MS,
	    .settle_keep = 1,
	    .retry_ns = 20 * MS,
	    .follower_timeout_ns = 500 * MS,
	    .open_leg = open_leg,
	    .open_map = open_map,
	    .state_changed = state_changed,
	    .warning = warning};
}

static int job_open(void)
{
	assert_int_equal(mirror_job_new(&world.job, world.ring, &world.options, NULL), 0);
	return mirror_job_open(world.job, &world.error);
}

static void job_close(void)
{
	job_clients_drain(&world.clients, world.ring);
	world.job = mirror_job_free(world.job);
}

static void world_done(void)
{
	job_close();
	ring_free(world.ring);
	if (!world.sim)
		close(world.map_fd);
	ring_sim_free(world.sim);
}

static enum cutover_state run_for(uint64_t ns)
{
	return job_run_for(world.ring, world.job, ns, &world.error);
}

static bool seen(enum cutover_state state)
{
	return world.states >> state & 1;
}

/* Over, back, over, to the end. */
static unsigned switches;

static void there_and_back(enum cutover_state state)
{
	if (state == CUTOVER_READY)
		assert_int_equal(mirror_job_cutover(world.job), 0);
	if (state == CUTOVER_SWITCHED)
		assert_int_equal(
		    ++switches < 2 ? mirror_job_revert(world.job) : mirror_job_finish(world.job), 0);
}

static void go_there_and_back(bool real)
{
	struct mirror_job_status status;
	struct histogram_figures latency;
	static uint8_t content[SIZE];
	struct block_io io = {.op = BLOCK_READ, .length = SIZE, .buf = content};

	world_init(real);
	switches = 0;
	world.on_state = there_and_back;
	assert_int_equal(job_open(), 0);
	serve();
	assert_int_equal(run_for(30000 * (uint64_t)MS), CUTOVER_FINISHED);
	assert_true(seen(CUTOVER_REVERTED) && seen(CUTOVER_SWITCHED));
	mirror_job_status(world.job, &status);
	mirror_job_latency(world.job, &latency);
	assert_int_equal(status.authoritative, MIRROR_TARGET);
	assert_in_range(latency.count, 1, UINT64_MAX);
	print_message("the longest pause was %.3f ms, p99 %.3f ms\n", (double)status.pause_ns / 1e6,
	    (double)latency.p99_ns / 1e6);
	assert_in_range(status.pause_ns, 0, 500 * MS);
	/* It goes on being a volume. */
	world.clients.serving = false;
	assert_int_equal(block_wait(mirror_job_block(world.job), &io), 0);
	job_close();
	assert_true(world.clients.writes > 0);
	world_done();
}

static void test_there_and_back(void **state)
{
	go_there_and_back(false);
}

static void test_there_and_back_on_the_real_ring(void **state)
{
	go_there_and_back(true);
}

static void abort_it(enum cutover_state state)
{
	if (state == CUTOVER_READY)
		assert_int_equal(mirror_job_abort(world.job), 0);
}

/* H26: what was cancelled is nothing to use, and says so for ever. */
static void test_h26_cancelled_is_an_end_of_its_own(void **state)
{
	world_init(false);
	world.on_state = abort_it;
	assert_int_equal(job_open(), 0);
	serve();
	assert_int_equal(run_for(10000 * (uint64_t)MS), CUTOVER_CANCELLED);
	assert_int_equal(mirror_job_cutover(world.job), -EINVAL);
	assert_int_equal(mirror_job_finish(world.job), -EINVAL);
	job_close();
	world.options.resume = true;
	assert_int_equal(job_open(), -EALREADY);
	assert_non_null(strstr(world.error.text, "cancelled"));
	world_done();
}

static void lose_target(void)
{
	world.ids[MIRROR_TARGET] = "three";
	delay_set(
	    world.delays[MIRROR_TARGET], &(struct delay_options){.min_ns = 600 * MS, .max_ns = 600 * MS});
}

/* H22: the name leads to another volume now. It is not written, and the mirror waits for the right one. */
static void test_h22_another_volume_under_the_same_name(void **state)
{
	static uint8_t before[SIZE];
	struct mirror_job_status status;

	world_init(false);
	assert_int_equal(job_open(), 0);
	serve();
	assert_int_equal(run_for(400 * (uint64_t)MS), CUTOVER_READY);
	job_close();
	world.options.resume = true;
	assert_int_equal(job_open(), 0);
	serve();
	run_for(300 * MS);
	lose_target();
	job_close();
	memcpy(before, world.data[MIRROR_TARGET], SIZE);
	assert_int_equal(job_open(), 0);
	serve();
	run_for(600 * (uint64_t)MS);
	mirror_job_status(world.job, &status);
	assert_false(status.attached);
	assert_non_null(strstr(world.warning, "another volume"));
	assert_memory_equal(before, world.data[MIRROR_TARGET], SIZE);
	job_close();
	world.ids[MIRROR_TARGET] = "two";
	assert_int_equal(job_open(), 0);
	assert_int_equal(run_for(600 * (uint64_t)MS), CUTOVER_READY);
	world_done();
}

/* H09, H18: the size is part of what a leg is. */
static void test_h09_a_leg_of_another_size(void **state)
{
	world_init(false);
	world.sizes[MIRROR_TARGET] = SIZE + 512;
	assert_int_equal(job_open(), -EINVAL);
	assert_non_null(strstr(world.error.text, "as large as"));
	job_close();
	world.sizes[MIRROR_TARGET] = SIZE;
	assert_int_equal(job_open(), 0);
	run_for(200 * MS);
	job_close();
	world.options.resume = true;
	world.sizes[MIRROR_SOURCE] = SIZE + 512;
	assert_int_equal(job_open(), -EXDEV);
	world_done();
}

static void cut_slowly(enum cutover_state state)
{
	if (state == CUTOVER_SWITCHED)
		mirror_job_stop(world.job);
	if (state != CUTOVER_READY || seen(CUTOVER_SWITCHED))
		return;
	/* What is under way takes longer than the window. */
	if (!seen(CUTOVER_CUTTING))
		delay_set(world.delays[MIRROR_SOURCE],
		    &(struct delay_options){.min_ns = 80 * MS, .max_ns = 80 * MS});
	else
		delay_set(
		    world.delays[MIRROR_SOURCE], &(struct delay_options){.min_ns = 20000, .max_ns = 20000});
	mirror_job_cutover(world.job);
}

/* A cutover that does not fit into the window is tried again later; clients wait no longer than the window. */
static void test_a_cutover_is_deferred(void **state)
{
	struct mirror_job_status status;

	world_init(false);
	world.options.cutover_window_ns = 50 * MS;
	world.on_state = cut_slowly;
	assert_int_equal(job_open(), 0);
	serve();
	assert_int_equal(run_for(20000 * (uint64_t)MS), CUTOVER_SWITCHED);
	mirror_job_status(world.job, &status);
	assert_in_range(status.cutovers_deferred, 1, 3);
	assert_in_range(status.pause_ns, 0, 60 * MS);
	world_done();
}

/* What was written for a while is flushed before clients are held, and what was written during that, and so on. */
static void test_little_is_flushed_while_clients_wait(void **state)
{
	struct mirror_job_status status;

	world_init(false);
	world.options.settle_ns = 100000 * (uint64_t)MS;
	world.flushes_take_long = true;
	assert_int_equal(job_open(), 0);
	serve();
	assert_int_equal(run_for(800 * MS), CUTOVER_READY);
	/* The first flush, and what is written meanwhile, take long. */
	for (unsigned i = 0; i < 100 && world.unflushed[MIRROR_SOURCE] / 2 < 20 * MS; i++)
		run_for(MS);
	assert_in_range(world.unflushed[MIRROR_SOURCE] / 2, 20 * MS, 500 * MS);
	mirror_job_cutover(world.job);
	assert_int_equal(run_for(2000 * (uint64_t)MS), CUTOVER_SWITCHED);
	mirror_job_status(world.job, &status);
	print_message("a pause of %.3f ms\n", (double)status.pause_ns / 1e6);
	assert_in_range(status.pause_ns, 0, 5 * MS);
	world_done();
}

static uint64_t clean_but_logged(void)
{
	struct bitmap_file *map = mirror_map(mirror_job_block(world.job));

	return bitmap_file_logged(map)->count - bitmap_file_dirty(map)->count;
}

/* While clients are about, what is logged stays so, up to a bound; when they are gone, or soon after the target came back, it is cleared. */
static void test_clean_regions_stay_logged(void **state)
{
	const uint64_t regions = SIZE / 4096 + 1;

	for (uint64_t keep = 0; keep <= SIZE / 2; keep += SIZE / 2) {
		world_init(false);
		world.options.settle_keep = keep;
		assert_int_equal(job_open(), 0);
		job_clients_serve(&world.clients, world.job, 1);
		run_for(1000 * (uint64_t)MS);
		assert_in_range(clean_but_logged(), keep ? 1 : regions, keep ? regions - 1 : regions);
		mirror_detach(mirror_job_block(world.job));
		run_for(300 * (uint64_t)MS);
		assert_in_range(clean_but_logged(), 1, regions - 1);
		run_for(3000 * (uint64_t)MS);
		assert_in_range(clean_but_logged(), keep ? 1 : regions, keep ? regions - 1 : regions);
		world.clients.serving = false;
		run_for(600 * MS);
		assert_int_equal(clean_but_logged(), 0);
		world_done();
	}
}

/* There is nothing in it to be compared with. */
static void test_a_new_target_is_not_compared(void **state)
{
	struct mirror_job_status status;

	world_init(false);
	world.options.compare = world.new_target = true;
	memset(world.data, 0, sizeof(world.data));
	assert_int_equal(job_open(), 0);
	assert_int_equal(run_for(300 * MS), CUTOVER_READY);
	mirror_job_status(world.job, &status);
	assert_int_equal(status.same, 0);
	assert_int_equal(status.copied, SIZE);
	world_done();
}

static void test_a_lost_target_comes_back(void **state)
{
	struct mirror_job_status status;
	uint64_t writes;

	world_init(false);
	assert_int_equal(job_open(), 0);
	serve();
	run_for(500 * MS);
	assert_true(seen(CUTOVER_READY));
	world.away = true;
	writes = world.clients.writes;
	delay_set(
	    world.delays[MIRROR_TARGET], &(struct delay_options){.min_ns = 700 * MS, .max_ns = 700 * MS});
	job_close();
	world.warnings = 0;
	world.options.resume = true;
	assert_int_equal(job_open(), 0);
	serve();
	run_for(400 * (uint64_t)MS);
	mirror_job_status(world.job, &status);
	assert_true(!status.attached && status.dirty > 0 && world.clients.writes > writes);
	/* Said once, however often it was tried. */
	assert_int_equal(world.warnings, 1);
	job_close();
	world.away = false;
	assert_int_equal(job_open(), 0);
	serve();
	assert_int_equal(run_for(600 * (uint64_t)MS), CUTOVER_READY);
	world_done();
}

/* H14: a map in doubt is not believed; a comparison finds what differs, and copies no more. */
static void test_h14_a_damaged_map_means_a_comparison(void **state)
{
	struct mirror_job_status status;
	uint64_t size;
	uint8_t *map;

	world_init(false);
	assert_int_equal(job_open(), 0);
	assert_int_equal(run_for(400 * (uint64_t)MS), CUTOVER_READY);
	job_close();
	world.data[MIRROR_SOURCE][700000] ^= 1;
	map = ring_sim_disk_data(world.sim, world.map_fd, &size);
	map[100] ^= 1;
	map[4096 + 100] ^= 1;
	world.options.resume = true;
	assert_int_equal(job_open(), -EBADMSG);
	job_close();
	world.options.resume = false;
	world.options.compare = true;
	assert_int_equal(job_open(), 0);
	assert_int_equal(run_for(400 * (uint64_t)MS), CUTOVER_READY);
	mirror_job_status(world.job, &status);
	assert_int_equal(status.copied, 256 << 10);
	assert_int_equal(status.same + status.copied, SIZE);
	job_close();
	assert_memory_equal(world.data[0], world.data[1], SIZE);
	world_done();
}

/* H06: nothing is forgotten because a leg has come; only what was copied and flushed is. */
static void test_h06_coming_back_clears_nothing(void **state)
{
	struct mirror_job_status before, after;

	world_init(false);
	assert_int_equal(job_open(), 0);
	assert_int_equal(run_for(400 * (uint64_t)MS), CUTOVER_READY);
	mirror_job_pause(world.job, true);
	mirror_detach(mirror_job_block(world.job));
	world.away = true;
	serve();
	run_for(200 * MS);
	job_close();
	world.options.resume = true;
	assert_int_equal(job_open(), 0);
	mirror_job_status(world.job, &before);
	assert_true(before.dirty > 0);
	world.away = false;
	mirror_job_pause(world.job, true);
	run_for(400 * (uint64_t)MS);
	mirror_job_status(world.job, &after);
	assert_true(after.attached);
	assert_int_equal(after.dirty, before.dirty);
	world_done();
}

static uint64_t steps_ready;

static void check_ready(void *data)
{
	struct mirror_job_status status;

	if (!world.job)
		return;
	mirror_job_status(world.job, &status);
	if (status.state != CUTOVER_READY)
		return;
	steps_ready++;
	assert_true(status.attached && status.dirty == 0 && status.mode == MIRROR_WRITE_THROUGH);
}

/* H07: at no step of a run is it ready while something is dirty. */
static void test_h07_ready_and_clean_are_one_fact(void **state)
{
	world_init(false);
	ring_sim_on_step(world.sim, check_ready, NULL);
	steps_ready = 0;
	assert_int_equal(job_open(), 0);
	serve();
	run_for(500 * MS);
	delay_set(world.delays[MIRROR_TARGET], &(struct delay_options){.min_ns = MS, .max_ns = 700 * MS});
	run_for(600 * (uint64_t)MS);
	assert_true(steps_ready > 100 && world.warnings > 0);
	ring_sim_on_step(world.sim, NULL, NULL);
	world_done();
}

/* H16: a map that contradicts itself about which leg is good chooses none. */
static void test_h16_no_leg_is_chosen_in_doubt(void **state)
{
	struct bitmap_super super;
	struct bitmap_file *map;

	world_init(false);
	assert_int_equal(job_open(), 0);
	job_close();
	assert_int_equal(bitmap_file_load(&map, world.ring, world.map_fd, false, &world.error), 0);
	super = *bitmap_file_super(map);
	super.state = CUTOVER_SWITCHED;
	super.authoritative = MIRROR_SOURCE;
	assert_int_equal(bitmap_file_record(map, &super, &world.error), 0);
	bitmap_file_free(map);
	world.options.resume = true;
	assert_int_equal(job_open(), -EBADMSG);
	assert_non_null(strstr(world.error.text, "makes no sense"));
	world_done();
}

/* Somebody else wrote to the target: a verify before ready sees it, and it is mended before ready is said. */
static void test_verify_before_ready(void **state)
{
	struct mirror_job_status status;
	uint8_t byte = 0;

	world_init(false);
	assert_int_equal(job_open(), 0);
	serve();
	assert_int_equal(run_for(600 * (uint64_t)MS), CUTOVER_READY);
	job_close();
	world.options.resume = world.options.verify = true;
	assert_int_equal(job_open(), 0);
	assert_int_equal(run_for(600 * (uint64_t)MS), CUTOVER_READY);
	mirror_job_status(world.job, &status);
	assert_int_equal(status.verified, SIZE);
	assert_int_equal(status.differing, 0);
	job_close();
	byte = world.data[MIRROR_TARGET][SIZE - 1] ^ 4;
	world.data[MIRROR_TARGET][SIZE - 1] = byte;
	assert_int_equal(job_open(), 0);
	assert_int_equal(run_for(600 * (uint64_t)MS), CUTOVER_READY);
	mirror_job_status(world.job, &status);
	assert_in_range(status.differing, 1, 256 << 10);
	assert_non_null(strstr(world.warning, "differed between the legs"));
	job_close();
	assert_memory_equal(world.data[0], world.data[1], SIZE);
	world_done();
}

static void test_paused(void **state)
{
	struct mirror_job_status status;

	world_init(false);
	assert_int_equal(job_open(), 0);
	mirror_job_pause(world.job, true);
	run_for(500 * MS);
	mirror_job_status(world.job, &status);
	assert_true(status.paused && status.copied == 0 && status.state == CUTOVER_SYNCING);
	world_done();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_there_and_back),
	    cmocka_unit_test(test_there_and_back_on_the_real_ring),
	    cmocka_unit_test(test_h26_cancelled_is_an_end_of_its_own),
	    cmocka_unit_test(test_h22_another_volume_under_the_same_name),
	    cmocka_unit_test(test_h09_a_leg_of_another_size),
	    cmocka_unit_test(test_a_cutover_is_deferred),
	    cmocka_unit_test(test_little_is_flushed_while_clients_wait),
	    cmocka_unit_test(test_clean_regions_stay_logged),
	    cmocka_unit_test(test_a_new_target_is_not_compared),
	    cmocka_unit_test(test_a_lost_target_comes_back),
	    cmocka_unit_test(test_h14_a_damaged_map_means_a_comparison),
	    cmocka_unit_test(test_h06_coming_back_clears_nothing),
	    cmocka_unit_test(test_h07_ready_and_clean_are_one_fact),
	    cmocka_unit_test(test_h16_no_leg_is_chosen_in_doubt),
	    cmocka_unit_test(test_verify_before_ready),
	    cmocka_unit_test(test_paused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
