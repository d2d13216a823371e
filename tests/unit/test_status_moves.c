/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What `blkmove status` says of moves that have not ended, by records that the moves' own code has written. */
#include "cli/status_moves.h"

#include "attach/move_record.h"
#include "block/sysfs.h"

#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "own_folder.h"

static unsigned boot;

bool __wrap_sysfs_boot_id(char *ret, size_t length);

bool __wrap_sysfs_boot_id(char *ret, size_t length)
{
	snprintf(ret, length, "boot-%u", boot);
	return true;
}

static const char *engine = "dm", *group = "";

/* Returns it open: as a command that drives it. */
static struct move_folder begin(const char *name, enum move_phase phase)
{
	struct move_record record = {
	    .phase = phase, .target = "/dev/vg/new", .kind = MOVE_CONTENT, .sectors = 77777};
	struct move_folder ret;
	struct error error;

	snprintf(record.device, sizeof(record.device), "%s", name);
	snprintf(record.engine, sizeof(record.engine), "%s", engine);
	snprintf(record.lvm.group, sizeof(record.lvm.group), "%s", group);
	assert_int_equal(dm_table_add_linear(&record.old, 77777, makedev(8, 1), 9), 0);
	assert_int_equal(move_folder_open(&ret, folder, name, true, &error), 0);
	assert_int_equal(move_record_save(&record, &ret, &error), 0);
	move_record_done(&record);
	return ret;
}

static void begin_and_end(const char *name, enum move_phase phase)
{
	struct move_folder moves = begin(name, phase);

	move_folder_close(&moves);
}

static char *list(bool json)
{
	static char text[4096];
	FILE *to = fmemopen(text, sizeof(text), "w");

	memset(text, 0, sizeof(text));
	status_moves_print(to, folder, json);
	fclose(to);
	return text;
}

static void has(const char *text, const char *words)
{
	if (!strstr(text, words))
		fail_msg("no \"%s\" in: %s", words, text);
}

static void test_no_moves(void **state)
{
	struct move_folder moves;

	assert_string_equal(list(false), "");
	/* One that has ended. */
	moves = begin("data", MOVE_SYNCING);
	move_record_forget(&moves);
	move_folder_close(&moves);
	assert_string_equal(list(false), "");
	assert_string_equal(list(true), "");
}

static void test_not_while_a_command_drives_it(void **state)
{
	struct move_folder moves = begin("data", MOVE_SYNCING);

	assert_string_equal(list(false), "");
	move_folder_close(&moves);
	has(list(false),
	    "move of data to /dev/vg/new (dm): syncing, and no command goes on with it; the old leg");
	has(list(false), "`blkmove move --resume data` goes on, `blkmove move --undo data` leads it back\n");
	assert_null(strstr(list(false), "anew"));
}

static void restart_after(const char *by, const char *in, enum move_phase phase)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/moves/data/record.json", folder);
	unlink(path);
	engine = by;
	group = in;
	begin_and_end("data", phase);
	engine = "dm";
	group = "";
	boot++;
}

/* No leg counts more to the kernel's mirror: who owns the device leads it to the old one. */
static void test_h25_the_old_leg_counts_after_a_restart(void **state)
{
	restart_after("dm", "", MOVE_SWITCHED);
	has(list(false), "switched when the machine was started anew");
	has(list(false), "the old leg has everything;");
	has(list(false), "`blkmove move --resume data` goes on, `blkmove move --undo data` leads it back\n");
	has(list(true), "\"restarted\":true");
	has(list(true), "\"leg\":\"old\"");
	restart_after("blkmove", "vg", MOVE_SYNCING);
	has(list(false), "the old leg has everything;");
	restart_after("dm", "vg", MOVE_UNDOING);
	has(list(false), "the old leg has everything;");
}

/* Nothing brings the old leg what it lacks any more. */
static void test_h25_the_new_leg_counts_after_a_restart(void **state)
{
	restart_after("dm", "", MOVE_FINISHING);
	has(list(false),
	    "the new leg has everything; `blkmove move --resume data` ends it, or says what is to be done "
	    "first\n");
	has(list(true), "\"leg\":\"new\"");
	has(list(true), "\"undo\":null");
	/* The mirror runs still. */
	restart_after("dm", "", MOVE_SYNCING);
	engine = "blkmove";
	begin_and_end("other", MOVE_SWITCHED);
	engine = "dm";
	has(list(false),
	    "the new leg has everything; `blkmove move --resume other` goes on, `blkmove move --undo other` "
	    "leads");
}

/* The exchange in its metadata may have been made, or not. */
static void test_h25_lvm_is_to_be_asked_after_a_restart(void **state)
{
	static const char *const engines[] = {"dm", "blkmove"};

	for (unsigned i = 0; i < 4; i++) {
		restart_after(engines[i % 2], "vg", i < 2 ? MOVE_SWITCHED : MOVE_FINISHING);
		assert_null(strstr(list(false), "the new leg"));
		assert_null(strstr(list(false), "the old leg"));
		has(list(false),
		    "LVM's metadata tell which leg has everything: `blkmove move --resume data`");
		has(list(true), "\"leg\":null");
		has(list(true), "\"resume\":\"blkmove move --resume data\"");
		has(list(true), "\"undo\":null");
	}
	/* So may the mirror's switch. */
	restart_after("blkmove", "", MOVE_SWITCHED);
	has(list(false), "its mirror has noted which leg has everything: `blkmove move --resume data`");
	has(list(true), "\"leg\":null");
}

/* Only the commands that the move would not refuse. */
static void test_the_way_that_is_left(void **state)
{
	begin_and_end("a", MOVE_FINISHING);
	has(list(false), "the new leg has everything; `blkmove move --resume a` goes on\n");
	assert_null(strstr(list(false), "--undo"));
	begin_and_end("b", MOVE_UNDOING);
	has(list(false), "the old leg has everything; `blkmove move --undo b` leads it back\n");
	assert_null(strstr(list(false), "--resume b"));
}

static void test_json(void **state)
{
	const char *device, *target, *phase, *leg, *resume, *undo;
	int driven, restarted;
	json_t *json;

	begin_and_end("a-\u00fc", MOVE_SYNCING);
	json = json_loads(list(true), JSON_DISABLE_EOF_CHECK, NULL);
	assert_non_null(json);
	assert_int_equal(json_unpack(json, "{s:s, s:s, s:s, s:s, s:b, s:b, s:s, s:s}", "device", &device,
	                     "target", &target, "phase", &phase, "leg", &leg, "driven", &driven, "restarted",
	                     &restarted, "resume", &resume, "undo", &undo),
	    0);
	assert_string_equal(target, "/dev/vg/new");
	assert_string_equal(phase, "syncing");
	assert_string_equal(leg, "old");
	assert_false(driven || restarted);
	assert_non_null(strstr(resume, "blkmove move --resume a"));
	assert_non_null(strstr(undo, "blkmove move --undo a"));
	json_decref(json);
	begin_and_end("b", MOVE_UNDOING);
	has(list(true), "\"resume\":null");
}

static void test_a_damaged_record_is_named(void **state)
{
	struct move_folder moves = begin("a", MOVE_SYNCING);
	char path[600];

	snprintf(path, sizeof(path), "%s/record.json", moves.path);
	move_folder_close(&moves);
	begin_and_end("b", MOVE_SYNCING);
	assert_int_equal(truncate(path, 70), 0);
	has(list(false), "move of a: ");
	has(list(false), "is damaged");
	has(list(false), "move of b to");
	has(list(true), "\"error\":");
}

/* Who looks has it locked for a moment: that must not keep a move from going on. */
static void test_a_look_is_waited_for(void **state)
{
	struct move_folder moves = begin("data", MOVE_SYNCING), again;
	struct error error;
	int ready[2];
	pid_t child;
	char byte;

	move_folder_close(&moves);
	assert_int_equal(pipe(ready), 0);
	child = fork();
	if (child == 0) {
		char path[200];
		int fd;

		snprintf(path, sizeof(path), "%s/moves/data", folder);
		fd = open(path, O_RDONLY | O_DIRECTORY);
		if (flock(fd, LOCK_SH) < 0 || write(ready[1], "x", 1) != 1)
			_exit(1);
		usleep(30000);
		_exit(0);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_int_equal(move_folder_open(&again, folder, "data", false, &error), 0);
	move_folder_close(&again);
	assert_int_equal(waitpid(child, NULL, 0), child);
	close(ready[0]);
	close(ready[1]);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, own_folder_make, own_folder_remove)
	const struct CMUnitTest tests[] = {
	    CASE(test_no_moves),
	    CASE(test_not_while_a_command_drives_it),
	    CASE(test_h25_the_old_leg_counts_after_a_restart),
	    CASE(test_h25_the_new_leg_counts_after_a_restart),
	    CASE(test_h25_lvm_is_to_be_asked_after_a_restart),
	    CASE(test_the_way_that_is_left),
	    CASE(test_json),
	    CASE(test_a_damaged_record_is_named),
	    CASE(test_a_look_is_waited_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
