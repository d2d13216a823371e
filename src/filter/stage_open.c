/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opens the target of an atomic round: the volume, the file for its stage, the view over both. Control path. */
#include "base/folder.h"
#include "base/state_dir.h"
#include "block/driver.h"
#include "block/file.h"
#include "block/stage.h"
#include "filter/stage_view.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What the view calls back with. */
struct staged {
	struct stage_place place;
	char path[PATH_MAX];
	stage_points *points;
	unsigned keep_points;
};

static void remove_stage(void *data)
{
	stage_place_remove(&((struct staged *)data)->place);
}

static int make_point(void *data, struct error *error)
{
	struct staged *staged = data;

	return staged->points(staged->path, staged->keep_points, false, error);
}

/* The file of an interrupted round, if it may be kept, else a new one. */
static int open_file(struct block **ret, struct ring *ring, struct stage_place *place,
    const struct path_policy *policy, const struct block_open_options *options, const char *id,
    const struct stage_layout *layout, bool *ret_kept, struct error *error)
{
	bool apart = strcmp(place->path, place->record);
	const struct path_policy *where = apart ? policy : NULL;
	struct block_open_options file = {.write = true, .cache = options->cache, .stage = STAGE_IGNORE};
	struct block *block;
	struct error why = {0};
	int res = stage_clear_record(ring, place, error);

	*ret_kept = false;
	if (res < 0)
		return res;
	if (access(place->path, F_OK) == 0) {
		res = file_open(&block, ring, place->path, where, &file, error);
		if (res < 0)
			return res;
		*ret_kept = options->stage == STAGE_RESUME && stage_is_resumable(block, id, layout->size);
		if (*ret_kept) {
			*ret = block;
			return 0;
		}
		block_free(block);
		res = stage_clear(ring, place->path, &why);
		/* Another volume's, which had this name. */
		if (res == -EBUSY && apart && !options->stage_dir) {
			memcpy(place->path, place->record, sizeof(place->path));
			return open_file(ret, ring, place, policy, options, id, layout, ret_kept, error);
		}
		if (res < 0)
			return error_set(error, res, "%s", why.text);
	}
	file.create = true;
	file.create_size = layout->length;
	return file_open(ret, ring, place->path, where, &file, error);
}

static int make_state_dir(struct error *error)
{
	char folder[PATH_MAX];
	int res = folder_make(state_dir_path(folder, sizeof(folder)));

	return res < 0 ? error_set(error, res, "cannot make %s: %s", folder, strerror(-res)) : 0;
}

#define NAME_ROOM sizeof(((struct stage_header *)0)->name)

/* As it was named: what a link leads to may be another volume after a restart. */
static int absolute(const char *path, char *ret, struct error *error)
{
	char here[PATH_MAX] = "";
	int length;

	if (path[0] != '/' && !getcwd(here, sizeof(here)))
		return error_set(error, -errno, "cannot learn the working directory: %s", strerror(errno));
	length = snprintf(ret, NAME_ROOM, "%s%s%s", here, path[0] == '/' ? "" : "/", path);
	return length < (int)NAME_ROOM ? 0
	                               : error_set(error, -ENAMETOOLONG,
	                                     "its name is longer than %zu bytes, and `blkmove recover` "
	                                     "could not find it; give it a shorter one, by a link",
	                                     NAME_ROOM - 1);
}

static int open_view(struct block **ret, struct block *take_volume, const struct path_policy *policy,
    const struct block_open_options *options, struct staged *take_staged, struct error *error)
{
	char name[NAME_ROOM] = "", id[sizeof(((struct block_facts *)0)->id)] = "";
	struct stage_view_options view = {
	    .remove = remove_stage, .free = free, .data = take_staged, .target_id = id, .name = name};
	struct ring *ring = block_ring(take_volume);
	struct stage_layout layout;
	struct block *file = NULL;
	int fd = file_fd(take_volume), res = stage_identity(fd, id, sizeof(id), error);

	if (res == 0 && !stage_layout(block_info(take_volume)->size, &layout))
		res = error_set(error, -EOPNOTSUPP, "a volume of %llu bytes can have no stage",
		    (unsigned long long)block_info(take_volume)->size);
	if (res == 0)
		res = absolute(take_staged->path, name, error);
	if (res == 0)
		res = stage_place(fd, id, options->stage_dir, &take_staged->place, error);
	if (res == 0)
		res = make_state_dir(error);
	if (res == 0)
		res = stage_place_lasts(fd, &take_staged->place, error);
	if (res == 0)
		res = open_file(
		    &file, ring, &take_staged->place, policy, options, id, &layout, &view.resume, error);
	/* What the policy refuses leaves no record. */
	if (res == 0)
		res = stage_place_note(&take_staged->place, error);
	if (res < 0 && file && !view.resume)
		unlink(take_staged->place.path);
	if (res < 0) {
		block_free(file);
		block_free(take_volume);
		free(take_staged);
		return res;
	}
	view.applied = options->keep_points ? make_point : NULL;
	return stage_view_new(ret, take_volume, file, &view, error);
}

static int begin(struct block **ret, struct block *take_volume, const char *path,
    const struct path_policy *policy, const struct block_open_options *options, stage_points *points,
    struct error *error)
{
	struct staged *staged = calloc(1, sizeof(*staged));
	int res = staged ? 0 : error_set(error, -ENOMEM, "out of memory");

	if (res == 0 && options->keep_points)
		res = points ? points(path, options->keep_points, true, error)
		             : error_set(error, -EOPNOTSUPP, "points of it cannot be kept here");
	if (res < 0) {
		block_free(take_volume);
		free(staged);
		return res;
	}
	staged->points = points;
	staged->keep_points = options->keep_points;
	snprintf(staged->path, sizeof(staged->path), "%s", path);
	return open_view(ret, take_volume, policy, options, staged, error);
}

int stage_view_open(struct block **ret, struct ring *ring, const char *path, const struct path_policy *policy,
    const struct block_open_options *options, stage_points *points, struct error *error)
{
	struct block *volume;
	int res = file_open(&volume, ring, path, policy, options, error);

	if (res < 0 || !options->write || (options->stage != STAGE_NEW && options->stage != STAGE_RESUME)) {
		if (res == 0)
			*ret = volume;
		return res;
	}
	res = begin(ret, volume, path, policy, options, points, error);
	if (res < 0)
		error_prefix(error, "cannot stage a round for %.200s", path);
	return res;
}
