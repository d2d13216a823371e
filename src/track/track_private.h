/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What one tracker is to track.c. */
#pragma once

#include "block/dm.h"
#include "track/track.h"

struct tracker {
	const char *name;
	int (*changes)(const struct track_request *request, struct track_changes *ret, struct error *error);
	/* NULL: a base of this kind is always the user's word. Returns a point, or NULL where there is none. */
	json_t *(*point)(struct block *source, const char *path, bool live);
};

extern const struct tracker track_dm_snapshot, track_dm_thin, track_dm_era, track_nbd_bitmap;

/* The table of a source that is a mapped device. -ENODEV with words for any other. */
int track_dm_source(const char *path, struct dm_volume *ret, struct error *error);
/* The first of some points (or NULL) that is of this tracker; or NULL. */
const json_t *track_find_point(const json_t *points, const char *tracker);
/* A text of a point; "" when it has none. */
const char *track_point_text(const json_t *point, const char *key);
