/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A mark differs whenever the volume was written in between. For a file: its times and size. For a device:
 * how much was ever written to and discarded from it in this boot, as the kernel counts. Where such a mark
 * could lie (time stamps too coarse or kept elsewhere, counting switched off, a volume that other machines
 * write), there is none.
 */
#include "base/cleanup.h"
#include "block/file_system.h"
#include "block/inspect_private.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TICK_NS       20000000 /* time stamps may be as coarse as the kernel's tick: 10 ms at 100 Hz */
#define SETTLE_ROUNDS 5

static int64_t age_ns(const struct timespec *time)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)(now.tv_sec - time->tv_sec) * 1000000000 + (now.tv_nsec - time->tv_nsec);
}

/* A second write within the tick of the last would leave no trace: waits it out. False when writes never
 * pause. */
static bool settle(int fd, struct stat *stat)
{
	for (int round = 0; round < SETTLE_ROUNDS; round++) {
		int64_t age = age_ns(&stat->st_ctim);

		if (age >= TICK_NS)
			return true;
		if (age < 0) /* stamped in the future: the clock was set back */
			return false;
		usleep((unsigned)(TICK_NS - age) / 1000 + 1);
		if (fstat(fd, stat) < 0)
			return false;
	}
	return false;
}

static void file_mark(int fd, struct stat stat, char *ret, size_t length)
{
	struct statfs kind;

	if (fstatfs(fd, &kind) < 0 || file_system_traits(&kind) & FILE_SYSTEM_COARSE_TIMES ||
	    !settle(fd, &stat))
		return;
	snprintf(ret, length, "c%lld.%09ld,m%lld.%09ld,size%llu", (long long)stat.st_ctim.tv_sec,
	    stat.st_ctim.tv_nsec, (long long)stat.st_mtim.tv_sec, stat.st_mtim.tv_nsec,
	    (unsigned long long)stat.st_size);
}

struct counters {
	uint64_t read, written, discarded; /* sectors of 512 bytes */
};

/* The fields of /sys/dev/block/M:m/stat, see the kernel's Documentation/block/stat.rst. */
static bool read_counters(dev_t dev, struct counters *ret)
{
	char text[512];
	uint64_t discarded = 0, read, written;
	int fields;

	if (sysfs_device_line(dev, "stat", text, sizeof(text)) < 0)
		return false;
	fields = sscanf(text, "%*u %*u %" SCNu64 " %*u %*u %*u %" SCNu64 " %*u %*u %*u %*u %*u %*u %" SCNu64,
	    &read, &written, &discarded);
	if (fields < 2)
		return false;
	*ret = (struct counters){.read = read, .written = written, .discarded = discarded};
	return true;
}

static bool same_counters(const struct counters *a, const struct counters *b)
{
	return a->written == b->written && a->discarded == b->discarded;
}

/* What was written past all partitions, through the disk itself. False when it did not hold still. */
static bool direct_counters(dev_t disk, struct counters *ret)
{
	struct sysfs_devices partitions = {.count = 0};
	struct counters before, after, one, sum;

	sysfs_add_partitions(&partitions, disk);
	for (int round = 0; round < SETTLE_ROUNDS; round++) {
		sum = (struct counters){0};
		if (!read_counters(disk, &before))
			return false;
		for (unsigned i = 0; i < partitions.count; i++) {
			if (!read_counters(partitions.devices[i], &one))
				return false;
			sum.written += one.written;
			sum.discarded += one.discarded;
		}
		if (!read_counters(disk, &after))
			return false;
		if (same_counters(&before, &after)) {
			ret->written = after.written - sum.written;
			ret->discarded = after.discarded - sum.discarded;
			return true;
		}
	}
	return false;
}

/* Volumes that others may write without this kernel's knowing. */
static bool is_shared(dev_t disk)
{
	static const char *const prefixes[] = {"nbd", "rbd", "drbd"};
	char name[64];

	sysfs_device_name(disk, name, sizeof(name));
	for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
		if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
			return true;
	return false;
}

/* Reads a little past the page cache, and sees whether that was counted. */
static bool counts_a_read(int fd, dev_t dev)
{
	_cleanup_(cleanup_close) int direct = -1;
	_cleanup_(cleanup_free) void *buf = NULL;
	struct counters before, after;
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	direct = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	return direct >= 0 && posix_memalign(&buf, 4096, 4096) == 0 && read_counters(dev, &before) &&
	       pread(direct, buf, 4096, 0) == 4096 && read_counters(dev, &after) && after.read > before.read;
}

/* Device-mapper of older kernels, 6.1 among them, counts always, though it says that it does not. */
static bool is_counted(int fd, dev_t dev, dev_t disk)
{
	char text[16];

	if (sysfs_device_line(disk, "queue/iostats", text, sizeof(text)) < 0)
		return false;
	return strcmp(text, "1") == 0 || (sysfs_device_has(disk, "dm/name") && counts_a_read(fd, dev));
}

/* A loop device also changes when its file is written by another way. Returns false when that cannot be seen.
 */
static bool loop_mark(dev_t disk, char *ret, size_t length)
{
	struct sysfs_loop loop;
	struct stat stat_buf;
	char mark[160] = "";
	int fd;

	if (!sysfs_loop(disk, &loop))
		return true;
	if (loop.rdev)
		return false;
	fd = open(loop.path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return false;
	if (fstat(fd, &stat_buf) == 0 && stat_buf.st_dev == loop.dev && stat_buf.st_ino == loop.inode)
		file_mark(fd, stat_buf, mark, sizeof(mark));
	close(fd);
	snprintf(ret, length, ",%s", mark);
	return mark[0];
}

static void device_mark(int fd, dev_t dev, char *ret, size_t length)
{
	char boot[64], sequence[32] = "", loop[200] = "";
	struct counters own, direct = {0};
	dev_t disk;
	unsigned partition = sysfs_partition(dev, &disk);

	/* What waits in the page cache is seen by readers but not yet counted. */
	if (is_shared(disk) || !is_counted(fd, dev, disk) || (fsync(fd) < 0 && errno != EROFS))
		return;
	if (!loop_mark(disk, loop, sizeof(loop)) || !read_counters(dev, &own))
		return;
	if (partition && !direct_counters(disk, &direct))
		return;
	/* All still zero: this driver does not count (device-mapper and NVMe multipath once did not). */
	if (own.read == 0 && own.written == 0)
		return;
	if (!sysfs_boot_id(boot, sizeof(boot)))
		return;
	sysfs_device_line(disk, "diskseq", sequence, sizeof(sequence));
	snprintf(ret, length, "%.18s,%s,w%" PRIu64 ",d%" PRIu64 "%s", boot, sequence,
	    own.written + direct.written, own.discarded + direct.discarded, loop);
}

void inspect_mark(const struct inspect_volume *volume, char *ret, size_t length)
{
	ret[0] = '\0';
	if (volume->device)
		device_mark(volume->fd, volume->stat.st_rdev, ret, length);
	else
		file_mark(volume->fd, volume->stat, ret, length);
}
