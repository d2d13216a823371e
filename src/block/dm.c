/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Questions to device-mapper: see dm.h. */
#include "block/dm.h"

#include "block/dm_task.h"
#include "block/sysfs.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

bool dm_is(dev_t dev)
{
	return sysfs_device_has(dev, "dm/name");
}

/* One that is to run about `name` or, where that is NULL, `dev`. */
static struct dm_task *begin(int type, dev_t dev, const char *name)
{
	struct dm_task *task = dm_begin(type, name);

	if (task && ((!name && !dm_task_set_major_minor(task, (int)major(dev), (int)minor(dev), 1)) ||
	                !dm_task_no_flush(task) || !dm_task_no_open_count(task)))
		dm_end(&task), task = NULL;
	return task;
}

static int run(struct dm_task *task, const char *doing, dev_t dev, const char *name, struct error *error)
{
	char number[32];
	int res;

	/* Without the module the library would load it, and make nodes. */
	if (access("/sys/class/misc/device-mapper", F_OK) < 0)
		return error_set(error, -ENOENT, "this kernel has no device-mapper at work");
	snprintf(number, sizeof(number), "%u:%u", major(dev), minor(dev));
	res = dm_do(task, doing, name ? name : number, error);
	return res == -ENXIO
	           ? error_set(error, -ENOENT, "there is no device-mapper device %s", name ? name : number)
	           : res;
}

int dm_find(const char *name, dev_t *ret, struct error *error)
{
	_cleanup_dm_task_ struct dm_task *task = NULL;
	struct dm_info info;
	struct stat stat_buf;
	int res;

	if (name[0] == '/') {
		if (stat(name, &stat_buf) < 0)
			return error_set(error, -errno, "%s cannot be looked at: %s", name, strerror(errno));
		if (!S_ISBLK(stat_buf.st_mode) || !dm_is(stat_buf.st_rdev))
			return error_set(error, -ENOENT, "%s is no device-mapper device", name);
		*ret = stat_buf.st_rdev;
		return 0;
	}
	task = begin(DM_DEVICE_INFO, 0, name);
	res = run(task, "look for", 0, name, error);
	if (res < 0)
		return res;
	if (!dm_task_get_info(task, &info) || !info.exists)
		return error_set(error, -ENOENT, "there is no device-mapper device %s", name);
	*ret = makedev(info.major, info.minor);
	return 0;
}

static int ask(int type, dev_t dev, struct dm_volume *ret, struct error *error)
{
	_cleanup_dm_task_ struct dm_task *task = begin(type, dev, NULL);
	uint64_t start, length;
	char *target_type, *params;
	void *next = NULL;
	int res = run(task, "ask about", dev, NULL, error);

	if (res < 0)
		return res;
	*ret = (struct dm_volume){.dev = dev};
	snprintf(ret->name, sizeof(ret->name), "%s", dm_task_get_name(task));
	snprintf(ret->uuid, sizeof(ret->uuid), "%s", dm_task_get_uuid(task));
	do {
		next = dm_get_next_target(task, next, &start, &length, &target_type, &params);
		if (!target_type)
			break;
		ret->size += length * 512;
		if (ret->targets++ > 0)
			continue;
		snprintf(ret->type, sizeof(ret->type), "%s", target_type);
		if (snprintf(ret->params, sizeof(ret->params), "%s", params ? params : "") >=
		    (int)sizeof(ret->params))
			ret->params[0] = '\0';
	} while (next);
	return 0;
}

int dm_table(dev_t dev, struct dm_volume *ret, struct error *error)
{
	return ask(DM_DEVICE_TABLE, dev, ret, error);
}

int dm_status(dev_t dev, struct dm_volume *ret, struct error *error)
{
	return ask(DM_DEVICE_STATUS, dev, ret, error);
}

int dm_message(dev_t dev, const char *message, struct error *error)
{
	_cleanup_dm_task_ struct dm_task *task = begin(DM_DEVICE_TARGET_MSG, dev, NULL);

	if (task && (!dm_task_set_sector(task, 0) || !dm_task_set_message(task, message)))
		return dm_cannot("send a message to", message, error);
	return run(task, "send a message to", dev, NULL, error);
}

bool dm_identity(const struct dm_volume *volume, char *ret, size_t length)
{
	char boot[64], sequence[32];

	if (strncmp(volume->uuid, "LVM-", 4) == 0) {
		snprintf(ret, length, "dm:%s", volume->uuid);
		return true;
	}
	if (!sysfs_boot_id(boot, sizeof(boot)) ||
	    sysfs_device_line(volume->dev, "diskseq", sequence, sizeof(sequence)) < 0)
		return false;
	snprintf(ret, length, "boot:%s,seq%s,%s", boot, sequence, volume->name);
	return true;
}

static bool is_node(const char *path, dev_t dev)
{
	struct stat stat_buf;

	return stat(path, &stat_buf) == 0 && S_ISBLK(stat_buf.st_mode) && stat_buf.st_rdev == dev;
}

bool dm_node(dev_t dev, char *ret, size_t length)
{
	char name[256];

	sysfs_device_name(dev, name, sizeof(name));
	snprintf(ret, length, "/dev/%s", name);
	if (is_node(ret, dev))
		return true;
	snprintf(ret, length, "/dev/block/%u:%u", major(dev), minor(dev));
	if (is_node(ret, dev))
		return true;
	if (sysfs_device_line(dev, "dm/name", name, sizeof(name)) < 0)
		return false;
	snprintf(ret, length, "/dev/mapper/%s", name);
	return is_node(ret, dev);
}

bool dm_word(const struct dm_volume *volume, unsigned index, char *ret, size_t length)
{
	const char *at = volume->params + strspn(volume->params, " ");
	size_t word;

	for (; index > 0; index--) {
		at += strcspn(at, " ");
		at += strspn(at, " ");
	}
	word = strcspn(at, " ");
	if (word == 0 || word >= length)
		return false;
	memcpy(ret, at, word);
	ret[word] = '\0';
	return true;
}

bool dm_word_device(const struct dm_volume *volume, unsigned index, dev_t *ret)
{
	unsigned major_number, minor_number;
	char word[32], rest;

	if (!dm_word(volume, index, word, sizeof(word)) ||
	    sscanf(word, "%u:%u%c", &major_number, &minor_number, &rest) != 2)
		return false;
	*ret = makedev(major_number, minor_number);
	return true;
}
