/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What one tracker is to track.c. */
#pragma once

#include "track/track.h"

struct tracker {
	const char *name;
	int (*changes)(const struct track_request *request, struct track_changes *ret, struct error *error);
	/* NULL: a base of this kind is always the user's word. Returns a point, or NULL where there is none. */
	json_t *(*point)(struct block *source, const char *path);
};

extern const struct tracker track_dm_snapshot, track_nbd_bitmap;
