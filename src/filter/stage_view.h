/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The target of an atomic round: what is written goes to a stage (block/stage_format.h), a file beside the volume, and is read from there; the
 * volume itself stays as it is until BLOCK_COMMIT, which makes the stage durable and then applies it (block/stage.h). A crash before the commit leaves
 * the old point; after it, file_open() or `blkmove recover` bring the volume to the new one. A FLUSH makes durable what is staged, so that an
 * interrupted round can go on with it.
 */
#pragma once

#include "block/open.h"
#include "block/path_policy.h"

struct stage_view_options {
	const char *target_id; /* block_facts.id */
	const char *name;      /* of the volume, from the root */
	bool resume;           /* the file is stage_is_resumable(); else it is new: all zero */
	/*
	 * From stage_free(), or before BLOCK_COMMIT ends, while the file is still open and locked: it is of no more use, remove it. Not when
	 * somebody may still complete it or go on with it. May be NULL.
	 */
	void (*remove)(void *data);
	/* Once the volume is the new point and before BLOCK_COMMIT ends. What it returns is the commit's result. May be NULL. */
	int (*applied)(void *data, struct error *error);
	void (*free)(void *data); /* of data; or NULL */
	void *data;
};

/* Takes volume, file and data, also on failure. `file` is writable and stage_layout().length bytes long. Control path. */
int stage_view_new(struct block **ret, struct block *take_volume, struct block *take_file,
    const struct stage_view_options *options, struct error *error);
/*
 * file_open(), and with options->stage NEW or RESUME a view over it. `policy` confines the stage's place, too. `points` makes a point of the volume
 * (options->keep_points): path and number; NULL: that is refused. -EOPNOTSUPP with words for a volume that can have no stage.
 */
typedef int stage_points(const char *path, unsigned keep, bool check_only, struct error *error);
int stage_view_open(struct block **ret, struct ring *ring, const char *path, const struct path_policy *policy,
    const struct block_open_options *options, stage_points *points, struct error *error);
