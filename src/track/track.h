/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Trackers: what the system already knows of what changed in a volume. Each is a file of its own, and each names the base that
 * its answer applies to: whoever uses it must know that the target holds that base. In doubt a tracker answers with an error
 * and its reason, never with a guess: the volumes are then compared.
 *
 * A base that may be used later is noted as a "point", a small JSON object: {"tracker": ..., "base": ..., ...}. The promise
 * behind a point: a target that differs from the volume as it was then only by what the tracker says has changed since then.
 */
#pragma once

#include "block/block.h"
#include "range/range_set.h"

#include <jansson.h>

/* In the order of --changes=. */
enum track_kind { TRACK_DM_SNAPSHOT, TRACK_DM_THIN, TRACK_DM_ERA, TRACK_NBD_BITMAP, TRACK_KINDS };

struct track_request {
	struct block *source; /* what will be read */
	const char *path;     /* where that is a device of this machine: its path; else NULL */
	bool nbd;             /* it is an NBD server's */
	const char *base;     /* as the user names it; NULL: found among `points` */
	const json_t *points; /* what the target is known to hold: an array, or NULL */
};

struct track_changes {
	struct range_set ranges; /* all that may have changed since the base; the caller frees */
	char base[192];          /* the base in words */
	json_t *
	    points; /* what of `points`, or of the base, stays true of the target once these changes are applied */
};

/* "dm-snapshot"; as --changes= and points have it. */
const char *track_name(enum track_kind kind);
/*
 * What changed in the source since a base. Returns 0; -ENODEV when this tracker has nothing to do with such a source or base;
 * another -errno for a doubt: no base was named or is known (-ENOENT), it is another one, the tracker lost changes, cannot be
 * read... Words go on after "changes cannot be had from dm-snapshot: ". Control path: runs the ring.
 */
int track_changes(enum track_kind kind, const struct track_request *request, struct track_changes *ret,
    struct error *error);
void track_changes_done(struct track_changes *changes);
/*
 * What a target holds, for later runs, once the source was copied to it: an array of points, empty where no tracker knows the source.
 * To be asked before the first read of it: flushes it, so that it stays that base when the machine loses its power. `live`: it may be written
 * meanwhile, so that writes may be under way. NULL if out of memory.
 */
json_t *track_points(struct block *source, const char *path, bool live);
