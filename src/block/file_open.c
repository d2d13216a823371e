/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opens an image file or a block device: what it is, whether it may be written, how it wants its I/O. Control
 * path. */
#include "base/cleanup.h"
#include "block/driver.h"
#include "block/file.h"
#include "block/inspect.h"
#include "block/open.h"
#include "block/path_policy.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Opens an open file once more with other flags; the path is not walked again. */
static int reopen(int fd, int flags)
{
	char path[64];
	int again;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, flags | O_CLOEXEC);
	return again < 0 ? -errno : again;
}

static int open_words(int res, const char *path, bool write, struct error *error)
{
	switch (res) {
	case -ENOENT:
		return error_set(
		    error, res, "cannot open %s: there is no such file or device; check the name", path);
	case -EACCES:
	case -EPERM:
		return error_set(error, res,
		    "cannot open %s for %s: permission denied; run as a user that may, or as root", path,
		    write ? "writing" : "reading");
	case -EROFS:
		return error_set(
		    error, res, "cannot write to %s: it is read-only; name another target", path);
	case -EISDIR:
		return error_set(
		    error, res, "cannot open %s: it is a directory; name a file or a device", path);
	default:
		return error_set(error, res, "cannot open %s: %s", path, strerror(-res));
	}
}

/* Opens, and creates if asked. Returns a descriptor or -errno with words. */
static int open_or_create(const char *path, const struct path_policy *policy,
    const struct block_open_options *options, bool *ret_created, struct error *error)
{
	int flags = (options->write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
	struct error why = {0};
	int fd = path_policy_open(policy, path, flags, 0, &why);

	if (fd == -ENOENT && options->write && options->create) {
		fd = path_policy_open(policy, path, flags | O_CREAT | O_EXCL, 0600, &why);
		*ret_created = fd >= 0;
	}
	if (fd >= 0) {
		/* O_NONBLOCK was against waiting for a fifo's other end. */
		fcntl(fd, F_SETFL, 0);
		return fd;
	}
	if (why.text[0] && fd == -EACCES)
		return error_set(error, fd, "%s", why.text);
	return open_words(fd, path, options->write, error);
}

/* Somebody else has the device: words for who. Another blkmove's pid is worth more than that it is busy. */
static int busy_words(int fd, const char *path, struct error *error)
{
	char holder[160] = "";

	if (inspect_lock(fd, path, error) == -EALREADY)
		return -EALREADY;
	inspect_holder(fd, holder, sizeof(holder));
	return error_set(error, -EBUSY,
	    "cannot write to %s: it is in use%s%s; free it, or name another target", path,
	    holder[0] ? " by " : "", holder);
}

static int claim_device(
    int *fd, const char *path, const struct block_open_options *options, struct error *error)
{
	int exclusive;

	if (!options->write || options->force_held)
		return 0;
	exclusive = reopen(*fd, O_RDWR | O_EXCL);
	if (exclusive == -EBUSY)
		return busy_words(*fd, path, error);
	if (exclusive < 0)
		return open_words(exclusive, path, true, error);
	close(*fd);
	*fd = exclusive;
	return 0;
}

static int measure_device(int fd, struct block_info *info, struct error *error)
{
	uint64_t bytes;
	int sector;

	if (ioctl(fd, BLKGETSIZE64, &bytes) < 0 || ioctl(fd, BLKSSZGET, &sector) < 0)
		return error_set(
		    error, -errno, "cannot learn the size of %s: %s", info->name, strerror(errno));
	info->size = bytes;
	info->sector_size = (uint32_t)sector;
	return 0;
}

static int measure_file(int fd, const struct stat *stat, const struct block_open_options *options,
    struct block_info *info, struct error *error)
{
	info->size = (uint64_t)stat->st_size;
	info->sector_size = 1;
	info->resizable = info->writable;
	if (!info->created)
		return 0;
	if (ftruncate(fd, (off_t)options->create_size) < 0)
		return error_set(error, -errno, "cannot make %s %llu bytes long: %s", info->name,
		    (unsigned long long)options->create_size, strerror(errno));
	info->size = options->create_size;
	info->zeroed = true;
	return 0;
}

/* What direct I/O must be aligned to: statx(2), Linux 6.1, else the sector, else a page. */
static uint32_t direct_alignment(int fd, const struct block_info *info)
{
	uint32_t align = info->sector_size > 1 ? info->sector_size : 4096;
#ifdef STATX_DIOALIGN
	struct statx stat;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stat) == 0 && (stat.stx_mask & STATX_DIOALIGN) &&
	    stat.stx_dio_offset_align)
		align = stat.stx_dio_offset_align > stat.stx_dio_mem_align ? stat.stx_dio_offset_align
		                                                           : stat.stx_dio_mem_align;
#endif
	return align;
}

static int measure(struct file_options *file, const struct block_open_options *options, struct error *error)
{
	struct block_info *info = &file->info;
	struct stat stat;

	if (fstat(file->fd, &stat) < 0)
		return error_set(error, -errno, "cannot open %s: %s", info->name, strerror(errno));
	if (S_ISBLK(stat.st_mode)) {
		file->device = true;
		int res = claim_device(&file->fd, info->name, options, error);

		return res < 0 ? res : measure_device(file->fd, info, error);
	}
	if (S_ISREG(stat.st_mode))
		return measure_file(file->fd, &stat, options, info, error);
	return error_set(
	    error, -ENOTBLK, "cannot use %s: it is neither a file nor a block device", info->name);
}

static int prepare(struct file_options *file, const struct block_open_options *options, struct error *error)
{
	struct block_info *info = &file->info;
	int res = measure(file, options, error);

	if (res < 0)
		return res;
	if (options->write) {
		res = inspect_lock(file->fd, info->name, error);
		if (res < 0)
			return res;
	} else if (!file->device) {
		/* Holes are told from what is on disk: bring it there first. A read-only file system may
		 * refuse. */
		(void)fdatasync(file->fd);
	}
	file->direct_align = direct_alignment(file->fd, info);
	/* A device's page cache may be older than the device: what a mounted file system writes passes it by. */
	file->cached_reads = options->cache == CACHE_AUTO && !file->device;
	file->fresh_reads = options->cache != CACHE_BUFFERED && !file->cached_reads;
	if (options->cache != CACHE_BUFFERED)
		file->fd_direct = reopen(file->fd, (options->write ? O_RDWR : O_RDONLY) | O_DIRECT);
	return 0;
}

int file_open(struct block **ret, struct ring *ring, const char *path, const struct path_policy *policy,
    const struct block_open_options *options, struct error *error)
{
	struct file_options file = {.fd = -1, .fd_direct = -1};
	int res;

	snprintf(file.info.name, sizeof(file.info.name), "%s", path);
	file.info.request_align = 1;
	file.info.writable = options->write;
	file.fd = open_or_create(path, policy, options, &file.info.created, error);
	if (file.fd < 0)
		return file.fd;
	res = prepare(&file, options, error);
	if (res == 0)
		return file_new(ret, ring, &file, error);
	cleanup_close(&file.fd);
	return res;
}
