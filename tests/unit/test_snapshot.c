/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Snapshots without a kernel that has any: arithmetic, tables, the record; and the process that sees to it that nothing stays quiesced. */
#include "snapshot/snapshot_fill.h"
#include "snapshot/snapshot_guard.h"
#include "snapshot/snapshot_place.h"
#include "snapshot/snapshot_private.h"
#include "snapshot/snapshot_record.h"

#include "attach/move_record.h"
#include "base/folder.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "own_folder.h"

static void test_h27_fill_of_a_store(void **state)
{
	assert_int_equal(snapshot_fill_store("0/65536 0"), 0);
	assert_int_equal(snapshot_fill_store("16/65536 16"), 1);
	assert_int_equal(snapshot_fill_store("58400/65536 256"), 90);
	assert_int_equal(snapshot_fill_store("58983/65536 256"), 91);
	assert_int_equal(snapshot_fill_store("65535/65536 256"), 100);
	assert_int_equal(snapshot_fill_store("65536/65536 256"), 100);
	/* Beyond what a product of 64 bits could hold. */
	assert_int_equal(snapshot_fill_store("9000000000000000000/18000000000000000000 8"), 50);
	assert_int_equal(snapshot_fill_store("0/0 0"), 100);
	assert_int_equal(snapshot_fill_store("Invalid"), -ESTALE);
	assert_int_equal(snapshot_fill_store("Overflow"), -ESTALE);
	assert_int_equal(snapshot_fill_store("Merge failed"), -ESTALE);
	assert_int_equal(snapshot_fill_store(""), -ESTALE);
}

static void test_h27_fill_of_a_pool(void **state)
{
	const char *which = "";

	assert_int_equal(snapshot_fill_pool("3 11/1024 400/1000 - rw discard_passdown", &which), 40);
	assert_string_equal(which, "data");
	assert_int_equal(snapshot_fill_pool("3 950/1024 400/1000 - rw discard_passdown", &which), 93);
	assert_string_equal(which, "metadata");
	assert_int_equal(snapshot_fill_pool("3 11/1024 1000/1000 - out_of_data_space", &which), 100);
	assert_int_equal(snapshot_fill_pool("Fail", &which), -EIO);
	assert_int_equal(snapshot_fill_pool("Error", &which), -EIO);
	assert_int_equal(snapshot_fill_pool("3 11/1024", &which), -EIO);
}

static void test_size_of_a_store(void **state)
{
	const uint64_t extent = 4u << 20;

	/* A fifth; half of what is free stays free, until the base is there. */
	assert_int_equal(snapshot_store_extents(1000, 5000, extent, false), 200);
	assert_int_equal(snapshot_store_extents(1000, 300, extent, false), 150);
	assert_int_equal(snapshot_store_extents(1000, 150, extent, true), 150);
	/* Too little to begin with. */
	assert_int_equal(snapshot_store_extents(1000, 39, extent, false), 0);
	assert_int_equal(snapshot_store_extents(1000, 40, extent, false), 20);
	assert_int_equal(snapshot_store_extents(1000, 19, extent, true), 0);
	assert_int_equal(snapshot_store_extents(1000, 0, extent, true), 0);
	assert_int_equal(snapshot_store_extents(10, 1, extent, false), 0);
	/* A small one: 64 MiB, but no more than it could ever need. */
	assert_int_equal(snapshot_store_extents(20, 5000, extent, false), 16);
	assert_int_equal(snapshot_store_extents(3, 5000, extent, false), 5);
	assert_int_equal(
	    snapshot_store_extents(UINT64_C(1) << 40, UINT64_MAX, extent, true), (UINT64_C(1) << 40) / 5);
}

static void test_place(void **state)
{
	uint64_t begin, length;

	assert_int_equal(snapshot_place_half(100000, 0, &begin, &length), 0);
	assert_int_equal(begin, 0);
	assert_int_equal(length, 49152);
	assert_int_equal(snapshot_place_half(100000, 1, &begin, &length), 0);
	assert_int_equal(begin, 49152);
	assert_true(begin + length <= 100000);
	assert_int_equal(snapshot_place_half(2 * SNAPSHOT_STORE_LEAST, 1, &begin, &length), 0);
	assert_int_equal(snapshot_place_half(2 * SNAPSHOT_STORE_LEAST - 1, 1, &begin, &length), -ENOSPC);
}

static int table_of(const char *type, const char *params, struct dm_table *ret, struct error *error)
{
	struct dm_table origin = {0};
	int res;

	assert_int_equal(dm_table_add(&origin, 0, 77777, type, params), 0);
	res = snapshot_place_table(&origin, makedev(8, 32), 2048, 4096, ret, error);
	dm_table_done(&origin);
	return res;
}

static void test_table_of_a_store(void **state)
{
	struct dm_table table;
	struct error error;

	assert_int_equal(table_of("linear", "8:16 0", &table, &error), 0);
	assert_string_equal(table.targets[0].type, "linear");
	assert_string_equal(table.targets[0].params, "8:32 2048");
	assert_int_equal(dm_table_length(&table), 4096);
	dm_table_done(&table);
	/* The same key; sector numbers that the origin does not have. */
	assert_int_equal(
	    table_of("crypt", "aes-xts-plain64 0123abcd 7 8:16 4096 1 sector_size:4096", &table, &error), 0);
	assert_string_equal(table.targets[0].type, "crypt");
	assert_string_equal(
	    table.targets[0].params, "aes-xts-plain64 0123abcd 17592186044423 8:32 2048 1 sector_size:4096");
	assert_int_equal(dm_table_length(&table), 4096);
	dm_table_done(&table);
	assert_int_equal(
	    table_of("crypt", "aes-xts-plain64 :64:logon:cryptsetup:x-d0 0 8:16 32768", &table, &error),
	    -EOPNOTSUPP);
	assert_non_null(strstr(error.text, "--disable-keyring"));
	/* 32 bits of a sector's number: the store would be encrypted by the numbers of the origin. */
	assert_int_equal(
	    table_of("crypt", "aes-cbc-plain 0123abcd 7 8:16 4096", &table, &error), -EOPNOTSUPP);
	assert_int_equal(table_of("crypt", "aes 0123abcd 7 8:16 4096", &table, &error), -EOPNOTSUPP);
	assert_int_equal(
	    table_of("crypt", "capi:gcm(aes)-random 01 0 8:16 0 1 integrity:28:aead", &table, &error),
	    -EOPNOTSUPP);
	assert_int_equal(table_of("crypt", "aes-xts-plain64 01 0 /dev/sdb 0", &table, &error), -EOPNOTSUPP);
	assert_int_equal(table_of("crypt", "", &table, &error), -EOPNOTSUPP);
}

static void test_record(void **state)
{
	struct snapshot_record record = {.id = "0123456789abcdef",
	    .kind = "lvm",
	    .source = "/dev/vg/a \"b\"",
	    .target = "root@new:/dev/\xff",
	    .device = "vg-a",
	    .fresh = "blkmove-1"};
	struct snapshot_record found;
	struct error error;
	int fd = folder_lock(folder, false);

	assert_true(fd >= 0);
	assert_int_equal(folder_lock(folder, false), -EALREADY);
	assert_int_equal(snapshot_record_load(&found, folder, &error), 0);
	assert_string_equal(found.id, "");
	assert_int_equal(snapshot_record_save(&record, fd, folder, &error), 0);
	assert_int_equal(snapshot_record_load(&found, folder, &error), 0);
	assert_string_equal(found.id, record.id);
	assert_string_equal(found.source, record.source);
	assert_string_equal(found.fresh, record.fresh);
	assert_string_equal(found.base, "");
	assert_false(snapshot_record_is_of_another_boot(&found));
	/* What goes into the words of a command must be a name. */
	strcpy(record.base, "x\" || lv_name=\"data");
	assert_int_equal(snapshot_record_save(&record, fd, folder, &error), 0);
	assert_int_equal(snapshot_record_load(&found, folder, &error), -EBADMSG);
	assert_non_null(strstr(error.text, "is damaged"));
	assert_int_equal(folder_put(fd, "record.json", "{\"version\": 1"), 0);
	assert_int_equal(snapshot_record_load(&found, folder, &error), -EBADMSG);
	snapshot_record_forget(fd);
	assert_int_equal(snapshot_record_load(&found, folder, &error), 0);
	assert_string_equal(found.id, "");
	close(fd);
}

/* A process that has a guard, and dies or ends in order. Whether the hook ran, for which it has half a minute if it is due. */
static bool orphan(bool owes, bool in_order)
{
	char path[96], text[128];
	char *hook[] = {"sh", "-c", text, NULL};
	pid_t pid;

	snprintf(path, sizeof(path), "%s/hook", folder);
	snprintf(text, sizeof(text), "echo x >%s", path);
	unlink(path);
	pid = fork();
	if (pid == 0) {
		struct snapshot_guard guard = {.hook = hook};
		struct error error;

		if (snapshot_guard_start(&guard, &error) < 0 ||
		    (owes && snapshot_guard_owes_hook(&guard, true, &error) < 0))
			_exit(1);
		/* It is deaf to what is meant to end a program. */
		kill(guard.pid, SIGTERM);
		kill(guard.pid, SIGINT);
		kill(guard.pid, SIGHUP);
		if (in_order) {
			snapshot_guard_end(&guard);
			_exit(0);
		}
		raise(SIGKILL);
	}
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	for (unsigned i = 0; i < (owes && !in_order ? 1500 : 50); i++, usleep(20000))
		if (access(path, F_OK) == 0)
			return true;
	return false;
}

static void test_guard_runs_the_hook(void **state)
{
	assert_true(orphan(true, false));
	assert_false(orphan(true, true));
	assert_false(orphan(false, false));
}

static void test_guard_that_was_killed(void **state)
{
	struct snapshot_guard guard = {0};
	struct error error;

	assert_int_equal(snapshot_guard_start(&guard, &error), 0);
	assert_int_equal(snapshot_guard_freeze(&guard, &error), 0);
	kill(guard.pid, SIGKILL);
	while (snapshot_guard_suspending(&guard, false, &error) == 0)
		;
	assert_int_equal(error.code, -ECHILD);
	assert_int_equal(snapshot_guard_thaw(&guard, &error), -ECHILD);
	snapshot_guard_end(&guard);
	assert_int_equal(guard.pid, 0);
}

/* A series of a kind that is made up, and a move of its source. */

static struct {
	unsigned prepared, made, cleared;
	bool move_begins; /* meanwhile */
} seen;

static void begin_move(const char *name)
{
	struct move_record record = {
	    .uuid = "LVM-1", .engine = "dm", .target = "/dev/vg/new", .kind = MOVE_CONTENT, .sectors = 77777};
	struct move_folder moves;
	struct error error;

	snprintf(record.device, sizeof(record.device), "%s", name);
	assert_int_equal(move_folder_open(&moves, folder, name, true, &error), 0);
	assert_int_equal(move_record_save(&record, &moves, &error), 0);
	move_folder_close(&moves);
}

static int prepare_one(struct snapshot *snapshot, struct error *error)
{
	seen.prepared++;
	strcpy(snapshot->record.fresh, "blkmove-1");
	if (seen.move_begins)
		begin_move("vg-data");
	return 0;
}

static int make_one(struct snapshot *snapshot, struct error *error)
{
	seen.made++;
	return 0;
}

static int clear_one(struct snapshot *snapshot, struct error *error)
{
	seen.cleared++;
	return 0;
}

/* The move's mirror would be led past; nothing is made, and nothing stays. */
static void test_h11_none_of_what_is_being_moved(void **state)
{
	static const struct snapshot_kind kind = {
	    .name = "lvm", .prepare = prepare_one, .make = make_one, .clear = clear_one};
	struct snapshot snapshot = {.kind = &kind,
	    .record = {.id = "0123456789abcdef", .device = "vg-data"},
	    .source = {.name = "vg-data", .uuid = "LVM-1"},
	    .options = {.source = "/dev/vg/data", .target = "/dev/vg1/data", .state_dir = folder}};
	struct move_folder moves;
	struct error error;

	memset(&seen, 0, sizeof(seen));
	assert_int_equal(ring_new(&snapshot.options.ring, 8, &error), 0);
	snprintf(snapshot.folder, sizeof(snapshot.folder), "%s/series", folder);
	snapshot.folder_fd = folder_lock(snapshot.folder, true);
	assert_true(snapshot.folder_fd >= 0);
	/* Another one's does no harm. */
	begin_move("vg-other");
	seen.move_begins = true;
	assert_int_equal(snapshot_take(&snapshot, &error), -EPERM);
	assert_non_null(strstr(error.text, "/dev/vg/data is being moved"));
	assert_non_null(strstr(error.text, "`blkmove move --resume vg-data`"));
	assert_true(seen.prepared == 1 && seen.made == 0 && seen.cleared == 1 && !snapshot.record.fresh[0]);
	/* And at once, also while a process drives it. */
	assert_int_equal(move_folder_open(&moves, folder, "vg-data", false, &error), 0);
	assert_int_equal(snapshot_take(&snapshot, &error), -EPERM);
	assert_true(seen.prepared == 1 && seen.made == 0);
	/* It is of one that had the same name, and is gone. */
	seen.move_begins = false;
	strcpy(snapshot.source.uuid, "LVM-2");
	assert_int_equal(snapshot_take(&snapshot, &error), 0);
	assert_int_equal(seen.made, 1);
	strcpy(snapshot.source.uuid, "LVM-1");
	snapshot.record.fresh[0] = '\0';
	/* It has ended. */
	move_record_forget(&moves);
	move_folder_close(&moves);
	assert_int_equal(snapshot_take(&snapshot, &error), 0);
	assert_int_equal(seen.made, 2);
	close(snapshot.folder_fd);
	ring_free(snapshot.options.ring);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_h27_fill_of_a_store),
	    cmocka_unit_test(test_h27_fill_of_a_pool),
	    cmocka_unit_test(test_size_of_a_store),
	    cmocka_unit_test(test_place),
	    cmocka_unit_test(test_table_of_a_store),
	    cmocka_unit_test_setup_teardown(test_record, own_folder_make, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_guard_runs_the_hook, own_folder_make, own_folder_remove),
	    cmocka_unit_test(test_guard_that_was_killed),
	    cmocka_unit_test_setup_teardown(
	        test_h11_none_of_what_is_being_moved, own_folder_make, own_folder_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
