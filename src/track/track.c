/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The list of trackers; see track.h. */
#include "track/track_private.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static const struct tracker *const trackers[TRACK_KINDS] = {
    [TRACK_DM_SNAPSHOT] = &track_dm_snapshot,
    [TRACK_DM_THIN] = &track_dm_thin,
    [TRACK_DM_ERA] = &track_dm_era,
    [TRACK_NBD_BITMAP] = &track_nbd_bitmap,
};

const char *track_name(enum track_kind kind)
{
	return trackers[kind]->name;
}

int track_changes(
    enum track_kind kind, const struct track_request *request, struct track_changes *ret, struct error *error)
{
	struct block_io flush = {.op = BLOCK_FLUSH};
	int res;

	*ret = (struct track_changes){0};
	/* What is dirty in the source's cache yet is read, and so in the target, before a tracker below has seen it written. */
	res = request->path ? block_wait(request->source, &flush) : 0;
	if (res < 0)
		return error_set(error, res, "the source's cache cannot be written out: %s", strerror(-res));
	return trackers[kind]->changes(request, ret, error);
}

void track_changes_done(struct track_changes *changes)
{
	range_set_done(&changes->ranges);
	json_decref(changes->points);
	changes->points = NULL;
}

json_t *track_points(struct block *source, const char *path, bool live)
{
	struct block_io flush = {.op = BLOCK_FLUSH};
	json_t *points = json_array();

	for (int kind = 0; points && kind < TRACK_KINDS; kind++)
		if (trackers[kind]->point)
			/* NULL is passed over: then there is merely no point. */
			json_array_append_new(points, trackers[kind]->point(source, path, live));
	/* What is copied from the cache of a disk and then lost with the power would have changed, and no tracker would know. */
	if (json_array_size(points) > 0 && block_wait(source, &flush) < 0)
		json_array_clear(points);
	return points;
}

int track_dm_source(const char *path, struct dm_volume *ret, struct error *error)
{
	struct stat stat_buf;

	if (!path || stat(path, &stat_buf) < 0 || !S_ISBLK(stat_buf.st_mode) || !dm_is(stat_buf.st_rdev))
		return error_set(error, -ENODEV, "the source is no device-mapper device of this machine");
	return dm_table(stat_buf.st_rdev, ret, error);
}

const char *track_point_text(const json_t *point, const char *key)
{
	const char *text = json_string_value(json_object_get(point, key));

	return text ? text : "";
}

const json_t *track_find_point(const json_t *points, const char *tracker)
{
	for (size_t i = 0; i < json_array_size(points); i++)
		if (!strcmp(track_point_text(json_array_get(points, i), "tracker"), tracker))
			return json_array_get(points, i);
	return NULL;
}
