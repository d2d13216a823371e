/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Live mirrors whose legs have bad sectors: what cannot be read keeps nothing else back, and is mended by writing it anew. */
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

#include "job_run.h"

#define SIZE   ((4u << 20) + 4608u)
#define REGION (64u << 10)
#define MS     UINT64_C(1000000)
#define BAD    (5 * REGION + 9000u)
#define SECTOR 512u

/* A leg: its contents outlive its block. */
struct disk {
	uint8_t data[SIZE];
	uint64_t bad, bad_length; /* cannot be read; 0 bytes: all can */
	bool dead;                /* nor be written */
	unsigned bad_reads, opened;
	struct block *memory;
};

struct leg {
	struct filter filter;
	struct disk *disk;
};

struct world {
	struct ring_sim *sim;
	struct ring *ring;
	struct disk disks[MIRROR_LEGS];
	struct delay_options delay;
	int map_fd;
	struct mirror_job *job;
	struct mirror_job_options options;
	struct error error;
	char warning[600];
	unsigned warnings;
	bool was_ready;
	void (*on_state)(enum cutover_state state);
	struct block_io io;
	uint8_t buf[SECTOR];
	int res;
	uint64_t writes, begun_ns, longest_ns;
	bool serving, busy;
};

static struct world world;

static bool touches_bad(const struct disk *disk, const struct block_io *io)
{
	return disk->bad_length > 0 && io->offset < disk->bad + disk->bad_length &&
	       disk->bad < io->offset + io->length;
}

static void leg_submit(struct block *block, struct block_io *io)
{
	struct disk *disk = container_of(filter_of(block), struct leg, filter)->disk;
	bool reads = io->op == BLOCK_READ || io->op == BLOCK_DIGEST;

	if ((reads || (io->op == BLOCK_WRITE && disk->dead)) && touches_bad(disk, io)) {
		disk->bad_reads += reads;
		block_complete_later(block, io, -EIO);
		return;
	}
	/* As disks do: what is written anew comes to lie elsewhere. */
	if (io->op == BLOCK_WRITE && io->offset <= disk->bad &&
	    disk->bad + disk->bad_length <= io->offset + io->length)
		disk->bad_length = 0;
	filter_forward(filter_of(block), io);
}

static void leg_free(struct block *block)
{
	struct leg *leg = container_of(filter_of(block), struct leg, filter);

	memory_peek(leg->disk->memory, 0, leg->disk->data, SIZE);
	filter_done(&leg->filter);
	free(leg);
}

static int open_leg(void *data, enum mirror_leg_index index, struct block **ret, struct error *error)
{
	static const struct block_driver driver = {.name = "leg", .submit = leg_submit, .free = leg_free};
	struct leg *leg = calloc(1, sizeof(*leg));
	struct block *delay;

	assert_non_null(leg);
	leg->disk = &world.disks[index];
	leg->disk->opened++;
	assert_int_equal(memory_new(&leg->disk->memory, world.ring, SIZE, NULL, NULL), 0);
	assert_int_equal(memory_poke(leg->disk->memory, 0, leg->disk->data, SIZE), 0);
	assert_int_equal(delay_new(&delay, leg->disk->memory, &world.delay, NULL), 0);
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
	world.was_ready |= state == CUTOVER_READY;
	if (world.on_state)
		world.on_state(state);
}

static void warning(void *data, const char *text)
{
	snprintf(world.warning, sizeof(world.warning), "%s", text);
	world.warnings++;
}

static void world_init(void)
{
	const struct ring_sim_disk_options disk = {.size_max = 2 << 20};
	struct rand rand;

	memset(&world, 0, sizeof(world));
	rand_init(&rand, 1);
	for (unsigned i = 0; i < MIRROR_LEGS; i++)
		rand_bytes(&rand, world.disks[i].data, SIZE);
	world.sim = ring_sim_new(1, 0);
	world.ring = ring_sim_host_new(world.sim, "host");
	world.map_fd = ring_sim_disk_new(world.sim, &disk);
	world.delay = (struct delay_options){.min_ns = MS / 2, .max_ns = MS, .seed = 1};
	world.options = (struct mirror_job_options){.nonce = 1,
	    .region_size = REGION,
	    .settle_ns = 20 * MS,
	    .retry_ns = 20 * MS,
	    .open_leg = open_leg,
	    .open_map = open_map,
	    .state_changed = state_changed,
	    .warning = warning};
}

static void job_open(void)
{
	assert_int_equal(mirror_job_new(&world.job, world.ring, &world.options, NULL), 0);
	assert_int_equal(mirror_job_open(world.job, &world.error), 0);
}

static enum cutover_state run_for(uint64_t ns)
{
	return job_run_for(world.ring, world.job, ns, &world.error);
}

static void write_at(uint64_t offset);

static void written(struct block_io *io, int res)
{
	uint64_t took_ns = ring_now_ns(world.ring) - world.begun_ns;

	world.busy = false;
	world.writes++;
	world.res = res < 0 ? res : world.res;
	world.longest_ns = max_u64(world.longest_ns, took_ns);
	if (world.serving)
		write_at(0);
}

/* A client's, one after the other while it is served. */
static void write_at(uint64_t offset)
{
	world.begun_ns = ring_now_ns(world.ring);
	world.busy = true;
	world.io = (struct block_io){
	    .op = BLOCK_WRITE, .offset = offset, .length = SECTOR, .buf = world.buf, .done = written};
	block_submit(mirror_job_block(world.job), &world.io);
}

static void job_close(void)
{
	world.serving = false;
	while (world.busy)
		assert_int_equal(ring_step(world.ring), 0);
	world.job = mirror_job_free(world.job);
}

static void world_done(void)
{
	ring_free(world.ring);
	ring_sim_free(world.sim);
}

/* Everything else is copied; it is not ready; it is said once, and the disk is left in peace; writing there mends it. */
static void test_h30_a_bad_sector_of_the_source(void **state)
{
	struct mirror_job_status status;

	world_init();
	world.disks[MIRROR_SOURCE].bad = BAD;
	world.disks[MIRROR_SOURCE].bad_length = SECTOR;
	job_open();
	assert_int_equal(run_for(3000 * MS), CUTOVER_SYNCING);
	status = job_status(world.job);
	assert_int_equal(status.dirty, REGION);
	assert_int_equal(status.unreadable, REGION);
	assert_int_equal(status.unreadable_at, align_down(BAD, 4096));
	assert_int_equal(status.unreadable_res, -EIO);
	run_for(60000 * MS);
	assert_int_equal(job_status(world.job).unreadable, REGION);
	assert_int_equal(world.warnings, 1);
	assert_non_null(strstr(world.warning, "the source cannot be read at byte 335872: "));
	assert_non_null(strstr(world.warning, "is not ready before"));
	assert_non_null(strstr(world.warning, "written anew through the mirror"));
	assert_in_range(world.disks[MIRROR_SOURCE].bad_reads, 20, 150);
	assert_false(world.was_ready);
	write_at(BAD);
	assert_int_equal(run_for(3000 * MS), CUTOVER_READY);
	assert_int_equal(job_status(world.job).unreadable, 0);
	run_for(5000 * MS);
	assert_non_null(strstr(world.warning, "was read and copied"));
	job_close();
	assert_int_equal(world.disks[MIRROR_SOURCE].opened + world.disks[MIRROR_TARGET].opened, 2);
	assert_memory_equal(world.disks[0].data, world.disks[1].data, SIZE);
	world_done();
}

static void source_is_back(void *data)
{
	world.disks[MIRROR_SOURCE].bad_length = 0;
}

/* After an outage it is as fast as before: all that failed is not tried one by one. */
static void test_a_source_that_is_back_is_read_at_once(void **state)
{
	world_init();
	world.options.region_size = 4096;
	world.delay = (struct delay_options){.min_ns = 5 * MS, .max_ns = 6 * MS, .seed = 1};
	world.disks[MIRROR_SOURCE].bad_length = SIZE;
	job_open();
	ring_sim_after(world.sim, 3000 * MS, source_is_back, NULL);
	run_for(2900 * MS);
	assert_int_equal(job_status(world.job).unreadable, SIZE);
	assert_int_equal(run_for(3000 * MS), CUTOVER_READY);
	job_close();
	assert_memory_equal(world.disks[0].data, world.disks[1].data, SIZE);
	world_done();
}

static void fail_while_cutting(enum cutover_state state)
{
	if (state != CUTOVER_CUTTING || world.disks[MIRROR_SOURCE].dead)
		return;
	world.disks[MIRROR_SOURCE].bad = BAD;
	world.disks[MIRROR_SOURCE].bad_length = SECTOR;
	world.disks[MIRROR_SOURCE].dead = true;
	write_at(BAD);
	world.serving = true;
}

/* Else clients would wait as long as that takes. */
static void test_nobody_is_held_for_what_cannot_be_read(void **state)
{
	world_init();
	world.options.late = MIRROR_LATE_WAIT;
	world.on_state = fail_while_cutting;
	job_open();
	assert_int_equal(run_for(3000 * MS), CUTOVER_READY);
	assert_int_equal(mirror_job_cutover(world.job), 0);
	assert_int_equal(run_for(5000 * MS), CUTOVER_SYNCING);
	assert_int_equal(world.res, -EIO);
	assert_in_range(world.writes, 1000, UINT32_MAX);
	assert_in_range(world.longest_ns, 1, 1000 * MS);
	assert_in_range(job_status(world.job).cutovers_deferred, 1, 5);
	assert_int_equal(job_status(world.job).unreadable, REGION);
	job_close();
	world_done();
}

static void check_mended(void)
{
	assert_int_equal(run_for(3000 * MS), CUTOVER_READY);
	assert_int_equal(job_status(world.job).detached, 0);
	job_close();
	assert_in_range(world.disks[MIRROR_TARGET].bad_reads, 1, 2);
	assert_int_equal(world.disks[MIRROR_TARGET].bad_length, 0);
	assert_memory_equal(world.disks[0].data, world.disks[1].data, SIZE);
}

/* It differs, as far as anybody knows: it is copied, and the disk puts it elsewhere. */
static void test_a_bad_sector_of_the_target_while_comparing(void **state)
{
	world_init();
	memcpy(world.disks[MIRROR_TARGET].data, world.disks[MIRROR_SOURCE].data, SIZE);
	world.disks[MIRROR_TARGET].bad = BAD;
	world.disks[MIRROR_TARGET].bad_length = SECTOR;
	world.options.compare = true;
	job_open();
	check_mended();
	assert_int_equal(world.warnings, 0);
	world_done();
}

static void test_a_bad_sector_of_the_target_while_verifying(void **state)
{
	world_init();
	job_open();
	assert_int_equal(run_for(3000 * MS), CUTOVER_READY);
	job_close();
	world.disks[MIRROR_TARGET].bad = BAD;
	world.disks[MIRROR_TARGET].bad_length = SECTOR;
	world.options.resume = world.options.verify = true;
	job_open();
	check_mended();
	assert_non_null(strstr(world.warning, "they are copied to it anew"));
	world_done();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_h30_a_bad_sector_of_the_source),
	    cmocka_unit_test(test_a_source_that_is_back_is_read_at_once),
	    cmocka_unit_test(test_nobody_is_held_for_what_cannot_be_read),
	    cmocka_unit_test(test_a_bad_sector_of_the_target_while_comparing),
	    cmocka_unit_test(test_a_bad_sector_of_the_target_while_verifying),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
