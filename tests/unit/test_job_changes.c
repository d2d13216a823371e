/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A whole sync whose source tells its changes: only these are read, and in every doubt everything is compared. */
#include "block/memory.h"
#include "filter/fault.h"
#include "sync/base_record.h"
#include "sync/job.h"
#include "track/track.h"
#include "volume.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define SIZE  ((5u << 20) + 1531u)
#define GRAIN 4096u
#define COUNT (SIZE / GRAIN + 1)

/* Outlives the jobs. `changed` is what its server says; a filter over memory that is lent to each job. */
struct world {
	struct ring *ring;
	struct rand rand;
	struct block *disks[2]; /* source, target */
	bool changed[COUNT];
	bool tells;
	uint64_t flips;         /* reads of the source after which it is something else: that many are left */
	struct fault_rule rule; /* for the target */
	char warnings[2000], folder[64];
	struct job_progress progress;
};

struct lent {
	struct block block;
	struct block *below;
	struct world *world;
};

static void tell(struct world *world, struct block_io *io)
{
	uint64_t at = io->offset, end = io->offset + io->length;
	uint32_t count = 0;

	for (; at < end && count < io->extents_max; count++) {
		uint64_t from = at;

		while (at < end && world->changed[at / GRAIN] == world->changed[from / GRAIN])
			at = min_u64((at / GRAIN + 1) * GRAIN, end);
		io->extents[count] = (struct extent){
		    from, at - from, world->changed[from / GRAIN] ? EXTENT_DATA : EXTENT_ZERO};
	}
	block_complete_later(io->block, io, (int)count);
}

/* Somebody writes to the source after it was compared and before it is read. */
static void flip(struct world *world, const struct block_io *io)
{
	uint8_t byte;

	memory_peek(world->disks[0], io->offset, &byte, 1);
	byte ^= 0x80;
	memory_poke(world->disks[0], io->offset, &byte, 1);
	world->flips--;
}

static void lent_submit(struct block *block, struct block_io *io)
{
	struct lent *lent = container_of(block, struct lent, block);

	if (lent->block.info.tells_changes && lent->world->flips && io->op == BLOCK_READ)
		flip(lent->world, io);
	if (io->op == BLOCK_EXTENTS && io->flags & BLOCK_CHANGED)
		tell(lent->world, io);
	else
		block_submit(lent->below, io);
}

static int lent_facts(struct block *block, struct block_facts *ret, struct error *error)
{
	return block_facts(container_of(block, struct lent, block)->below, ret, error);
}

static void lent_free(struct block *block)
{
	free(container_of(block, struct lent, block));
}

static const struct block_driver lent_driver = {
    .name = "lent", .submit = lent_submit, .facts = lent_facts, .free = lent_free};

static int open_block(void *data, bool target, const struct block_open_options *options, struct block **ret,
    struct error *error)
{
	struct world *world = data;
	struct lent *lent = calloc(1, sizeof(*lent));
	struct block *below = world->disks[target];

	lent->block = (struct block){.driver = &lent_driver, .ring = world->ring, .info = below->info};
	lent->below = below;
	lent->world = world;
	lent->block.info.tells_changes = !target && world->tells && options->changes_since;
	*ret = &lent->block;
	if (target && world->rule.ops) {
		assert_int_equal(fault_new(ret, *ret, 1, error), 0);
		assert_int_equal(fault_add(*ret, &world->rule), 0);
	}
	return 0;
}

static void warned(void *data, const char *text)
{
	struct world *world = data;
	size_t used = strlen(world->warnings);

	snprintf(world->warnings + used, sizeof(world->warnings) - used, "%s\n", text);
}

/* Both hold the same; then some of the source changes, and the server knows. */
static int setup(void **state)
{
	struct world *world = calloc(1, sizeof(*world));
	static uint8_t buf[GRAIN];

	rand_init(&world->rand, seed_of_run());
	strcpy(world->folder, "/tmp/blkmove-changes-XXXXXX");
	world->tells = true;
	if (ring_new(&world->ring, 64, NULL) < 0 || !mkdtemp(world->folder) ||
	    memory_new(&world->disks[0], world->ring, SIZE,
	        &(struct memory_options){.name = "source", .sector_size = 1}, NULL) < 0 ||
	    memory_new(&world->disks[1], world->ring, SIZE,
	        &(struct memory_options){.name = "target", .sector_size = 1}, NULL) < 0)
		return -1;
	for (uint64_t at = 0; at < SIZE; at += GRAIN) {
		uint64_t length = min_u64(GRAIN, SIZE - at);

		rand_bytes(&world->rand, buf, sizeof(buf));
		memory_poke(world->disks[0], at, buf, length);
		memory_poke(world->disks[1], at, buf, length);
		world->changed[at / GRAIN] = rand_one_in(&world->rand, 9) || at + GRAIN > SIZE;
		buf[length - 1] ^= 1;
		if (world->changed[at / GRAIN])
			memory_poke(world->disks[0], at, buf, length);
	}
	*state = world;
	return 0;
}

static int teardown(void **state)
{
	struct world *world = *state;
	char command[100];

	block_free(world->disks[0]);
	block_free(world->disks[1]);
	ring_free(world->ring);
	snprintf(command, sizeof(command), "rm -r %s", world->folder);
	free(world);
	return system(command);
}

static uint64_t changed_bytes(const struct world *world)
{
	uint64_t bytes = 0;

	for (uint64_t at = 0; at < SIZE; at += GRAIN)
		bytes += world->changed[at / GRAIN] ? min_u64(GRAIN, SIZE - at) : 0;
	return bytes;
}

static bool is_equal(const struct world *world)
{
	static uint8_t a[SIZE], b[SIZE];

	memory_peek(world->disks[0], 0, a, SIZE);
	memory_peek(world->disks[1], 0, b, SIZE);
	return !memcmp(a, b, SIZE);
}

static struct job_options sync_options(struct world *world)
{
	static struct endpoint source = {.kind = ENDPOINT_NBD, .name = (char *)"source"};
	static struct endpoint target = {.kind = ENDPOINT_NBD, .name = (char *)"target"};

	return (struct job_options){.kind = JOB_SYNC,
	    .source = &source,
	    .target = &target,
	    .base = "b0",
	    .detect_zeroes = true,
	    .state_dir = world->folder,
	    .data = world,
	    .warning = warned,
	    .open_block = open_block};
}

static enum job_result run(struct world *world, const struct job_options *options)
{
	struct error error = {0};
	enum job_result result;
	struct job *job;

	world->warnings[0] = '\0';
	assert_int_equal(job_new(&job, world->ring, options, &error), 0);
	result = job_run(job, &error);
	job_progress(job, &world->progress);
	job_free(job);
	return result;
}

static void check_compared(struct world *world, const struct job_options *options, const char *reason)
{
	assert_int_equal(run(world, options), JOB_OK);
	if (!strstr(world->warnings, "both volumes are compared") || !strstr(world->warnings, reason))
		fail_msg("it said: %s", world->warnings);
	assert_true(is_equal(world));
}

static void test_only_what_changed_is_read(void **state)
{
	struct world *world = *state;
	struct job_options options = sync_options(world);

	assert_int_equal(run(world, &options), JOB_OK);
	assert_true(is_equal(world));
	assert_int_equal(memory_counts(world->disks[0])->bytes_read, changed_bytes(world));
	assert_int_equal(memory_counts(world->disks[1])->bytes_read, 0);
	assert_int_equal(memory_counts(world->disks[1])->bytes_written, changed_bytes(world));
	assert_int_equal(world->progress.position, SIZE);
	assert_int_equal(world->progress.same, SIZE - changed_bytes(world));
	assert_non_null(strstr(world->warnings, "nbd-bitmap"));
	assert_non_null(strstr(world->warnings, "the bitmap b0"));
}

/* What was not sent may differ: it was not asked for. */
static void test_only_what_was_sent_is_read_back(void **state)
{
	struct world *world = *state;
	struct job_options options = sync_options(world);
	uint64_t at = 0;
	uint8_t byte;

	options.verify = options.verify_sent = true;
	while (world->changed[at / GRAIN])
		at += GRAIN;
	memory_peek(world->disks[1], at, &byte, 1);
	byte ^= 1;
	memory_poke(world->disks[1], at, &byte, 1);
	assert_int_equal(run(world, &options), JOB_OK);
	assert_true(world->progress.tracked && world->progress.wrote);
	assert_int_equal(world->progress.changed, changed_bytes(world));
	/* In pieces of 64 KiB at most. */
	assert_in_range(memory_counts(world->disks[1])->bytes_read, changed_bytes(world), SIZE - 1);
	assert_false(is_equal(world));
	options.verify_sent = false;
	assert_int_equal(run(world, &options), JOB_TROUBLE);
}

static void test_a_write_that_went_astray_is_found_in_what_was_sent(void **state)
{
	struct world *world = *state;
	struct job_options options = sync_options(world);

	options.verify = options.verify_sent = true;
	world->rule = (struct fault_rule){FAULT_ERROR, 0, 1u << BLOCK_WRITE, .nth = 3};
	assert_int_equal(run(world, &options), JOB_TROUBLE);
	assert_false(is_equal(world));
}

/* Saved digests are those of what was sent: when the source goes back to what it was when it was compared, that is seen. */
static void test_h10_a_source_that_is_written_between_compare_and_read(void **state)
{
	struct world *world = *state;
	struct job_options options = sync_options(world);
	static uint8_t before[SIZE];
	char path[100];

	snprintf(path, sizeof(path), "%s/digests", world->folder);
	options.digests_path = path;
	options.allow = ALLOW_LIVE_SOURCE;
	memory_peek(world->disks[0], 0, before, SIZE);
	world->flips = 5;
	assert_int_equal(run(world, &options), JOB_OK);
	assert_int_equal(world->flips, 0);
	assert_true(is_equal(world));
	memory_poke(world->disks[0], 0, before, SIZE);
	assert_false(is_equal(world));
	options.allow = 0;
	options.changes = CHANGES_DIGESTS;
	options.base = NULL;
	assert_int_equal(run(world, &options), JOB_OK);
	assert_true(is_equal(world));
	assert_in_range(world->progress.sent, 1, 5 * 65536);
}

static void test_a_dry_run_counts_and_writes_nothing(void **state)
{
	struct world *world = *state;
	struct job_options options = sync_options(world);

	options.dry_run = true;
	assert_int_equal(run(world, &options), JOB_OK);
	assert_int_equal(world->progress.sent, changed_bytes(world));
	assert_int_equal(memory_counts(world->disks[1])->bytes_written, 0);
	assert_false(is_equal(world));
}

static void test_h11_nothing_is_told(void **state)
{
	struct world *world = *state;
	struct job_options options = sync_options(world);

	world->tells = false;
	options.changes = CHANGES_TRACKER + TRACK_NBD_BITMAP;
	check_compared(world, &options, "has no bitmap b0");
}

/* No base: neither by the user's word nor by a run's note. */
static void test_h10_no_base(void **state)
{
	struct world *world = *state;
	struct job_options options = sync_options(world);

	options.base = NULL;
	options.changes = CHANGES_TRACKER + TRACK_NBD_BITMAP;
	check_compared(world, &options, "no earlier run noted");
}

static void test_h10_another_tracker_than_the_source_has(void **state)
{
	struct world *world = *state;
	struct job_options options = sync_options(world);

	options.changes = CHANGES_TRACKER + TRACK_DM_SNAPSHOT;
	check_compared(world, &options, "no device of this machine");
}

/* Somebody wrote to the target since a run noted what it holds: the user's word for the base does not count against that. */
static void test_h10_the_target_was_written(void **state)
{
	struct world *world = *state;
	struct job_options options = sync_options(world);
	struct block_facts facts = {.id = "memory:target", .mark = "77"};
	json_t *points = json_array();

	assert_int_equal(base_record_save(world->folder, &facts, SIZE, points, NULL), 0);
	json_decref(points);
	check_compared(world, &options, "the target was written");
	/* What that run wrote makes the note untrue: it is gone. */
	assert_null(base_record_load(world->folder, &facts, SIZE, NULL, NULL));
}

static void test_h09_resized(void **state)
{
	struct world *world = *state;
	struct job_options options = sync_options(world);
	static uint8_t buf[SIZE];
	struct block *larger;

	assert_int_equal(memory_new(&larger, world->ring, SIZE + 70000,
	                     &(struct memory_options){.name = "target", .sector_size = 1}, NULL),
	    0);
	memory_peek(world->disks[1], 0, buf, SIZE);
	memory_poke(larger, 0, buf, SIZE);
	block_free(world->disks[1]);
	world->disks[1] = larger;
	options.size_mismatch = SIZE_ZERO_TAIL;
	check_compared(world, &options, "has another size");
}

/* What a failed run left is compared, also what did not change: somebody may have written it meanwhile. */
static void test_h14_after_a_failed_run(void **state)
{
	struct world *world = *state;
	struct job_options options = sync_options(world);

	world->rule = (struct fault_rule){FAULT_ERROR, -EIO, 1u << BLOCK_WRITE, .nth = 60};
	assert_int_equal(run(world, &options), JOB_TROUBLE);
	assert_false(is_equal(world));
	world->rule.ops = 0;
	options.resume = true;
	assert_int_equal(run(world, &options), JOB_OK);
	assert_non_null(strstr(world->warnings, "a resumed run compares"));
	assert_true(is_equal(world));
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    CASE(test_only_what_changed_is_read),
	    CASE(test_only_what_was_sent_is_read_back),
	    CASE(test_a_write_that_went_astray_is_found_in_what_was_sent),
	    CASE(test_h10_a_source_that_is_written_between_compare_and_read),
	    CASE(test_a_dry_run_counts_and_writes_nothing),
	    CASE(test_h11_nothing_is_told),
	    CASE(test_h10_no_base),
	    CASE(test_h10_another_tracker_than_the_source_has),
	    CASE(test_h10_the_target_was_written),
	    CASE(test_h09_resized),
	    CASE(test_h14_after_a_failed_run),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
