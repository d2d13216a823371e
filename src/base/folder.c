/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Making folders, and their names durable. */
#include "base/folder.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Not all file systems can. */
static int sync_fd(int folder_fd)
{
	return fsync(folder_fd) < 0 && errno != EINVAL ? -errno : 0;
}

int folder_sync(const char *folder)
{
	_cleanup_(cleanup_close) int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	return sync_fd(fd);
}

const char *folder_above(const char *path, char *buf, size_t length)
{
	char *slash;

	snprintf(buf, length, "%s", path);
	slash = strrchr(buf, '/');
	if (!slash)
		snprintf(buf, length, ".");
	else
		slash[slash == buf] = '\0';
	return buf;
}

int folder_make(const char *folder)
{
	char path[PATH_MAX], above[PATH_MAX];
	int res = 0;

	if (snprintf(path, sizeof(path), "%s", folder) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	for (char *at = path + 1;; at++) {
		char end = *at;

		if (end != '/' && end != '\0')
			continue;
		*at = '\0';
		if (mkdir(path, 0700) == 0)
			res = folder_sync(folder_above(path, above, sizeof(above)));
		else if (errno != EEXIST)
			res = -errno;
		*at = end;
		if (res < 0 || end == '\0')
			return res;
	}
}

int folder_lock(const char *path, bool make)
{
	int res = make ? folder_make(path) : 0;
	int fd = res < 0 ? res : open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return res < 0 ? res : -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	res = errno == EWOULDBLOCK ? -EALREADY : -errno;
	close(fd);
	return res;
}

static int put_new(int folder_fd, const char *name, const char *text)
{
	_cleanup_(cleanup_close) int fd =
	    openat(folder_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	ssize_t length = (ssize_t)strlen(text), wrote = fd < 0 ? -1 : write(fd, text, (size_t)length);

	if (wrote >= 0 && wrote != length)
		return -ENOSPC;
	return wrote < 0 || fsync(fd) < 0 ? -errno : 0;
}

int folder_put(int folder_fd, const char *name, const char *text)
{
	char fresh[NAME_MAX + 1];
	int res;

	if (snprintf(fresh, sizeof(fresh), "%s.new", name) >= (int)sizeof(fresh))
		return -ENAMETOOLONG;
	res = put_new(folder_fd, fresh, text);
	if (res == 0 && renameat(folder_fd, fresh, folder_fd, name) < 0)
		res = -errno;
	if (res < 0)
		unlinkat(folder_fd, fresh, 0);
	return res < 0 ? res : sync_fd(folder_fd);
}
