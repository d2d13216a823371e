/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a volume is, in words that stay the same as long as it is the same volume and differ for every other:
 * a path or a device number proves nothing, since both are used again (OSSA-2023-003).
 */
#include "base/cleanup.h"
#include "block/file_system.h"
#include "block/inspect_private.h"

#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define DEPTH_MAX 4 /* loop devices on files on loop devices... */

/* Linux 6.9; not in the headers of older systems. */
struct fs_uuid {
	uint8_t length;
	uint8_t uuid[16];
};
#define IOC_GET_FS_UUID _IOR(0x15, 0, struct fs_uuid)

static bool device_id(dev_t dev, unsigned depth, char *ret, size_t length);

/* Keeps identities short: the end of a long one becomes a part of its SHA-256. */
static void shorten(char *text, size_t limit)
{
	uint8_t hash[32];
	size_t keep = limit - 33;

	if (strlen(text) <= limit || gnutls_hash_fast(GNUTLS_DIG_SHA256, text, strlen(text), hash) < 0)
		return;
	text[keep] = '~';
	for (int i = 0; i < 16; i++)
		snprintf(text + keep + 1 + 2 * i, 3, "%02x", hash[i]);
}

/* One property of udev's database, "E:NAME=value" lines. */
static bool udev_property(dev_t dev, const char *name, char *ret, size_t length)
{
	char path[64], line[1024];
	size_t name_length = strlen(name);
	bool found = false;
	FILE *file;

	snprintf(path, sizeof(path), "/run/udev/data/b%u:%u", major(dev), minor(dev));
	file = fopen(path, "re");
	while (file && !found && fgets(line, sizeof(line), file)) {
		found = strncmp(line, "E:", 2) == 0 && strncmp(line + 2, name, name_length) == 0 &&
		        line[2 + name_length] == '=';
		if (found)
			snprintf(ret, length, "%.*s", (int)strcspn(line + 3 + name_length, "\n"),
			    line + 3 + name_length);
	}
	if (file)
		fclose(file);
	return found && ret[0];
}

/* What the hardware, the mapper or the array calls itself. */
static bool disk_own_id(dev_t disk, char *ret, size_t length)
{
	static const char *const sources[][2] = {
	    {"dm/uuid", "dm"},
	    {"md/uuid", "md"},
	    {"wwid", "wwid"},
	    {"device/wwid", "wwid"},
	    {"device/cid", "mmc"},
	    {"serial", "serial"},
	};
	char text[512];

	for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++) {
		if (sysfs_device_line(disk, sources[i][0], text, sizeof(text)) < 0 || !text[0])
			continue;
		snprintf(ret, length, "%s:%s", sources[i][1], text);
		return true;
	}
	if (udev_property(disk, "MD_UUID", text, sizeof(text)) ||
	    udev_property(disk, "ID_WWN_WITH_EXTENSION", text, sizeof(text)) ||
	    udev_property(disk, "ID_SERIAL", text, sizeof(text))) {
		snprintf(ret, length, "udev:%s", text);
		return true;
	}
	return false;
}

/* Only as good as this boot and this attachment: the kernel counts every attachment of a disk (Linux 5.15).
 */
static void passing_id(dev_t disk, char *ret, size_t length)
{
	char boot[64], sequence[32] = "";

	sysfs_boot_id(boot, sizeof(boot));
	sysfs_device_line(disk, "diskseq", sequence, sizeof(sequence));
	snprintf(ret, length, INSPECT_PASSING "%s,%u:%u,seq%s", boot, major(disk), minor(disk), sequence);
}

/* The file system that a file is on: its device where that has a lasting name, else its UUID, else its
 * number. Returns whether this stays what it is, or goes together with its files. */
static bool file_system_id(int fd, dev_t dev, unsigned depth, char *ret, size_t length)
{
	struct fs_uuid uuid = {0};
	struct statfs stat = {0};
	uint32_t id[2] = {0};

	if (depth < DEPTH_MAX && sysfs_device_has(dev, "dev") && device_id(dev, depth + 1, ret, length))
		return true;
	if (ioctl(fd, IOC_GET_FS_UUID, &uuid) == 0 && uuid.length == 16) {
		int used = snprintf(ret, length, "fs:");

		for (int i = 0; i < 16; i++)
			used += snprintf(ret + used, length - (size_t)used, "%02x", uuid.uuid[i]);
		return true;
	}
	if (fstatfs(fd, &stat) == 0)
		memcpy(id, &stat.f_fsid, sizeof(id));
	if (id[0] || id[1])
		snprintf(ret, length, "fsid:%08x%08x", id[0], id[1]);
	else
		snprintf(ret, length, "dev:%u:%u", major(dev), minor(dev));
	return (id[0] || id[1]) && file_system_traits(&stat) & FILE_SYSTEM_LASTING_ID;
}

/* Inode numbers are used again; the time of birth tells one file from the next. */
static bool file_id(int fd, const struct stat *stat, unsigned depth, char *ret, size_t length)
{
	char file_system[512], birth[64] = "";
	struct statx more;
	bool lasting = file_system_id(fd, stat->st_dev, depth, file_system, sizeof(file_system));
	shorten(file_system, 80);
	if (statx(fd, "", AT_EMPTY_PATH, STATX_BTIME, &more) == 0 && (more.stx_mask & STATX_BTIME))
		snprintf(birth, sizeof(birth), ",born%lld.%09u", (long long)more.stx_btime.tv_sec,
		    more.stx_btime.tv_nsec);
	snprintf(ret, length, "file:%.80s,ino%llu%s", file_system, (unsigned long long)stat->st_ino, birth);
	return lasting;
}

/* A loop device is what lies behind it. Returns false when that cannot be named in this boot; clears *lasting when it can in no other. */
static bool loop_id(const struct sysfs_loop *loop, unsigned depth, char *ret, size_t length, bool *lasting)
{
	_cleanup_(cleanup_close) int fd = -1;
	char backing[512];
	struct stat stat;

	if (depth >= DEPTH_MAX)
		return false;
	if (loop->rdev) {
		if (!device_id(loop->rdev, depth + 1, backing, sizeof(backing)))
			return false;
	} else {
		fd = open(loop->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		if (fd < 0 || fstat(fd, &stat) < 0 || stat.st_dev != loop->dev || stat.st_ino != loop->inode)
			return false;
		*lasting &= file_id(fd, &stat, depth + 1, backing, sizeof(backing));
	}
	snprintf(ret, length, "loop:%s,off%llu,max%llu", backing, (unsigned long long)loop->offset,
	    (unsigned long long)loop->size_limit);
	return true;
}

/* Returns true when the name outlasts this boot. */
static bool device_id(dev_t dev, unsigned depth, char *ret, size_t length)
{
	dev_t disk;
	unsigned partition = sysfs_partition(dev, &disk);
	struct sysfs_loop loop;
	char text[1024] = "";
	bool lasting = true, named = disk_own_id(disk, text, sizeof(text));

	if (!named && sysfs_loop(disk, &loop))
		named = loop_id(&loop, depth, text, sizeof(text), &lasting);
	if (!named)
		passing_id(disk, text, sizeof(text));
	shorten(text, 140);
	if (partition)
		snprintf(ret, length, "%.140s,part%u", text, partition);
	else
		snprintf(ret, length, "%.140s", text);
	return named && lasting;
}

bool inspect_device_id(dev_t dev, char *ret, unsigned length)
{
	char text[512] = "";
	bool lasting = device_id(dev, 0, text, sizeof(text));

	shorten(text, length - 1);
	snprintf(ret, length, "%s", text);
	return lasting;
}

bool inspect_id(const struct inspect_volume *volume, char *ret, size_t length)
{
	char text[512] = "";
	bool lasting;

	if (volume->device)
		return inspect_device_id(volume->stat.st_rdev, ret, (unsigned)length);
	lasting = file_id(volume->fd, &volume->stat, 0, text, sizeof(text));
	shorten(text, length - 1);
	snprintf(ret, length, "%s", text);
	return lasting;
}
