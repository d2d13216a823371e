/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names of stages, and of the records that lead to them. */
#include "base/crc32c.h"
#include "base/folder.h"
#include "base/state_dir.h"
#include "block/stage.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BESIDE ".blkmove-stage"
#define RECORD ".stage"

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
	       snprintf(ret, length, "%s" BESIDE, name) < (int)length;
}

bool stage_place_in(const char *folder, const char *id, char *ret, size_t length)
{
	char name[17];

	return snprintf(ret, length, "%s/%s" RECORD, folder, crc32c_name(id, name)) < (int)length;
}

bool stage_place_record(const char *id, char *ret, size_t length)
{
	char folder[PATH_MAX];

	return stage_place_in(state_dir_path(folder, sizeof(folder)), id, ret, length);
}

int stage_place(int fd, const char *id, const char *folder, struct stage_place *ret, struct error *error)
{
	bool fits = stage_place_record(id, ret->record, sizeof(ret->record));

	if (folder)
		fits = fits && stage_place_in(folder, id, ret->path, sizeof(ret->path));
	else if (!stage_place_beside(fd, ret->path, sizeof(ret->path)))
		memcpy(ret->path, ret->record, sizeof(ret->path));
	return fits ? 0 : error_set(error, -ENAMETOOLONG, "the name of its stage would be too long");
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

int stage_place_each(const char *folder, bool of_another, int (*each)(void *data, const char *record),
    void *data, struct error *error)
{
	char record[STAGE_PATH_MAX];
	DIR *dir = opendir(folder);
	struct dirent *entry;
	int res = 0;

	if (!dir && (errno == ENOENT || (of_another && errno == EACCES)))
		return 0;
	if (!dir)
		return error_set(
		    error, -errno, "cannot look for stages in %.300s: %s", folder, strerror(errno));
	while (res == 0 && (entry = readdir(dir))) {
		const char *end = strrchr(entry->d_name, '.');

		if (!end || strcmp(end, RECORD))
			continue;
		snprintf(record, sizeof(record), "%s/%s", folder, entry->d_name);
		res = each(data, record);
	}
	closedir(dir);
	return res;
}

static void remove_name(const char *path)
{
	char folder[STAGE_PATH_MAX];

	if (path[0] && unlink(path) == 0)
		folder_sync(folder_above(path, folder, sizeof(folder)));
}

void stage_place_remove(const struct stage_place *place)
{
	/* The record first: without its stage it would say that this is lost. */
	remove_name(place->record);
	remove_name(place->path);
}
