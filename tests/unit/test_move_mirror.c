/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which mirror a move takes for its own, by mirrors that are a process with a control socket each, and nothing more. What the engine runs as `blkmove` is this
 * program: it says its words, and fails.
 */
#include "attach/move_private.h"
#include "cli/control.h"
#include "cli/mirror_files.h"
#include "cli/move_mirror.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "own_folder.h"

struct made_up_mirror {
	const char *name, *source, *target;
	pid_t pid;
};

static json_t *answer(void *data, const json_t *request)
{
	const struct made_up_mirror *mirror = data;

	return json_pack("{s:b, s:s, s:s, s:i, s:s, s:s}", "ok", 1, "source", mirror->source, "target",
	    mirror->target, "pid", (int)getpid(), "state", "ready", "authoritative", "source");
}

static void serve(struct made_up_mirror *mirror, int ready_fd)
{
	struct control *control;
	struct ring *ring;
	struct error error;
	bool over = false;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (ring_new(&ring, 8, &error) < 0 ||
	    control_new(&control, ring, mirror->name, answer, mirror, &error) < 0 ||
	    write(ready_fd, "r", 1) != 1)
		_exit(1);
	_exit(ring_run_until(ring, &over) < 0);
}

static void begin(struct made_up_mirror *mirror)
{
	int ready[2];
	char byte;

	assert_int_equal(pipe(ready), 0);
	mirror->pid = fork();
	if (mirror->pid == 0)
		serve(mirror, ready[1]);
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
}

static bool end(const struct made_up_mirror *mirror)
{
	bool ran = waitpid(mirror->pid, NULL, WNOHANG) == 0;

	if (ran) {
		kill(mirror->pid, SIGKILL);
		waitpid(mirror->pid, NULL, 0);
	}
	return ran;
}

/* Its folder, as the mirror's process leaves it. */
static void note(const char *state_dir, const struct made_up_mirror *mirror)
{
	struct mirror_files files;
	struct error error;

	assert_int_equal(mirror_files_open(&files, state_dir, mirror->name, true, &error), 0);
	assert_int_equal(ftruncate(files.lock_fd, 0), 0);
	assert_true(dprintf(files.lock_fd, "%d", (int)mirror->pid) > 0);
	assert_int_equal(mirror_files_write(&files, "command", json_object(), &error), 0);
	mirror_files_close(&files);
}

static void forget(const char *state_dir, const char *name)
{
	struct mirror_files files;
	struct error error;

	assert_int_equal(mirror_files_open(&files, state_dir, name, false, &error), 0);
	mirror_files_forget(&files);
	mirror_files_close(&files);
}

static struct move move_of(const char *device)
{
	struct move move = {.record.target = "/dev/new"};
	struct error error;

	snprintf(move.record.device, sizeof(move.record.device), "%s", device);
	assert_int_equal(move_name_legs(&move, &error), 0);
	return move;
}

/* No device is there, so that is as far as it comes with its own. */
static void test_its_own(void **state)
{
	struct made_up_mirror mirror = {
	    "move-data", "/dev/mapper/data-blkmove-old", "/dev/mapper/data-blkmove-new", 0};
	struct move_mirror engine = {.state_dir = folder};
	struct move_progress progress = {0};
	struct move move = move_of("data");
	struct error error;

	begin(&mirror);
	note(folder, &mirror);
	assert_int_equal(move_mirror_engine.make(&engine, &move, &error), -ENODEV);
	assert_non_null(strstr(error.text, "`blkmove move --undo data`"));
	assert_int_equal(move_mirror_engine.look(&engine, &move, &progress, &error), 0);
	assert_true(progress.synced);
	/* Of an earlier move, whose record is lost: its legs need not have been these. */
	move.fresh = true;
	assert_int_equal(move_mirror_engine.make(&engine, &move, &error), -EEXIST);
	assert_true(end(&mirror));
	assert_int_equal(move_mirror_engine.make(&engine, &move, &error), -EEXIST);
	assert_non_null(strstr(error.text, "--forget move-data"));
	forget(folder, "move-data");
	assert_int_equal(move_mirror_engine.make(&engine, &move, &error), -EIO);
	assert_non_null(strstr(error.text, "--name=move-data"));
}

/* Neither taken, nor ordered, nor ended. `known`: it has the folder of that name. */
static void check_that_it_is_anothers(struct made_up_mirror *mirror, bool known)
{
	struct move_mirror engine = {.state_dir = folder};
	struct move_progress progress = {0};
	struct move move = move_of("data");
	struct error error;

	begin(mirror);
	if (known)
		note(folder, mirror);
	assert_int_equal(move_mirror_engine.make(&engine, &move, &error), -EEXIST);
	assert_non_null(strstr(error.text, "not of this move"));
	assert_int_equal(move_mirror_engine.look(&engine, &move, &progress, &error), -EEXIST);
	assert_int_equal(move_mirror_engine.cut(&engine, &move, &error), -EEXIST);
	assert_int_equal(move_mirror_engine.uncut(&engine, &move, &error), -EEXIST);
	assert_int_equal(move_mirror_engine.leave(&engine, &move, &error), -EEXIST);
	if (known)
		forget(folder, mirror->name);
	assert_int_equal(move_mirror_engine.remove(&engine, &move, &error), 0);
	assert_true(end(mirror));
}

static void test_of_other_legs(void **state)
{
	struct made_up_mirror mirror = {
	    "move-data", "/dev/mapper/data_-blkmove-old", "/dev/mapper/data-blkmove-new", 0};

	check_that_it_is_anothers(&mirror, true);
	mirror.source = "/dev/mapper/data-blkmove-old";
	mirror.target = "host:/dev/new";
	check_that_it_is_anothers(&mirror, true);
}

/* A move of the same device. */
static void test_recorded_elsewhere(void **state)
{
	struct made_up_mirror mirror = {
	    "move-data", "/dev/mapper/data-blkmove-old", "/dev/mapper/data-blkmove-new", 0};

	begin(&mirror);
	assert_true(end(&mirror));
	note(folder, &mirror);
	forget(folder, "move-data");
	check_that_it_is_anothers(&mirror, false);
}

static void name_of(const char *device, char ret[80])
{
	struct move_mirror engine = {.state_dir = folder};
	struct move move = move_of(device);
	struct error error;

	assert_int_equal(move_mirror_engine.remove(&engine, &move, &error), 0);
	assert_int_equal(mirror_name_check(engine.name, &error), 0);
	memcpy(ret, engine.name, 80);
}

static void test_names(void **state)
{
	char a[80], b[80], device[100];

	name_of("vg-data_1.2", a);
	assert_string_equal(a, "move-vg-data_1.2");
	name_of("a_b", a);
	assert_string_equal(a, "move-a_b");
	name_of("a+b", b);
	assert_string_not_equal(a, b);
	name_of("a=b", a);
	assert_string_not_equal(a, b);
	memset(device, 'n', sizeof(device));
	device[58] = '\0';
	name_of(device, a);
	assert_string_equal(a + 5, device);
	strcpy(device + 58, "1");
	name_of(device, a);
	strcpy(device + 58, "2");
	name_of(device, b);
	assert_string_not_equal(a, b);
}

static int make_folder(void **state)
{
	int res = own_folder_make(state);

	return res < 0 ? res : setenv("BLKMOVE_RUN_DIR", folder, 1);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_its_own, make_folder, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_of_other_legs, make_folder, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_recorded_elsewhere, make_folder, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_names, make_folder, own_folder_remove)};

	for (int i = 1; i < argc; i++)
		fprintf(stderr, "%s ", argv[i]);
	return argc > 1 ? 2 : cmocka_run_group_tests(tests, NULL, NULL);
}
