/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Confinement of an agent: see path_policy.h. The kernel resolves; nothing is judged by comparing resolved
 * names. */
#include "block/path_policy.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>

#define ALWAYS_FLAGS (O_CLOEXEC | O_NOCTTY)

static int denied(const char *path, struct error *error)
{
	return error_set(error, -EACCES,
	    "cannot open %s: this agent is not allowed to; name it exactly, without symbolic links, or have "
	    "--allow %s added to the agent's command",
	    path, path);
}

static size_t length_without_slashes(const char *path)
{
	size_t length = strlen(path);

	while (length > 1 && path[length - 1] == '/')
		length--;
	return length;
}

/* What of `path` lies below `allowed`: "" for itself, NULL when it is somewhere else. */
static const char *below(const char *allowed, const char *path)
{
	size_t length = length_without_slashes(allowed);

	if (strncmp(allowed, path, length) != 0)
		return NULL;
	if (allowed[length - 1] == '/')
		length--; /* the root folder itself */
	if (path[length] != '/' && path[length] != '\0')
		return NULL;
	path += length;
	while (*path == '/')
		path++;
	return path;
}

/* Returns -EXDEV, -ELOOP or -ENOTDIR when the way leads outside or goes no further. */
static int open_below(const char *allowed, const char *rest, int flags, mode_t mode)
{
	_cleanup_(cleanup_close) int folder = open(allowed, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct open_how how = {
	    .flags = (uint64_t)(flags | ALWAYS_FLAGS),
	    .mode = flags & O_CREAT ? mode : 0,
	    .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
	};
	unsigned tries = 100;
	long fd;

	if (folder < 0)
		return -errno;
	do
		fd = syscall(SYS_openat2, folder, rest, &how, sizeof(how));
	while (fd < 0 && errno == EAGAIN &&
	       --tries > 0); /* a rename raced with "..": the kernel wants another try */
	return fd < 0 ? -errno : (int)fd;
}

static int plain_open(const char *path, int flags, mode_t mode)
{
	int fd = open(path, flags | ALWAYS_FLAGS, mode);

	return fd < 0 ? -errno : fd;
}

static bool leads_out(int res)
{
	return res == -EXDEV || res == -ELOOP || res == -ENOTDIR;
}

static int open_allowed(
    const struct path_policy *policy, const char *path, int flags, mode_t mode, struct error *error)
{
	for (const char *const *allowed = policy->allow; *allowed; allowed++) {
		const char *rest = (*allowed)[0] == '/' ? below(*allowed, path) : NULL;
		int fd;

		if (!rest)
			continue;
		fd = rest[0] ? open_below(*allowed, rest, flags, mode) : plain_open(*allowed, flags, mode);
		/* Another entry may name the same place more closely. */
		if (!rest[0] || !leads_out(fd))
			return fd;
	}
	return denied(path, error);
}

int path_policy_open(
    const struct path_policy *policy, const char *path, int flags, mode_t mode, struct error *error)
{
	bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC | O_APPEND));

	if (policy && policy->read_only && writes)
		return error_set(error, -EACCES,
		    "cannot open %s for writing: this agent was started with --read-only; write elsewhere, "
		    "or have "
		    "it started without",
		    path);
	if (!policy || !policy->allow)
		return plain_open(path, flags, mode);
	return open_allowed(policy, path, flags, mode, error);
}
