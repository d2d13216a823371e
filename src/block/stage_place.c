/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names of stages, and of the records that lead to them. */
#include "base/crc32c.h"
#include "base/folder.h"
#include "base/state_dir.h"
#include "block/stage.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SUFFIX ".blkmove-stage"

/* The name under which an open file is now; false when it has none. */
static bool name_of(int fd, char *ret, size_t length)
{
	char link[64];
	ssize_t got;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	got = readlink(link, ret, length - 1);
	if (got <= 0 || (size_t)got == length - 1)
		return false;
	ret[got] = '\0';
	return ret[0] == '/';
}

bool stage_place_beside(int fd, char *ret, size_t length)
{
	char name[PATH_MAX];
	struct stat stat;

	return fstat(fd, &stat) == 0 && S_ISREG(stat.st_mode) && name_of(fd, name, sizeof(name)) &&
	       snprintf(ret, length, "%s" SUFFIX, name) < (int)length;
}

bool stage_place_record(const char *id, char *ret, size_t length)
{
	char folder[PATH_MAX], name[17];

	state_dir_path(folder, sizeof(folder));
	return snprintf(ret, length, "%s/%s.stage", folder, crc32c_name(id, name)) < (int)length;
}

int stage_place(int fd, const char *id, const char *folder, struct stage_place *ret, struct error *error)
{
	char name[17];
	bool fits;

	if (!id[0] || !strncmp(id, "boot:", 5))
		return error_set(error, -EOPNOTSUPP,
		    "it has no identity that outlasts a restart (no serial, WWID or UUID), so that its stage "
		    "could not be told to be its own after a power cut; use a logical volume, an image file, "
		    "or "
		    "a disk with a serial");
	fits = stage_place_record(id, ret->record, sizeof(ret->record));
	if (folder)
		fits = fits && snprintf(ret->path, sizeof(ret->path), "%s/%s.stage", folder,
		                   crc32c_name(id, name)) < (int)sizeof(ret->path);
	else if (!stage_place_beside(fd, ret->path, sizeof(ret->path)))
		memcpy(ret->path, ret->record, sizeof(ret->path));
	return fits ? 0 : error_set(error, -ENAMETOOLONG, "the name of its stage would be too long");
}

static void sync_folder_of(const char *path)
{
	char folder[STAGE_PATH_MAX], *slash;

	snprintf(folder, sizeof(folder), "%s", path);
	slash = strrchr(folder, '/');
	if (!slash)
		return;
	slash[slash == folder] = '\0';
	folder_sync(folder);
}

int stage_place_note(const struct stage_place *place, struct error *error)
{
	char folder[PATH_MAX], old[STAGE_PATH_MAX];
	int res = 0;

	state_dir_path(folder, sizeof(folder));
	if (strcmp(place->path, place->record) && symlink(place->path, place->record) < 0)
		res = -errno;
	/* That of the stage that is gone on with. */
	if (res == -EEXIST && stage_place_read(place->record, old, sizeof(old)) && !strcmp(old, place->path))
		res = 0;
	if (res == 0)
		res = folder_sync(folder);
	return res < 0 ? error_set(error, res,
	                     "cannot note where its stage is in %s: %s; see what is the matter there", folder,
	                     strerror(-res))
	               : 0;
}

bool stage_place_read(const char *record, char *ret, size_t length)
{
	ssize_t got = readlink(record, ret, length - 1);

	ret[got > 0 ? got : 0] = '\0';
	return got > 0 && (size_t)got < length - 1;
}

void stage_place_remove(const struct stage_place *place)
{
	/* The record first: without its stage it would say that this is lost. */
	if (place->record[0] && unlink(place->record) == 0)
		sync_folder_of(place->record);
	if (place->path[0] && unlink(place->path) == 0)
		sync_folder_of(place->path);
}
