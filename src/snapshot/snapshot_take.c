/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The moment of a snapshot and what surrounds it: hooks and frozen file systems, each undone whatever happens. See snapshot.h. */
#include "attach/move.h"
#include "base/cleanup.h"
#include "block/inspect.h"
#include "snapshot/snapshot_private.h"
#include "wire/child.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HOOK_WORDS_MAX 12u
#define HOOK_LOOK_MS   200u

/* A hook as a command line: env NAME=VALUE... sh -c COMMAND. */
struct hook {
	char *words[HOOK_WORDS_MAX];
	unsigned count;
};

static void hook_add(struct hook *hook, const char *name, const char *value)
{
	char *word = NULL;

	if (asprintf(&word, "%s%s%s", name, *name ? "=" : "", value) >= 0)
		hook->words[hook->count++] = word;
}

static void hook_done(struct hook *hook)
{
	while (hook->count > 0)
		free(hook->words[--hook->count]);
}

static void hook_init(struct hook *hook, const struct snapshot *snapshot, bool after, const char *result)
{
	*hook = (struct hook){0};
	hook_add(hook, "", "env");
	hook_add(hook, "BLKMOVE_HOOK", after ? "after" : "before");
	hook_add(hook, "BLKMOVE_SOURCE", snapshot->options.source);
	hook_add(hook, "BLKMOVE_TARGET", snapshot->options.target);
	hook_add(hook, "BLKMOVE_SNAPSHOT", snapshot->path);
	hook_add(hook, "BLKMOVE_BASE", snapshot->record.base);
	hook_add(hook, "BLKMOVE_RESULT", result);
	hook_add(hook, "", "sh");
	hook_add(hook, "", "-c");
	hook_add(hook, "", after ? snapshot->options.after : snapshot->options.before);
}

/* What it prints is for the user: not among the events. The one after is waited for, come what may. */
static int hook_run(struct snapshot *snapshot, struct hook *hook, bool after, struct error *error)
{
	_cleanup_(cleanup_close) int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	const char *name = after ? "after" : "before";
	struct ring *ring = snapshot->options.ring;
	struct child child;
	int res =
	    child_start_group(&child, hook->words, (const int[3]){null, STDERR_FILENO, STDERR_FILENO}, error);
	bool stopped = false;

	if (res < 0)
		return res;
	while (!stopped && !child_wait(&child, ring, HOOK_LOOK_MS))
		stopped = !after && snapshot->options.stopping &&
		          snapshot->options.stopping(snapshot->options.data);
	child_end(&child, ring);
	if (stopped)
		return error_set(error, -ECANCELED, "interrupted while the hook %s the snapshot ran", name);
	if (child.status == 0)
		return 0;
	return error_set(error, -EPERM, "the hook %s the snapshot failed (%s %d): %.200s", name,
	    WIFEXITED(child.status) ? "exit code" : "signal",
	    WIFEXITED(child.status) ? WEXITSTATUS(child.status) : WTERMSIG(child.status),
	    hook->words[hook->count - 1]);
}

/* File systems to freeze. */

struct finding {
	struct snapshot *snapshot;
	dev_t file_systems[SNAPSHOT_GUARD_MOUNTS_MAX];
	struct error *error;
	int res;
};

/* What writes while it is frozen would wait for itself: LVM its archive, we our record. */
static bool is_needed(const struct snapshot *snapshot, dev_t file_system, const char **ret)
{
	const char *const needed[] = {"/", "/etc/lvm", snapshot->options.state_dir};

	for (unsigned i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
		struct stat facts;

		*ret = needed[i];
		if (stat(needed[i], &facts) == 0 && facts.st_dev == file_system)
			return true;
	}
	return false;
}

static int open_mount(struct finding *finding, const char *where)
{
	struct snapshot_guard *guard = &finding->snapshot->guard;
	const char *needed;
	struct stat facts;
	int fd = open(where, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	unsigned i;

	if (fd < 0 || fstat(fd, &facts) < 0) {
		int code = errno;

		cleanup_close(&fd);
		return error_set(
		    finding->error, -code, "cannot open %s to freeze it: %s", where, strerror(code));
	}
	for (i = 0; i < guard->mounts_count; i++)
		if (finding->file_systems[i] == facts.st_dev)
			break;
	if (i < guard->mounts_count) {
		close(fd);
		return 0;
	}
	if (i == SNAPSHOT_GUARD_MOUNTS_MAX || is_needed(finding->snapshot, facts.st_dev, &needed)) {
		close(fd);
		return i == SNAPSHOT_GUARD_MOUNTS_MAX
		           ? error_set(finding->error, -EPERM,
		                 "there are too many file systems above %s to freeze",
		                 finding->snapshot->options.source)
		           : error_set(finding->error, -EPERM,
		                 "%s cannot be frozen, as %s, which is needed meanwhile, is on it; leave "
		                 "--freeze out",
		                 where, needed);
	}
	finding->file_systems[i] = facts.st_dev;
	guard->mounts[guard->mounts_count++] = fd;
	return 0;
}

static void found_mount(void *data, const char *where, dev_t on)
{
	struct finding *finding = data;

	/* Its own is frozen by the suspension, which would fail if it were frozen already. */
	if (finding->res == 0 && on != finding->snapshot->source.device)
		finding->res = open_mount(finding, where);
}

static void close_mounts(struct snapshot_guard *guard)
{
	while (guard->mounts_count > 0)
		close(guard->mounts[--guard->mounts_count]);
}

static int find_mounts(struct snapshot *snapshot, struct error *error)
{
	struct finding finding = {.snapshot = snapshot, .error = error};

	inspect_mounts(snapshot->source.device, found_mount, &finding);
	if (finding.res < 0)
		return finding.res;
	if (snapshot->guard.mounts_count == 0)
		snapshot_say(snapshot,
		    "--freeze: no file system is mounted from a device above %s; one that lies on it itself "
		    "is "
		    "frozen anyway",
		    snapshot->options.source);
	return 0;
}

/* The moment */

static void sync_mount(void *data, const char *where, dev_t on)
{
	const struct snapshot *snapshot = data;
	_cleanup_(cleanup_close) int fd =
	    on == snapshot->source.device ? open(where, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;

	if (fd >= 0)
		(void)syncfs(fd);
}

/* The moment freezes what lies directly on the source: most is written out while nobody waits. */
static void sync_own_mount(struct snapshot *snapshot)
{
	inspect_mounts(snapshot->source.device, sync_mount, snapshot);
}

int snapshot_may_be(const struct snapshot *snapshot, struct error *error)
{
	const char *device = snapshot->record.device;
	char leg[DM_NAME_MAX + 16];
	struct dm_facts facts;
	struct error ignored;

	snprintf(leg, sizeof(leg), "%s" MOVE_DEVICE_SUFFIX "old", device);
	/* Or it is in another state folder. */
	if (!move_record_is_there(snapshot->options.state_dir, device, snapshot->source.uuid) &&
	    dm_look(leg, &facts, &ignored) < 0)
		return 0;
	return error_set(error, -EPERM,
	    "%s is being moved, and a snapshot would lead it past the mirror of its move: let that end first "
	    "(`blkmove status` tells of it; `blkmove move --resume %s` or `--undo` ends it)",
	    snapshot->options.source, device);
}

/* Both: the snapshot and the thaw; the first error counts. */
static int make(struct snapshot *snapshot, struct error *error)
{
	struct snapshot_guard *guard = &snapshot->guard;
	struct error why;
	/* It may have begun since, for instance while a hook ran. */
	int res = snapshot_may_be(snapshot, error), thawed;

	if (res < 0)
		return res;
	sync_own_mount(snapshot);
	res = guard->mounts_count ? snapshot_guard_freeze(guard, error) : 0;
	if (res == 0)
		res = snapshot->kind->make(snapshot, error);
	snapshot->moment_ns = ring_now_ns(snapshot->options.ring);
	thawed = snapshot_guard_thaw(guard, &why);
	if (res == 0 && thawed < 0) {
		*error = why;
		res = thawed;
	}
	return res;
}

/* The hook after runs if the one before has begun. */
static int take_between_hooks(struct snapshot *snapshot, struct error *error)
{
	const struct snapshot_options *options = &snapshot->options;
	struct error why;
	struct hook hook;
	int res = 0, ended;

	if (options->after)
		res = snapshot_guard_owes_hook(&snapshot->guard, true, error);
	if (res < 0)
		return res;
	if (options->before) {
		hook_init(&hook, snapshot, false, "");
		res = hook_run(snapshot, &hook, false, error);
		hook_done(&hook);
	}
	if (res == 0)
		res = make(snapshot, error);
	if (!options->after)
		return res;
	hook_init(&hook, snapshot, true, res == 0 ? "taken" : "failed");
	ended = hook_run(snapshot, &hook, true, &why);
	hook_done(&hook);
	(void)snapshot_guard_owes_hook(&snapshot->guard, false, NULL);
	if (ended < 0 && res < 0)
		snapshot_say(snapshot, "%s", why.text);
	/* What was quiesced may be so still: nobody must overlook it. */
	if (ended < 0 && res == 0)
		res = error_set(error, -EIO, "%s", why.text);
	return res;
}

int snapshot_take_moment(struct snapshot *snapshot, struct error *error)
{
	struct snapshot_guard *guard = &snapshot->guard;
	struct hook orphan = {0};
	int res = snapshot->kind->ready ? snapshot->kind->ready(snapshot, error) : 0;

	*guard = (struct snapshot_guard){.fd = -1, .device = snapshot->source.name};
	if (res == 0 && snapshot->options.freeze)
		res = find_mounts(snapshot, error);
	if (snapshot->options.after) {
		hook_init(&orphan, snapshot, true, "killed");
		guard->hook = orphan.words;
	}
	if (res == 0)
		res = snapshot_guard_start(guard, error);
	/* Also before somebody holds still for us. */
	if (res == 0 && snapshot->options.before)
		sync_own_mount(snapshot);
	if (res == 0)
		res = take_between_hooks(snapshot, error);
	snapshot_guard_end(guard);
	close_mounts(guard);
	hook_done(&orphan);
	return res;
}
