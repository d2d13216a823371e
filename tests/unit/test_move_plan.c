/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The tables that a move goes through, and its record: what is plain data of it. */
#include "attach/move_record.h"

#include "attach/dm.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cmocka.h>

#define KEY   "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define CRYPT "aes-xts-plain64 " KEY " 0 8:17 32768 1 allow_discards"

static int backing_sectors(void *data, dev_t device, uint64_t *ret)
{
	*(dev_t *)data = device;
	*ret = 1000001;
	return 0;
}

static void test_content(void **state)
{
	struct dm_table table = {0}, led = {0};
	struct move_plan plan;
	struct error error;
	dev_t asked = 0;

	assert_int_equal(dm_table_add_linear(&table, 1001, makedev(8, 16), 2048), 0);
	assert_int_equal(dm_table_add(&table, 1001, 77, "striped", "2 8 8:32 0 8:48 0"), 0);
	assert_int_equal(move_plan_make(&plan, &table, backing_sectors, &asked, &error), 0);
	assert_int_equal(plan.kind, MOVE_CONTENT);
	assert_int_equal(plan.sectors, 1078);
	assert_int_equal(asked, 0);
	assert_true(dm_table_equal(&plan.leg, &table));
	assert_int_equal(move_plan_lead(plan.kind, plan.sectors, NULL, makedev(254, 3), &led, &error), 0);
	assert_int_equal(led.count, 1);
	assert_int_equal(led.targets[0].length, 1078);
	assert_string_equal(led.targets[0].params, "254:3 0");
	dm_table_done(&led);
	dm_table_done(&table);
	move_plan_done(&plan);
}

/* What is encrypted is moved as it is: the device below moves, and key and offset stay. */
static void test_backing(void **state)
{
	struct dm_table table = {0}, led = {0};
	struct move_plan plan;
	struct error error;
	dev_t asked = 0;

	assert_int_equal(dm_table_add(&table, 0, 900, "crypt", CRYPT), 0);
	assert_int_equal(move_plan_make(&plan, &table, backing_sectors, &asked, &error), 0);
	assert_int_equal(plan.kind, MOVE_BACKING);
	assert_int_equal(plan.sectors, 1000001);
	assert_int_equal(asked, makedev(8, 17));
	assert_string_equal(plan.leg.targets[0].type, "linear");
	assert_string_equal(plan.leg.targets[0].params, "8:17 0");
	assert_int_equal(move_plan_lead(plan.kind, plan.sectors, &table, makedev(254, 12), &led, &error), 0);
	assert_string_equal(led.targets[0].params, "aes-xts-plain64 " KEY " 0 254:12 32768 1 allow_discards");
	assert_int_equal(led.targets[0].length, 900);
	dm_table_wipe(&led);
	dm_table_done(&table);
	move_plan_done(&plan);
}

static void test_refusals(void **state)
{
	static const struct {
		const char *type, *params;
	} rows[] = {{"snapshot-origin", "8:16"}, {"thin", "253:4 1"},
	    {"raid", "raid1 3 0 region_size 1024 2 - 8:16 - 8:32"},
	    {"crypt", "aes-xts-plain64 00 0 /dev/sdb 0"}, {"mirror", "core 2 1024 sync 2 8:1 0 8:2 0"},
	    {"linearly", "8:16 0"}};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct dm_table table = {0};
		struct move_plan plan;
		struct error error;
		dev_t asked;

		assert_int_equal(dm_table_add(&table, 0, 4096, rows[i].type, rows[i].params), 0);
		assert_int_equal(move_plan_make(&plan, &table, backing_sectors, &asked, &error), -EOPNOTSUPP);
		assert_int_equal(i == 0, strstr(error.text, "--snapshot=drop") != NULL);
		dm_table_done(&table);
	}
}

static void test_device_in_words(void **state)
{
	size_t at, length;
	dev_t device;

	assert_int_equal(dm_params_device("8:16 0", &at, &length, &device), 0);
	assert_int_equal(at, 0);
	assert_int_equal(device, makedev(8, 16));
	assert_int_equal(dm_params_device("", &at, &length, &device), -ENOENT);
	assert_int_equal(dm_params_device("2 8 8:32 0 8:48 0", &at, &length, &device), -ENOENT);
	/* What only looks like one. */
	assert_int_equal(
	    dm_params_device("a8:16 8:x 8:16:3 :64:logon:cryptsetup 8:", &at, &length, &device), -ENOENT);
	assert_int_equal(dm_params_device("x  259:1048575", &at, &length, &device), 0);
	assert_int_equal(at, 3);
	assert_int_equal(length, strlen("259:1048575"));
}

static void remove_tree(const char *path)
{
	char command[600];

	snprintf(command, sizeof(command), "rm -rf '%s'", path);
	assert_int_equal(system(command), 0);
}

static void test_record(void **state)
{
	struct move_record record = {.phase = MOVE_SWITCHED,
	    .engine = "dm",
	    .device = "vg-lv \"odd\"",
	    .target = "/dev/vg/new",
	    .kind = MOVE_CONTENT,
	    .sectors = 77777,
	    .lvm = {.group = "vg", .moved = "lv", .target = "new"},
	    .lvm_first = "pv0:12",
	    .note = 77,
	    .target_id = "serial:X1,part2"};
	struct move_record loaded;
	struct move_folder folder, second;
	char path[] = "/tmp/blkmove-XXXXXX";
	struct error error;

	assert_non_null(mkdtemp(path));
	assert_int_equal(dm_table_add_linear(&record.old, 77777, makedev(8, 1), 9), 0);
	assert_int_equal(dm_table_add_linear(&record.last, 77777, makedev(8, 2), 1), 0);
	assert_int_equal(move_folder_open(&folder, path, "x", false, &error), -ENOENT);
	assert_int_equal(move_folder_open(&folder, path, "x", true, &error), 0);
	assert_int_equal(move_folder_open(&second, path, "x", true, &error), -EALREADY);
	assert_int_equal(move_record_save(&record, &folder, &error), 0);
	assert_int_equal(move_record_load(&loaded, &folder, &error), 0);
	assert_int_equal(loaded.phase, MOVE_SWITCHED);
	assert_string_equal(loaded.device, record.device);
	assert_string_equal(loaded.target, record.target);
	assert_string_equal(loaded.lvm.target, "new");
	assert_string_equal(loaded.lvm_first, "pv0:12");
	assert_string_equal(loaded.target_id, "serial:X1,part2");
	assert_int_equal(loaded.note, 77);
	assert_int_equal(loaded.sectors, 77777);
	assert_true(dm_table_equal(&loaded.old, &record.old));
	assert_true(dm_table_equal(&loaded.last, &record.last));
	assert_false(move_record_is_of_another_boot(&loaded));
	loaded.boot[0] ^= 1;
	assert_true(move_record_is_of_another_boot(&loaded));
	move_record_done(&loaded);
	move_folder_close(&folder);
	/* What is under way is not begun again. */
	assert_int_equal(move_folder_open(&second, path, "x", true, &error), -EEXIST);
	assert_int_equal(move_folder_open(&folder, path, "x", false, &error), 0);
	move_record_forget(&folder);
	assert_int_equal(move_record_load(&loaded, &folder, &error), -EBADMSG);
	move_folder_close(&folder);
	move_record_done(&record);
	remove_tree(path);
}

/* Every byte of it may be damaged: no record, or the same kind of one, and no crash. */
static void test_damaged_record(void **state)
{
	struct move_record record = {.device = "d", .target = "/dev/t", .sectors = 8}, loaded;
	struct move_folder folder;
	char path[] = "/tmp/blkmove-XXXXXX", file[700], text[4096];
	struct error error;
	size_t length;
	FILE *stream;

	assert_non_null(mkdtemp(path));
	assert_int_equal(dm_table_add_linear(&record.old, 8, makedev(8, 1), 0), 0);
	assert_int_equal(move_folder_open(&folder, path, "y", true, &error), 0);
	assert_int_equal(move_record_save(&record, &folder, &error), 0);
	snprintf(file, sizeof(file), "%s/record.json", folder.path);
	stream = fopen(file, "r+");
	length = fread(text, 1, sizeof(text), stream);
	for (size_t i = 0; i < length; i++) {
		char odd = text[i] == '#' ? '$' : '#';

		fseek(stream, (long)i, SEEK_SET);
		fputc(odd, stream);
		fflush(stream);
		if (move_record_load(&loaded, &folder, &error) == 0) {
			assert_true(loaded.phase < MOVE_PHASES);
			move_record_done(&loaded);
		}
		fseek(stream, (long)i, SEEK_SET);
		fputc(text[i], stream);
		fflush(stream);
	}
	assert_int_equal(truncate(file, (off_t)length / 2), 0);
	assert_int_equal(move_record_load(&loaded, &folder, &error), -EBADMSG);
	fclose(stream);
	move_folder_close(&folder);
	move_record_done(&record);
	remove_tree(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_content),
	    cmocka_unit_test(test_backing),
	    cmocka_unit_test(test_refusals),
	    cmocka_unit_test(test_device_in_words),
	    cmocka_unit_test(test_record),
	    cmocka_unit_test(test_damaged_record),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
