/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Verifications of a live mirror on demand: what they find and mark while clients write, how they are stopped, and where they go on. */
#include "base/bytes.h"
#include "block/memory.h"
#include "filter/delay.h"
#include "filter/fault.h"
#include "filter/filter.h"
#include "range/bitmap_file.h"
#include "ring/ring_sim.h"
#include "sync/mirror_job.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "job_clients.h"
#include "job_run.h"

#define SIZE       ((6u << 20) + 4608u)
#define REGION     (64u << 10)
#define RANGE      (256u << 10)
#define LEAF       4096u
#define MAP_SIZE   (2u << 20)
#define MS         UINT64_C(1000000)
#define CLIENTS    6u
#define RANGES_MAX 32u

/* A leg: its contents outlive its block. */
struct disk {
	uint8_t data[SIZE];
	struct block *memory, *fault;
	bool away;
	uint64_t read; /* bytes, not for digests */
};

struct leg {
	struct filter filter;
	struct disk *disk;
};

static struct world {
	struct ring_sim *sim;
	struct ring *ring;
	struct rand rand;
	struct disk disks[MIRROR_LEGS];
	int map_fd;
	struct mirror_job *job;
	struct mirror_job_options options;
	struct error error;
	struct job_clients clients;
	enum cutover_state states[64];
	unsigned states_count;
	enum cutover_state stop_in;

	/* of a pass */
	struct mirror_job_verify_options pass;
	struct range ranges[RANGES_MAX];
	unsigned ranges_count;
	unsigned endings;
	bool stop_when_found;
	uint8_t map[MAP_SIZE]; /* on stable storage when the first range was told */
	int res;
	uint64_t position;
} world;

static void leg_submit(struct block *block, struct block_io *io)
{
	if (io->op == BLOCK_READ)
		container_of(filter_of(block), struct leg, filter)->disk->read += io->length;
	filter_forward(filter_of(block), io);
}

static void leg_free(struct block *block)
{
	struct leg *leg = container_of(filter_of(block), struct leg, filter);

	memory_peek(leg->disk->memory, 0, leg->disk->data, SIZE);
	leg->disk->memory = NULL;
	filter_done(&leg->filter);
	free(leg);
}

static int open_leg(void *data, enum mirror_leg_index index, struct block **ret, struct error *error)
{
	static const struct block_driver driver = {.name = "leg", .submit = leg_submit, .free = leg_free};
	static const struct delay_options times = {.min_ns = MS / 10, .max_ns = MS, .seed = 1};
	struct disk *disk = &world.disks[index];
	struct block *delay;
	struct leg *leg;

	if (disk->away)
		return error_set(error, -ENOENT, "there is nothing");
	leg = calloc(1, sizeof(*leg));
	assert_non_null(leg);
	leg->disk = disk;
	assert_int_equal(memory_new(&disk->memory, world.ring, SIZE, NULL, NULL), 0);
	assert_int_equal(memory_poke(disk->memory, 0, disk->data, SIZE), 0);
	assert_int_equal(fault_new(&disk->fault, disk->memory, 1, NULL), 0);
	assert_int_equal(delay_new(&delay, disk->fault, &times, NULL), 0);
	filter_init(&leg->filter, &driver, delay);
	*ret = &leg->filter.block;
	return 0;
}

static int open_map(void *data, bool create)
{
	return world.map_fd;
}

static void state_changed(void *data, enum cutover_state state)
{
	assert_true(world.states_count < 64);
	world.states[world.states_count++] = state;
	if (state == world.stop_in)
		mirror_job_stop(world.job);
}

/* Clients */

static void place(struct block_io *io)
{
	io->length = rand_between(&world.rand, 1, 32) * 512;
	io->offset = rand_below(&world.rand, (SIZE - io->length) / 512) * 512;
}

static void serve(void)
{
	job_clients_serve(&world.clients, world.job, CLIENTS);
}

/* Life */

static enum cutover_state run_for(uint64_t ns)
{
	return job_run_for(world.ring, world.job, ns, &world.error);
}

static void until_ready(void)
{
	if (job_status(world.job).state == CUTOVER_READY)
		return;
	world.stop_in = CUTOVER_READY;
	assert_int_equal(run_for(20000 * MS), CUTOVER_READY);
	world.stop_in = CUTOVER_STATES;
}

static void world_init(bool verify)
{
	const struct ring_sim_disk_options disk = {.size_max = MAP_SIZE};

	memset(&world, 0, sizeof(world));
	rand_init(&world.rand, 1);
	world.clients.rand = &world.rand;
	world.clients.place = place;
	for (unsigned i = 0; i < MIRROR_LEGS; i++)
		rand_bytes(&world.rand, world.disks[i].data, SIZE);
	world.sim = ring_sim_new(1, 0);
	world.ring = ring_sim_host_new(world.sim, "host");
	world.map_fd = ring_sim_disk_new(world.sim, &disk);
	world.stop_in = CUTOVER_STATES;
	world.options = (struct mirror_job_options){.nonce = 1,
	    .region_size = REGION,
	    .settle_ns = 20 * MS,
	    .retry_ns = 20 * MS,
	    .verify = verify,
	    .open_leg = open_leg,
	    .open_map = open_map,
	    .state_changed = state_changed};
	assert_int_equal(mirror_job_new(&world.job, world.ring, &world.options, NULL), 0);
	assert_int_equal(mirror_job_open(world.job, &world.error), 0);
	until_ready();
}

static void drain(void)
{
	job_clients_drain(&world.clients, world.ring);
}

/* Ends the job; whether the legs hold the same. */
static bool close_job(void)
{
	drain();
	world.job = mirror_job_free(world.job);
	return !memcmp(world.disks[0].data, world.disks[1].data, SIZE);
}

static void world_done(void)
{
	ring_free(world.ring);
	ring_sim_free(world.sim);
}

/* Another value there, behind the mirror's back. */
static void plant(enum mirror_leg_index leg, uint64_t offset)
{
	uint8_t byte;

	memory_peek(world.disks[leg].memory, offset, &byte, 1);
	byte ^= 0x10;
	assert_int_equal(memory_poke(world.disks[leg].memory, offset, &byte, 1), 0);
}

/* Passes */

static void differs(void *data, uint64_t offset, uint64_t length)
{
	uint64_t size;
	const uint8_t *map = ring_sim_disk_stable(world.sim, world.map_fd, &size);

	assert_true(world.ranges_count < RANGES_MAX);
	if (world.ranges_count == 0)
		memcpy(world.map, map, size);
	/* One fact. */
	assert_int_equal(job_status(world.job).state, CUTOVER_SYNCING);
	assert_true(job_status(world.job).unequal > 0);
	world.ranges[world.ranges_count++] = (struct range){offset, length};
	if (world.stop_when_found)
		mirror_job_verify_stop(world.job);
}

static void ended(void *data, int res, uint64_t position)
{
	world.endings++;
	world.res = res;
	world.position = position;
	assert_false(job_status(world.job).verifying);
	mirror_job_stop(world.job);
}

static int begin(uint64_t from, uint64_t rate, bool resync)
{
	world.pass = (struct mirror_job_verify_options){
	    .from = from, .rate = rate, .resync = resync, .differs = differs, .ended = ended};
	world.ranges_count = world.endings = 0;
	world.res = 1;
	return mirror_job_verify(world.job, &world.pass);
}

/* A pass, to its end. */
static void verify(uint64_t from, bool resync)
{
	assert_int_equal(begin(from, 0, resync), 0);
	assert_true(job_status(world.job).verifying);
	run_for(20000 * MS);
	assert_int_equal(world.endings, 1);
}

static void check_found(uint64_t offset, uint64_t length)
{
	for (unsigned i = 0; i < world.ranges_count; i++)
		if (world.ranges[i].offset == offset && world.ranges[i].length == length)
			return;
	fail_msg("%u + %u was not told", (unsigned)offset, (unsigned)length);
}

static void test_no_false_alarm(void **state)
{
	struct mirror_job_status status;

	world_init(false);
	serve();
	for (unsigned i = 0; i < 20; i++) {
		uint64_t writes = world.clients.writes;

		world.disks[0].read = world.disks[1].read = 0;
		assert_int_equal(begin(0, 16 << 20, i % 2), 0);
		run_for(20000 * MS);
		status = job_status(world.job);
		assert_int_equal(world.res, 0);
		assert_int_equal(world.position, SIZE);
		assert_int_equal(world.ranges_count, 0);
		assert_int_equal(status.verify_position, SIZE);
		assert_int_equal(status.verify_differing + status.verify_unread, 0);
		assert_in_range(world.clients.writes - writes, 20, UINT32_MAX);
		/* Nothing but digests comes from the legs. */
		assert_int_equal(world.disks[0].read + world.disks[1].read, 0);
	}
	assert_true(close_job());
	world_done();
}

/* Found to the block; marked and found again, or copied, and then the pass goes on. */
static void test_what_differs_is_found(void **state)
{
	world_init(false);
	plant(MIRROR_TARGET, 1000000);
	plant(MIRROR_TARGET, 1000000 + LEAF);
	plant(MIRROR_SOURCE, 7 * RANGE);
	plant(MIRROR_TARGET, SIZE - 1);
	for (unsigned i = 0; i < 2; i++) {
		verify(0, i);
		assert_int_equal(world.res, 0);
		assert_int_equal(world.ranges_count, 3);
		check_found(align_down(1000000, LEAF), 2 * LEAF);
		check_found(7 * RANGE, LEAF);
		check_found(align_down(SIZE, LEAF), SIZE % LEAF);
		assert_int_equal(job_status(world.job).verify_differing, 3 * LEAF + SIZE % LEAF);
		assert_int_equal(job_status(world.job).marked, !i);
		assert_true(i || job_status(world.job).dirty == 3 * REGION);
		assert_true(i || job_status(world.job).copied == SIZE);
	}
	until_ready();
	/* What the regions have, and no more. */
	assert_int_equal(job_status(world.job).copied, SIZE + 2 * REGION + SIZE % REGION);
	verify(0, true);
	assert_int_equal(world.res + (int)world.ranges_count, 0);
	assert_true(close_job());
	world_done();
}

static bool is_same(uint64_t offset, uint64_t length)
{
	static uint8_t bytes[MIRROR_LEGS][REGION];

	for (unsigned i = 0; i < MIRROR_LEGS; i++)
		memory_peek(world.disks[i].memory, offset, bytes[i], length);
	return !memcmp(bytes[0], bytes[1], length);
}

/* What a restart would find in the map as it was when the first range was told. */
static void check_stable_map(uint64_t offset)
{
	const struct ring_sim_disk_options disk = {.size = MAP_SIZE, .size_max = MAP_SIZE};
	int fd = ring_sim_disk_new(world.sim, &disk);
	struct bitmap_file *map;
	uint64_t size;

	memcpy(ring_sim_disk_data(world.sim, fd, &size), world.map, MAP_SIZE);
	assert_int_equal(bitmap_file_load(&map, world.ring, fd, false, &world.error), 0);
	assert_true(bitmap_test(bitmap_file_dirty(map), offset / REGION));
	bitmap_file_free(map);
}

/* One block of the target, by a pass that does not copy it. */
static void mark_one(uint64_t offset)
{
	plant(MIRROR_TARGET, offset);
	verify(0, false);
	assert_int_equal(world.ranges_count, 1);
	check_found(align_down(offset, LEAF), LEAF);
}

static void check_marked(uint64_t bytes)
{
	struct mirror_job_status status = job_status(world.job);

	assert_int_equal(status.state, CUTOVER_SYNCING);
	assert_true(status.marked);
	assert_int_equal(status.dirty, bytes);
	assert_int_equal(status.unequal, bytes);
}

/* In the map before it is told, and not copied before that is asked for, whatever clients write there; and then it is. */
static void test_h07_what_is_marked_is_not_called_equal(void **state)
{
	world_init(false);
	run_for(200 * MS);
	mark_one(10 * REGION + 5);
	check_stable_map(10 * REGION);
	run_for(2000 * MS);
	check_marked(REGION);
	assert_false(is_same(10 * REGION, REGION));
	serve();
	run_for(2000 * MS);
	assert_true(world.clients.writes > 100);
	check_marked(REGION);
	assert_int_equal(job_status(world.job).copied, SIZE);
	/* Nor is it looked over again as if it were to be copied. */
	drain();
	plant(MIRROR_TARGET, 10 * REGION + 3 * LEAF);
	verify(0, false);
	assert_in_range(world.ranges_count, 1, 2);
	check_found(10 * REGION + 3 * LEAF, LEAF);
	check_marked(REGION);
	run_for(1000 * MS);
	assert_false(is_same(10 * REGION, REGION));
	serve();
	mirror_job_copy_marked(world.job);
	until_ready();
	drain();
	assert_int_equal(job_status(world.job).unequal, 0);
	assert_false(job_status(world.job).marked);
	assert_true(close_job());
	world_done();
}

/* Nobody has asked for it, but these do not go on without it. */
static void test_what_is_marked_is_copied_at_last(void **state)
{
	for (unsigned i = 0; i < 3; i++) {
		world_init(false);
		mark_one(10 * REGION);
		check_marked(REGION);
		if (i == 0) {
			close_job();
			world.options.resume = true;
			assert_int_equal(mirror_job_new(&world.job, world.ring, &world.options, NULL), 0);
			assert_int_equal(mirror_job_open(world.job, &world.error), 0);
		} else if (i == 1) {
			assert_int_equal(mirror_job_let_target_go(world.job), 0);
			run_for(200 * MS);
			assert_int_equal(job_status(world.job).dirty, REGION);
			mirror_job_pause(world.job, false);
		} else {
			mirror_job_clear_map(world.job, true);
		}
		until_ready();
		mirror_job_clear_map(world.job, false);
		verify(0, false);
		assert_int_equal(world.ranges_count, 0);
		assert_int_equal(job_status(world.job).state, CUTOVER_READY);
		assert_true(close_job());
		world_done();
	}
}

/* While what was found is copied, and clients write, the rest is looked at. */
static void test_it_goes_on_while_copying(void **state)
{
	uint64_t found = 0;

	world_init(false);
	for (uint64_t at = 100; at < SIZE; at += SIZE / 20)
		plant(MIRROR_TARGET, at);
	serve();
	verify(0, true);
	assert_int_equal(world.res, 0);
	assert_int_equal(world.position, SIZE);
	/* Clients have written over some. */
	assert_in_range(world.ranges_count, 10, 21);
	for (unsigned i = 0; i < world.ranges_count; i++)
		found += world.ranges[i].length;
	assert_int_equal(job_status(world.job).verify_differing, found);
	drain();
	until_ready();
	assert_true(close_job());
	world_done();
}

static void test_stopped_and_resumed(void **state)
{
	uint64_t position, began_ns;

	world_init(false);
	plant(MIRROR_TARGET, 100);
	plant(MIRROR_TARGET, SIZE - 100);
	serve();
	world.stop_when_found = true;
	assert_int_equal(begin(0, 1 << 20, false), 0);
	assert_int_equal(begin(0, 0, false), -EBUSY);
	run_for(20000 * MS);
	assert_int_equal(world.res, -ECANCELED);
	check_found(0, LEAF);
	world.stop_when_found = false;
	/* At the rate, a few seconds; it takes none of the governor's. */
	assert_int_equal(begin(world.position, 1 << 20, false), 0);
	began_ns = ring_now_ns(world.ring);
	run_for(3000 * MS);
	assert_in_range(ring_now_ns(world.ring) - began_ns, 2999 * MS, 3100 * MS);
	assert_int_equal(world.res, -ECANCELED);
	assert_int_equal(world.ranges_count, 0);
	assert_in_range(world.position, 3 << 20, (3 << 20) + 2 * RANGE);
	assert_int_equal(world.position % RANGE, 0);
	position = world.position;
	/* What lies before it is not looked at. */
	plant(MIRROR_TARGET, position - 1);
	verify(position, false);
	assert_int_equal(world.res, 0);
	assert_int_equal(world.ranges_count, 1);
	check_found(align_down(SIZE, LEAF), SIZE % LEAF);
	/* From the midst of a range, it begins with that. */
	verify(SIZE - 1, false);
	assert_int_equal(world.ranges_count, 1);
	assert_int_equal(begin(SIZE, 0, false), -EINVAL);
	close_job();
	world_done();
}

static void lose(struct ring_op *op, int res)
{
	world.disks[MIRROR_TARGET].away = true;
	fault_add(
	    world.disks[MIRROR_TARGET].fault, &(struct fault_rule){.kind = FAULT_ERROR, .result = -ENOTCONN});
}

static void test_the_follower_is_lost(void **state)
{
	struct ring_op op = {.opcode = RING_TIMER, .done = lose};
	uint64_t position;

	world_init(false);
	serve();
	assert_int_equal(begin(0, 1 << 20, true), 0);
	op.deadline_ns = ring_now_ns(world.ring) + 3000 * MS;
	ring_submit(world.ring, &op);
	run_for(20000 * MS);
	assert_int_equal(world.endings, 1);
	assert_int_equal(world.res, -ENOTCONN);
	assert_in_range(world.position, 2 << 20, 4 << 20);
	position = world.position;
	assert_int_equal(begin(position, 0, true), -EINVAL);
	world.disks[MIRROR_TARGET].away = false;
	drain();
	until_ready();
	plant(MIRROR_TARGET, position);
	plant(MIRROR_TARGET, position - 1);
	verify(position, true);
	assert_int_equal(world.ranges_count, 1);
	check_found(position, LEAF);
	close_job();
	world_done();
}

/* A range of the follower that cannot be read is no difference, and no end; asked to, the copy writes it anew. */
static void test_what_cannot_be_read(void **state)
{
	const struct fault_rule bad = {.kind = FAULT_ERROR,
	    .ops = 1u << BLOCK_DIGEST,
	    .offset = 5 * RANGE + 10,
	    .length = 1,
	    .result = -EIO};

	world_init(false);
	for (unsigned i = 0; i < MIRROR_LEGS; i++) {
		assert_true(fault_add(world.disks[i].fault, &bad) >= 0);
		verify(0, false);
		assert_int_equal(world.res, 0);
		assert_int_equal(world.ranges_count, 0);
		assert_int_equal(job_status(world.job).verify_unread, RANGE);
		assert_int_equal(job_status(world.job).state, CUTOVER_READY);
		fault_clear(world.disks[i].fault);
	}
	assert_true(fault_add(world.disks[MIRROR_TARGET].fault, &bad) >= 0);
	verify(0, true);
	until_ready();
	assert_int_equal(job_status(world.job).copied, SIZE + RANGE);
	close_job();
	world_done();
}

/* What an order to cut over ends; and what was found is not in a receipt. */
static void test_a_cutover_ends_it(void **state)
{
	for (unsigned found = 0; found < 2; found++) {
		world_init(true);
		if (found)
			plant(MIRROR_SOURCE, 10);
		serve();
		assert_int_equal(begin(0, 1 << 20, false), 0);
		/* Not before that. */
		world.stop_in = CUTOVER_READY;
		run_for(1000 * MS);
		assert_int_equal(begin(0, 1 << 20, false), 0);
		world.stop_in = CUTOVER_SWITCHED;
		assert_int_equal(mirror_job_cutover(world.job), 0);
		run_for(1000 * MS);
		assert_int_equal(world.endings, 1);
		assert_int_equal(world.res, -ECANCELED);
		run_for(1000 * MS);
		assert_int_equal(job_status(world.job).state, CUTOVER_SWITCHED);
		assert_int_equal(mirror_job_digests(world.job)->known, !found);
		assert_int_equal(begin(0, 0, false), -EINVAL);
		assert_int_equal(mirror_job_finish(world.job), 0);
		world.stop_in = CUTOVER_STATES;
		assert_int_equal(run_for(1000 * MS), CUTOVER_FINISHED);
		close_job();
		world_done();
	}
}

static void test_freed_in_its_midst(void **state)
{
	world_init(false);
	assert_int_equal(begin(0, 100, true), 0);
	close_job();
	assert_int_equal(world.endings, 0);
	world_done();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_no_false_alarm),
	    cmocka_unit_test(test_what_differs_is_found),
	    cmocka_unit_test(test_h07_what_is_marked_is_not_called_equal),
	    cmocka_unit_test(test_what_is_marked_is_copied_at_last),
	    cmocka_unit_test(test_it_goes_on_while_copying),
	    cmocka_unit_test(test_stopped_and_resumed),
	    cmocka_unit_test(test_the_follower_is_lost),
	    cmocka_unit_test(test_what_cannot_be_read),
	    cmocka_unit_test(test_a_cutover_ends_it),
	    cmocka_unit_test(test_freed_in_its_midst),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
