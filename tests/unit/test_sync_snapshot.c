/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A sync whose snapshot overflows while it is read, between two looks or without any: real jobs over image files, the real judgement of a snapshot's store, and the kernel's
 * words for its state made up.
 */
#include "cli/sync_snapshot.h"

#include "block/dm.h"
#include "filter/fault.h"
#include "snapshot/snapshot_private.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "own_folder.h"

#define SIZE ((3u << 20) + 4096u)

static struct world {
	struct ring *ring;
	struct cli_options options;
	struct snapshot snapshot;
	struct sync_snapshot sync;
	struct job *job;
	const char *status; /* of the snapshot, from the first read on */
	char target[96];
	enum snapshot_keep kept;
	struct error error;
} world;

/* In the place of device-mapper */

int __wrap_dm_find(const char *name, dev_t *ret, struct error *error);
int __wrap_dm_status(dev_t dev, struct dm_volume *ret, struct error *error);
int __wrap_snapshot_take(struct snapshot *snapshot, struct error *error);
int __wrap_snapshot_settle(struct snapshot *snapshot, enum snapshot_keep keep, struct error *error);

int __wrap_dm_find(const char *name, dev_t *ret, struct error *error)
{
	assert_string_equal(name, world.snapshot.path);
	*ret = 77;
	return 0;
}

int __wrap_dm_status(dev_t dev, struct dm_volume *ret, struct error *error)
{
	assert_int_equal(dev, 77);
	*ret = (struct dm_volume){.dev = dev, .name = "vg-blkmove--1", .type = "snapshot"};
	snprintf(ret->params, sizeof(ret->params), "%s", world.status);
	return 0;
}

int __wrap_snapshot_take(struct snapshot *snapshot, struct error *error)
{
	return 0;
}

int __wrap_snapshot_settle(struct snapshot *snapshot, enum snapshot_keep keep, struct error *error)
{
	world.kept = keep;
	return 0;
}

/* In the place of the program's words */

int cli_choose(
    const char *const *names, const char *option, const char *text, size_t length, struct error *error)
{
	return -EINVAL;
}

int cli_parse_number(const char *option, const char *text, const char *unit, unsigned least, unsigned most,
    unsigned *ret, struct error *error)
{
	return -EINVAL;
}

int cli_fail(enum job_result code, const struct error *error)
{
	return code;
}

static void say(void *data, const char *text)
{
}

/* A run */

/* The snapshot is read with errors. */
static int open_with_errors(void *data, bool target, const struct block_open_options *options,
    struct block **ret, struct error *error)
{
	const struct fault_rule rule = {
	    FAULT_ERROR, -EIO, 1u << BLOCK_READ, .offset = 1500000, .length = 4096};
	struct endpoint endpoint = {
	    .kind = ENDPOINT_PATH, .path = target ? world.target : world.snapshot.path};
	int res;

	endpoint.name = endpoint.path;
	res = block_open(ret, world.ring, &endpoint, options, error);
	if (res == 0 && !target) {
		assert_int_equal(fault_new(ret, *ret, 1, error), 0);
		assert_int_equal(fault_add(*ret, &rule), 0);
	}
	return res;
}

static void fill(const char *path, char byte)
{
	static char data[SIZE];
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	memset(data, byte, SIZE);
	assert_int_equal(write(fd, data, SIZE), SIZE);
	assert_int_equal(fsync(fd), 0);
	close(fd);
}

static bool target_is(char byte)
{
	static char data[SIZE];
	int fd = open(world.target, O_RDONLY | O_CLOEXEC);

	assert_int_equal(read(fd, data, SIZE), SIZE);
	close(fd);
	return data[0] == byte && !memcmp(data, data + 1, SIZE - 1);
}

static int setup(void **state)
{
	world = (struct world){.snapshot = {.kind = &snapshot_lvm, .options = {.fill_max = 90}}};
	if (own_folder_make(state) < 0 || ring_new(&world.ring, 64, NULL) < 0)
		return -1;
	snprintf(world.snapshot.path, sizeof(world.snapshot.path), "%s/snapshot", folder);
	snprintf(world.target, sizeof(world.target), "%s/target", folder);
	fill(world.snapshot.path, 'n');
	fill(world.target, 'o');
	world.options.target =
	    (struct endpoint){.kind = ENDPOINT_PATH, .name = world.target, .path = world.target};
	world.options.snapshot.mode = SNAPSHOT_AUTO;
	world.options.job = (struct job_options){.kind = JOB_SYNC,
	    .target = &world.options.target,
	    .overwrite = world.target,
	    .no_journal = true,
	    .no_resume = true,
	    .state_dir = folder};
	world.sync = (struct sync_snapshot){
	    .options = &world.options, .ring = world.ring, .say = say, .snapshot = &world.snapshot};
	return 0;
}

static int teardown(void **state)
{
	ring_free(world.ring);
	return own_folder_remove(state);
}

/* As `blkmove sync --snapshot=auto` does, with a look before the first read, or none. */
static enum job_result run(const char *status, bool looks)
{
	struct job_options options = world.options.job;
	enum job_result result;

	world.status = status;
	world.sync.next_ns = 0;
	world.error = (struct error){0};
	assert_int_equal(sync_snapshot_take(&world.sync, &options, &world.error), 0);
	assert_int_equal(job_new(&world.job, world.ring, &options, &world.error), 0);
	if (looks)
		sync_snapshot_look(&world.sync, world.job);
	result = job_run(world.job, &world.error);
	result = sync_snapshot_end(&world.sync, world.job, result, &world.error);
	world.job = job_free(world.job);
	return result;
}

static void said(const char *text)
{
	if (!strstr(world.error.text, text))
		fail_msg("it said: %s", world.error.text);
}

static void test_a_snapshot_that_lasts(void **state)
{
	assert_int_equal(run("800/65536 16", false), JOB_OK);
	assert_true(target_is('n'));
}

/* Nearly full when all was read: no harm was done. */
static void test_h27_nearly_full_at_the_end(void **state)
{
	assert_int_equal(run("65535/65536 256", false), JOB_OK);
	assert_true(target_is('n'));
}

static void test_h27_overflowed_between_two_looks(void **state)
{
	static const char *const words[] = {"Invalid", "Overflow"};

	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(run(words[i], false), JOB_TROUBLE);
		said("not of one moment");
		said(words[i]);
		said("vg-blkmove--1");
		said("the target is no copy");
		said("--snapshot-size=");
		assert_int_not_equal(world.kept, SNAPSHOT_KEEP_FRESH);
	}
	/* Another run is none the worse for it. */
	assert_int_equal(run("800/65536 16", false), JOB_OK);
}

/* Nothing of it is applied. */
static void test_h27_overflowed_in_an_atomic_round(void **state)
{
	world.options.job.atomic = true;
	assert_int_equal(run("Invalid", false), JOB_TROUBLE);
	said("not of one moment");
	said("is as it was");
	assert_true(target_is('o'));
	assert_int_equal(run("800/65536 16", false), JOB_OK);
	assert_true(target_is('n'));
}

/* What cannot be read is not the disk's fault. */
static void test_h27_overflowed_and_cannot_be_read(void **state)
{
	world.options.job.open_block = open_with_errors;
	assert_int_equal(run("Invalid", false), JOB_TROUBLE);
	said("not of one moment");
	said("--snapshot-size=");
	said("Input/output error");
	assert_int_equal(run("800/65536 16", false), JOB_TROUBLE);
	said("Input/output error");
	assert_null(strstr(world.error.text, "moment"));
	/* Nor is it a list of bad ranges. */
	world.options.job.list_read_errors = true;
	assert_int_equal(run("Invalid", false), JOB_TROUBLE);
	said("not of one moment");
	assert_int_equal(run("800/65536 16", false), JOB_BAD_RANGES);
}

static void test_h27_seen_by_a_look(void **state)
{
	assert_int_equal(run("Invalid", true), JOB_TROUBLE);
	said("is of no use any more");
	assert_true(target_is('o'));
	assert_int_equal(run("60000/65536 16", true), JOB_TROUBLE);
	said("before it overflows");
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    CASE(test_a_snapshot_that_lasts),
	    CASE(test_h27_nearly_full_at_the_end),
	    CASE(test_h27_overflowed_between_two_looks),
	    CASE(test_h27_overflowed_in_an_atomic_round),
	    CASE(test_h27_overflowed_and_cannot_be_read),
	    CASE(test_h27_seen_by_a_look),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
