/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A move by the kernel's mirror, and by one that can switch, killed at each of its steps, with and without a restart of the machine, and with somebody else's table loaded at
 * each, over the machine of move_machine.h. Each run that is killed is a process.
 */
#include "move_machine.h"

/* Runs */

enum order { BEGIN, RESUME, UNDO, UNDO_KEEP_OLD };

static char said[512];                      /* by the last command, if it failed */
static const char *recorded_in = state_dir; /* by the next one */

#define KNOB 87u /* before anybody turns it */

/* Another pace each time that it is looked at, as a governor would ask for. */
static bool change_pace(void *data, const struct move_progress *progress)
{
	struct move_dm_mirror_options *dm = data;

	if (dm->throttle)
		assert_int_equal(world->knob, dm->throttle);
	dm->throttle = dm->throttle ? dm->throttle + 1 : 0;
	return true;
}

static int run(enum order order, enum move_until until)
{
	struct move_dm_mirror_options dm = {.throttle = world->lvm ? 10 : 0};
	struct move_engine engine = move_dm_mirror;
	struct move_options options = {.state_dir = recorded_in,
	    .engine = &engine,
	    .engine_data = &dm,
	    .progress = change_pace,
	    .data = &dm};
	struct move *move = NULL;
	enum move_until reached;
	struct error error;
	int res;

	if (world->switches) {
		engine.switches = true;
		engine.cut = cut;
		engine.uncut = uncut;
		engine.leave = leave;
		engine.was_cut = was_cut;
		engine.forget = forget;
	}
	res = order == BEGIN ? move_begin(&move, "/dev/mapper/consumer", NEW, false, world->until_restart,
	                           &options, &error)
	                     : move_continue(&move, "consumer", &options, &error);

	if (res == 0)
		res = order >= UNDO ? move_undo(move, order == UNDO_KEEP_OLD, &error)
		                    : move_forward(move, until, &reached, &error);
	move_free(move);
	snprintf(said, sizeof(said), "%s", res < 0 ? error.text : "");
	return res;
}

/* Returns whether it was killed. */
static bool run_and_kill(enum order order, enum move_until until, unsigned at)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		world->steps_left = at;
		_exit(run(order, until) == 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	world->steps_left = 0;
	world->locked = false;
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 1);
	return WEXITSTATUS(status) == KILLED;
}

static void set_up_one(const char *name, const char *uuid, bool crypt, unsigned disk)
{
	struct dm_table table = {0};
	struct error error;
	char params[96];

	snprintf(params, sizeof(params), crypt ? "aes 00 0 %u:%u 0" : "%u:%u 0", DISK, world->minors[disk]);
	assert_int_equal(dm_table_add(&table, 0, SECTORS, crypt ? "crypt" : "linear", params), 0);
	assert_int_equal(make_device(name, uuid, &table, &error), 0);
	dm_table_done(&table);
}

static void set_up(bool crypt, unsigned disk)
{
	set_up_one("consumer", world->lvm || world->until_restart ? "LVM-consumer" : "", crypt, disk);
	if (world->lvm)
		set_up_one("target", "LVM-target", false, 1 - disk);
}

/* Memory is lost; disks have each other's numbers. Who owns the device leads it where it led; LVM, where its metadata say. */
static void restart(bool crypt)
{
	unsigned led = consumer_leads(), minor_number = world->minors[0];

	for (unsigned i = 0; i < DEVICES; i++)
		world->devices[i].exists = false;
	/* The user had flushed all that he wrote. */
	for (unsigned i = 0; i < 2; i++) {
		write_back(i);
		world->copied[i] = false;
	}
	world->told = 0;
	world->minors[0] = world->minors[1];
	world->minors[1] = minor_number;
	world->knob = KNOB;
	world->boot++;
	set_up(crypt, world->lvm ? world->exchanged : led == 2);
	assert_true(has_all(consumer_leads() - 1));
}

static bool is_known(void)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/moves/consumer/record.json", recorded_in);
	return access(path, F_OK) == 0;
}

static void finish(bool crypt, enum order onward)
{
	int res = is_known() ? run(onward, MOVE_UNTIL_MOVED) : 0;

	if (res == 0)
		return;
	/* The other way is left; or, after a restart, one of two ways out that are the owner's. */
	assert_int_equal(res, -EPERM);
	res = run(onward == RESUME ? UNDO : RESUME, MOVE_UNTIL_MOVED);
	if (res == 0)
		return;
	assert_int_equal(res, -EPERM);
	if (onward == RESUME) {
		find("consumer")->exists = false;
		set_up(crypt, 1);
	}
	assert_int_equal(run(onward == RESUME ? RESUME : UNDO_KEEP_OLD, MOVE_UNTIL_MOVED), 0);
}

static void check_end(void)
{
	unsigned count = 0, led = consumer_leads();

	for (unsigned i = 0; i < DEVICES; i++)
		count += world->devices[i].exists;
	assert_int_equal(count, world->lvm ? 2 : 1);
	if (world->lvm) {
		bool mirror = false;

		assert_false(find("target")->suspended);
		assert_int_equal(leads(&find("target")->live, &mirror), 3 - led);
		assert_int_equal(world->exchanged, led == 2);
	}
	/* The table that a key was tried with, before there was a move, may wait: it is the same. */
	if (find("consumer")->waiting.count)
		assert_memory_equal(
		    &find("consumer")->waiting, &find("consumer")->live, sizeof(struct made_up_table));
	assert_true(led == 1 || led == 2);
	assert_true(!world->cached[led - 1] && has_all(led - 1));
	assert_false(is_known());
	assert_int_equal(world->knob, KNOB);
}

static void begin_anew(bool crypt, bool switches, bool lvm)
{
	*world = (struct world){.minors = {1, 2},
	    .data = {1, 0},
	    .lacks = {false, true},
	    .written = 1,
	    .knob = KNOB,
	    .switches = switches,
	    .lvm = lvm};
	set_up(crypt, 0);
}

/* Returns false when the command came to its end before step `at`. */
static bool one_run(unsigned variant, enum order killed, enum order onward, unsigned at)
{
	bool crypt = variant & 1, restarts = variant & 2, switches = variant & 4, lvm = variant & 8,
	     was_killed;

	begin_anew(crypt && !lvm, switches, lvm);
	if (killed != BEGIN)
		assert_int_equal(run(BEGIN, switches ? MOVE_UNTIL_SWITCHED : MOVE_UNTIL_SYNCED), 0);
	was_killed = run_and_kill(killed, MOVE_UNTIL_MOVED, at);
	if (restarts)
		restart(crypt && !lvm);
	finish(crypt, onward);
	check_end();
	/* And another move. */
	if (consumer_leads() == 1) {
		assert_int_equal(run(BEGIN, MOVE_UNTIL_MOVED), 0);
		check_end();
		assert_int_equal(consumer_leads(), 2);
	}
	return was_killed;
}

static void test_h22_h25_h27_each_step(void **state)
{
	for (unsigned variant = 0; variant < 96; variant++) {
		enum order onward = variant & 16 ? UNDO : RESUME, killed = (enum order)(variant / 32);
		unsigned at = 1;

		while (one_run(variant, killed, onward, at))
			at++;
		assert_true(at > 8);
	}
}

/* Each of a move's commands, with somebody else's in between. Returns false when the move came to its end before that. */
static bool one_event(unsigned variant, enum order order, enum event event, unsigned at)
{
	bool crypt = variant & 1, restarts = variant & 2, switches = variant & 4, lvm = variant & 8, happened;
	enum order onward = variant & 16 ? UNDO : RESUME;
	enum move_until until = MOVE_UNTIL_MOVED;
	int res;

	if (variant & 32)
		until = switches ? MOVE_UNTIL_SWITCHED : MOVE_UNTIL_SYNCED;
	crypt = crypt && !lvm;
	begin_anew(crypt, switches, lvm);
	if (order != BEGIN)
		assert_int_equal(run(BEGIN, switches ? MOVE_UNTIL_SWITCHED : MOVE_UNTIL_SYNCED), 0);
	world->event = event;
	world->event_in = at;
	res = run(order, until);
	happened = world->event == NOTHING && !world->event_in;
	world->event = NOTHING;
	world->event_in = 0;
	if (res < 0)
		assert_true(strstr(said, "--undo") || strstr(said, "--resume"));
	else
		assert_true(!is_known() || (consumer_is_mirrored() && !find("consumer-real")));
	write_something();
	if (restarts && !find("consumer-real"))
		restart(crypt);
	/* Without a word of the owner's: as far as it goes. */
	if (is_known())
		run(onward, MOVE_UNTIL_MOVED);
	write_something();
	end_snapshot();
	if (is_known() && run(RESUME, MOVE_UNTIL_MOVED) < 0 && run(UNDO, MOVE_UNTIL_MOVED) < 0) {
		/* Its owner led it elsewhere after a restart. */
		assert_true(restarts && !lvm);
		assert_int_equal(run(UNDO_KEEP_OLD, MOVE_UNTIL_MOVED), 0);
	}
	write_something();
	check_end();
	return happened;
}

static void test_h11_table_changed_by_somebody_else(void **state)
{
	for (unsigned variant = 0; variant < 64; variant++) {
		/* A crypt device differs in its tables alone. */
		if ((variant & 1) && (variant & 10))
			continue;
		for (unsigned order = BEGIN; order <= (variant & 32 ? BEGIN : UNDO); order++)
			for (enum event event = REFRESH; event <= SNAPSHOT; event++) {
				unsigned at = 1;

				while (one_event(variant, (enum order)order, event, at))
					at++;
				assert_true(at > 8);
			}
	}
}

/* lvchange --refresh has loaded its table, and suspended the device: the move must not take that for its own. */
static void lvm_begins(void)
{
	struct made_up_device *consumer = find("consumer");
	struct made_up_table live = consumer->live;

	load_believed(consumer);
	consumer->waiting = consumer->live;
	consumer->live = live;
	consumer->suspended = world->lvm_works = true;
}

static void test_h11_between_lvms_load_and_resume(void **state)
{
	struct made_up_table loaded;

	for (unsigned order = RESUME; order <= UNDO; order++) {
		begin_anew(false, false, true);
		assert_int_equal(run(BEGIN, MOVE_UNTIL_SYNCED), 0);
		lvm_begins();
		/* Nor where its command does not end. */
		world->lvm_hangs = true;
		assert_int_equal(run((enum order)order, MOVE_UNTIL_MOVED), -EWOULDBLOCK);
		assert_non_null(strstr(said, "one of LVM's commands"));
		world->lvm_hangs = false;
		assert_true(world->lvm_works && find("consumer")->suspended);
		loaded = find("consumer")->waiting;
		(void)run((enum order)order, MOVE_UNTIL_SYNCED);
		assert_false(world->lvm_works || world->locked);
		assert_memory_equal(&find("consumer")->live, &loaded, sizeof(loaded));
		if (is_known())
			assert_int_equal(run(UNDO, MOVE_UNTIL_MOVED), 0);
		check_end();
		assert_int_equal(consumer_leads(), 1);
	}
}

/* LVM's metadata are left as they are, and its commands may come in between all the same. */
static void test_h11_until_restart_under_lvms_lock(void **state)
{
	for (unsigned variant = 0; variant < 4; variant++) {
		bool switches = variant & 1, back = variant & 2;

		begin_anew(false, switches, false);
		find("consumer")->exists = false;
		world->until_restart = true;
		set_up(false, 0);
		world->shared = true;
		assert_int_equal(run(BEGIN, MOVE_UNTIL_SYNCED), -EOPNOTSUPP);
		assert_false(is_known());
		world->shared = false;
		assert_int_equal(run(BEGIN, back ? MOVE_UNTIL_SYNCED : MOVE_UNTIL_MOVED), 0);
		if (back)
			assert_int_equal(run(UNDO, MOVE_UNTIL_MOVED), 0);
		assert_false(world->locked);
		check_end();
		assert_int_equal(consumer_leads(), back ? 1 : 2);
	}
}

/* To another machine's disk. */

static int make_remote(void *data, struct move *move, struct error *error)
{
	const char name[] = "consumer" MOVE_DEVICE_SUFFIX "mirror";
	struct dm_table table = {0};
	char params[96];
	dev_t device;
	int res;

	snprintf(params, sizeof(params), "%u:%u %u:%u", MAPPED, minor(move_leg_device(move, false)), DISK,
	    world->minors[1]);
	assert_int_equal(dm_table_add(&table, 0, SECTORS, "mirror", params), 0);
	res = move_make_device(move, name, &table, NULL, &device, error);
	dm_table_done(&table);
	if (res == 0)
		move_set_medium(move, device);
	return res;
}

static int go_on(void *data, struct move *move, struct error *error)
{
	return 0;
}

static int is_synced(void *data, struct move *move, struct move_progress *ret, struct error *error)
{
	/* It flushes both by itself. */
	world->copied[1] = false;
	ret->synced = true;
	return 0;
}

/* Then no mirror leads there any more, and no word of the owner's brings it back. Each way that is named is one that there is. */
static void test_h25_restart_after_the_switch_to_another_machine(void **state)
{
	const struct move_engine engine = {.name = "remote",
	    .switches = true,
	    .make = make_remote,
	    .sync = go_on,
	    .look = is_synced,
	    .cut = cut,
	    .uncut = uncut,
	    .was_cut = was_cut,
	    .forget = forget};
	const struct move_options options = {.state_dir = state_dir, .engine = &engine};
	enum move_until reached;
	struct move *move;
	struct error error;

	begin_anew(false, true, false);
	assert_int_equal(
	    move_begin(&move, "/dev/mapper/consumer", "far:/dev/disk", true, false, &options, &error), 0);
	assert_int_equal(move_forward(move, MOVE_UNTIL_MOVED, &reached, &error), 0);
	assert_int_equal(reached, MOVE_UNTIL_SWITCHED);
	move_free(move);
	world->lacks[0] = true;
	for (unsigned i = 0; i < DEVICES; i++)
		world->devices[i].exists = false;
	world->boot++;
	for (unsigned i = 0; i < 3; i++) {
		/* The second time its owner has set it up. */
		assert_int_equal(run(i == 2 ? UNDO : RESUME, MOVE_UNTIL_MOVED), -EPERM);
		assert_non_null(strstr(said, "what was written since the switch is there alone"));
		assert_non_null(
		    strstr(said, "`blkmove sync --verify --overwrite=/dev/mapper/consumer far:/dev/disk "
		                 "/dev/mapper/consumer`"));
		assert_non_null(strstr(said, "`blkmove move --undo --keep-old consumer` ends this move"));
		assert_null(strstr(said, "Set consumer up"));
		if (i == 0)
			set_up(false, 0);
	}
	/* Nor is anything said of what is not known. */
	world->forgotten = true;
	assert_int_equal(run(RESUME, MOVE_UNTIL_MOVED), -EPERM);
	assert_non_null(strstr(said, "`blkmove move --undo --keep-old consumer` forgets the move"));
	assert_null(strstr(said, "sync"));
	assert_int_equal(run(UNDO_KEEP_OLD, MOVE_UNTIL_MOVED), 0);
	assert_false(is_known());
	assert_int_equal(consumer_leads(), 1);
}

/*
 * Killed at step `at`, and at step `again` of what is run after the machine's restart; each second time it is restarted once more. Returns whether it was killed
 * again; *ret_at: the first time.
 */
static bool one_lost_target(unsigned at, unsigned again, enum order onward, bool *ret_at)
{
	bool lost, was_killed = false;

	begin_anew(false, true, false);
	*ret_at = run_and_kill(BEGIN, MOVE_UNTIL_SWITCHED, at);
	lost = !world->switched && consumer_leads() == 3;
	world->lacks[1] |= lost;
	restart(false);
	if (lost)
		was_killed = run_and_kill(onward, MOVE_UNTIL_MOVED, again);
	if (was_killed && again % 2)
		restart(false);
	finish(false, onward);
	check_end();
	return was_killed;
}

/* The switch is recorded before the mirror is ordered to make it, which may take long: a target that is lost meanwhile is not the one that counts. */
static void test_h25_target_lost_before_the_switch_took_effect(void **state)
{
	unsigned at = 1, lost = 0;
	bool was_killed = true;

	for (; was_killed; at++)
		for (enum order onward = RESUME; onward <= UNDO; onward++) {
			unsigned again = 1;

			while (one_lost_target(at, again, onward, &was_killed))
				again++;
			lost += again > 2;
		}
	assert_true(lost > 4);
}

/*
 * LVM's metadata name it by then: where they led the volume it stays until its owner has said so. Returns whether the move was killed; *ret_lost:
 * and the target lost.
 */
static bool one_lost_target_of_lvm(unsigned at, enum order onward, bool *ret_lost)
{
	bool was_killed;

	begin_anew(false, true, true);
	was_killed = run_and_kill(BEGIN, MOVE_UNTIL_SWITCHED, at);
	*ret_lost = was_killed && world->exchanged && !world->switched;
	restart(false);
	if (*ret_lost) {
		world->target_lacks = true;
		assert_int_equal(run(onward, MOVE_UNTIL_MOVED), -EPERM);
		assert_non_null(strstr(said, "consumer leads to its new place"));
		assert_non_null(strstr(said, "Before `blkmove move --undo --keep-old consumer` ends this"));
		assert_non_null(strstr(said, "`blkmove sync --verify --overwrite=/dev/mapper/consumer "
		                             "/dev/group/target /dev/mapper/consumer`"));
		assert_true(is_known() && !world->forgotten);
		assert_int_equal(run(UNDO_KEEP_OLD, MOVE_UNTIL_MOVED), 0);
	}
	finish(false, onward);
	check_end();
	return was_killed;
}

static void test_h25_target_of_lvm_lost_before_the_switch_took_effect(void **state)
{
	bool was_killed = true, is_lost;
	unsigned at = 1, lost = 0;

	for (; was_killed; at++)
		for (enum order onward = RESUME; onward <= UNDO; onward++) {
			was_killed = one_lost_target_of_lvm(at, onward, &is_lost);
			lost += is_lost;
		}
	assert_true(lost > 2);
}

/* What is written to the target would fill them; and at the end it would lead there, and they elsewhere. */
static void test_h11_target_with_snapshots(void **state)
{
	struct made_up_table before;

	begin_anew(false, false, true);
	snprintf(find("target")->live.type[0], 16, "snapshot-origin");
	snprintf(find("target")->live.params[0], 96, "%u:7", MAPPED);
	before = find("consumer")->live;
	assert_int_equal(run(BEGIN, MOVE_UNTIL_MOVED), -EOPNOTSUPP);
	assert_non_null(strstr(said, "snapshot-origin"));
	assert_memory_equal(&find("consumer")->live, &before, sizeof(before));
	assert_false(is_known());
}

static void assert_devices(const struct made_up_device before[DEVICES])
{
	for (unsigned i = 0; i < DEVICES; i++) {
		assert_int_equal(world->devices[i].exists, before[i].exists);
		if (before[i].exists)
			assert_memory_equal(&world->devices[i], &before[i], sizeof(before[i]));
	}
}

/* By a move of the same device that is recorded in another folder: the one that was there first loses nothing. `at` 0: it is not killed. */
static int run_elsewhere(enum order order, unsigned at)
{
	static char elsewhere[sizeof(state_dir) + 8];
	struct made_up_device before[DEVICES];
	int res = 0, status;

	memcpy(before, world->devices, sizeof(before));
	snprintf(elsewhere, sizeof(elsewhere), "%s/other", state_dir);
	recorded_in = elsewhere;
	if (at && fork() == 0) {
		world->steps_left = at;
		_exit(run(order, MOVE_UNTIL_MOVED) == 0);
	} else if (at) {
		assert_true(wait(&status) > 0 && WIFEXITED(status) && WEXITSTATUS(status) != 1);
		world->steps_left = 0;
	} else if (order == BEGIN || is_known()) {
		res = run(order, MOVE_UNTIL_MOVED);
	}
	assert_true(at || order == RESUME || !is_known());
	recorded_in = state_dir;
	assert_devices(before);
	return res;
}

/* And not within a swap: whoever comes drops what waits. */
static bool is_being_moved(void)
{
	return is_known() && find(legs[0]) && !find("consumer")->suspended &&
	       !find("consumer")->waiting.count;
}

/* And killed, and undone. */
static void begin_second(void)
{
	assert_int_equal(run_elsewhere(BEGIN, 0), -EEXIST);
	assert_non_null(strstr(said, "another --state-dir"));
	/* Before that, nothing needs what it takes for its own. */
	for (unsigned at = 1; at < 4 && consumer_is_mirrored(); at++) {
		(void)run_elsewhere(BEGIN, at);
		assert_int_equal(run_elsewhere(UNDO, 0), 0);
	}
}

/* Wherever the first one was killed. */
static void test_h25_two_moves_of_one_device(void **state)
{
	for (unsigned variant = 0; variant < 4; variant++) {
		unsigned at = 1, met = 0;
		bool was_killed = true;

		for (; was_killed; at++) {
			begin_anew(false, variant & 1, variant & 2);
			was_killed = run_and_kill(BEGIN, MOVE_UNTIL_MOVED, at);
			if (is_being_moved()) {
				begin_second();
				met++;
			}
			finish(false, at % 2 ? RESUME : UNDO);
			check_end();
		}
		assert_true(met > 8);
	}
}

/* Devices that are called as those of a move. */
static void test_names_that_are_taken(void **state)
{
	static const char *const taken[] = {
	    "consumer-blkmove-old", "consumer-blkmove-new", "consumer-blkmove-mirror"};

	for (unsigned i = 0; i < 3; i++) {
		struct made_up_device before[DEVICES];

		begin_anew(false, false, false);
		set_up_one(taken[i], "BLKMOVE-another", false, 1);
		memcpy(before, world->devices, sizeof(before));
		assert_int_equal(run(BEGIN, MOVE_UNTIL_MOVED), -EEXIST);
		assert_non_null(strstr(said, taken[i]));
		assert_devices(before);
		assert_false(is_known());
	}
}

/* One that came while the move was under way, in the place of its own. */
static void test_device_in_a_parts_place(void **state)
{
	struct made_up_device before;

	for (unsigned order = RESUME; order <= UNDO; order++) {
		begin_anew(false, false, false);
		assert_true(run_and_kill(BEGIN, MOVE_UNTIL_MOVED, 5));
		while (find(legs[0]))
			find(legs[0])->exists = false;
		set_up_one(legs[0], "", false, 1);
		before = *find(legs[0]);
		assert_int_equal(run((enum order)order, MOVE_UNTIL_MOVED), order == RESUME ? -EEXIST : 0);
		assert_memory_equal(find(legs[0]), &before, sizeof(before));
		assert_int_equal(consumer_leads(), 1);
		assert_int_equal(is_known(), order == RESUME);
		if (order == RESUME)
			assert_int_equal(run(UNDO, MOVE_UNTIL_MOVED), 0);
	}
}

/* Removed while its move had not ended, and made again: nothing but the folder is left of that one. */
static void test_another_device_of_that_name(void **state)
{
	char path[100];

	begin_anew(false, false, false);
	assert_int_equal(run(BEGIN, MOVE_UNTIL_SYNCED), 0);
	for (unsigned i = 0; i < DEVICES; i++)
		world->devices[i].exists = false;
	set_up_one("consumer", "another", false, 0);
	for (unsigned order = RESUME; order <= UNDO; order++) {
		assert_int_equal(run((enum order)order, MOVE_UNTIL_MOVED), -EXDEV);
		snprintf(path, sizeof(path), "remove the folder %s/moves/consumer,", state_dir);
		assert_non_null(strstr(said, path));
	}
	snprintf(path, sizeof(path), "rm -r %s/moves/consumer", state_dir);
	assert_int_equal(system(path), 0);
	assert_false(move_record_is_there(state_dir, "consumer", "another"));
}

/* The longest name that goes is not cut: another may begin like it. */
static void test_long_names(void **state)
{
	struct move_dm_mirror_options dm = {0};
	struct move move = {.record.sectors = SECTORS, .leg_devices = {makedev(DISK, 1), makedev(DISK, 2)}};
	char name[DM_NAME_MAX];
	struct error error;

	begin_anew(false, false, false);
	memset(move.record.device, 'n', MOVE_NAME_MAX);
	for (char last = 'a'; last <= 'b'; last++) {
		move.record.device[MOVE_NAME_MAX - 1] = last;
		assert_int_equal(move_name_legs(&move, &error), 0);
		assert_int_equal(move_dm_mirror.make(&dm, &move, &error), 0);
		snprintf(name, sizeof(name), "%.108s-blkmove-mirror", move.record.device);
		assert_true(strlen(name) <= 127 && find(name));
	}
	move.record.device[MOVE_NAME_MAX] = 'n';
	assert_int_equal(move_name_legs(&move, &error), -ENAMETOOLONG);
	assert_non_null(strstr(error.text, "109 bytes"));
}

static int make_world(void **state)
{
	world = mmap(NULL, sizeof(*world), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return world == MAP_FAILED || !mkdtemp(state_dir);
}

static int end_world(void **state)
{
	char command[100];

	snprintf(command, sizeof(command), "rm -rf %s", state_dir);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_h22_h25_h27_each_step),
	    cmocka_unit_test(test_h11_table_changed_by_somebody_else),
	    cmocka_unit_test(test_h11_between_lvms_load_and_resume),
	    cmocka_unit_test(test_h11_until_restart_under_lvms_lock),
	    cmocka_unit_test(test_h25_restart_after_the_switch_to_another_machine),
	    cmocka_unit_test(test_h25_target_lost_before_the_switch_took_effect),
	    cmocka_unit_test(test_h25_target_of_lvm_lost_before_the_switch_took_effect),
	    cmocka_unit_test(test_h11_target_with_snapshots),
	    cmocka_unit_test(test_h25_two_moves_of_one_device), cmocka_unit_test(test_names_that_are_taken),
	    cmocka_unit_test(test_device_in_a_parts_place),
	    cmocka_unit_test(test_another_device_of_that_name), cmocka_unit_test(test_long_names)};

	return cmocka_run_group_tests(tests, make_world, end_world);
}
