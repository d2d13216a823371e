/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Devices and tables of a move: see move.h. The kernel is asked each time; nothing is believed that a killed process may have changed. */
#include "attach/move_private.h"

#include "base/cleanup.h"
#include "block/inspect.h"
#include "block/sysfs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const leg_words[2] = {"old", "new"};

int move_name_legs(struct move *move, struct error *error)
{
	size_t length = strlen(move->record.device);

	if (length > MOVE_NAME_MAX)
		return error_set(error, -ENAMETOOLONG,
		    "the name %s has %zu bytes, and the devices of a move are called by it and more: at most "
		    "%u "
		    "go; `dmsetup rename` gives it a shorter one",
		    move->record.device, length, MOVE_NAME_MAX);
	for (unsigned i = 0; i < 2; i++)
		snprintf(move->leg_names[i], DM_NAME_MAX, "%s" MOVE_DEVICE_SUFFIX "%s", move->record.device,
		    leg_words[i]);
	return 0;
}

int move_stat_device(const char *path, dev_t *ret, uint64_t *ret_sectors, struct error *error)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat facts;
	uint64_t bytes = 0;
	int res = 0;

	if (fd < 0)
		return error_set(error, -errno, "cannot open %s: %s", path, strerror(errno));
	if (fstat(fd, &facts) < 0 || !S_ISBLK(facts.st_mode))
		res = error_set(error, -ENOTBLK, "%s is no block device", path);
	else if (ioctl(fd, BLKGETSIZE64, &bytes) < 0)
		res = error_set(error, -errno, "cannot learn the size of %s: %s", path, strerror(errno));
	close(fd);
	if (res < 0)
		return res;
	*ret = facts.st_rdev;
	*ret_sectors = bytes / 512;
	return 0;
}

int move_stat_target(struct move *move, dev_t *ret, uint64_t *ret_sectors, struct error *error)
{
	const struct move_record *record = &move->record;
	char id[sizeof(record->target_id)];
	int res = move_stat_device(record->target, ret, ret_sectors, error);

	if (res < 0)
		return res;
	inspect_device_id(*ret, id, sizeof(id));
	if (!strcmp(id, record->target_id))
		return 0;
	if (move_is_restarted(move) &&
	    !strncmp(record->target_id, INSPECT_PASSING, strlen(INSPECT_PASSING))) {
		if (move->options.overwrite && !strcmp(move->options.overwrite, record->target))
			return 0;
		return error_set(error, -EPERM,
		    "%s has nothing by which it could be known again since the machine was started anew; if "
		    "it "
		    "is what it was, say --overwrite=%s",
		    record->target, record->target);
	}
	return error_set(error, -EXDEV,
	    "%s is another device (%s) than when the move of %s began (%s); see to it that it leads to the "
	    "right one",
	    record->target, id, record->device, record->target_id);
}

static int leg_table(struct move *move, bool new_leg, struct dm_table *ret, struct error *error)
{
	const struct move_record *record = &move->record;
	dev_t device = record->old_device;
	uint64_t sectors;
	int res = 0;

	*ret = (struct dm_table){0};
	if (new_leg)
		res = move_stat_target(move, &device, &sectors, error);
	if (res < 0)
		return res;
	if (new_leg && sectors < record->sectors)
		return error_set(error, -EINVAL, "%s has %llu bytes, and %llu are to be moved",
		    record->target, (unsigned long long)sectors * 512,
		    (unsigned long long)record->sectors * 512);
	if (!new_leg && record->kind == MOVE_CONTENT)
		res = dm_table_copy(ret, &record->old);
	else
		res = dm_table_add_linear(ret, record->sectors, device, 0);
	return res < 0 ? error_set(error, res, "cannot make the legs: out of memory") : 0;
}

/* One of its name may be of another move, whose record is elsewhere or was lost. The old leg is made first and removed last: it tells of both. */
static bool legs_are_ours(struct move *move)
{
	struct dm_facts facts;
	struct dm_table now = {0}, wanted = {0};
	struct error ignored;
	bool ours = dm_look(move->leg_names[0], &facts, &ignored) == 0;

	/* Killed while it was made. */
	if (ours && facts.live_table)
		ours = dm_get_table(move->leg_names[0], false, &now, &ignored) == 0 &&
		       leg_table(move, false, &wanted, &ignored) == 0 && dm_table_equal(&now, &wanted);
	dm_table_done(&now);
	dm_table_done(&wanted);
	return ours;
}

void move_find_legs(struct move *move)
{
	bool ours = legs_are_ours(move);

	for (unsigned i = 0; i < 2; i++) {
		struct dm_facts facts;
		struct error ignored;

		move->leg_devices[i] =
		    ours && dm_look(move->leg_names[i], &facts, &ignored) == 0 ? facts.device : 0;
	}
}

static int must_be_ours(const struct move *move, const char *name, const struct dm_table *table,
    bool (*may_have)(const struct move *move, const struct dm_table *table), struct error *error)
{
	struct dm_table now;
	int res = dm_get_table(name, false, &now, error);

	if (res == 0 && !(may_have ? may_have(move, &now) : dm_table_equal(&now, table)))
		res = error_set(error, -EEXIST,
		    "there is a device %s that is not of this move; look at `dmsetup table %s`, and remove "
		    "it",
		    name, name);
	dm_table_done(&now);
	return res;
}

int move_make_device(const struct move *move, const char *name, const struct dm_table *table,
    bool (*may_have)(const struct move *move, const struct dm_table *table), dev_t *ret, struct error *error)
{
	struct dm_facts facts;
	int res = dm_look(name, &facts, error);

	if (res == 0 && move->fresh)
		return error_set(error, -EEXIST,
		    "there is a device %s already: %s is being moved, and the move is recorded in another "
		    "--state-dir, or its record was lost; end that move, or remove the device (`dmsetup "
		    "table %s` shows it)",
		    name, move->record.device, name);
	if (res == 0 && facts.live_table)
		res = must_be_ours(move, name, table, may_have, error);
	/* Killed while it was made. */
	else if (res == 0)
		res = dm_remove(name, error) == 0 ? -ENXIO : error->code;
	if (res == -ENXIO) {
		res = dm_create(name, table, error);
		if (res == 0)
			res = dm_look(name, &facts, error);
	}
	/* Killed while its table was swapped. */
	if (res == 0 && facts.suspended)
		res = dm_resume(name, error);
	if (res == 0)
		*ret = facts.device;
	return res;
}

int move_make_legs(struct move *move, struct error *error)
{
	for (unsigned i = 0; i < 2; i++) {
		struct dm_table table;
		int res;

		if (i == 1 && move_is_remote(move))
			continue;
		res = leg_table(move, i == 1, &table, error);
		if (res == 0)
			res = move_make_device(
			    move, move->leg_names[i], &table, NULL, &move->leg_devices[i], error);
		dm_table_done(&table);
		if (res < 0)
			return res;
	}
	return 0;
}

int move_remove_legs(struct move *move, struct error *error)
{
	int res = 0;

	for (unsigned i = 2; i-- > 0 && res == 0;)
		if (move->leg_devices[i]) {
			res = dm_remove(move->leg_names[i], error);
			move->leg_devices[i] = res == 0 ? 0 : move->leg_devices[i];
		}
	return res;
}

/* Whether the consumer's table is the one that leads to `device` and to nothing else. 0: no device. */
static bool leads_to(const struct move *move, const struct dm_table *table, dev_t device)
{
	struct dm_table wanted = {0};
	struct error ignored;
	bool equal = device && move_plan_lead(move->record.kind, move->record.sectors, table, device, &wanted,
	                           &ignored) == 0;

	equal = equal && dm_table_equal(table, &wanted);
	dm_table_wipe(&wanted);
	return equal;
}

static bool is_old(const struct move *move, const struct dm_table *table)
{
	const struct move_record *record = &move->record;

	return record->kind == MOVE_CONTENT ? dm_table_equal(table, &record->old)
	                                    : leads_to(move, table, record->old_device);
}

int move_where(struct move *move, enum move_place *ret, struct error *error)
{
	const struct move_record *record = &move->record;
	uint64_t sectors;
	struct error ignored;
	struct dm_table table;
	dev_t target = 0;
	int res = dm_get_table(record->device, false, &table, error);

	if (res < 0)
		return error_prefix(error, "cannot see where %s leads", record->device);
	if (!move_is_remote(move))
		(void)move_stat_target(move, &target, &sectors, &ignored);
	*ret = AT_ELSEWHERE;
	if (is_old(move, &table))
		*ret = AT_OLD;
	else if (leads_to(move, &table, move->medium))
		*ret = AT_MEDIUM;
	else if (record->last.count ? dm_table_equal(&table, &record->last) : leads_to(move, &table, target))
		*ret = AT_NEW;
	dm_table_wipe(&table);
	return 0;
}

static int wanted_table(
    struct move *move, enum move_place place, bool secrets, struct dm_table *ret, struct error *error)
{
	const struct move_record *record = &move->record;
	struct dm_table now = {0};
	uint64_t sectors;
	dev_t device = move->medium;
	int res = 0;

	*ret = (struct dm_table){0};
	if (place == AT_OLD)
		device = record->old_device;
	if (place == AT_NEW)
		res = move_stat_target(move, &device, &sectors, error);
	if (res < 0)
		return res;
	if (record->kind == MOVE_CONTENT && (place == AT_OLD || (place == AT_NEW && record->last.count))) {
		res = dm_table_copy(ret, place == AT_OLD ? &record->old : &record->last);
		return res < 0 ? error_set(error, res, "cannot make a table: out of memory") : 0;
	}
	if (record->kind == MOVE_BACKING)
		res = dm_get_table(record->device, secrets, &now, error);
	if (res == 0)
		res = move_plan_lead(record->kind, record->sectors, &now, device, ret, error);
	dm_table_wipe(&now);
	return res;
}

/* A swap of the user's table, and the leg that he is led to, or that counts in the medium. */
struct swap {
	struct move *move;
	enum move_place place;
	const char *leg_name;
	int leg_fd;
	bool astray;
};

/*
 * What a mirror writes by parts of pages lies in the page cache of its leg, which is not the page cache of whatever the user is led to: it would be written
 * back some time, over what he has written since. And what is cached of a leg from before he was led through it is old by then.
 */
static int empty_cache(const struct swap *swap, struct error *error)
{
	if (fsync(swap->leg_fd) == 0 && ioctl(swap->leg_fd, BLKFLSBUF, 0) == 0)
		return 0;
	return error_set(
	    error, -errno, "cannot write out the page cache of %s: %s", swap->leg_name, strerror(errno));
}

/* What somebody else loaded since is not to be replaced: what is written past the medium would be lost. */
static int is_as_before(struct swap *swap, struct error *error)
{
	struct move *move = swap->move;
	struct dm_table table;
	int res = dm_get_table(move->record.device, false, &table, error);

	if (res < 0)
		return res;
	swap->astray =
	    !(swap->place == AT_MEDIUM ? is_old(move, &table) : leads_to(move, &table, move->medium));
	dm_table_wipe(&table);
	return swap->astray ? error_set(error, -EIO, "the table of %s was changed", move->record.device) : 0;
}

/* The user waits: nobody writes to that leg. */
static int while_suspended(void *data, struct error *error)
{
	struct swap *swap = data;
	struct move *move = swap->move;
	int res = is_as_before(swap, error);

	if (res == 0 && swap->place == AT_NEW)
		res = ENGINE(move, leave, error);

	return res == 0 ? empty_cache(swap, error) : res;
}

static int open_leg(const char *name, int *ret, struct error *error)
{
	char path[DM_NAME_MAX + 16];

	snprintf(path, sizeof(path), "/dev/mapper/%s", name);
	*ret = open(path, O_RDONLY | O_CLOEXEC);
	return *ret < 0 ? error_set(error, -errno, "cannot open %s: %s", path, strerror(errno)) : 0;
}

int move_flush_leg(struct move *move, bool new_leg, struct error *error)
{
	const char *name = move->leg_names[new_leg];
	_cleanup_(cleanup_close) int fd = -1;
	int res = move->leg_devices[new_leg] ? open_leg(name, &fd, error) : 0;

	if (fd >= 0 && fsync(fd) < 0)
		res = error_set(error, -errno, "cannot flush %s: %s", name, strerror(errno));
	return res;
}

/* None of LVM's commands is between its own load and resume of the volume meanwhile, also where LVM's metadata are not to be changed. */
static int lock_group_of(const char *name, const char *uuid, int *ret_lock, struct error *error)
{
	char group[LVM_NAME_MAX], volume[LVM_NAME_MAX];

	if (!lvm_name(name, uuid, group, volume))
		return 0;
	*ret_lock = lvm_lock(group, error);
	return *ret_lock < 0 ? *ret_lock : 0;
}

int move_lead(struct move *move, enum move_place place, struct error *error)
{
	struct swap swap = {
	    .move = move, .place = place, .leg_name = move->leg_names[place == AT_NEW], .leg_fd = -1};
	bool secrets = move->record.kind == MOVE_BACKING;
	struct dm_table table;
	uint64_t pause_ns = 0;
	_cleanup_(cleanup_close) int lock = -1;
	struct error ignored;
	int res = wanted_table(move, place, secrets, &table, error);

	if (res == 0)
		res = lock_group_of(move->record.device, move->record.uuid, &lock, error);
	if (res == 0)
		res = open_leg(swap.leg_name, &swap.leg_fd, error);
	/* Little is left for when the user waits. */
	if (res == 0)
		(void)empty_cache(&swap, &ignored);
	if (res == 0)
		res = dm_swap(move->record.device, secrets, &table, while_suspended, &swap, &pause_ns, error);
	if (swap.leg_fd >= 0)
		close(swap.leg_fd);
	dm_table_wipe(&table);
	if (pause_ns > move->pause_ns)
		move->pause_ns = pause_ns;
	return swap.astray && move_where(move, &place, &ignored) == 0 ? move_astray(move, place, error) : res;
}

static void add_name(dev_t device, char *ret, size_t length)
{
	size_t used = strlen(ret);
	char name[64];

	sysfs_device_name(device, name, sizeof(name));
	if (used < length)
		snprintf(ret + used, length - used, "%s/dev/%s", used ? ", " : "", name);
}

void move_name_old(const struct move *move, char *ret, size_t length)
{
	const struct move_record *record = &move->record;
	struct sysfs_devices named = {0};
	dev_t device;

	ret[0] = '\0';
	/* LVM's other volume is there now. */
	if (record->lvm.group[0])
		snprintf(ret, length, "%s", record->target);
	else if (record->kind == MOVE_BACKING)
		add_name(record->old_device, ret, length);
	else
		for (size_t i = 0; i < record->old.count; i++)
			for (size_t at = 0;
			     dm_params_next_device(record->old.targets[i].params, &at, &device);)
				if (!sysfs_devices_has(&named, device) && named.count < SYSFS_DEVICES_MAX) {
					named.devices[named.count++] = device;
					add_name(device, ret, length);
				}
}

int move_give_target(struct move *move, struct error *error)
{
	_cleanup_(cleanup_close) int lock = -1;
	struct dm_facts facts;
	int res = dm_look_path(move->record.target, &facts, error);

	if (res == 0)
		res = lock_group_of(facts.name, facts.uuid, &lock, error);
	if (res < 0)
		return res;
	return dm_swap(facts.name, false, &move->record.old, NULL, NULL, NULL, error);
}
