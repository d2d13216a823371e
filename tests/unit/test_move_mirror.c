/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which mirror a move takes for its own, by mirrors that are a process with a control socket each, and nothing more. What the engine runs as `blkmove` is this
 * program: it says its words, and fails.
 */
#include "attach/move_private.h"
#include "cli/control.h"
#include "cli/mirror_files.h"
#include "cli/move_mirror.h"
#include "range/bitmap_file.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "own_folder.h"

struct made_up_mirror {
	const char *name, *source, *target;
	pid_t pid;
};

/* What it was ordered, of its own process and of the test's. */
static struct orders {
	int number;
	char name[16];
	bool done;
	bool away; /* its target: a cutover waits */
} * orders;

static void take(const char *command)
{
	if (strcmp(command, "cutover") && strcmp(command, "revert"))
		return;
	orders->number++;
	snprintf(orders->name, sizeof(orders->name), "%s", command);
	orders->done = !strcmp(command, "revert") || !orders->away;
}

static json_t *answer(void *data, const json_t *request)
{
	const struct made_up_mirror *mirror = data;
	bool switched;

	take(json_string_value(json_object_get(request, "command")));
	switched = orders->done && !strcmp(orders->name, "cutover");
	return json_pack("{s:b, s:s, s:s, s:i, s:s, s:s, s:i, s:{s:i, s:s, s:s, s:s, s:s}}", "ok", 1,
	    "source", mirror->source, "target", mirror->target, "pid", (int)getpid(), "state",
	    switched ? "switched" : "ready", "authoritative", switched ? "target" : "source", "number",
	    orders->number, "order", "number", orders->number, "name", orders->name, "state",
	    orders->done ? "done" : "running", "error", "", "waits",
	    orders->done ? "" : "the target is away");
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

/* LVM's metadata name the target by then: a cutover that waits for it is taken back, else it would come when nobody counts on it. */
static void test_a_switch_that_has_to_wait(void **state)
{
	struct made_up_mirror mirror = {
	    "move-data", "/dev/mapper/data-blkmove-old", "/dev/mapper/data-blkmove-new", 0};
	struct move_mirror engine = {.state_dir = folder, .name = "move-data"};
	struct move move = move_of("data");
	struct error error;

	begin(&mirror);
	note(folder, &mirror);
	assert_int_equal(move_mirror_engine.uncut(&engine, &move, &error), 0);
	assert_int_equal(orders->number, 0);
	orders->away = true;
	alarm(120);
	assert_int_equal(move_mirror_engine.cut(&engine, &move, &error), -EIO);
	alarm(0);
	assert_non_null(strstr(error.text, "the target is away; `blkmove move --resume data`"));
	assert_string_equal(orders->name, "cutover");
	assert_int_equal(move_mirror_engine.uncut(&engine, &move, &error), 0);
	assert_string_equal(orders->name, "revert");
	orders->away = false;
	assert_int_equal(move_mirror_engine.cut(&engine, &move, &error), 0);
	assert_int_equal(orders->number, 3);
	assert_int_equal(move_mirror_engine.cut(&engine, &move, &error), 0);
	assert_int_equal(orders->number, 3);
	assert_int_equal(move_mirror_engine.uncut(&engine, &move, &error), 0);
	assert_int_equal(orders->number, 4);
	assert_true(end(&mirror));
}

/* What it says last counts, however much came before. */
static void test_the_last_words(void **state)
{
	struct move_mirror engine = {.state_dir = folder};
	struct move move = move_of("data");
	char before[2000];
	struct error error;

	memset(before, 'w', sizeof(before));
	before[1999] = '\0';
	before[1000] = '\n';
	assert_int_equal(setenv("SAID_BEFORE", before, 1), 0);
	assert_int_equal(move_mirror_engine.make(&engine, &move, &error), -EIO);
	assert_int_equal(unsetenv("SAID_BEFORE"), 0);
	assert_null(strstr(error.text, "www"));
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

/* Of a mirror that was killed with so much dirty. */
static void leave_map(const char *name, const struct bitmap *dirty, uint32_t authoritative)
{
	const struct bitmap_super super = {.nonce = 1,
	    .size = 64 * 4096,
	    .region_size = 4096,
	    .records = BITMAP_RECORDS_MIN,
	    .authoritative = authoritative};
	struct bitmap_file *map;
	struct mirror_files files;
	struct ring *ring;
	struct error error;

	assert_int_equal(mirror_files_open(&files, folder, name, true, &error), 0);
	assert_int_equal(mirror_files_write(&files, "command", json_object(), &error), 0);
	assert_true(mirror_files_map(&files, true) >= 0);
	assert_int_equal(ring_new(&ring, 8, &error), 0);
	assert_int_equal(bitmap_file_create(&map, ring, files.map_fd, &super, dirty, &error), 0);
	bitmap_file_free(map);
	ring_free(ring);
	mirror_files_close(&files);
}

static void test_what_its_map_says(void **state)
{
	struct move_mirror engine = {.state_dir = folder};
	struct move move = move_of("data");
	struct bitmap none;
	struct error error;
	bool cut, both;

	assert_int_equal(bitmap_init(&none, 64), 0);
	for (unsigned i = 0; i < 4; i++) {
		leave_map("move-data", i & 2 ? &none : NULL, i & 1);
		cut = !(i & 1), both = !(i & 2);
		if (move_mirror_engine.was_cut(&engine, &move, &cut, &both, &error) < 0)
			fail_msg("%s", error.text);
		assert_int_equal(cut, i & 1);
		assert_int_equal(both, (i & 2) != 0);
		forget(folder, "move-data");
	}
	bitmap_done(&none);
	assert_int_equal(move_mirror_engine.was_cut(&engine, &move, &cut, &both, &error), -EPERM);
}

/* What ends the move is said whole, and with usual names all of it. */
static void test_words_with_long_names(void **state)
{
	struct move_mirror engine = {.state_dir = folder};
	struct move move = {.options = {.engine = &move_mirror_engine, .engine_data = &engine},
	    .record = {.phase = MOVE_SWITCHED}};
	struct error error;
	bool cut, both;
	char end[700];

	for (unsigned i = 0; i < 2; i++) {
		snprintf(
		    move.record.device, sizeof(move.record.device), "%0*d", i ? (int)MOVE_NAME_MAX : 25, 0);
		snprintf(move.record.target, sizeof(move.record.target), "far:%0*d", i ? 500 : 41, 0);
		/* By that the mirror has its name. */
		assert_int_equal(move_mirror_engine.was_cut(&engine, &move, &cut, &both, &error), -EPERM);
		leave_map(engine.name, NULL, 1);
		assert_int_equal(move_forward_restarted(&move, &error), -EPERM);
		snprintf(
		    end, sizeof(end), "`blkmove move --undo --keep-old %s` ends this", move.record.device);
		assert_non_null(strstr(error.text, end));
		snprintf(end, sizeof(end), "%s /dev/mapper/%s`", move.record.target, move.record.device);
		assert_true(i || strstr(error.text, end));
	}
}

static int make_folder(void **state)
{
	int res = own_folder_make(state);

	*orders = (struct orders){.done = true};
	return res < 0 ? res : setenv("BLKMOVE_RUN_DIR", folder, 1);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_its_own, make_folder, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_a_switch_that_has_to_wait, make_folder, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_what_its_map_says, make_folder, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_words_with_long_names, make_folder, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_the_last_words, make_folder, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_of_other_legs, make_folder, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_recorded_elsewhere, make_folder, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_names, make_folder, own_folder_remove)};

	orders = mmap(NULL, sizeof(*orders), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (orders == MAP_FAILED)
		return 1;
	if (argc > 1 && getenv("SAID_BEFORE"))
		fprintf(stderr, "%s\n", getenv("SAID_BEFORE"));
	for (int i = 1; i < argc; i++)
		fprintf(stderr, "%s ", argv[i]);
	return argc > 1 ? 2 : cmocka_run_group_tests(tests, NULL, NULL);
}
