/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which processes have a volume open, from /proc/PID/fd and /proc/PID/fdinfo; and by QEMU's locks, which also those see who may not look
 * into processes. What cannot be seen is said: nobody found is not nobody there.
 */
#include "block/file_system.h"
#include "block/inspect_private.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

/* The number of the PID namespace that holds all others: PROC_PID_INIT_INO of the kernel's proc_ns.h. */
#define FIRST_PID_NAMESPACE 0xeffffffcu
/* QEMU has a read lock there while it may write: RAW_LOCK_PERM_BASE and BLK_PERM_WRITE of its block/file-posix.c and block-common.h. */
#define QEMU_WRITE_LOCK 101

void inspect_process_name(long pid, char *ret, size_t length)
{
	char path[64], command[64] = "";

	snprintf(path, sizeof(path), "/proc/%ld/comm", pid);
	sysfs_line(path, command, sizeof(command));
	if (command[0])
		snprintf(ret, length, "pid %ld (%s)", pid, command);
	else
		snprintf(ret, length, "pid %ld", pid);
}

struct scan {
	const struct inspect_volume *volume;
	struct sysfs_devices devices; /* the volume's, and the disk that it is a partition of */
	struct inspect_openers *ret;
};

/* 0: something else; 1: what lies upon the volume or below it; 2: the volume itself. */
static int relation(const struct scan *scan, int dir, const char *name)
{
	const struct inspect_volume *volume = scan->volume;
	struct statx stat;
	dev_t dev;

	/* Asks no server: a network that hangs must not hang us. */
	if (statx(dir, name, AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO, &stat) < 0)
		return 0;
	if (S_ISBLK(stat.stx_mode)) {
		dev = makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
		if (volume->device && dev == volume->stat.st_rdev)
			return 2;
		return sysfs_devices_has(&scan->devices, dev) ? 1 : 0;
	}
	dev = makedev(stat.stx_dev_major, stat.stx_dev_minor);
	return !volume->device && S_ISREG(stat.stx_mode) && dev == volume->stat.st_dev &&
	               stat.stx_ino == volume->stat.st_ino
	           ? 2
	           : 0;
}

static bool opened_for_writing(long pid, const char *fd)
{
	char path[64], text[128];
	const char *flags;
	FILE *file;
	bool writes = false;

	snprintf(path, sizeof(path), "/proc/%ld/fdinfo/%.16s", pid, fd);
	file = fopen(path, "re");
	while (file && fgets(text, sizeof(text), file)) {
		if (strncmp(text, "flags:", 6) != 0)
			continue;
		flags = text + 6;
		writes = (strtoul(flags, NULL, 8) & O_ACCMODE) != O_RDONLY;
		break;
	}
	if (file)
		fclose(file);
	return writes;
}

static void note_opener(struct scan *scan, long pid, const char *fd, int how)
{
	struct inspect_openers *ret = scan->ret;
	bool writes = opened_for_writing(pid, fd);

	if (pid == getpid()) {
		ret->own_writer = ret->own_writer || (writes && how == 2);
		return;
	}
	if (writes && !ret->writer[0])
		inspect_process_name(pid, ret->writer, sizeof(ret->writer));
	if (how == 2 && !ret->opener[0])
		inspect_process_name(pid, ret->opener, sizeof(ret->opener));
}

static void scan_process(struct scan *scan, long pid)
{
	struct dirent *entry;
	char path[64];
	DIR *dir;
	int how;

	snprintf(path, sizeof(path), "/proc/%ld/fd", pid);
	dir = opendir(path);
	/* Else it has ended. */
	if (!dir && (errno == EACCES || errno == EPERM))
		scan->ret->hidden = true;
	while (dir && (entry = readdir(dir))) {
		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		how = relation(scan, dirfd(dir), entry->d_name);
		if (how)
			note_opener(scan, pid, entry->d_name, how);
	}
	if (dir)
		closedir(dir);
}

static bool qemu_may_write(int fd)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = QEMU_WRITE_LOCK, .l_len = 1};

	return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_RDLCK;
}

void inspect_openers(const struct inspect_volume *volume, struct inspect_openers *ret)
{
	struct scan scan = {.volume = volume, .devices = volume->above, .ret = ret};
	struct dirent *entry;
	DIR *dir = opendir("/proc");
	dev_t disk;

	*ret = (struct inspect_openers){.hidden = !dir};
	/* Who writes to the disk may write to its partition. */
	if (volume->device && sysfs_partition(volume->stat.st_rdev, &disk) &&
	    scan.devices.count < SYSFS_DEVICES_MAX)
		scan.devices.devices[scan.devices.count++] = disk;
	while (dir && (entry = readdir(dir)))
		if (isdigit((unsigned char)entry->d_name[0]))
			scan_process(&scan, strtol(entry->d_name, NULL, 10));
	if (dir)
		closedir(dir);
	if (!ret->writer[0] && qemu_may_write(volume->fd))
		snprintf(ret->writer, sizeof(ret->writer), "a process whose locks are QEMU's");
}

static bool is_shared_by_machines(const struct inspect_volume *volume)
{
	struct statfs stat;

	if (volume->device)
		return false;
	return fstatfs(volume->fd, &stat) < 0 || file_system_traits(&stat) & FILE_SYSTEM_SHARED;
}

void inspect_blind(const struct inspect_volume *volume, bool hidden, char *ret, size_t length)
{
	const char *why = "";
	struct stat space;

	if (is_shared_by_machines(volume))
		why = "other machines may use what lies on its file system";
	else if (hidden || geteuid() != 0)
		why = "only root may see what other users' processes have open";
	else if (stat("/proc/self/ns/pid", &space) < 0 || space.st_ino != FIRST_PID_NAMESPACE)
		why = "processes outside of this container are not seen";
	snprintf(ret, length, "%s", why);
}
