/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether what changed is known, for a job or for the starting map of a mirror: which tracker may answer, and whether the target
 * holds the base that the answer applies to. In every doubt the answer is no, and the reason is said.
 */
#pragma once

#include "block/endpoint.h"
#include "track/track.h"

enum job_changes {
	CHANGES_AUTO, /* saved digests where they are named and fit, or else a tracker, else a comparison */
	CHANGES_HASH, /* compare both volumes */
	CHANGES_DIGESTS, /* saved digests, or refuse */
	CHANGES_TRACKER, /* this and an enum track_kind (track/track.h): that one, else a comparison */
};

struct known_changes_request {
	struct block *source;
	const struct endpoint *endpoint; /* the source's; or NULL */
	enum job_changes how;
	const char *base;          /* the user's word for what the target holds; or NULL */
	const json_t *points;      /* what is noted of the target, by base_record_load(); or NULL, and why: */
	const struct error *doubt; /* -ESTALE counts against the user's word, too */
	uint64_t size, target_size; /* bytes */
	bool has_tracker;           /* that nothing is noted is worth saying */
	bool explain;               /* whatever comes of it is */
	void *data;
	void (*say)(void *data, const char *text);
};

/* Whether an NBD server is to be asked which bitmaps it has: block_open_options.list_bitmaps. */
bool known_changes_list_bitmaps(enum job_changes how);
/* The source's path where it is on this machine; else NULL. */
const char *known_changes_path(const struct endpoint *endpoint);
/*
 * 1: *ret has what may have changed, for track_changes_done(); 0: it is not known; -ENOTCONN with words: the source's link broke.
 * Control path: runs the ring.
 */
int known_changes_find(
    const struct known_changes_request *request, struct track_changes *ret, struct error *error);
