/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Live mirrors that become larger while clients write: what is copied then, what is refused, and what is known of holes. */
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

#include <cmocka.h>

#include "job_clients.h"
#include "job_run.h"

#define REGION  (64u << 10)
#define SMALL   ((2u << 20) + 5120u)
#define LARGE   ((5u << 20) + 9 * 512u)
#define MS      UINT64_C(1000000)
#define CLIENTS 4u

/* A leg: its contents outlive its block. */
struct disk {
	uint8_t data[LARGE];
	uint64_t size;
	struct block *memory, *leg;
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
	char warning[600];
	struct job_clients clients;
	uint64_t beyond; /* writes to what is new, begun */
	enum cutover_state stop_in;
	int res;
	uint64_t differs, ended_at;
	unsigned maps_lost;
	bool goes_meanwhile; /* the target is let go while it is opened */
} world;

static void leg_submit(struct block *block, struct block_io *io)
{
	filter_forward(filter_of(block), io);
}

static void leg_free(struct block *block)
{
	struct disk *disk = container_of(filter_of(block), struct leg, filter)->disk;

	memory_peek(disk->memory, 0, disk->data, disk->size);
	disk->memory = disk->leg = NULL;
	filter_done(filter_of(block));
	free(filter_of(block));
}

static int open_leg(void *data, enum mirror_leg_index index, struct block **ret, struct error *error)
{
	static const struct block_driver driver = {
	    .name = "leg", .submit = leg_submit, .measure = filter_measure, .free = leg_free};
	static const struct delay_options times = {.min_ns = MS / 10, .max_ns = MS, .seed = 1};
	const struct memory_options options = {.resizable = true};
	struct disk *disk = &world.disks[index];
	struct leg *leg = calloc(1, sizeof(*leg));
	struct block *delay;

	if (world.goes_meanwhile) {
		world.goes_meanwhile = false;
		assert_int_equal(mirror_job_let_target_go(world.job), 0);
	}
	assert_non_null(leg);
	leg->disk = disk;
	assert_int_equal(memory_new(&disk->memory, world.ring, disk->size, &options, NULL), 0);
	assert_int_equal(memory_poke(disk->memory, 0, disk->data, disk->size), 0);
	assert_int_equal(delay_new(&delay, disk->memory, &times, NULL), 0);
	filter_init(&leg->filter, &driver, delay);
	*ret = disk->leg = &leg->filter.block;
	return 0;
}

static int open_map(void *data, bool create)
{
	return world.map_fd;
}

static void state_changed(void *data, enum cutover_state state)
{
	if (state == world.stop_in)
		mirror_job_stop(world.job);
}

static void map_lost(void *data)
{
	world.maps_lost++;
}

static void warning(void *data, const char *text)
{
	snprintf(world.warning, sizeof(world.warning), "%s", text);
}

static void place(struct block_io *io)
{
	uint64_t size = block_info(mirror_job_block(world.job))->size;

	io->length = rand_between(&world.rand, 1, 16) * 512;
	io->offset = (size - io->length) / 512 * 512 - rand_below(&world.rand, 100) * 512;
	world.beyond += io->offset + io->length > SMALL;
}

static void serve(void)
{
	job_clients_serve(&world.clients, world.job, CLIENTS);
}

static void drain(void)
{
	job_clients_drain(&world.clients, world.ring);
}

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

static void job_open(void)
{
	assert_int_equal(mirror_job_new(&world.job, world.ring, &world.options, NULL), 0);
	if (mirror_job_open(world.job, &world.error) < 0)
		fail_msg("%s", world.error.text);
}

static void world_init(bool verify)
{
	const struct ring_sim_disk_options disk = {.size_max = 2 << 20};

	memset(&world, 0, sizeof(world));
	rand_init(&world.rand, 1);
	world.clients.rand = &world.rand;
	world.clients.place = place;
	for (unsigned i = 0; i < MIRROR_LEGS; i++) {
		rand_bytes(&world.rand, world.disks[i].data, LARGE);
		world.disks[i].size = SMALL;
	}
	world.sim = ring_sim_new(1, 0);
	world.ring = ring_sim_host_new(world.sim, "host");
	world.map_fd = ring_sim_disk_new(world.sim, &disk);
	world.stop_in = CUTOVER_STATES;
	world.options = (struct mirror_job_options){.nonce = 1,
	    .region_size = REGION,
	    .settle_ns = 20 * MS,
	    .settle_keep = 1,
	    .settle_busy_ns = 20 * MS,
	    .retry_ns = 20 * MS,
	    .verify = verify,
	    .map_lost = map_lost,
	    .open_leg = open_leg,
	    .open_map = open_map,
	    .state_changed = state_changed,
	    .warning = warning};
	job_open();
	until_ready();
}

static void job_close(void)
{
	drain();
	world.job = mirror_job_free(world.job);
}

static void world_done(void)
{
	ring_free(world.ring);
	ring_sim_free(world.sim);
}

/* There is something in what is new. */
static void enlarge(enum mirror_leg_index leg, uint64_t size)
{
	struct disk *disk = &world.disks[leg];
	uint64_t before = disk->size;
	struct block_io io = {.op = BLOCK_RESIZE, .length = size};

	disk->size = size;
	if (!disk->leg)
		return;
	assert_int_equal(block_wait(disk->memory, &io), 0);
	assert_int_equal(memory_poke(disk->memory, before, disk->data + before, size - before), 0);
	assert_int_equal(block_measure(disk->leg, NULL), 0);
}

static void let_go(void)
{
	assert_int_equal(mirror_job_let_target_go(world.job), 0);
	run_for(200 * MS);
	assert_true(job_status(world.job).let_go);
}

static void count_differs(void *data, uint64_t offset, uint64_t length)
{
	world.differs += length;
}

static void ended(void *data, int res, uint64_t position)
{
	world.res = res;
	world.ended_at = position;
	mirror_job_stop(world.job);
}

static void verify(void)
{
	const struct mirror_job_verify_options options = {.differs = count_differs, .ended = ended};

	assert_int_equal(mirror_job_verify(world.job, &options), 0);
	world.res = 1;
	run_for(5000 * MS);
	assert_int_equal(world.res, 0);
	assert_int_equal(world.differs, 0);
}

static void test_it_grows_beside_clients(void **state)
{
	struct mirror_job_status status;
	uint64_t copied;

	world_init(true);
	serve();
	run_for(500 * MS);
	verify();
	assert_int_equal(world.ended_at, SMALL);
	let_go();
	enlarge(MIRROR_SOURCE, LARGE);
	copied = job_status(world.job).copied;
	assert_int_equal(mirror_job_grow(world.job, LARGE, &world.error), 0);
	status = job_status(world.job);
	assert_int_equal(status.size, LARGE);
	assert_int_equal(mirror_job_size(world.job), LARGE);
	assert_int_equal(block_info(mirror_job_block(world.job))->size, LARGE);
	run_for(200 * MS);
	assert_true(world.beyond > 10 + CLIENTS);
	/* A target that has not grown is not taken. */
	mirror_job_pause(world.job, false);
	run_for(200 * MS);
	assert_false(job_status(world.job).attached);
	assert_non_null(strstr(world.warning, "has 2102272 bytes, the mirror has 5247488"));
	enlarge(MIRROR_TARGET, LARGE);
	until_ready();
	run_for(200 * MS);
	drain();
	until_ready();
	/* What is new, and where clients write: not what was clean. */
	copied = job_status(world.job).copied - copied;
	assert_in_range(copied, LARGE - SMALL, LARGE - SMALL + 12 * REGION);
	assert_int_equal(job_status(world.job).verified, LARGE);
	verify();
	assert_int_equal(world.ended_at, LARGE);
	job_close();
	assert_memory_equal(world.disks[0].data, world.disks[1].data, LARGE);
	/* And once more, from the map. */
	world.options.resume = true;
	job_open();
	assert_int_equal(job_status(world.job).size, LARGE);
	until_ready();
	job_close();
	world_done();
}

/* What was asked when the volume was smaller. */
static void test_requests_under_way(void **state)
{
	uint8_t buf[512] = "end";
	struct block_io io = {
	    .op = BLOCK_ZERO, .offset = SMALL - REGION, .length = REGION, .done = job_client_done};
	struct job_client *client = &world.clients.all[0];

	world_init(false);
	let_go();
	enlarge(MIRROR_SOURCE, LARGE);
	*client = (struct job_client){.clients = &world.clients, .io = io, .busy = true};
	block_submit(mirror_job_block(world.job), &client->io);
	assert_int_equal(mirror_job_grow(world.job, LARGE, &world.error), 0);
	drain();
	io = (struct block_io){.op = BLOCK_WRITE, .offset = LARGE - 512, .length = 512, .buf = buf};
	assert_int_equal(block_wait(mirror_job_block(world.job), &io), 0);
	enlarge(MIRROR_TARGET, LARGE);
	mirror_job_pause(world.job, false);
	until_ready();
	job_close();
	assert_memory_equal(world.disks[0].data, world.disks[1].data, LARGE);
	assert_string_equal((char *)world.disks[1].data + LARGE - 512, "end");
	world_done();
}

static void check_refused(uint64_t size, int res, const char *why)
{
	assert_int_equal(mirror_job_grow(world.job, size, &world.error), res);
	if (!strstr(world.error.text, why))
		fail_msg("%s", world.error.text);
	assert_int_equal(job_status(world.job).size, SMALL);
	assert_int_equal(block_info(mirror_job_block(world.job))->size, SMALL);
}

static void test_what_is_refused(void **state)
{
	world_init(false);
	enlarge(MIRROR_SOURCE, LARGE);
	check_refused(LARGE, -EBUSY, "cannot grow the mirror: the target is in use");
	let_go();
	check_refused(LARGE + 512, -ENOSPC, "has 5247488 bytes, the mirror is to have 5248000");
	check_refused(LARGE - 512, -EINVAL, "has 5247488 bytes");
	check_refused(SMALL - 512, -EINVAL, "cannot be made smaller");
	mirror_leader_lose(mirror_job_block(world.job));
	check_refused(LARGE, -ENOTCONN, "the source is away");
	world.disks[MIRROR_SOURCE].size = SMALL;
	run_for(200 * MS);
	mirror_job_pause(world.job, false);
	until_ready();
	assert_int_equal(mirror_job_cutover(world.job), 0);
	world.stop_in = CUTOVER_SWITCHED;
	run_for(1000 * MS);
	check_refused(LARGE, -EINVAL, "it is switched");
	job_close();
	world_done();
}

/* Else it would be there, and nobody who let it go would know. */
static void test_let_go_while_it_is_opened(void **state)
{
	world_init(false);
	let_go();
	world.goes_meanwhile = true;
	mirror_job_pause(world.job, false);
	run_for(200 * MS);
	assert_false(world.goes_meanwhile);
	assert_false(job_status(world.job).attached);
	assert_true(job_status(world.job).let_go);
	enlarge(MIRROR_SOURCE, LARGE);
	enlarge(MIRROR_TARGET, LARGE);
	assert_int_equal(mirror_job_grow(world.job, LARGE, &world.error), 0);
	mirror_job_pause(world.job, false);
	until_ready();
	job_close();
	assert_memory_equal(world.disks[0].data, world.disks[1].data, LARGE);
	world_done();
}

/* The map's disk fails in its midst: clients go on with what there was, and nothing more is mirrored. */
static void test_h11_the_map_is_lost(void **state)
{
	world_init(false);
	let_go();
	enlarge(MIRROR_SOURCE, LARGE);
	ring_sim_disk_options(world.sim, world.map_fd)->write_error_ppm = 1000000;
	check_refused(LARGE, -EIO, "cannot grow the map: cannot write the map: ");
	assert_int_equal(world.maps_lost, 1);
	assert_int_equal(run_for(1000 * MS), CUTOVER_FAILED);
	assert_non_null(strstr(world.error.text, "the map cannot be written"));
	job_close();
	world_done();
}

/* A mirror's own: legs of this world are too small for granules to become coarser. */

#define TINY  4096u
#define UNITS (1ull << 26)

static void test_h04_holes_after_it_has_grown(void **state)
{
	const uint64_t before = (UNITS - 9) * TINY, after = 3 * UNITS * TINY;
	const struct bitmap_super super = {.nonce = 1, .size = before, .region_size = TINY, .records = 64};
	const struct memory_options memory = {.resizable = true};
	struct block_io io = {.op = BLOCK_RESIZE, .length = after};
	struct block *legs[MIRROR_LEGS] = {0}, *mirror, *port;
	struct mirror_options options = {0};
	struct bitmap none;
	uint8_t byte = 1;
	uint64_t end;

	memset(&world, 0, sizeof(world));
	world.sim = ring_sim_new(1, 0);
	world.ring = ring_sim_host_new(world.sim, "host");
	world.map_fd = ring_sim_disk_new(world.sim, &(struct ring_sim_disk_options){.size_max = 64 << 20});
	assert_int_equal(bitmap_init(&none, UNITS - 9), 0);
	assert_int_equal(
	    bitmap_file_create(&options.map, world.ring, world.map_fd, &super, &none, &world.error), 0);
	assert_int_equal(memory_new(&legs[MIRROR_SOURCE], world.ring, before, &memory, NULL), 0);
	assert_int_equal(mirror_new(&mirror, legs, &options, &world.error), 0);
	port = mirror_copy_source(mirror);
	for (unsigned i = 0; i < 2; i++) {
		struct block_io write = {
		    .op = BLOCK_WRITE, .offset = i ? before - 1 : 999 * TINY, .length = 1, .buf = &byte};

		assert_int_equal(block_wait(mirror, &write), 0);
	}
	assert_int_equal(block_wait(legs[MIRROR_SOURCE], &io), 0);
	assert_int_equal(mirror_grow(mirror, after, &world.error), 0);
	assert_int_equal(block_info(mirror)->size, after);
	assert_int_equal(block_info(port)->size, after);
	/* In granules of four regions now. */
	assert_false(mirror_leg_written(port, 0, &end));
	assert_int_equal(end, 996 * TINY);
	assert_true(mirror_leg_written(port, 999 * TINY, &end));
	assert_int_equal(end, 1000 * TINY);
	assert_false(mirror_leg_written(port, 1000 * TINY, &end));
	assert_int_equal(end, (UNITS - 12) * TINY);
	assert_true(mirror_leg_written(port, before - 1, &end));
	assert_int_equal(end, (UNITS - 8) * TINY);
	assert_false(mirror_leg_written(port, UNITS * TINY, &end));
	assert_int_equal(end, after);
	block_free(mirror);
	block_free(legs[MIRROR_SOURCE]);
	bitmap_file_free(options.map);
	bitmap_done(&none);
	world_done();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_it_grows_beside_clients),
	    cmocka_unit_test(test_requests_under_way),
	    cmocka_unit_test(test_what_is_refused),
	    cmocka_unit_test(test_let_go_while_it_is_opened),
	    cmocka_unit_test(test_h11_the_map_is_lost),
	    cmocka_unit_test(test_h04_holes_after_it_has_grown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
