/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Devices and tables of a move: see move.h. The kernel is asked each time; nothing is believed that a killed process may have changed. */
#include "attach/move_private.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define UUID_PREFIX "BLKMOVE-"

static const char *const leg_words[2] = {"old", "new"};

int move_name_legs(struct move *move, struct error *error)
{
	for (unsigned i = 0; i < 2; i++)
		if (snprintf(move->leg_names[i], DM_NAME_MAX, "%s" MOVE_DEVICE_SUFFIX "%s",
		        move->record.device, leg_words[i]) > 120)
			return error_set(error, -ENAMETOOLONG,
			    "the name %s is too long for the devices of a move", move->record.device);
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

void move_find_legs(struct move *move)
{
	for (unsigned i = 0; i < 2; i++) {
		struct dm_facts facts;
		struct error ignored;

		move->leg_devices[i] = dm_look(move->leg_names[i], &facts, &ignored) == 0 ? facts.device : 0;
	}
}

static int leg_table(struct move *move, bool new_leg, struct dm_table *ret, struct error *error)
{
	const struct move_record *record = &move->record;
	dev_t device = record->old_device;
	uint64_t sectors;
	int res = 0;

	*ret = (struct dm_table){0};
	if (new_leg)
		res = move_stat_device(record->target, &device, &sectors, error);
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

int move_make_legs(struct move *move, struct error *error)
{
	move_find_legs(move);
	for (unsigned i = 0; i < 2; i++) {
		struct dm_table table;
		char uuid[DM_NAME_MAX];
		int res;

		if (move->leg_devices[i] || (i == 1 && move_is_remote(move)))
			continue;
		res = leg_table(move, i == 1, &table, error);
		snprintf(uuid, sizeof(uuid), UUID_PREFIX "%.117s", move->leg_names[i]);
		if (res == 0)
			res = dm_create(move->leg_names[i], uuid, &table, error);
		dm_table_done(&table);
		if (res < 0)
			return res;
	}
	move_find_legs(move);
	return 0;
}

int move_remove_legs(struct move *move, struct error *error)
{
	int res = 0;

	for (unsigned i = 0; i < 2 && res == 0; i++)
		res = dm_remove(move->leg_names[i], error);
	move_find_legs(move);
	return res;
}

/* The device that the consumer's table lies on, where it is one alone; 0 if not. */
static dev_t below(const struct dm_table *table)
{
	size_t at, length;
	dev_t device = 0;

	if (table->count != 1 || dm_params_device(table->targets[0].params, &at, &length, &device) < 0)
		return 0;
	return device;
}

int move_where(struct move *move, enum move_place *ret, struct error *error)
{
	const struct move_record *record = &move->record;
	uint64_t sectors;
	struct error ignored;
	struct dm_table table;
	dev_t device, target = 0;
	int res = dm_get_table(record->device, false, &table, error);

	if (res < 0)
		return error_prefix(error, "cannot see where %s leads", record->device);
	if (!move_is_remote(move))
		(void)move_stat_device(record->target, &target, &sectors, &ignored);
	device = below(&table);
	*ret = AT_ELSEWHERE;
	if (record->kind == MOVE_CONTENT ? dm_table_equal(&table, &record->old)
	                                 : device == record->old_device)
		*ret = AT_OLD;
	else if (device && device == move->medium)
		*ret = AT_MEDIUM;
	else if (record->last.count ? dm_table_equal(&table, &record->last) : device && device == target)
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
		res = move_stat_device(record->target, &device, &sectors, error);
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

static int leave(void *data, struct error *error)
{
	struct move *move = data;

	return move->options.engine->leave(move->options.engine_data, move, error);
}

int move_lead(struct move *move, enum move_place place, struct error *error)
{
	bool secrets = move->record.kind == MOVE_BACKING;
	struct dm_table table;
	uint64_t pause_ns = 0;
	int res = wanted_table(move, place, secrets, &table, error);

	if (res == 0)
		res = dm_swap(move->record.device, secrets, &table, place == AT_NEW ? leave : NULL, move,
		    &pause_ns, error);
	dm_table_wipe(&table);
	if (pause_ns > move->pause_ns)
		move->pause_ns = pause_ns;
	return res;
}

int move_give_target(struct move *move, struct error *error)
{
	struct dm_facts facts;
	int res = dm_look_path(move->record.target, &facts, error);

	if (res < 0)
		return res;
	return dm_swap(facts.name, false, &move->record.old, NULL, NULL, NULL, error);
}
