/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A device's name: a symbolic link in a folder that is root's alone, and a lock that says that one process has it. */
#include "base/cleanup.h"
#include "base/run_dir.h"
#include "export/device_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Returns a descriptor of the folder, or -errno with words. */
static int open_folder(const char *folder, struct error *error)
{
	struct stat st;
	int fd;

	if (mkdir(folder, 0755) < 0 && errno != EEXIST)
		return error_set(error, -errno, "cannot make %s: %s", folder, strerror(errno));
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set(error, -errno, "cannot open %s: %s", folder, strerror(errno));
	if (st.st_uid != geteuid() || (st.st_mode & 022)) {
		close(fd);
		return error_set(
		    error, -EPERM, "others may put names into %s; remove it, or its rights", folder);
	}
	return fd;
}

/* Whether a name leads there: 1; 0 another way; -errno, -EINVAL for what is no link. */
static int leads_to(int folder, const char *name, const char *node)
{
	char target[256];
	ssize_t length = readlinkat(folder, name, target, sizeof(target) - 1);

	if (length < 0)
		return -errno;
	target[length] = '\0';
	return !strcmp(target, node);
}

int device_link_make(const char *folder, const char *name, const char *node, struct error *error)
{
	char fresh[DEVICE_NAME_MAX + 8];
	_cleanup_(cleanup_close) int fd = open_folder(folder, error);
	int res;

	if (fd < 0)
		return fd;
	res = leads_to(fd, name, node);
	if (res > 0)
		return 0;
	if (res == -EINVAL)
		return error_set(
		    error, -EEXIST, "%s/%s is there, and no link of ours; remove it", folder, name);
	/* No name of a device begins so. */
	snprintf(fresh, sizeof(fresh), ".%s", name);
	unlinkat(fd, fresh, 0);
	if (symlinkat(node, fd, fresh) < 0 || renameat(fd, fresh, fd, name) < 0)
		return error_set(
		    error, -errno, "cannot make the link %s/%s: %s", folder, name, strerror(errno));
	return 0;
}

void device_link_remove(const char *folder, const char *name, const char *node)
{
	_cleanup_(cleanup_close) int fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd >= 0 && leads_to(fd, name, node) > 0)
		unlinkat(fd, name, 0);
	/* The last one takes the folder along. */
	rmdir(folder);
}

int device_lock(const char *name, struct error *error)
{
	char folder[256], path[512], pid[16] = "";
	_cleanup_(cleanup_close) int fd = -1;
	int res = run_dir_make(run_dir_path(folder, sizeof(folder)), error);
	ssize_t length;

	if (res < 0)
		return res;
	snprintf(path, sizeof(path), "%s/device-%s.lock", folder, name);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return error_set(error, -errno, "cannot lock %s: %s", path, strerror(errno));
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		length = read(fd, pid, sizeof(pid) - 1);
		return error_set(error, -EALREADY,
		    "process %s serves it already; stop that, or choose another name",
		    length > 0 ? pid : "?");
	}
	length = snprintf(pid, sizeof(pid), "%d", (int)getpid());
	if (ftruncate(fd, 0) < 0 || pwrite(fd, pid, (size_t)length, 0) < 0)
		return error_set(error, -errno, "cannot write %s: %s", path, strerror(errno));
	return take_fd(&fd);
}
