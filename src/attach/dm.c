/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Device-mapper by libdevmapper: see dm.h. */
#include "attach/dm.h"

#include "base/clock.h"
#include "block/dm_task.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* A device of our own is nobody's disk: no links to it by what is found on it. */
#define UDEV_FLAGS \
	(DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG | DM_UDEV_DISABLE_DISK_RULES_FLAG | \
	    DM_UDEV_DISABLE_OTHER_RULES_FLAG)

int dm_check(struct error *error)
{
	_cleanup_dm_task_ struct dm_task *task = dm_begin(DM_DEVICE_VERSION, NULL);

	if (dm_do(task, "speak to", "device-mapper", error) == 0)
		return 0;
	return error_set(error, -ENXIO,
	    "this kernel has no device-mapper, or it is not allowed; run `modprobe dm_mod`, as root");
}

void dm_release(void)
{
	dm_lib_release();
}

static int fill_facts(struct dm_task *task, struct dm_facts *ret)
{
	struct dm_info info;

	if (!dm_task_get_info(task, &info) || !info.exists)
		return -ENXIO;
	*ret = (struct dm_facts){.device = makedev(info.major, info.minor),
	    .suspended = info.suspended,
	    .read_only = info.read_only,
	    .live_table = info.live_table,
	    .inactive_table = info.inactive_table,
	    .open_count = info.open_count};
	snprintf(ret->name, sizeof(ret->name), "%s", dm_task_get_name(task));
	snprintf(ret->uuid, sizeof(ret->uuid), "%s", dm_task_get_uuid(task) ? dm_task_get_uuid(task) : "");
	return 0;
}

int dm_look(const char *name, struct dm_facts *ret, struct error *error)
{
	_cleanup_dm_task_ struct dm_task *task = dm_begin(DM_DEVICE_INFO, name);
	int res = dm_do(task, "look at the device", name, error);

	if (res == 0 && fill_facts(task, ret) < 0)
		return error_set(error, -ENXIO, "there is no device %s", name);
	return res;
}

int dm_look_path(const char *path, struct dm_facts *ret, struct error *error)
{
	_cleanup_dm_task_ struct dm_task *task = NULL;
	struct stat facts;
	int res;

	if (stat(path, &facts) < 0)
		return error_set(error, -errno, "cannot look at %s: %s", path, strerror(errno));
	if (!S_ISBLK(facts.st_mode) || !dm_is_dm_major(major(facts.st_rdev)))
		return error_set(error, -ENOTBLK, "%s is no device of device-mapper's", path);
	task = dm_begin(DM_DEVICE_INFO, NULL);
	if (task && (!dm_task_set_major(task, (int)major(facts.st_rdev)) ||
	                !dm_task_set_minor(task, (int)minor(facts.st_rdev))))
		return dm_cannot("look at", path, error);
	res = dm_do(task, "look at", path, error);
	if (res == 0 && fill_facts(task, ret) < 0)
		return error_set(error, -ENXIO, "%s is there no more", path);
	return res;
}

static int get_targets(
    int type, const char *name, bool secrets, bool waiting, struct dm_table *ret, struct error *error)
{
	_cleanup_dm_task_ struct dm_task *task = dm_begin(type, name);
	char *target_type, *params;
	uint64_t start, length;
	void *next = NULL;
	int res;

	*ret = (struct dm_table){0};
	if (task && secrets)
		dm_task_secure_data(task);
	if (task && waiting)
		dm_task_query_inactive_table(task);
	/* The size of the devices below does not matter: nothing is to be waited for. */
	if (task && type == DM_DEVICE_STATUS)
		dm_task_no_flush(task);
	res = dm_do(task, "read the table of the device", name, error);
	if (res < 0)
		return res;
	do {
		next = dm_get_next_target(task, next, &start, &length, &target_type, &params);
		if (target_type && dm_table_add(ret, start, length, target_type, params ? params : "") < 0) {
			dm_table_wipe(ret);
			return error_set(error, -ENOMEM, "cannot read the table of %s: out of memory", name);
		}
	} while (next);
	return 0;
}

int dm_get_table(const char *name, bool secrets, struct dm_table *ret, struct error *error)
{
	return get_targets(DM_DEVICE_TABLE, name, secrets, false, ret, error);
}

int dm_get_waiting(const char *name, struct dm_table *ret, struct error *error)
{
	return get_targets(DM_DEVICE_TABLE, name, false, true, ret, error);
}

int dm_get_status(const char *name, struct dm_table *ret, struct error *error)
{
	return get_targets(DM_DEVICE_STATUS, name, false, false, ret, error);
}

void dm_table_wipe(struct dm_table *table)
{
	for (size_t i = 0; i < table->count; i++)
		explicit_bzero(table->targets[i].params, strlen(table->targets[i].params));
	dm_table_done(table);
}

static bool add_targets(struct dm_task *task, const struct dm_table *table)
{
	for (size_t i = 0; i < table->count; i++) {
		const struct dm_target *target = &table->targets[i];

		if (!dm_task_add_target(task, target->start, target->length, target->type, target->params))
			return false;
	}
	return true;
}

int dm_create(const char *name, const struct dm_table *table, struct error *error)
{
	_cleanup_dm_task_ struct dm_task *task = dm_begin(DM_DEVICE_CREATE, name);
	char uuid[DM_NAME_MAX];

	snprintf(uuid, sizeof(uuid), "BLKMOVE-%.120s", name);
	if (task && (!dm_task_set_uuid(task, uuid) || (table && !add_targets(task, table))))
		return dm_cannot("make the device", name, error);
	/* There may be keys in it. */
	if (task)
		dm_task_secure_data(task);
	/* The kernel tells udev of a device when it gets its first table. */
	return table ? dm_do_with_udev(task, UDEV_FLAGS, "make the device", name, error)
	             : dm_do(task, "make the device", name, error);
}

int dm_load(const char *name, bool secrets, const struct dm_table *table, struct error *error)
{
	_cleanup_dm_task_ struct dm_task *task = NULL;
	struct dm_facts facts;
	int res = dm_look(name, &facts, error);

	if (res < 0)
		return res;
	task = dm_begin(DM_DEVICE_RELOAD, name);
	/* Each table says anew whether the device may be written. */
	if (task && (!add_targets(task, table) || (facts.read_only && !dm_task_set_ro(task))))
		return dm_cannot("load a table for the device", name, error);
	if (task && secrets)
		dm_task_secure_data(task);
	return dm_do(task, "load a table for the device", name, error);
}

int dm_clear(const char *name, struct error *error)
{
	_cleanup_dm_task_ struct dm_task *task = dm_begin(DM_DEVICE_CLEAR, name);

	return dm_do(task, "drop the waiting table of the device", name, error);
}

int dm_suspend(const char *name, struct error *error)
{
	_cleanup_dm_task_ struct dm_task *task = dm_begin(DM_DEVICE_SUSPEND, name);

	if (task)
		dm_task_skip_lockfs(task);
	return dm_do(task, "suspend the device", name, error);
}

/*
 * With the cookie, but without the wait for it. Where there is none to be had (they are semaphores, of which a machine has so many) udev is not waited
 * for: whoever waits for the device comes first.
 */
static int resume_for(const char *name, uint32_t *cookie, uint16_t flags, struct error *error)
{
	_cleanup_dm_task_ struct dm_task *task = dm_begin(DM_DEVICE_RESUME, name);

	if (task && !dm_task_set_cookie(task, cookie, flags)) {
		dm_end(&task);
		task = dm_begin(DM_DEVICE_RESUME, name);
	}
	/* For a table that waits while the device runs: then the kernel suspends it first, as dm_suspend() would. */
	if (task)
		dm_task_skip_lockfs(task);
	return dm_do(task, "resume the device", name, error);
}

int dm_resume(const char *name, struct error *error)
{
	uint32_t cookie = 0;
	int res = resume_for(name, &cookie, 0, error);

	dm_udev_wait(cookie);
	return res;
}

int dm_remove(const char *name, struct error *error)
{
	_cleanup_dm_task_ struct dm_task *task = NULL;
	struct dm_facts facts;
	int res = dm_look(name, &facts, error);

	if (res == -ENXIO)
		return 0;
	task = dm_begin(DM_DEVICE_REMOVE, name);
	/* udev may have opened it for a moment. */
	if (task)
		dm_task_retry_remove(task);
	return res < 0 ? res : dm_do_with_udev(task, UDEV_FLAGS, "remove the device", name, error);
}

int dm_swap(const char *name, bool secrets, const struct dm_table *table,
    int (*look)(void *data, struct error *error), void *data, uint64_t *ret_pause_ns, struct error *error)
{
	uint64_t begin_ns;
	struct error why;
	int res = dm_load(name, secrets, table, error);

	if (res < 0)
		return res;
	begin_ns = clock_now_ns();
	if (look) {
		res = dm_suspend(name, error);
		res = res == 0 ? look(data, error) : res;
	}
	if (res == 0)
		res = dm_resume(name, error);
	if (ret_pause_ns)
		*ret_pause_ns = clock_now_ns() - begin_ns;
	if (res == 0)
		return 0;
	/* The old table is still there, if the new one goes. */
	if (dm_clear(name, &why) == 0 && dm_resume(name, &why) == 0)
		return res;
	return error_prefix(error, "%s may be suspended, run `dmsetup resume %s`", name, name);
}

int dm_moment(const char *name, const char *inner, struct error *error)
{
	_cleanup_dm_task_ struct dm_task *task = dm_begin(DM_DEVICE_SUSPEND, name);
	uint32_t cookie = 0;
	struct error why;
	int resumed, res;

	/* Before, as it may fail. */
	if (!dm_udev_create_cookie(&cookie))
		return dm_cannot("get a semaphore (`ipcs -s` lists them) for", name, error);
	res = dm_do(task, "suspend the device", name, error);
	if (res < 0) {
		dm_udev_wait(cookie);
		return res;
	}
	res = resume_for(inner, &cookie, UDEV_FLAGS, error);
	resumed = resume_for(name, &cookie, 0, &why);
	/* Later than usual: udev may have to read the suspended device. Where there is no udev this makes the nodes. */
	dm_udev_wait(cookie);
	if (resumed == 0)
		return res;
	return error_set(
	    error, resumed, "%.300s; it may be suspended, run `dmsetup resume %s`", why.text, name);
}
