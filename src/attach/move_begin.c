/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is looked at before anything is changed: see move_begin(). */
#include "attach/move_private.h"

#include "base/cleanup.h"
#include "block/inspect.h"
#include "block/sysfs.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int backing_sectors(void *data, dev_t device, uint64_t *ret)
{
	char line[32];
	int res = sysfs_device_line(device, "size", line, sizeof(line));

	if (res == 0)
		*ret = strtoull(line, NULL, 10);
	((struct move *)data)->record.old_device = device;
	return res;
}

/* A key may be in a keyring of a process that has ended, as cryptsetup does it: then no table can be loaded in this one's place. */
static int look_at_key(const char *name, struct error *error)
{
	struct dm_table table;
	struct error ignored;
	int res = dm_get_table(name, true, &table, error);

	if (res < 0)
		return res;
	res = dm_load(name, true, &table, error);
	dm_table_wipe(&table);
	dm_clear(name, &ignored);
	if (res == -ENOKEY)
		return error_set(error, -EOPNOTSUPP,
		    "the key of %s is in a keyring that cannot be reached any more, so no other table can be "
		    "loaded for "
		    "it: run `cryptsetup refresh --disable-keyring %s`, while it stays in use, and move it "
		    "then",
		    name, name);
	return res < 0 ? error_prefix(error, "the table of %s cannot be loaded once more", name) : 0;
}

static int look_at_device(struct move *move, const struct dm_facts *facts, struct error *error)
{
	struct move_record *record = &move->record;
	struct dm_table table;
	struct move_plan plan;
	int res;

	if (facts->suspended || !facts->live_table)
		return error_set(error, -EBUSY,
		    "%s is suspended, or has no table; run `dmsetup resume %s` first", facts->name,
		    facts->name);
	snprintf(record->device, sizeof(record->device), "%s", facts->name);
	snprintf(record->uuid, sizeof(record->uuid), "%s", facts->uuid);
	res = dm_get_table(facts->name, false, &table, error);
	if (res < 0)
		return res;
	res = move_plan_make(&plan, &table, backing_sectors, move, error);
	dm_table_done(&table);
	if (res < 0)
		return error_prefix(error, "cannot move %s", facts->name);
	record->kind = plan.kind;
	record->sectors = plan.sectors;
	if (plan.kind == MOVE_CONTENT) {
		record->old = plan.leg;
		plan.leg = (struct dm_table){0};
	}
	move_plan_done(&plan);
	return record->kind == MOVE_BACKING ? look_at_key(facts->name, error) : 0;
}

/* Whoever has it would write beside us: a claim of device-mapper's does not keep its own devices out. */
static int look_at_target(struct move *move, struct error *error)
{
	struct move_record *record = &move->record;
	struct sysfs_devices above = {0};
	uint64_t sectors;
	dev_t device;
	/* One that it was before, if there was one. */
	int res = record->target_id[0] ? move_stat_target(move, &device, &sectors, error)
	                               : move_stat_device(record->target, &device, &sectors, error);

	if (res < 0)
		return res;
	inspect_device_id(device, record->target_id, sizeof(record->target_id));
	if (sectors < record->sectors)
		return error_set(error, -EINVAL,
		    "%s has %llu bytes, and %llu are to be moved; take a larger one", record->target,
		    (unsigned long long)sectors * 512, (unsigned long long)record->sectors * 512);
	sysfs_add_above(&above, device);
	if (above.count > 1) {
		char name[64];

		sysfs_device_name(above.devices[1], name, sizeof(name));
		return error_set(error, -EBUSY, "%s is in use by %s; end that first", record->target, name);
	}
	if (record->kind == MOVE_BACKING && device == record->old_device)
		return error_set(error, -EINVAL, "%s lies on %s already", record->device, record->target);
	return 0;
}

/* A volume of LVM's is found by LVM's metadata after a restart: they must come to tell the truth. */
static int look_at_lvm(struct move *move, bool remote, bool forget_at_boot, struct error *error)
{
	struct move_record *record = &move->record;
	struct lvm_pair pair = {0};
	_cleanup_(cleanup_free) char *text = NULL;
	_cleanup_(cleanup_free) char *changed = NULL;
	char target_group[LVM_NAME_MAX];
	struct dm_facts facts;
	struct error ignored;
	int res;

	if (!lvm_name(record->device, record->uuid, pair.group, pair.moved))
		return 0;
	/* Its table is swapped under that lock, also where its metadata stay as they are. */
	res = lvm_check_locks(error);
	if (res == 0)
		res = lvm_read(pair.group, &text, error);
	if (res == 0)
		res = lvm_check_group(text, pair.group, error);
	if (res < 0)
		return res;
	if (remote || dm_look_path(record->target, &facts, &ignored) < 0 ||
	    !lvm_name(facts.name, facts.uuid, target_group, pair.target) ||
	    strcmp(target_group, pair.group)) {
		if (forget_at_boot)
			return 0;
		return error_set(error, -EOPNOTSUPP,
		    "%s is a volume of LVM's group %s, and after a restart LVM would find the old data: name "
		    "a "
		    "volume of the same group as the new one (lvcreate -n NEW -L SIZE %s PV), or say "
		    "--until-restart",
		    record->device, pair.group, pair.group);
	}
	res = lvm_exchange_text(text, &pair, &changed, error);
	if (res == 0)
		res = lvm_first(
		    text, pair.group, pair.moved, record->lvm_first, sizeof(record->lvm_first), error);
	if (res == 0)
		res = dm_get_table(facts.name, false, &record->last, error);
	/* By the kernel, too: what it has more than the pieces would be written, and then left behind. */
	if (res == 0 && !dm_table_is_plain(&record->last))
		res = error_set(error, -EOPNOTSUPP,
		    "%s is more than a row of pieces (its table has a target %s): snapshots of it would be "
		    "filled, and lose their origin; remove them first, or name another volume",
		    record->target, record->last.count ? record->last.targets[0].type : "of no kind");
	if (res == 0)
		record->lvm = pair;
	return res;
}

static int note_target(struct move *move, const char *target, bool remote, struct error *error)
{
	struct move_record *record = &move->record;
	char path[PATH_MAX];
	const char *word = target;

	/* Not resolved: /dev/vg/lv leads to the same volume tomorrow, /dev/dm-3 need not. */
	if (!remote && target[0] != '/') {
		if (!realpath(target, path))
			return error_set(error, -errno, "cannot find %s: %s", target, strerror(errno));
		word = path;
	}
	if (snprintf(record->target, sizeof(record->target), "%s", word) >= (int)sizeof(record->target))
		return error_set(error, -ENAMETOOLONG, "the target's name is too long");
	return 0;
}

static int look(struct move *move, const struct dm_facts *facts, bool forget_at_boot, struct error *error)
{
	bool remote = move_is_remote(move);
	int res = look_at_device(move, facts, error);

	if (res == 0)
		res = move_name_legs(move, error);
	if (res == 0 && !remote)
		res = look_at_target(move, error);
	return res == 0 ? look_at_lvm(move, remote, forget_at_boot, error) : res;
}

int move_look_again(struct move *move, struct error *error)
{
	struct move_record *record = &move->record, before = *record;
	struct dm_facts facts;
	int res = dm_look(record->device, &facts, error);

	if (res < 0)
		return error_prefix(error,
		    "the machine was started anew since, and %s is not there: set it up", record->device);
	record->old = record->last = (struct dm_table){0};
	record->note = 0;
	record->led = false;
	res = look(move, &facts, !before.lvm.group[0], error);
	move_record_done(&before);
	if (res == 0 && (record->kind != before.kind || record->sectors != before.sectors))
		res = error_set(error, -EXDEV,
		    "%s is another device, or of another size, since the machine was started anew: `blkmove "
		    "move "
		    "--undo %s` forgets the move",
		    record->device, record->device);
	return res;
}

static int begin(struct move *move, const char *device, const char *target, bool remote, bool forget_at_boot,
    struct error *error)
{
	struct move_record *record = &move->record;
	struct dm_facts facts;
	int res = dm_check(error);

	snprintf(record->engine, sizeof(record->engine), "%s", move->options.engine->name);
	if (res == 0)
		res = dm_look_path(device, &facts, error);
	if (res == 0)
		res = note_target(move, target, remote, error);
	if (res == 0)
		res = look(move, &facts, forget_at_boot, error);
	if (res == 0)
		res = move_folder_open(&move->folder, move->options.state_dir, record->device, true, error);
	if (res == 0)
		res = move_record_save(record, &move->folder, error);
	return res;
}

int move_begin(struct move **ret, const char *device, const char *target, bool remote, bool forget_at_boot,
    const struct move_options *options, struct error *error)
{
	struct move *move = calloc(1, sizeof(*move));
	int res;

	if (!move)
		return error_set(error, -ENOMEM, "cannot begin a move: out of memory");
	move->options = *options;
	move->folder.fd = -1;
	move->fresh = true;
	res = begin(move, device, target, remote, forget_at_boot, error);
	if (res < 0)
		move_free(move);
	else
		*ret = move;
	return res;
}

/* "/dev/vg/lv", "/dev/mapper/x" and "x": after a restart the device may not be there. */
static void record_name(const char *device, char *ret)
{
	const char *slash = strrchr(device, '/');
	struct dm_facts facts;
	struct error ignored;

	if (slash && dm_look_path(device, &facts, &ignored) == 0)
		snprintf(ret, DM_NAME_MAX, "%s", facts.name);
	else
		snprintf(ret, DM_NAME_MAX, "%s", slash ? slash + 1 : device);
}

static int load(struct move *move, const char *device, struct error *error)
{
	char name[DM_NAME_MAX];
	int res;

	record_name(device, name);
	res = move_folder_open(&move->folder, move->options.state_dir, name, false, error);
	if (res == 0)
		res = move_record_load(&move->record, &move->folder, error);
	if (res == 0)
		res = move_name_legs(move, error);
	return res;
}

int move_engine_of(const char *device, const char *state_dir, char ret[16], struct error *error)
{
	struct move move = {.options.state_dir = state_dir, .folder.fd = -1};
	int res = load(&move, device, error);

	if (res == 0)
		snprintf(ret, 16, "%s", move.record.engine);
	move_record_done(&move.record);
	move_folder_close(&move.folder);
	return res;
}

/*
 * Killed while it swapped a table, it left the device waiting, with a table that is not to come by itself. The live one counts. Not so for one of LVM's
 * commands between its own load and resume: what it has loaded is to come, and does so before its lock is free.
 */
static int drop_half_a_swap(const struct move_record *record, struct error *error)
{
	char group[LVM_NAME_MAX], volume[LVM_NAME_MAX];
	_cleanup_(cleanup_close) int lock = -1;
	struct dm_facts facts;
	int res;

	if (lvm_name(record->device, record->uuid, group, volume)) {
		lock = lvm_lock_soon(group, error);
		if (lock < 0)
			return error_prefix(error,
			    "a table waits for %s, and one of LVM's commands may have loaded it; let "
			    "that end; if it waits for %s itself, `dmsetup clear %s` and "
			    "`dmsetup resume %s` first",
			    record->device, record->device, record->device, record->device);
	}
	res = dm_look(record->device, &facts, error);
	if (res == 0 && facts.inactive_table)
		res = dm_clear(facts.name, error);
	return res == 0 && facts.suspended ? dm_resume(facts.name, error) : res;
}

int move_continue(
    struct move **ret, const char *device, const struct move_options *options, struct error *error)
{
	struct move *move = calloc(1, sizeof(*move));
	struct dm_facts facts;
	struct error ignored;
	int res;

	if (!move)
		return error_set(error, -ENOMEM, "cannot go on with a move: out of memory");
	move->options = *options;
	move->folder.fd = -1;
	res = load(move, device, error);
	if (res == 0 && dm_look(move->record.device, &facts, &ignored) == 0) {
		if (strcmp(facts.uuid, move->record.uuid))
			res = error_set(error, -EXDEV,
			    "%s is another device now than when its move began: if that one is gone for "
			    "good, remove the folder %s, which is all that is known of it",
			    move->record.device, move->folder.path);
		else if ((facts.inactive_table || facts.suspended) && !move_is_restarted(move))
			res = drop_half_a_swap(&move->record, error);
	}
	if (res < 0) {
		move_free(move);
		return res;
	}
	move_find_legs(move);
	*ret = move;
	return 0;
}
