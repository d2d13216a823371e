/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which paths an agent may open: nothing outside the allowed files and folders is reachable, by symlinks or
 * ".." neither. An allowed path that is itself a symlink (as /dev/vg/lv is) was named by the administrator
 * and is followed; below an allowed folder openat2(2) resolves with RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <sys/types.h>

struct path_policy {
	const char *const *allow; /* absolute paths, NULL at the end; borrowed; NULL itself allows all */
	bool read_only;
};

/* open(2) under the policy (NULL allows all). Returns a descriptor, or -errno: -EACCES with words when it is
 * not allowed. */
int path_policy_open(
    const struct path_policy *policy, const char *path, int flags, mode_t mode, struct error *error);
