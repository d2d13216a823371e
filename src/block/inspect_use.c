/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether a volume is mounted, used as swap, or held by what is built upon it: partitions, device-mapper, md,
 * bcache and loop devices count as the volume itself, all the way up.
 */
#include "base/cleanup.h"
#include "block/inspect_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

/* Decodes \040 and its like in place, as /proc writes blanks in names; control bytes become '?'. */
static void decode_octal(char *text)
{
	char *to = text;

	for (char *from = text; *from; to++) {
		unsigned value = (unsigned char)*from;
		int used = 1;

		if (*from == '\\' && sscanf(from + 1, "%3o%n", &value, &used) == 1)
			used++;
		else
			used = 1;
		*to = value < ' ' || value == 0x7f ? '?' : (char)value;
		from += used;
	}
	*to = '\0';
}

/* A device node, or the number that mountinfo gives, that means one of the volume's devices. */
static bool node_is_above(const struct inspect_volume *volume, const char *path, dev_t *ret)
{
	struct stat stat_buf;

	if (path[0] != '/' || stat(path, &stat_buf) < 0 || !S_ISBLK(stat_buf.st_mode))
		return false;
	*ret = stat_buf.st_rdev;
	return sysfs_devices_has(&volume->above, stat_buf.st_rdev);
}

/* "/srv", or "/srv (sda1)" when it is not the volume itself that is mounted. */
static void say_where(
    const struct inspect_volume *volume, const char *where, dev_t dev, char *ret, size_t length)
{
	char name[64];

	if (volume->device && dev == volume->stat.st_rdev) {
		snprintf(ret, length, "%s", where);
		return;
	}
	sysfs_device_name(dev, name, sizeof(name));
	snprintf(ret, length, "%.120s (%s)", where, name);
}

/* One line of /proc/self/mountinfo, see proc(5): where one of the volume's devices is mounted, and which. */
static const char *mounted_at(const struct inspect_volume *volume, char *line, dev_t *ret)
{
	char *fields = strstr(line, " - "), *rest = line, *number = NULL, *where = NULL, *source;
	unsigned high, low;

	if (!fields)
		return NULL;
	*fields = '\0';
	strsep(&rest, " ");
	strsep(&rest, " ");
	number = strsep(&rest, " ");
	strsep(&rest, " ");
	where = strsep(&rest, " ");
	if (!where || sscanf(number, "%u:%u", &high, &low) != 2)
		return NULL;
	*ret = makedev(high, low);
	rest = fields + 3;
	strsep(&rest, " ");
	source = strsep(&rest, " ");
	if (source)
		decode_octal(source);
	/* Btrfs mounts have a number of their own; their source tells the device. */
	if (!sysfs_devices_has(&volume->above, *ret) && !(source && node_is_above(volume, source, ret)))
		return NULL;
	decode_octal(where);
	return where;
}

static bool mount_line(const struct inspect_volume *volume, char *line, char *ret, size_t length)
{
	dev_t dev;
	const char *where = mounted_at(volume, line, &dev);

	if (where)
		say_where(volume, where, dev, ret, length);
	return where != NULL;
}

/* One line of /proc/swaps. */
static bool swap_line(const struct inspect_volume *volume, char *line, char *ret, size_t length)
{
	struct stat stat_buf;
	dev_t dev;

	line[strcspn(line, " \t\n")] = '\0';
	decode_octal(line);
	if (node_is_above(volume, line, &dev)) {
		say_where(volume, "swap", dev, ret, length);
		return true;
	}
	if (volume->device || line[0] != '/' || stat(line, &stat_buf) < 0 ||
	    stat_buf.st_dev != volume->stat.st_dev || stat_buf.st_ino != volume->stat.st_ino)
		return false;
	snprintf(ret, length, "swap");
	return true;
}

static bool any_line(const struct inspect_volume *volume, const char *path,
    bool (*check)(const struct inspect_volume *volume, char *line, char *ret, size_t length), char *ret,
    size_t length)
{
	_cleanup_(cleanup_free) char *line = NULL;
	size_t capacity = 0;
	bool found = false;
	FILE *file = fopen(path, "re");

	while (file && !found && getline(&line, &capacity, file) > 0)
		found = check(volume, line, ret, length);
	if (file)
		fclose(file);
	return found;
}

void inspect_mounted(const struct inspect_volume *volume, char *ret, size_t length)
{
	ret[0] = '\0';
	if (!any_line(volume, "/proc/self/mountinfo", mount_line, ret, length))
		any_line(volume, "/proc/swaps", swap_line, ret, length);
}

void inspect_mounts(dev_t dev, void (*found)(void *data, const char *where, dev_t on), void *data)
{
	struct inspect_volume volume = {.fd = -1, .stat.st_rdev = dev, .device = true};
	_cleanup_(cleanup_free) char *line = NULL;
	FILE *file = fopen("/proc/self/mountinfo", "re");
	size_t capacity = 0;

	sysfs_add_above(&volume.above, dev);
	while (file && getline(&line, &capacity, file) > 0) {
		dev_t on;
		const char *where = mounted_at(&volume, line, &on);

		if (where)
			found(data, where, on);
	}
	if (file)
		fclose(file);
}

/* What lies upon the volume, but for the partitions of it: "dm-3 (vg-lv)", "loop1". */
static void name_holders(const struct inspect_volume *volume, char *ret, size_t length)
{
	char name[64], mapping[128];
	size_t used = 0;
	dev_t disk;

	for (unsigned i = 0; i < volume->above.count && used < length; i++) {
		dev_t dev = volume->above.devices[i];

		if ((volume->device && dev == volume->stat.st_rdev) || sysfs_partition(dev, &disk))
			continue;
		sysfs_device_name(dev, name, sizeof(name));
		used += (size_t)snprintf(ret + used, length - used, "%s%s", used ? ", " : "", name);
		if (used < length && sysfs_device_line(dev, "dm/name", mapping, sizeof(mapping)) == 0 &&
		    mapping[0])
			used += (size_t)snprintf(ret + used, length - used, " (%s)", mapping);
	}
}

/* Whether an exclusive open would be refused. The claim is let go at once. */
static bool is_claimed(int fd)
{
	char path[64];
	int again;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_RDONLY | O_EXCL | O_CLOEXEC | O_NONBLOCK);
	if (again >= 0)
		close(again);
	return again < 0 && errno == EBUSY;
}

void inspect_held(const struct inspect_volume *volume, char *ret, size_t length)
{
	struct inspect_openers openers;
	char mounted[160];

	ret[0] = '\0';
	name_holders(volume, ret, length);
	if (ret[0] || !volume->device || !is_claimed(volume->fd))
		return;
	/* A mount claims it too, and so does this process when it has opened it for writing itself. */
	inspect_mounted(volume, mounted, sizeof(mounted));
	if (mounted[0])
		return;
	inspect_openers(volume, &openers);
	if (openers.own_writer)
		return;
	snprintf(ret, length, "%s",
	    openers.opener[0] ? openers.opener : "the kernel or a program that cannot be seen");
}
