/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A move's record: see move_record.h. */
#include "attach/move_record.h"

#include "base/cleanup.h"
#include "base/folder.h"
#include "block/sysfs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#define FILE_NAME "record.json"
#define VERSION   1
#define LOOK_NS   5000000L
#define LOOKS     20u

static const char *const phase_names[MOVE_PHASES] = {"syncing", "switched", "finishing", "undoing"};

const char *move_phase_name(enum move_phase phase)
{
	return phase < MOVE_PHASES ? phase_names[phase] : "?";
}

/* Whoever merely looks at the record holds it for a moment. */
static int lock(int fd)
{
	const struct timespec pause = {.tv_nsec = LOOK_NS};
	int res = flock(fd, LOCK_EX | LOCK_NB);

	for (unsigned i = 0; i < LOOKS && res < 0 && errno == EWOULDBLOCK; i++) {
		nanosleep(&pause, NULL);
		res = flock(fd, LOCK_EX | LOCK_NB);
	}
	return res;
}

int move_folder_open(
    struct move_folder *ret, const char *state_dir, const char *name, bool create, struct error *error)
{
	struct move_folder folder = {.fd = -1};
	bool exists;
	int res;

	if (snprintf(folder.path, sizeof(folder.path), "%s/moves/%s", state_dir, name) >=
	    (int)sizeof(folder.path))
		return error_set(error, -ENAMETOOLONG, "the name of the state folder is too long");
	res = create ? folder_make(folder.path) : 0;
	if (res == 0)
		folder.fd = open(folder.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (res == 0 && folder.fd < 0)
		res = -errno;
	if (res < 0)
		return create
		           ? error_set(error, res, "cannot make %s: %s; name another folder with --state-dir",
		                 folder.path, strerror(-res))
		           : error_set(error, res, "no move of %s is known in %s; look into --state-dir",
		                 name, folder.path);
	if (lock(folder.fd) < 0)
		res = error_set(
		    error, -EALREADY, "another process moves %s; let it end, or end it, first", name);
	exists = faccessat(folder.fd, FILE_NAME, F_OK, 0) == 0;
	if (res == 0 && create && exists)
		res = error_set(error, -EEXIST,
		    "a move of %s has not ended: `blkmove move --resume %s` goes on with it, `--undo` leads "
		    "it back",
		    name, name);
	else if (res == 0 && !create && !exists)
		res = error_set(error, -ENOENT, "no move of %s is under way", name);
	if (res < 0)
		move_folder_close(&folder);
	else
		*ret = folder;
	return res;
}

void move_folder_close(struct move_folder *folder)
{
	cleanup_close(&folder->fd);
	folder->fd = -1;
}

enum move_counts move_record_after_restart(const struct move_record *record, bool switches)
{
	if (record->phase != MOVE_SWITCHED && record->phase != MOVE_FINISHING)
		return MOVE_OLD_COUNTS;
	if (record->lvm.group[0])
		return MOVE_LVM_KNOWS;
	if (record->phase == MOVE_FINISHING)
		return MOVE_NEW_COUNTS;
	/* No leg counts more to one that does not switch, and who owns the device has led it to the old one. */
	return switches ? MOVE_ENGINE_KNOWS : MOVE_OLD_COUNTS;
}

bool move_record_is_of_another_boot(const struct move_record *record)
{
	char boot[sizeof(record->boot)];

	sysfs_boot_id(boot, sizeof(boot));
	return strcmp(boot, record->boot) != 0;
}

static json_t *table_json(const struct dm_table *table)
{
	json_t *json = json_array();

	for (size_t i = 0; i < table->count; i++) {
		const struct dm_target *target = &table->targets[i];

		json_array_append_new(json, json_pack("[I, I, s, s]", (json_int_t)target->start,
		                                (json_int_t)target->length, target->type, target->params));
	}
	return json;
}

static int parse_table(json_t *json, struct dm_table *ret)
{
	json_t *row;
	size_t i;

	if (!json_is_array(json))
		return -EBADMSG;
	json_array_foreach(json, i, row)
	{
		json_int_t start, length;
		const char *type, *params;

		if (json_unpack(row, "[I, I, s, s]", &start, &length, &type, &params) < 0)
			return -EBADMSG;
		if (dm_table_add(ret, (uint64_t)start, (uint64_t)length, type, params) < 0)
			return -ENOMEM;
	}
	return 0;
}

static json_t *record_json(const struct move_record *record)
{
	return json_pack(
	    "{s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:I, s:I, s:o, s:o, s:s, s:s, s:s, s:s, s:i, s:s, s:b}",
	    "version", VERSION, "phase", move_phase_name(record->phase), "engine", record->engine, "device",
	    record->device, "uuid", record->uuid, "target", record->target, "boot", record->boot, "kind",
	    record->kind, "sectors", (json_int_t)record->sectors, "old_device",
	    (json_int_t)record->old_device, "old", table_json(&record->old), "last",
	    table_json(&record->last), "lvm_group", record->lvm.group, "lvm_moved", record->lvm.moved,
	    "lvm_target", record->lvm.target, "lvm_first", record->lvm_first, "note", (int)record->note,
	    "target_id", record->target_id, "led", record->led);
}

int move_record_save(struct move_record *record, const struct move_folder *folder, struct error *error)
{
	sysfs_boot_id(record->boot, sizeof(record->boot));
	return move_record_decide(record, folder, error);
}

int move_record_decide(
    const struct move_record *record, const struct move_folder *folder, struct error *error)
{
	_cleanup_(cleanup_free) char *text = NULL;
	json_t *json = record_json(record);
	int res;

	text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
	json_decref(json);
	res = text ? folder_put(folder->fd, FILE_NAME, text) : -ENOMEM;
	return res < 0 ? error_set(error, res, "cannot write the move's record in %s: %s", folder->path,
	                     strerror(-res))
	               : 0;
}

static int parse_record(json_t *json, struct move_record *ret)
{
	const char *phase, *engine, *device, *uuid, *target, *boot, *group, *moved, *lvm_target, *first,
	    *target_id;
	json_int_t sectors, old_device;
	json_t *old, *last;
	int version, kind, note, led = true, res;

	if (json_unpack(json,
	        "{s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:I, s:I, s:o, s:o, s:s, s:s, s:s, s:s, s:i, s:s, "
	        "s?:b}",
	        "version", &version, "phase", &phase, "engine", &engine, "device", &device, "uuid", &uuid,
	        "target", &target, "boot", &boot, "kind", &kind, "sectors", &sectors, "old_device",
	        &old_device, "old", &old, "last", &last, "lvm_group", &group, "lvm_moved", &moved,
	        "lvm_target", &lvm_target, "lvm_first", &first, "note", &note, "target_id", &target_id, "led",
	        &led) < 0 ||
	    version != VERSION || (kind != MOVE_CONTENT && kind != MOVE_BACKING) || sectors <= 0)
		return -EBADMSG;
	while (ret->phase < MOVE_PHASES && strcmp(phase, phase_names[ret->phase]))
		ret->phase++;
	ret->note = (unsigned)note;
	ret->led = led;
	ret->kind = (enum move_kind)kind;
	ret->sectors = (uint64_t)sectors;
	ret->old_device = (dev_t)old_device;
	snprintf(ret->engine, sizeof(ret->engine), "%s", engine);
	snprintf(ret->device, sizeof(ret->device), "%s", device);
	snprintf(ret->uuid, sizeof(ret->uuid), "%s", uuid);
	snprintf(ret->target, sizeof(ret->target), "%s", target);
	snprintf(ret->target_id, sizeof(ret->target_id), "%s", target_id);
	snprintf(ret->boot, sizeof(ret->boot), "%s", boot);
	snprintf(ret->lvm.group, sizeof(ret->lvm.group), "%s", group);
	snprintf(ret->lvm.moved, sizeof(ret->lvm.moved), "%s", moved);
	snprintf(ret->lvm.target, sizeof(ret->lvm.target), "%s", lvm_target);
	snprintf(ret->lvm_first, sizeof(ret->lvm_first), "%s", first);
	res = parse_table(old, &ret->old);
	if (res == 0)
		res = parse_table(last, &ret->last);
	return res == 0 && ret->phase == MOVE_PHASES ? -EBADMSG : res;
}

int move_record_load(struct move_record *ret, const struct move_folder *folder, struct error *error)
{
	struct move_record record = {0};
	char path[600];
	json_t *json;
	int res;

	snprintf(path, sizeof(path), "%s/" FILE_NAME, folder->path);
	json = json_load_file(path, 0, NULL);
	res = json ? parse_record(json, &record) : -EBADMSG;
	json_decref(json);
	if (res < 0) {
		move_record_done(&record);
		return error_set(error, res,
		    "%s is damaged; look at `dmsetup table` to see where the device leads, and remove the "
		    "folder",
		    path);
	}
	*ret = record;
	return 0;
}

void move_record_forget(const struct move_folder *folder)
{
	unlinkat(folder->fd, FILE_NAME, 0);
	(void)fsync(folder->fd);
}

void move_record_done(struct move_record *record)
{
	dm_table_done(&record->old);
	dm_table_done(&record->last);
}

bool move_record_is_there(const char *state_dir, const char *name, const char *uuid)
{
	struct move_folder folder = {.fd = -1};
	char path[sizeof(folder.path) + sizeof(FILE_NAME)];
	struct move_record record;
	struct error ignored;
	bool same;

	snprintf(folder.path, sizeof(folder.path), "%s/moves/%s", state_dir, name);
	if (snprintf(path, sizeof(path), "%s/moves/%s/" FILE_NAME, state_dir, name) >= (int)sizeof(path) ||
	    access(path, F_OK) < 0)
		return false;
	if (move_record_load(&record, &folder, &ignored) < 0)
		return access(path, F_OK) == 0;
	/* Else of one that had its name, and is gone. */
	same = !strcmp(record.uuid, uuid);
	move_record_done(&record);
	return same;
}

static int is_move(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static void look_at_one(const char *state_dir, const char *name,
    void (*one)(void *data, const char *name, const struct move_record *record, const struct error *why),
    void *data)
{
	struct move_folder folder = {.fd = -1};
	struct move_record record;
	struct error why;

	if (snprintf(folder.path, sizeof(folder.path), "%s/moves/%s", state_dir, name) <
	    (int)sizeof(folder.path))
		folder.fd = open(folder.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	/* Who drives it has it locked; of one that has ended the folder stays. */
	if (folder.fd < 0 || flock(folder.fd, LOCK_SH | LOCK_NB) < 0 ||
	    faccessat(folder.fd, FILE_NAME, F_OK, 0) < 0) {
		move_folder_close(&folder);
		return;
	}
	if (move_record_load(&record, &folder, &why) == 0) {
		one(data, name, &record, NULL);
		move_record_done(&record);
	} else {
		one(data, name, NULL, &why);
	}
	move_folder_close(&folder);
}

void move_record_each(const char *state_dir,
    void (*one)(void *data, const char *name, const struct move_record *record, const struct error *why),
    void *data)
{
	struct dirent **entries = NULL;
	char path[sizeof(((struct move_folder *)NULL)->path)];
	int count;

	if (snprintf(path, sizeof(path), "%s/moves", state_dir) >= (int)sizeof(path))
		return;
	count = scandir(path, &entries, is_move, versionsort);
	for (int i = 0; i < count; i++) {
		look_at_one(state_dir, entries[i]->d_name, one, data);
		free(entries[i]);
	}
	free(entries);
}
