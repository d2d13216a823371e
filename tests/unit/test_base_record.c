/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is noted of a target: found again as it was, and of no use once anything about the target is another thing. */
#include "sync/base_record.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "own_folder.h"

#define SIZE UINT64_C(30000000005)

static const struct block_facts target = {.id = "dm:LVM-x", .mark = "boot,7,w100,d0"};

static json_t *some_points(void)
{
	return json_pack(
	    "[{s:s, s:s}, {s:s}]", "tracker", "dm-snapshot", "base", "vg-s1", "tracker", "other");
}

static void save(void)
{
	json_t *points = some_points();

	assert_int_equal(base_record_save(folder, &target, SIZE, points, NULL), 0);
	json_decref(points);
}

static int load_code(const struct block_facts *facts, uint64_t size)
{
	struct error why = {0};
	json_t *points = base_record_load(folder, facts, size, NULL, &why);

	assert_int_equal(!points, why.code != 0);
	assert_true(!why.code || why.text[0]);
	json_decref(points);
	return why.code;
}

static void test_what_was_noted_is_found(void **state)
{
	json_t *wanted = some_points(), *points;

	assert_int_equal(load_code(&target, SIZE), -ENOENT);
	save();
	save();
	points = base_record_load(folder, &target, SIZE, NULL, NULL);
	assert_true(json_equal(points, wanted));
	json_decref(points);
	json_decref(wanted);
	base_record_forget(folder, "another");
	assert_int_equal(load_code(&target, SIZE), 0);
	base_record_forget(folder, target.id);
	assert_int_equal(load_code(&target, SIZE), -ENOENT);
}

static void test_h10_only_for_the_target_as_it_was(void **state)
{
	struct block_facts other = target;

	save();
	strcpy(other.mark, "boot,7,w101,d0");
	assert_int_equal(load_code(&other, SIZE), -ESTALE);
	other.mark[0] = '\0';
	assert_int_equal(load_code(&other, SIZE), -ENOENT);
	other = target;
	strcpy(other.id, "dm:LVM-y");
	assert_int_equal(load_code(&other, SIZE), -ENOENT);
	assert_int_equal(load_code(&target, SIZE), 0);
}

static void test_h09_only_for_its_size(void **state)
{
	save();
	assert_int_equal(load_code(&target, SIZE + 512), -ESTALE);
	assert_int_equal(load_code(&target, SIZE), 0);
}

static void test_nothing_is_noted_of_what_cannot_be_known_again(void **state)
{
	json_t *points = some_points();
	struct block_facts other = target;
	struct error error = {0};

	other.mark[0] = '\0';
	assert_int_equal(base_record_save(folder, &other, SIZE, points, &error), -EOPNOTSUPP);
	other = target;
	other.id[0] = '\0';
	assert_int_equal(base_record_save(folder, &other, SIZE, points, &error), -EOPNOTSUPP);
	assert_true(error.text[0]);
	assert_true(base_record_save("/proc/self/nowhere", &target, SIZE, points, &error) < 0);
	json_decref(points);
}

#define SESSION 77u

static json_t *load_partial(const struct block_facts *facts, struct range_set *ret)
{
	struct error why = {0};
	json_t *points = base_record_load(folder, facts, SIZE, ret, &why);

	assert_int_equal(!points, why.code != 0);
	return points;
}

static void begin(const struct block_facts *facts, const struct range_set *ranges)
{
	json_t *points = some_points();

	assert_int_equal(base_record_begin(folder, facts, SIZE, points, ranges, SESSION, NULL), 0);
	json_decref(points);
}

/* A run that did not end: the base is known still, if nobody else can have written. */
static void test_h10_a_run_that_was_ended_halfway(void **state)
{
	struct block_facts now = target;
	struct range_set ranges, found;
	json_t *points;

	range_set_init(&ranges);
	assert_int_equal(range_set_add(&ranges, 100, 5), 0);
	assert_int_equal(range_set_add(&ranges, SIZE - 3, 3), 0);
	save();
	begin(&target, &ranges);
	points = load_partial(&now, &found);
	assert_int_equal(json_array_size(points), 2);
	json_decref(points);
	assert_true(range_set_contains(&found, 100, 5) && range_set_contains(&found, SIZE - 3, 3));
	assert_int_equal(found.ranges[found.count - 1].offset + found.ranges[found.count - 1].length, SIZE);
	range_set_done(&found);
	/* Who cannot do with a part does not get it. */
	assert_int_equal(load_code(&now, SIZE), -ESTALE);
	strcpy(now.mark, "boot,7,w101,d0");
	assert_null(load_partial(&now, &found));
	now.last_writer = SESSION + 1;
	assert_null(load_partial(&now, &found));
	now.last_writer = LAST_WRITER_OTHER;
	assert_null(load_partial(&now, &found));
	now.last_writer = SESSION;
	points = load_partial(&now, &found);
	assert_non_null(points);
	json_decref(points);
	range_set_done(&found);
	/* Of a run that has ended the mark alone counts. */
	save();
	assert_null(load_partial(&now, &found));
	points = load_partial(&target, &found);
	assert_non_null(points);
	assert_int_equal(found.count, 0);
	json_decref(points);
	range_set_done(&ranges);
}

/* However many there are: the file stays small, and no byte is left out. */
static void test_h12_very_many_ranges(void **state)
{
	struct range_set ranges, found;
	uint64_t at;
	json_t *points;

	range_set_init(&ranges);
	for (at = 4096; at < SIZE; at += 200000)
		assert_int_equal(range_set_add(&ranges, at, 4096 < SIZE - at ? 4096 : SIZE - at), 0);
	assert_in_range(ranges.count, 100000, 200000);
	begin(&target, &ranges);
	points = load_partial(&target, &found);
	assert_non_null(points);
	json_decref(points);
	assert_in_range(found.count, 1, 8192);
	for (size_t i = 0; i < ranges.count; i++)
		assert_true(range_set_contains(&found, ranges.ranges[i].offset, ranges.ranges[i].length));
	range_set_done(&found);
	range_set_done(&ranges);
}

/* Whatever the file holds: never points that were not noted. */
static void test_h14_damaged_files(void **state)
{
	static const char *const contents[] = {"", "{", "[]", "{}", "7", "\xff\xfe",
	    "{\"version\":2,\"target_id\":\"dm:LVM-x\",\"target_mark\":\"boot,7,w100,d0\",\"size\":"
	    "30000000005,"
	    "\"points\":[]}",
	    "{\"version\":2,\"target_id\":\"dm:LVM-x\",\"target_mark\":\"boot,7,w100,d0\",\"size\":"
	    "30000000005,"
	    "\"points\":[],\"partial\":[[30000000000,6]]}",
	    "{\"version\":2,\"target_id\":\"dm:LVM-x\",\"target_mark\":\"boot,7,w100,d0\",\"size\":"
	    "30000000005,"
	    "\"points\":[],\"partial\":[[-1,6]]}",
	    "{\"version\":2,\"target_id\":\"dm:LVM-x\",\"target_mark\":\"boot,7,w100,d0\",\"size\":"
	    "30000000005,"
	    "\"points\":[],\"partial\":[7]}",
	    "{\"version\":1,\"target_id\":7,\"target_mark\":\"boot,7,w100,d0\",\"size\":30000000005,"
	    "\"points\":[]}",
	    "{\"version\":1,\"target_id\":\"dm:LVM-x\",\"target_mark\":\"boot,7,w100,d0\",\"size\":"
	    "30000000005,"
	    "\"points\":{}}",
	    "{\"version\":1,\"target_id\":\"dm:LVM-x\",\"size\":30000000005,\"points\":[]}"};
	char command[128], path[128];
	struct range_set found;
	FILE *pipe;

	save();
	snprintf(command, sizeof(command), "ls %s/*.base", folder);
	pipe = popen(command, "r");
	assert_non_null(fgets(path, sizeof(path), pipe));
	pclose(pipe);
	path[strcspn(path, "\n")] = '\0';
	for (size_t i = 0; i < sizeof(contents) / sizeof(contents[0]); i++) {
		FILE *file = fopen(path, "w");

		fputs(contents[i], file);
		fclose(file);
		assert_int_not_equal(load_code(&target, SIZE), 0);
		assert_null(load_partial(&target, &found));
	}
	unlink(path);
	assert_int_equal(symlink("/etc/passwd", path), 0);
	assert_int_equal(load_code(&target, SIZE), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_what_was_noted_is_found, own_folder_make, own_folder_remove),
	    cmocka_unit_test_setup_teardown(
	        test_h10_only_for_the_target_as_it_was, own_folder_make, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_h09_only_for_its_size, own_folder_make, own_folder_remove),
	    cmocka_unit_test_setup_teardown(
	        test_nothing_is_noted_of_what_cannot_be_known_again, own_folder_make, own_folder_remove),
	    cmocka_unit_test_setup_teardown(
	        test_h10_a_run_that_was_ended_halfway, own_folder_make, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_h12_very_many_ranges, own_folder_make, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_h14_damaged_files, own_folder_make, own_folder_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
