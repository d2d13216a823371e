/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where it lies, and that it is nobody else's: see run_dir.h. */
#include "base/run_dir.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *run_dir_path(char *buf, size_t length)
{
	const char *own = getenv("BLKMOVE_RUN_DIR"), *runtime = getenv("XDG_RUNTIME_DIR");

	if (own && own[0])
		snprintf(buf, length, "%s", own);
	else if (geteuid() == 0)
		snprintf(buf, length, "/run/blkmove");
	else if (runtime && runtime[0])
		snprintf(buf, length, "%s/blkmove", runtime);
	else
		snprintf(buf, length, "/tmp/blkmove-%u", (unsigned)geteuid());
	return buf;
}

int run_dir_check(const char *dir, struct error *error)
{
	struct stat st;

	if (lstat(dir, &st) < 0)
		return error_set(error, -errno, "cannot look at %s: %s", dir, strerror(errno));
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 07777) != 0700)
		return error_set(error, -EPERM,
		    "%s is not a folder of this user with mode 0700; remove it, or name another in "
		    "BLKMOVE_RUN_DIR",
		    dir);
	return 0;
}

int run_dir_make(const char *dir, struct error *error)
{
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return error_set(error, -errno, "cannot make %s: %s", dir, strerror(errno));
	return run_dir_check(dir, error);
}
