/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opens an image file or a block device: what it is, whether it may be written, how it wants its I/O. Control
 * path. */
#include "base/cleanup.h"
#include "block/driver.h"
#include "block/file.h"
#include "block/inspect.h"
#include "block/open.h"
#include "block/path_policy.h"
#include "block/stage.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_AHEAD \
	((off_t)512 << 20) /* bytes: what a disk reads while ssh logs in; little for a page cache */

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
	int sector, read_only;

	if (info->writable && ioctl(fd, BLKROGET, &read_only) == 0 && read_only)
		return open_words(-EROFS, info->name, true, error);
	if (ioctl(fd, BLKGETSIZE64, &bytes) < 0 || ioctl(fd, BLKSSZGET, &sector) < 0)
		return error_set(
		    error, -errno, "cannot learn the size of %s: %s", info->name, strerror(errno));
	info->size = bytes;
	info->sector_size = (uint32_t)sector;
	return 0;
}

static int measure_file(int fd, struct block_info *info, struct error *error)
{
	struct stat file, named;

	if (fstat(fd, &file) < 0)
		return error_set(
		    error, -errno, "cannot learn the size of %s: %s", info->name, strerror(errno));
	/* A file without any name may still be named by its descriptor, as /dev/fd/3. */
	if (info->writable && file.st_nlink == 0 && (stat(info->name, &named) < 0 || named.st_nlink > 0))
		return error_set(error, -ESTALE,
		    "cannot write to %s: it was removed while it was opened; try again", info->name);
	info->size = (uint64_t)file.st_size;
	info->sector_size = 1;
	info->resizable = true;
	return 0;
}

static int size_of(int fd, bool device, uint64_t *ret)
{
	struct stat file;

	if (device)
		return ioctl(fd, BLKGETSIZE64, ret) < 0 ? -errno : 0;
	if (fstat(fd, &file) < 0)
		return -errno;
	*ret = (uint64_t)file.st_size;
	return 0;
}

int file_measure_anew(const struct file_options *file, struct block_info *info, struct error *error)
{
	uint64_t size;
	int res = size_of(file->fd, file->device, &size);

	if (res < 0)
		return error_set(error, res, "cannot learn the size of %s: %s", info->name, strerror(-res));
	if (size < info->size)
		return error_set(error, -ENOSPC, "%s has %llu bytes now, and had %llu", info->name,
		    (unsigned long long)size, (unsigned long long)info->size);
	if (size == info->size)
		return 0;
	/* Whoever made it larger may have written there. */
	info->zeroed = false;
	info->holes_trusted = info->holes_trusted && fdatasync(file->fd) == 0;
	info->size = size;
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

/* The folder that an open file lies in, and its name there. Returns a descriptor or -errno. */
static int open_folder(int fd, char *ret_name, size_t size)
{
	char link[64], path[PATH_MAX + 1], *slash;
	ssize_t length;
	int folder;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, PATH_MAX);
	if (length < 0)
		return -errno;
	path[length] = '\0';
	slash = strrchr(path, '/');
	if (!slash || strlen(slash + 1) >= size)
		return -ENAMETOOLONG;
	memcpy(ret_name, slash + 1, strlen(slash + 1) + 1);
	slash[slash == path] = '\0';
	folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return folder < 0 ? -errno : folder;
}

/* A new file is as long as asked, and its name on stable storage: a flush of the file is not one of the folder. */
static int make_file(int fd, uint64_t size, struct block_info *info, struct error *error)
{
	char name[NAME_MAX + 1];
	_cleanup_(cleanup_close) int folder = -1;

	if (ftruncate(fd, (off_t)size) < 0)
		return error_set(error, -errno, "cannot make %s %llu bytes long: %s", info->name,
		    (unsigned long long)size, strerror(errno));
	folder = open_folder(fd, name, sizeof(name));
	/* Not all file systems can, and not every folder may be read. */
	if (folder >= 0 && fsync(folder) < 0 && (errno == EIO || errno == ENOSPC || errno == EDQUOT))
		return error_set(error, -errno, "cannot make %s: its folder cannot be written: %s",
		    info->name, strerror(errno));
	info->size = size;
	info->zeroed = true;
	return 0;
}

/* Takes back the file that this open made, while it still holds the lock: nobody else can be using it. */
static void remove_made(int fd)
{
	char name[NAME_MAX + 1];
	_cleanup_(cleanup_close) int folder = open_folder(fd, name, sizeof(name));
	struct stat made, there;

	if (folder >= 0 && fstat(fd, &made) == 0 && fstatat(folder, name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
	    made.st_dev == there.st_dev && made.st_ino == there.st_ino)
		(void)unlinkat(folder, name, 0);
}

/* What it is, and that it is ours. Only then it is measured: another run may just have resized it. */
static int claim(struct file_options *file, const struct block_open_options *options, struct error *error)
{
	const char *name = file->info.name;
	struct stat stat;
	int res = 0;

	if (fstat(file->fd, &stat) < 0)
		return error_set(error, -errno, "cannot open %s: %s", name, strerror(errno));
	file->device = S_ISBLK(stat.st_mode);
	if (file->device)
		res = claim_device(&file->fd, name, options, error);
	else if (!S_ISREG(stat.st_mode))
		return error_set(
		    error, -ENOTBLK, "cannot use %s: it is neither a file nor a block device", name);
	if (res == 0 && options->write)
		res = inspect_lock(file->fd, name, error);
	return res;
}

/* Asks for the first data of a file. It does not wait, and reads nothing when memory is short. */
static void read_ahead(int fd)
{
	off_t begin = 0, end, left = READ_AHEAD;

	while (left > 0 && (begin = lseek(fd, begin, SEEK_DATA)) >= 0) {
		end = lseek(fd, begin, SEEK_HOLE);
		if (end <= begin)
			return;
		if (end - begin > left)
			end = begin + left;
		posix_fadvise(fd, begin, end - begin, POSIX_FADV_WILLNEED);
		left -= end - begin;
		begin = end;
	}
}

static int prepare(struct file_options *file, const struct block_open_options *options, struct error *error)
{
	struct block_info *info = &file->info;
	int res = file->device ? measure_device(file->fd, info, error) : measure_file(file->fd, info, error);

	if (res == 0 && info->created)
		res = make_file(file->fd, options->create_size, info, error);
	if (res < 0)
		return res;
	/* Holes are told from what is on disk: bring it there first. A read-only file system may refuse. */
	info->holes_trusted = !file->device && (info->created || fdatasync(file->fd) == 0);
	file->direct_align = direct_alignment(file->fd, info);
	/* A device's page cache may be older than the device: what a mounted file system writes passes it by. */
	file->write_at_once = options->write_at_once;
	file->cached_reads = options->cache == CACHE_AUTO && !file->device;
	file->buffered = options->cache == CACHE_BUFFERED && (options->write || !file->device);
	file->fresh_reads = !file->buffered && !file->cached_reads;
	if (options->read_ahead && file->cached_reads)
		read_ahead(file->fd);
	if (!file->buffered || options->write)
		file->fd_direct = reopen(file->fd, (options->write ? O_RDWR : O_RDONLY) | O_DIRECT);
	return 0;
}

/* An earlier round's stage, if there is one, comes first. Takes the block on failure. */
static int settle(struct block *block, int fd, const struct block_open_options *options, struct error *error)
{
	enum stage_found what = !options->write                ? STAGE_FOUND_REFUSE
	                        : options->stage == STAGE_DROP ? STAGE_FOUND_DROP
	                                                       : STAGE_FOUND_APPLY;
	int res = options->stage == STAGE_IGNORE || block->info.created
	              ? 0
	              : stage_settle(block, fd, what, options->force_held, error);

	block->info.settles = options->stage != STAGE_IGNORE;
	block->info.recovered = res == 1;
	if (res < 0)
		block_free(block);
	return res < 0 ? res : 0;
}

static int make_block(struct block **ret, struct ring *ring, const struct file_options *file,
    const struct block_open_options *options, struct error *error)
{
	struct block *block;
	int res = file_new(&block, ring, file, error);

	if (res == 0)
		res = settle(block, file->fd, options, error);
	if (res == 0)
		*ret = block;
	return res;
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
	res = claim(&file, options, error);
	if (res == 0) {
		res = prepare(&file, options, error);
		if (res == 0)
			return make_block(ret, ring, &file, options, error);
		if (file.info.created)
			remove_made(file.fd);
	}
	cleanup_close(&file.fd);
	return res;
}
