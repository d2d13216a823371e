/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether a stage will be found again: what lies in memory, or has no lasting name, is not there after a power cut. */
#include "base/folder.h"
#include "block/file_system.h"
#include "block/inspect.h"
#include "block/stage.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

int stage_identity(int fd, char *ret, unsigned length, struct error *error)
{
	if (inspect_identity(fd, ret, length))
		return 0;
	return error_set(error, -EOPNOTSUPP,
	    "it has no identity that outlasts a restart (%.160s), so that its stage could not be told to be "
	    "its own after a power cut; use an image file on ext4, XFS or Btrfs, a logical volume, or a disk "
	    "with a serial",
	    ret);
}

/* A folder in memory serves only a volume that goes together with it. */
static int check_folder(const struct stat *volume, const char *path, const char *advice, struct error *error)
{
	char folder[STAGE_PATH_MAX];
	struct statfs kind;
	struct stat stat_of;

	folder_above(path, folder, sizeof(folder));
	if (statfs(folder, &kind) < 0 || stat(folder, &stat_of) < 0)
		return error_set(error, -errno, "cannot look at the folder %.300s for its stage: %s", folder,
		    strerror(errno));
	if (!(file_system_traits(&kind) & FILE_SYSTEM_IN_MEMORY))
		return 0;
	if (S_ISREG(volume->st_mode) && volume->st_dev == stat_of.st_dev)
		return 0;
	return error_set(error, -EOPNOTSUPP,
	    "%.300s lies in memory, and nothing there would tell after a power cut how to complete the "
	    "round; "
	    "name a folder on a disk %s",
	    folder, advice);
}

int stage_place_lasts(int fd, const struct stage_place *place, struct error *error)
{
	struct stat volume;
	int res;

	if (fstat(fd, &volume) < 0)
		return error_set(error, -errno, "cannot look at it: %s", strerror(errno));
	res = check_folder(&volume, place->record,
	    "by $BLKMOVE_STATE_DIR, as it is set for every later use of the volume", error);
	return res < 0 ? res : check_folder(&volume, place->path, "by --atomic=DIR, as /srv/stage", error);
}
