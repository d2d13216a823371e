/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The life of a series: see snapshot.h. The record says what is there before it is made, and until it is gone. */
#include "snapshot/snapshot_private.h"

#include "base/cleanup.h"
#include "base/crc32c.h"
#include "base/folder.h"
#include "block/dm.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

static const int to_ignore[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE};

void snapshot_say(struct snapshot *snapshot, const char *format, ...)
{
	char text[640];
	va_list args;

	if (!snapshot->options.say)
		return;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	snapshot->options.say(snapshot->options.data, text);
}

void snapshot_draw(char ret[SNAPSHOT_ID_LENGTH + 1])
{
	uint64_t bits = 0;

	while (getrandom(&bits, sizeof(bits), 0) != sizeof(bits))
		;
	snprintf(ret, SNAPSHOT_ID_LENGTH + 1, "%016" PRIx64, bits);
}

int snapshot_save(struct snapshot *snapshot, struct error *error)
{
	return snapshot_record_save(&snapshot->record, snapshot->folder_fd, snapshot->folder, error);
}

/* Of a volume of LVM's that is gone, by its record: its snapshots may be there still, to be removed. */
static bool find_series(struct snapshot *snapshot)
{
	const struct snapshot_options *options = &snapshot->options;
	struct snapshot_record record;
	char folder[sizeof(snapshot->folder)];
	struct error ignored;
	struct dirent *entry;
	bool found = false;
	DIR *dir;

	snprintf(folder, sizeof(folder), "%s/snapshots", options->state_dir);
	dir = opendir(folder);
	while (dir && !found && (entry = readdir(dir))) {
		if (snprintf(snapshot->folder, sizeof(snapshot->folder), "%s/%s", folder, entry->d_name) >=
		        (int)sizeof(snapshot->folder) ||
		    entry->d_name[0] == '.' ||
		    snapshot_record_load(&record, snapshot->folder, &ignored) < 0 || !record.id[0])
			continue;
		found = !strcmp(record.source, options->source) && !strcmp(record.target, options->target) &&
		        strcmp(record.kind, snapshot_dm.name) &&
		        lvm_split(record.device, snapshot->group, snapshot->volume);
	}
	if (dir)
		closedir(dir);
	if (!found) {
		snapshot->folder[0] = '\0';
		return false;
	}
	snapshot->kind = strcmp(record.kind, snapshot_thin.name) ? &snapshot_lvm : &snapshot_thin;
	snprintf(snapshot->record.device, DM_NAME_MAX, "%s", record.device);
	return true;
}

/* What the source is, and so how it is snapshotted. */
static int look_at_source(struct snapshot *snapshot, struct error *error)
{
	const char *path = snapshot->options.source;
	struct dm_volume table;
	struct error why;
	int res = dm_look_path(path, &snapshot->source, &why);

	if (res == -ENOENT && find_series(snapshot))
		return 0;
	if (res == -ENOENT && strncmp(path, "/dev/mapper/", 12) == 0) {
		/* Its snapshots may be there still, to be removed. */
		snprintf(snapshot->record.device, DM_NAME_MAX, "%s", path + 12);
		snapshot->kind = &snapshot_dm;
		return 0;
	}
	if (res == -ENOTBLK)
		return error_set(error, -EPERM,
		    "%s is no device of device-mapper's, and only of those (LVM's volumes among them) "
		    "snapshots "
		    "can be made; leave --snapshot out, and stop what writes to it",
		    path);
	if (res == 0)
		res = dm_table(snapshot->source.device, &table, &why);
	if (res < 0)
		return error_set(error, res, "%s", why.text);
	snprintf(snapshot->record.device, DM_NAME_MAX, "%s", snapshot->source.name);
	snapshot->kind = &snapshot_dm;
	if (lvm_name(snapshot->source.name, snapshot->source.uuid, snapshot->group, snapshot->volume))
		snapshot->kind = strcmp(table.type, "thin") ? &snapshot_lvm : &snapshot_thin;
	else if (strncmp(snapshot->source.uuid, "LVM-", 4) == 0)
		return error_set(error, -EPERM, "%s is a part of one of LVM's volumes; name that", path);
	if (strcmp(table.type, "snapshot") == 0)
		return error_set(
		    error, -EPERM, "%s is a snapshot itself, and stays as it is; leave --snapshot out", path);
	return 0;
}

static int open_folder(struct snapshot *snapshot, struct error *error)
{
	const struct dm_facts *source = &snapshot->source;
	char key[4096], name[17];

	/* A plain device's uuid may be none, or that of another one tomorrow. */
	snprintf(key, sizeof(key), "%s\n%s",
	    snapshot->kind == &snapshot_dm ? snapshot->record.device : source->uuid,
	    snapshot->options.target);
	if (!snapshot->folder[0] &&
	    snprintf(snapshot->folder, sizeof(snapshot->folder), "%s/snapshots/%s",
	        snapshot->options.state_dir, crc32c_name(key, name)) >= (int)sizeof(snapshot->folder))
		return error_set(error, -ENAMETOOLONG, "the name of the state folder is too long");
	snapshot->folder_fd = folder_lock(snapshot->folder, true);
	if (snapshot->folder_fd == -EALREADY)
		return error_set(error, -EALREADY,
		    "another process works with snapshots of %s for %s; let it end, or end it, first",
		    snapshot->options.source, snapshot->options.target);
	if (snapshot->folder_fd < 0)
		return error_set(error, snapshot->folder_fd,
		    "cannot open %s: %s; name another folder with --state-dir", snapshot->folder,
		    strerror(-snapshot->folder_fd));
	return 0;
}

/* Takes an earlier run's record over, or begins one. */
static int load(struct snapshot *snapshot, struct error *error)
{
	struct snapshot_record record;
	int res = snapshot_record_load(&record, snapshot->folder, error);

	if (res < 0)
		return res;
	if (!record.id[0]) {
		snapshot_draw(record.id);
	} else if (strcmp(record.target, snapshot->options.target)) {
		return error_set(error, -EEXIST,
		    "%s is of another target, %s; name another folder with --state-dir", snapshot->folder,
		    record.target);
	} else if (snapshot->kind == &snapshot_dm && snapshot_record_is_of_another_boot(&record)) {
		/* Its devices went with the boot, and nothing was tracked since. */
		record.base[0] = '\0';
	}
	record.fresh[0] = '\0';
	snprintf(record.kind, sizeof(record.kind), "%s", snapshot->kind->name);
	snprintf(record.source, sizeof(record.source), "%s", snapshot->options.source);
	snprintf(record.target, sizeof(record.target), "%s", snapshot->options.target);
	snprintf(record.device, sizeof(record.device), "%s", snapshot->record.device);
	snapshot->record = record;
	return 0;
}

int snapshot_open(struct snapshot **ret, const struct snapshot_options *options, struct error *error)
{
	struct snapshot *snapshot = calloc(1, sizeof(*snapshot));
	int res;

	if (!snapshot)
		return error_set(error, -ENOMEM, "cannot make a snapshot: out of memory");
	snapshot->options = *options;
	snapshot->folder_fd = -1;
	if (!snapshot->options.fill_max)
		snapshot->options.fill_max = SNAPSHOT_FILL_MAX;
	res = look_at_source(snapshot, error);
	if (res == 0)
		res = open_folder(snapshot, error);
	if (res == 0)
		res = load(snapshot, error);
	if (res == 0)
		res = snapshot_record_is_there(snapshot->folder) ? snapshot->kind->clear(snapshot, error) : 0;
	if (res < 0) {
		snapshot_close(snapshot);
		return res;
	}
	*ret = snapshot;
	return 0;
}

int snapshot_take(struct snapshot *snapshot, struct error *error)
{
	struct error why;
	int res;

	assert(!snapshot->record.fresh[0]);
	snapshot->overfull = false;
	res = snapshot->source.name[0]
	          ? snapshot_may_be(snapshot, error)
	          : error_set(error, -ENOENT, "there is no %s", snapshot->options.source);
	if (res == 0)
		res = snapshot->kind->prepare(snapshot, error);
	if (res == 0)
		res = snapshot_save(snapshot, error);
	if (res == 0)
		res = snapshot_take_moment(snapshot, error);
	if (res < 0 && snapshot->record.fresh[0] && snapshot_settle(snapshot, SNAPSHOT_KEEP_BASE, &why) < 0)
		snapshot_say(snapshot, "%s", why.text);
	return res;
}

const char *snapshot_path(const struct snapshot *snapshot)
{
	return snapshot->path;
}

const char *snapshot_base(const struct snapshot *snapshot)
{
	return snapshot->record.base[0] ? snapshot->record.base : NULL;
}

uint64_t snapshot_moment_ns(const struct snapshot *snapshot)
{
	return snapshot->moment_ns;
}

int snapshot_check(struct snapshot *snapshot, struct error *error)
{
	char what[200] = "the snapshot";
	struct error why;

	if (snapshot->kind->fill(snapshot, what, sizeof(what), &why) >= 0)
		return 0;
	snapshot->overfull = true;
	return error_set(
	    error, -ESTALE, "%s is of no use any more (%.160s); %s", what, why.text, snapshot->kind->advice);
}

int snapshot_watch(struct snapshot *snapshot, struct error *error)
{
	unsigned max = snapshot->options.fill_max;
	char what[200] = "the snapshot";
	struct error why;
	int fill = snapshot->kind->fill(snapshot, what, sizeof(what), &why);

	if (fill >= 0 && (unsigned)fill < max)
		return 0;
	snapshot->overfull = true;
	if (fill < 0)
		return error_set(error, -ENOSPC, "%s is of no use any more (%.200s), so this run ends; %s",
		    what, why.text, snapshot->kind->advice);
	return error_set(error, -ENOSPC,
	    "%s is %d %% full, and at %u %% the run ends, before it overflows; %s", what, fill, max,
	    snapshot->kind->advice);
}

void snapshot_watch_base(struct snapshot *snapshot)
{
	unsigned max = snapshot->options.fill_max;
	char what[200];
	struct error why;
	int fill;

	/* A store of its own gets full to nobody's harm. */
	if (!snapshot->kind->shared || !snapshot->pool || !snapshot->record.base[0] ||
	    snapshot->record.fresh[0])
		return;
	fill = snapshot->kind->fill(snapshot, what, sizeof(what), &why);
	if (fill < 0 || (unsigned)fill < max)
		return;
	snapshot_say(snapshot,
	    "%s is %d %% full, and at %u %% the base goes: what comes next compares everything; %s", what,
	    fill, max, snapshot->kind->advice);
	if (snapshot_settle(snapshot, SNAPSHOT_KEEP_NONE, &why) < 0)
		snapshot_say(snapshot, "%s", why.text);
}

int snapshot_settle(struct snapshot *snapshot, enum snapshot_keep keep, struct error *error)
{
	struct snapshot_record *record = &snapshot->record;
	struct error why;
	int res, cleared;

	if (snapshot->overfull && snapshot->kind->shared)
		keep = SNAPSHOT_KEEP_NONE;
	if (keep == SNAPSHOT_KEEP_FRESH)
		snprintf(record->base, sizeof(record->base), "%s", record->fresh);
	if (keep == SNAPSHOT_KEEP_NONE)
		record->base[0] = '\0';
	record->fresh[0] = '\0';
	if (!record->base[0] && !snapshot_record_is_there(snapshot->folder))
		return 0;
	/* Where this fails the record still names the older base, or none: then the next run keeps nothing that is not there. */
	res = snapshot_save(snapshot, error);
	cleared = snapshot->kind->clear(snapshot, &why);
	if (cleared < 0)
		return error_set(error, cleared, "%.300s; the next run tries again", why.text);
	if (!record->base[0])
		snapshot_record_forget(snapshot->folder_fd);
	return record->base[0] ? res : 0;
}

void snapshot_settle_later(struct snapshot *snapshot, enum snapshot_keep keep)
{
	struct error ignored;
	pid_t parent = getpid();

	if (fork() != 0)
		return;
	setsid();
	for (size_t i = 0; i < sizeof(to_ignore) / sizeof(to_ignore[0]); i++)
		signal(to_ignore[i], SIG_IGN);
	dm_release();
	/* Else the child itself would have it open. */
	if (snapshot->folder_fd > 3)
		close_range(3, (unsigned)snapshot->folder_fd - 1, 0);
	close_range((unsigned)snapshot->folder_fd + 1, UINT_MAX, 0);
	while (getppid() == parent)
		usleep(10000);
	(void)snapshot_settle(snapshot, keep, &ignored);
	_exit(0);
}

struct snapshot *snapshot_close(struct snapshot *snapshot)
{
	if (!snapshot)
		return NULL;
	snapshot_guard_end(&snapshot->guard);
	/* Empty, unless there is a record. */
	if (snapshot->folder_fd >= 0)
		rmdir(snapshot->folder);
	cleanup_close(&snapshot->folder_fd);
	free(snapshot);
	return NULL;
}
