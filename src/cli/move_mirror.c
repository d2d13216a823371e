/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A live mirror as a move's engine: see move_mirror.h. Begun, asked and ordered as an operator would, by the program's own commands. */
#include "cli/move_mirror.h"

#include "base/cleanup.h"
#include "base/crc32c.h"
#include "cli/control_client.h"
#include "export/device.h"
#include "ring/ring.h"
#include "sync/job.h"
#include "wire/child.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#define RING_ENTRIES 8u
#define NAME_WHOLE   58u /* bytes of a device's name that a mirror's has room for */
#define NAME_PART    41u /* and with the sum of all of it */
#define LEG_MAX      600u
#define ORDER_MS     600000u /* a revert first waits until both legs are the same */
#define END_MS       60000u
#define POLL_NS      50000000L
#define ATTEMPTS     12u /* of 10 s */

static bool fits(char character)
{
	return isalnum((unsigned char)character) || strchr("._-", character);
}

/* A device's name that a mirror cannot have as it is would be like others then. */
static void name_mirror(struct move_mirror *engine, const struct move *move)
{
	const char *device = move_get_record(move)->device;
	bool whole = strlen(device) <= NAME_WHOLE;
	char sum[17];

	for (const char *at = device; *at; at++)
		whole &= fits(*at);
	if (whole)
		snprintf(engine->name, sizeof(engine->name), "move-%.*s", (int)NAME_WHOLE, device);
	else
		snprintf(engine->name, sizeof(engine->name), "move-%.*s-%s", (int)NAME_PART, device,
		    crc32c_name(device, sum));
	for (char *at = engine->name; *at; at++)
		if (!fits(*at))
			*at = '_';
}

static void name_legs(const struct move *move, char old[LEG_MAX], char new[LEG_MAX])
{
	const char *target = move_get_record(move)->target;

	snprintf(old, LEG_MAX, "/dev/mapper/%s", move_leg_name(move, false));
	snprintf(new, LEG_MAX, "%s%s", target[0] == '/' ? "/dev/mapper/" : "",
	    target[0] == '/' ? move_leg_name(move, true) : target);
}

/* Runs this program. What it says last is the error's words. */
static int run_self(const char *const *words, unsigned count, struct error *error)
{
	_cleanup_(cleanup_close) int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	_cleanup_(cleanup_close) int said = memfd_create("said", MFD_CLOEXEC);
	const int fds[3] = {null, null, said};
	char *argv[MOVE_MIRROR_WORDS_MAX + 16] = {"/proc/self/exe"};
	struct child child = {0};
	struct ring *ring = NULL;
	char text[1200], *line;
	ssize_t length;
	off_t end;
	int res;

	if (null < 0 || said < 0)
		return error_set(error, -errno, "cannot run blkmove %s: %s", words[0], strerror(errno));
	for (unsigned i = 0; i < count; i++)
		argv[i + 1] = (char *)words[i];
	res = ring_new(&ring, RING_ENTRIES, error);
	if (res == 0)
		res = child_start(&child, argv, fds, error);
	if (res == 0 && !child_wait(&child, ring, ORDER_MS)) {
		child_end(&child, ring);
		res = error_set(error, -ETIMEDOUT, "`blkmove %s` did not come to an end", words[0]);
	}
	ring_free(ring);
	if (res < 0)
		return res;
	if (WIFEXITED(child.status) && WEXITSTATUS(child.status) == 0)
		return 0;
	end = lseek(said, 0, SEEK_END);
	length = pread(
	    said, text, sizeof(text) - 1, end > (off_t)sizeof(text) - 1 ? end - (off_t)sizeof(text) + 1 : 0);
	text[length > 0 ? length : 0] = '\0';
	while (length > 0 && text[length - 1] == '\n')
		text[--length] = '\0';
	/* What it waited for came before. */
	line = strrchr(text, '\n');
	line = line ? line + 1 : text;
	res = WIFEXITED(child.status) && WEXITSTATUS(child.status) == JOB_REFUSED ? -EPERM : -EIO;
	return error_set(error, res, "`blkmove %s` failed: %s", words[0], *line ? line : "it said nothing");
}

static json_t *ask(const struct move_mirror *engine, const char *command, struct error *error)
{
	return control_ask(engine->name, json_pack("{s:s}", "command", command), error);
}

/* The process that has, or had, the folder of this move's mirror. */
static pid_t read_pid(const struct move_mirror *engine)
{
	char path[4200];
	FILE *file;
	int pid = 0;

	snprintf(path, sizeof(path), "%s/mirrors/%s/lock", engine->state_dir, engine->name);
	file = fopen(path, "re");
	if (file && fscanf(file, "%d", &pid) != 1)
		pid = 0;
	if (file)
		fclose(file);
	return pid;
}

/* Of the move's own mirror: -EEXIST when another one answers to its name, also that of a move which is recorded in another folder. */
static json_t *ask_status(const struct move_mirror *engine, const struct move *move, struct error *error)
{
	char old[LEG_MAX], new[LEG_MAX];
	json_t *status = NULL;

	*error = (struct error){.code = -ETIMEDOUT};
	/* One that gives no answer may be busy. One that has ended does not take the question. */
	for (unsigned i = 0; i < ATTEMPTS && !status && error->code == -ETIMEDOUT; i++)
		status = ask(engine, "status", error);
	name_legs(move, old, new);
	if (!status || (!strcmp(control_string(status, "source"), old) &&
	                   !strcmp(control_string(status, "target"), new) &&
	                   (pid_t)control_number(status, "pid") == read_pid(engine)))
		return status;
	error_set(error, -EEXIST,
	    "a mirror %s runs, of %.100s and %.100s, that is not of this move in %.100s; see `blkmove status "
	    "%s`, and end it first",
	    engine->name, control_string(status, "source"), control_string(status, "target"),
	    engine->state_dir, engine->name);
	json_decref(status);
	return NULL;
}

/* 1, 0 or -EEXIST. */
static int runs(const struct move_mirror *engine, const struct move *move, struct error *error)
{
	json_t *status = ask_status(engine, move, error);

	json_decref(status);
	if (status)
		return 1;
	return error->code == -EEXIST ? -EEXIST : 0;
}

/* A mirror of this name was begun, and has not ended. */
static bool is_known(const struct move_mirror *engine)
{
	char path[4200];

	snprintf(path, sizeof(path), "%s/mirrors/%s/command", engine->state_dir, engine->name);
	return access(path, F_OK) == 0;
}

static int begin(struct move_mirror *engine, struct move *move, struct error *error)
{
	const struct move_record *record = move_get_record(move);
	char old[LEG_MAX], new[LEG_MAX], device[120], name[100], state_dir[4200], overwrite[620], newer[640];
	/* A local one was judged before the move began. */
	const char *judged = record->target[0] == '/' ? new : engine->overwrite;
	const char *words[MOVE_MIRROR_WORDS_MAX + 12];
	unsigned count = 0;

	name_legs(move, old, new);
	snprintf(device, sizeof(device), "--device=%s", engine->name);
	snprintf(name, sizeof(name), "--name=%s", engine->name);
	snprintf(state_dir, sizeof(state_dir), "--state-dir=%s", engine->state_dir);
	words[count++] = "mirror";
	words[count++] = device;
	words[count++] = name;
	words[count++] = state_dir;
	words[count++] = "--cache=direct";
	words[count++] = "--paused";
	if (judged) {
		snprintf(overwrite, sizeof(overwrite), "--overwrite=%s", judged);
		snprintf(newer, sizeof(newer), "--overwrite-newer=%s", judged);
		words[count++] = overwrite;
		words[count++] = newer;
	}
	for (unsigned i = 0; i < engine->words_count; i++)
		words[count++] = engine->words[i];
	words[count++] = old;
	words[count++] = new;
	return run_self(words, count, error);
}

static int resume(struct move_mirror *engine, struct error *error)
{
	char name[100], state_dir[4200];
	const char *words[] = {"mirror", name, state_dir, "--paused"};

	snprintf(name, sizeof(name), "--resume=%s", engine->name);
	snprintf(state_dir, sizeof(state_dir), "--state-dir=%s", engine->state_dir);
	return run_self(words, 4, error);
}

static int mirror_make(void *data, struct move *move, struct error *error)
{
	struct move_mirror *engine = data;
	char path[128];
	struct stat facts;
	int res;

	name_mirror(engine, move);
	res = runs(engine, move, error);
	/* Its legs had the same names, and need not be the same. */
	if (move_is_fresh(move) && (res > 0 || is_known(engine)))
		return error_set(error, -EEXIST,
		    "an earlier mirror %s has not ended; `blkmove mirror --forget %s` forgets it",
		    engine->name, engine->name);
	if (res == 0)
		res = is_known(engine) ? resume(engine, error) : begin(engine, move, error);
	if (res < 0)
		return res;
	snprintf(path, sizeof(path), DEVICE_FOLDER "/%s", engine->name);
	if (stat(path, &facts) < 0 || !S_ISBLK(facts.st_mode))
		return move_is_fresh(move)
		           ? error_set(error, -ENODEV,
		                 "the mirror's device %s is not there; the move is given up", path)
		           : error_set(error, -ENODEV,
		                 "the mirror's device %s is not there; `blkmove move --undo %s` leads back",
		                 path, move_get_record(move)->device);
	move_set_medium(move, facts.st_rdev);
	return 0;
}

static int mirror_sync(void *data, struct move *move, struct error *error)
{
	struct move_mirror *engine = data;
	json_t *reply = ask(engine, "resume", error);

	json_decref(reply);
	return reply ? 0 : error->code;
}

static int mirror_look(void *data, struct move *move, struct move_progress *ret, struct error *error)
{
	struct move_mirror *engine = data;
	json_t *status = ask_status(engine, move, error);
	const char *state = control_string(status, "state"), *trouble;

	if (!status)
		return error_prefix(error, "the mirror cannot be asked");
	ret->total = control_number(status, "total");
	ret->done = ret->total - control_number(status, "dirty");
	ret->synced = !strcmp(state, "ready") ||
	              (!strcmp(state, "switched") && json_is_true(json_object_get(status, "revertible")));
	trouble = json_string_value(json_object_get(status, "trouble"));
	/* A lost target is tried again for as long as it takes. */
	if (!strcmp(state, "failed") || !strcmp(state, "cancelled"))
		snprintf(ret->trouble, sizeof(ret->trouble), "the mirror is %s%s%.200s", state,
		    trouble ? ": " : "", trouble ? trouble : "");
	json_decref(status);
	return 0;
}

static bool is_target(const json_t *status)
{
	return !strcmp(control_string(status, "authoritative"), "target");
}

static int target_counts(
    const struct move_mirror *engine, const struct move *move, bool *ret, struct error *error)
{
	json_t *status = ask_status(engine, move, error);

	if (!status)
		return error_prefix(error, "the mirror cannot be asked");
	*ret = is_target(status);
	json_decref(status);
	return 0;
}

/* 0: it is done, -EAGAIN: not yet. LVM's metadata may name the leg that is to count: what keeps the order waiting may take long. */
static int look_at_order(const struct move_mirror *engine, const struct move *move, const json_t *status,
    const char *name, json_int_t number, struct error *error)
{
	const json_t *order = json_object_get(status, "order");
	const char *waits = control_string(order, "waits");
	int res = control_order(order, number);

	if (res == -EBUSY)
		return error_set(error, res, "another order to the mirror %s has taken the place of %s",
		    engine->name, name);
	if (res == -EIO)
		return error_set(error, res, "%s of the mirror %s failed: %s", name, engine->name,
		    control_string(order, "error"));
	if (res == -EAGAIN && *waits && strcmp(waits, "?") && !strcmp(name, "cutover"))
		return error_set(error, -EIO,
		    "the mirror %s cannot be switched now: %s; `blkmove move --resume %s` tries again",
		    engine->name, waits, move_get_record(move)->device);
	return res;
}

static int wait_for(struct move_mirror *engine, const struct move *move, const char *name, json_int_t number,
    struct error *error)
{
	const struct timespec pause = {.tv_nsec = POLL_NS};

	for (unsigned waited_ms = 0; waited_ms < ORDER_MS; waited_ms += 50) {
		json_t *status = ask_status(engine, move, error);
		int res = status ? look_at_order(engine, move, status, name, number, error) : error->code;

		json_decref(status);
		if (res != -EAGAIN)
			return res;
		nanosleep(&pause, NULL);
	}
	return error_set(error, -ETIMEDOUT, "%s of the mirror %s did not come to an end", name, engine->name);
}

/* A cutover that nobody waits for any more is carried out all the same, as soon as it can be. */
static bool stands(const json_t *status)
{
	const json_t *order = json_object_get(status, "order");

	return !strcmp(control_string(order, "name"), "cutover") &&
	       !strcmp(control_string(order, "state"), "running");
}

/* The order, unless it was carried out already. A mirror that was killed and began again is paused until now: it would never be in step. */
static int order(struct move_mirror *engine, struct move *move, const char *name, bool target_is_to_count,
    struct error *error)
{
	json_t *status = ask_status(engine, move, error), *reply;
	bool counts, standing;
	json_int_t number;
	int res;

	if (!status)
		return error_prefix(error, "the mirror cannot be asked");
	counts = is_target(status);
	standing = stands(status);
	json_decref(status);
	if (counts == target_is_to_count && (target_is_to_count || !standing))
		return 0;
	reply = ask(engine, name, error);
	if (!reply)
		return error->code;
	number = json_integer_value(json_object_get(reply, "number"));
	json_decref(reply);
	res = mirror_sync(engine, move, error);
	return res == 0 ? wait_for(engine, move, name, number, error) : res;
}

static int mirror_cut(void *data, struct move *move, struct error *error)
{
	return order(data, move, "cutover", true, error);
}

static int mirror_uncut(void *data, struct move *move, struct error *error)
{
	return order(data, move, "revert", false, error);
}

static int mirror_leave(void *data, struct move *move, struct error *error)
{
	bool counts = false;
	int res = target_counts(data, move, &counts, error);

	if (res == 0 && !counts)
		res = error_set(error, -EIO, "the mirror has not been switched");
	return res;
}

static int end_process(const struct move_mirror *engine, const struct move *move, struct error *error)
{
	const struct timespec pause = {.tv_nsec = POLL_NS};
	json_t *status = ask_status(engine, move, error);
	pid_t pid = (pid_t)control_number(status, "pid");
	char path[128];

	json_decref(status);
	if (!status)
		return 0;
	kill(pid, SIGTERM);
	snprintf(path, sizeof(path), DEVICE_FOLDER "/%s", engine->name);
	for (unsigned waited_ms = 0; waited_ms < END_MS; waited_ms += 50) {
		if (kill(pid, 0) < 0 && access(path, F_OK) < 0)
			return 0;
		nanosleep(&pause, NULL);
	}
	return error_set(
	    error, -EBUSY, "the mirror's process %d does not end; is %s still in use?", (int)pid, path);
}

static int mirror_remove(void *data, struct move *move, struct error *error)
{
	struct move_mirror *engine = data;
	const char *words[2] = {NULL, engine->name};
	bool counts = false;
	int res;

	name_mirror(engine, move);
	res = runs(engine, move, error);
	/* There is none of this move, and another's is left alone. */
	if (res <= 0 && !is_known(engine))
		return 0;
	/* Killed: only a running one can take its device away. */
	if (res == 0)
		res = resume(engine, error);
	/* It had ended when it was killed, and was to be forgotten only. */
	if (res < 0 && !is_known(engine))
		return 0;
	if (res >= 0 && is_known(engine)) {
		res = target_counts(engine, move, &counts, error);
		words[0] = counts ? "finish" : "abort";
		if (res == 0)
			res = run_self(words, 2, error);
	}
	return res >= 0 ? end_process(engine, move, error) : res;
}

static int mirror_was_cut(void *data, struct move *move, bool *ret, bool *ret_both, struct error *error)
{
	name_mirror(data, move);
	return move_mirror_target_counted(data, ret, ret_both, error);
}

static int mirror_forget(void *data, struct move *move, struct error *error)
{
	struct move_mirror *engine = data;
	char name[100], state_dir[4200];
	const char *words[] = {"mirror", name, state_dir};

	name_mirror(engine, move);
	if (!is_known(engine))
		return 0;
	snprintf(name, sizeof(name), "--forget=%s", engine->name);
	snprintf(state_dir, sizeof(state_dir), "--state-dir=%s", engine->state_dir);
	return run_self(words, 3, error);
}

const struct move_engine move_mirror_engine = {
    .name = "blkmove",
    .switches = true,
    .make = mirror_make,
    .sync = mirror_sync,
    .look = mirror_look,
    .cut = mirror_cut,
    .uncut = mirror_uncut,
    .leave = mirror_leave,
    .remove = mirror_remove,
    .was_cut = mirror_was_cut,
    .forget = mirror_forget,
};
