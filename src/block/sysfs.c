/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Small questions to /sys about block devices. See the kernel's Documentation/ABI/stable/sysfs-block. */
#include "block/sysfs.h"
#include "base/cleanup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define LOOP_MAJOR 7

static void cleanup_dir(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

/* Trims, and makes what a terminal might obey harmless. */
static void tidy(char *text)
{
	size_t begin = strspn(text, " \t"), length = strcspn(text, "\n");

	while (length > begin && strchr(" \t", text[length - 1]))
		length--;
	memmove(text, text + begin, length - begin);
	text[length - begin] = '\0';
	for (char *at = text; *at; at++)
		if ((unsigned char)*at < ' ' || *at == 0x7f)
			*at = '?';
}

int sysfs_line(const char *path, char *ret, size_t length)
{
	_cleanup_(cleanup_close) int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t res;

	ret[0] = '\0';
	if (fd < 0)
		return -errno;
	res = read(fd, ret, length - 1);
	if (res < 0) {
		ret[0] = '\0';
		return -errno;
	}
	ret[res] = '\0';
	tidy(ret);
	return 0;
}

static void device_path(dev_t dev, const char *name, char *ret, size_t length)
{
	snprintf(ret, length, "/sys/dev/block/%u:%u/%s", major(dev), minor(dev), name);
}

bool sysfs_boot_id(char *ret, size_t length)
{
	if (sysfs_line("/proc/sys/kernel/random/boot_id", ret, length) == 0)
		return true;
	ret[0] = '\0';
	return false;
}

int sysfs_device_line(dev_t dev, const char *name, char *ret, size_t length)
{
	char path[320];

	device_path(dev, name, path, sizeof(path));
	return sysfs_line(path, ret, length);
}

bool sysfs_device_has(dev_t dev, const char *name)
{
	char path[320];

	device_path(dev, name, path, sizeof(path));
	return access(path, F_OK) == 0;
}

void sysfs_device_name(dev_t dev, char *ret, size_t length)
{
	char path[320], target[512];
	ssize_t res;

	snprintf(ret, length, "%u:%u", major(dev), minor(dev));
	device_path(dev, "", path, sizeof(path));
	path[strlen(path) - 1] = '\0';
	res = readlink(path, target, sizeof(target) - 1);
	if (res <= 0)
		return;
	target[res] = '\0';
	snprintf(ret, length, "%s", strrchr(target, '/') ? strrchr(target, '/') + 1 : target);
}

static bool parse_device_number(const char *text, dev_t *ret)
{
	unsigned high, low;

	if (sscanf(text, "%u:%u", &high, &low) != 2)
		return false;
	*ret = makedev(high, low);
	return true;
}

unsigned sysfs_partition(dev_t dev, dev_t *ret_disk)
{
	char number[32], disk[32];

	*ret_disk = dev;
	if (sysfs_device_line(dev, "partition", number, sizeof(number)) < 0)
		return 0;
	/* The directory of a partition lies in its disk's. */
	if (sysfs_device_line(dev, "../dev", disk, sizeof(disk)) < 0 || !parse_device_number(disk, ret_disk))
		return 0;
	return (unsigned)strtoul(number, NULL, 10);
}

bool sysfs_devices_has(const struct sysfs_devices *set, dev_t dev)
{
	for (unsigned i = 0; i < set->count; i++)
		if (set->devices[i] == dev)
			return true;
	return false;
}

static bool add(struct sysfs_devices *set, dev_t dev)
{
	if (set->count == SYSFS_DEVICES_MAX || sysfs_devices_has(set, dev))
		return false;
	set->devices[set->count++] = dev;
	return true;
}

/* Calls `visit` with the device number of each entry of a directory in sysfs that has a `dev` file. */
static void for_each_device(const char *directory, const char *must_have, struct sysfs_devices *set,
    void (*visit)(struct sysfs_devices *set, dev_t dev))
{
	_cleanup_(cleanup_dir) DIR *dir = opendir(directory);
	char path[1024], text[32];
	struct dirent *entry;
	dev_t dev;

	while (dir && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s/%s", directory, entry->d_name, must_have);
		if (access(path, F_OK) < 0)
			continue;
		snprintf(path, sizeof(path), "%s/%s/dev", directory, entry->d_name);
		if (sysfs_line(path, text, sizeof(text)) == 0 && parse_device_number(text, &dev))
			visit(set, dev);
	}
}

static void add_one(struct sysfs_devices *set, dev_t dev)
{
	add(set, dev);
}

void sysfs_add_partitions(struct sysfs_devices *set, dev_t disk)
{
	char path[64];

	device_path(disk, "", path, sizeof(path));
	for_each_device(path, "partition", set, add_one);
}

void sysfs_add_slaves(struct sysfs_devices *set, dev_t dev)
{
	char path[64];

	device_path(dev, "slaves", path, sizeof(path));
	for_each_device(path, "dev", set, add_one);
}

static bool loop_by_path(struct sysfs_loop *loop)
{
	struct stat stat_buf;

	if (stat(loop->path, &stat_buf) < 0)
		return false;
	loop->dev = stat_buf.st_dev;
	loop->inode = stat_buf.st_ino;
	loop->rdev = S_ISBLK(stat_buf.st_mode) ? stat_buf.st_rdev : 0;
	return true;
}

/* The kernel's huge_encode_dev(), which is what these 64 bits hold. */
static dev_t decode_device(uint64_t encoded)
{
	return makedev((encoded >> 8) & 0xfff, (encoded & 0xff) | ((encoded >> 12) & 0xfff00));
}

bool sysfs_loop(dev_t dev, struct sysfs_loop *ret)
{
	_cleanup_(cleanup_close) int fd = -1;
	struct loop_info64 info;
	char node[64], text[32];
	dev_t disk;

	*ret = (struct sysfs_loop){0};
	sysfs_partition(dev, &disk);
	if (major(disk) != LOOP_MAJOR ||
	    sysfs_device_line(disk, "loop/backing_file", ret->path, sizeof(ret->path)) < 0)
		return false;
	if (sysfs_device_line(disk, "loop/offset", text, sizeof(text)) == 0)
		ret->offset = strtoull(text, NULL, 10);
	if (sysfs_device_line(disk, "loop/sizelimit", text, sizeof(text)) == 0)
		ret->size_limit = strtoull(text, NULL, 10);
	/* A path may lead elsewhere by now: ask the driver first. */
	snprintf(node, sizeof(node), "/dev/");
	sysfs_device_name(disk, node + 5, sizeof(node) - 5);
	fd = open(node, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || ioctl(fd, LOOP_GET_STATUS64, &info) < 0)
		return loop_by_path(ret);
	ret->dev = decode_device(info.lo_device);
	ret->inode = info.lo_inode;
	ret->rdev = info.lo_rdevice != info.lo_device ? decode_device(info.lo_rdevice) : 0;
	return true;
}

/* Finds attached loop devices, whole ones. */
static void find_loops(struct sysfs_devices *ret)
{
	ret->count = 0;
	for_each_device("/sys/block", "loop/backing_file", ret, add_one);
}

void sysfs_add_loops_of_file(struct sysfs_devices *set, dev_t file_dev, ino_t inode)
{
	struct sysfs_devices loops;
	struct sysfs_loop loop;

	find_loops(&loops);
	for (unsigned i = 0; i < loops.count; i++)
		if (sysfs_loop(loops.devices[i], &loop) && loop.rdev == 0 && loop.dev == file_dev &&
		    loop.inode == inode)
			sysfs_add_above(set, loops.devices[i]);
}

void sysfs_add_above(struct sysfs_devices *set, dev_t dev)
{
	struct sysfs_devices loops;
	struct sysfs_loop loop;
	unsigned next = set->count;
	char path[64];

	find_loops(&loops);
	add(set, dev);
	/* The set is its own work list. */
	for (; next < set->count; next++) {
		sysfs_add_partitions(set, set->devices[next]);
		device_path(set->devices[next], "holders", path, sizeof(path));
		for_each_device(path, "dev", set, add_one);
		for (unsigned i = 0; i < loops.count; i++)
			if (sysfs_loop(loops.devices[i], &loop) && loop.rdev == set->devices[next])
				add(set, loops.devices[i]);
	}
}
