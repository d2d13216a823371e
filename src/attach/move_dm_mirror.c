/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * dm-mirror as an engine: see move_dm_mirror.h. The medium is a device NAME-blkmove-mirror whose table is first the old leg alone, and the mirror
 * only once all writes come through it: what is written beside a mirror, it does not copy.
 *
 * Not with "handle_errors": that keeps a client waiting until some daemon has looked after a leg that failed.
 */
#include "attach/move_dm_mirror.h"

#include "attach/dm.h"
#include "block/sysfs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#define REGION_SECTORS 1024u
#define THROTTLE       "/sys/module/dm_mirror/parameters/raid1_resync_throttle"

static int medium_name(const struct move *move, char ret[DM_NAME_MAX])
{
	return snprintf(ret, DM_NAME_MAX, "%.*s" MOVE_DEVICE_SUFFIX "mirror", (int)MOVE_NAME_MAX,
	    move_get_record(move)->device);
}

/* It lies on this move's legs, and on nothing else. */
static bool is_medium(const struct move *move, const struct dm_table *table)
{
	unsigned legs = dm_table_is(table, "mirror") ? 2 : 1;
	size_t at = 0;
	dev_t device;

	if (legs == 1 && !dm_table_is(table, "linear"))
		return false;
	for (unsigned i = 0; i < legs; i++)
		if (!dm_params_next_device(table->targets[0].params, &at, &device) ||
		    device != move_leg_device(move, i))
			return false;
	return !dm_params_next_device(table->targets[0].params, &at, &device);
}

static unsigned get_throttle(void)
{
	char line[16];

	return sysfs_line(THROTTLE, line, sizeof(line)) == 0 ? (unsigned)strtoul(line, NULL, 10) : 0;
}

static int put_throttle(unsigned percent, struct error *error)
{
	FILE *file = fopen(THROTTLE, "we");
	int res = !file || fprintf(file, "%u\n", percent) < 0 ? -errno : 0;

	if (file && fclose(file) < 0)
		res = -errno;
	return res < 0 ? error_set(error, res, "cannot throttle the kernel's mirror by %s: %s", THROTTLE,
	                     strerror(-res))
	               : 0;
}

/* What the kernel had is noted: it is the same for all its mirrors, and outlasts them. */
static int throttle(struct move_dm_mirror_options *options, struct move *move, struct error *error)
{
	int res = 0;

	if (options->throttle == options->set)
		return 0;
	if (!move_note(move))
		res = move_set_note(move, get_throttle(), error);
	if (res == 0)
		res = put_throttle(options->throttle, error);
	if (res == 0)
		options->set = options->throttle;
	return res;
}

static int alone(const struct move *move, struct dm_table *ret, struct error *error)
{
	*ret = (struct dm_table){0};
	if (dm_table_add_linear(ret, move_get_record(move)->sectors, move_leg_device(move, false), 0) < 0)
		return error_set(error, -ENOMEM, "cannot make a table: out of memory");
	return 0;
}

static int dm_mirror_make(void *data, struct move *move, struct error *error)
{
	char name[DM_NAME_MAX];
	struct dm_table table;
	dev_t device;
	int res = alone(move, &table, error);

	medium_name(move, name);
	if (res == 0)
		res = move_make_device(move, name, &table, is_medium, &device, error);
	dm_table_done(&table);
	if (res == 0)
		move_set_medium(move, device);
	return res;
}

static bool is_mirror(const char *name)
{
	struct dm_table table;
	struct error ignored;
	bool found = false;

	if (dm_get_table(name, false, &table, &ignored) == 0)
		found = dm_table_is(&table, "mirror");
	dm_table_done(&table);
	return found;
}

static int dm_mirror_sync(void *data, struct move *move, struct error *error)
{
	dev_t old = move_leg_device(move, false), new = move_leg_device(move, true);
	struct dm_table table = {0};
	char name[DM_NAME_MAX], params[160];
	int res;

	medium_name(move, name);
	if (is_mirror(name))
		return throttle(data, move, error);
	snprintf(params, sizeof(params), "core 2 %u sync 2 %u:%u 0 %u:%u 0", REGION_SECTORS, major(old),
	    minor(old), major(new), minor(new));
	if (dm_table_add(&table, 0, move_get_record(move)->sectors, "mirror", params) < 0)
		return error_set(error, -ENOMEM, "cannot make a table: out of memory");
	/* The first time it is for the module; before the mirror begins it is throttled. */
	res = dm_load(name, false, &table, error);
	if (res == 0)
		res = throttle(data, move, error);
	if (res == 0)
		res = dm_swap(name, false, &table, NULL, NULL, NULL, error);
	dm_table_done(&table);
	return res < 0 ? error_prefix(error, "cannot begin the mirror (is the module dm_mirror there?)") : 0;
}

/* "2 254:1 254:2 12/400 1 AA 1 core": what the documents call the status line. */
static int mirror_state(
    const char *name, uint64_t *ret_done, uint64_t *ret_total, char ret_health[4], struct error *error)
{
	unsigned long long done = 0, total = 0;
	struct dm_table status;
	int res = dm_get_status(name, &status, error);

	if (res < 0)
		return res;
	if (!dm_table_is(&status, "mirror") ||
	    sscanf(status.targets[0].params, "2 %*s %*s %llu/%llu 1 %3s", &done, &total, ret_health) != 3)
		res = error_set(error, -EIO, "%s is no mirror any more", name);
	dm_table_done(&status);
	*ret_done = done;
	*ret_total = total;
	return res;
}

static int dm_mirror_look(void *data, struct move *move, struct move_progress *ret, struct error *error)
{
	uint64_t done, total, bytes = move_get_record(move)->sectors * 512;
	char name[DM_NAME_MAX], health[4] = "";
	int res;

	medium_name(move, name);
	res = mirror_state(name, &done, &total, health, error);
	if (res == 0)
		res = throttle(data, move, error);
	if (res < 0)
		return res;
	ret->total = bytes;
	ret->done = done == total ? bytes : (uint64_t)((double)bytes * (double)done / (double)total);
	ret->synced = done == total && !strcmp(health, "AA");
	if (strcmp(health, "AA"))
		snprintf(ret->trouble, sizeof(ret->trouble), "the %s leg failed (the kernel's log has why)",
		    health[0] == 'A' ? "new" : "old");
	return 0;
}

static int dm_mirror_cut(void *data, struct move *move, struct error *error)
{
	return 0;
}

static int dm_mirror_leave(void *data, struct move *move, struct error *error)
{
	struct move_progress progress = {0};
	int res = dm_mirror_look(data, move, &progress, error);

	if (res == 0 && !progress.synced)
		res = error_set(error, -EIO, "the new leg does not have everything%s%s",
		    progress.trouble[0] ? ": " : "", progress.trouble);
	return res;
}

/* It is the first one of the kernel's mirror, which is read, and whose errors are the clients': it has everything while it lives. */
static int dm_mirror_uncut(void *data, struct move *move, struct error *error)
{
	char name[DM_NAME_MAX], health[4] = "A";
	uint64_t done, total;
	int res = 0;

	medium_name(move, name);
	if (is_mirror(name))
		res = mirror_state(name, &done, &total, health, error);
	if (res == 0 && health[0] != 'A')
		res = error_set(error, -EIO, "the old leg failed; only the new one may have everything");
	return res;
}

static int dm_mirror_remove(void *data, struct move *move, struct error *error)
{
	unsigned before = move_note(move);
	char name[DM_NAME_MAX];
	struct dm_table table;
	bool ours;
	int res = before ? put_throttle(before, error) : 0;

	medium_name(move, name);
	if (res == 0)
		res = dm_get_table(name, false, &table, error);
	if (res < 0)
		return res == -ENXIO ? 0 : res;
	/* Killed while it was made, it has no table. */
	ours = table.count == 0 || is_medium(move, &table);
	dm_table_done(&table);
	return ours ? dm_remove(name, error) : 0;
}

/* It is all in the kernel's memory. */
static int dm_mirror_forget(void *data, struct move *move, struct error *error)
{
	return 0;
}

const struct move_engine move_dm_mirror = {
    .name = "dm",
    .switches = false,
    .make = dm_mirror_make,
    .sync = dm_mirror_sync,
    .look = dm_mirror_look,
    .cut = dm_mirror_cut,
    .uncut = dm_mirror_uncut,
    .leave = dm_mirror_leave,
    .remove = dm_mirror_remove,
    .forget = dm_mirror_forget,
};
