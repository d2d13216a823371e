/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The list of trackers; see track.h. */
#include "track/track_private.h"

#include <errno.h>

static const struct tracker *const trackers[TRACK_KINDS] = {
    [TRACK_DM_SNAPSHOT] = &track_dm_snapshot,
    [TRACK_NBD_BITMAP] = &track_nbd_bitmap,
};

const char *track_name(enum track_kind kind)
{
	return trackers[kind]->name;
}

int track_changes(
    enum track_kind kind, const struct track_request *request, struct track_changes *ret, struct error *error)
{
	*ret = (struct track_changes){0};
	return trackers[kind]->changes(request, ret, error);
}

void track_changes_done(struct track_changes *changes)
{
	range_set_done(&changes->ranges);
	json_decref(changes->points);
	changes->points = NULL;
}

json_t *track_points(struct block *source, const char *path)
{
	json_t *points = json_array();

	for (int kind = 0; points && kind < TRACK_KINDS; kind++)
		if (trackers[kind]->point)
			/* NULL is passed over: then there is merely no point. */
			json_array_append_new(points, trackers[kind]->point(source, path));
	return points;
}
