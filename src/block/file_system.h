/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a kind of file system is known for. Numbers as in <linux/magic.h> and the file systems' own sources. */
#pragma once

#include <sys/statfs.h>

enum file_system_trait {
	FILE_SYSTEM_SHARED = 1,       /* other machines, or a process here, may use what lies on it */
	FILE_SYSTEM_COARSE_TIMES = 2, /* a file's times are kept by somebody else, or are coarse */
	/* statfs(2)'s f_fsid is made from a UUID; others make it from a device number, which is another after a restart */
	FILE_SYSTEM_LASTING_ID = 4,
	FILE_SYSTEM_IN_MEMORY = 8, /* nothing of it outlasts a restart */
};

/* A set of them. 0 for kinds that are not known. */
unsigned file_system_traits(const struct statfs *stat);
