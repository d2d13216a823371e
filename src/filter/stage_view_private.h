/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The view over a stage inside: stage_view.c (requests and life), stage_commit.c (the commit). */
#pragma once

#include "block/stage.h"
#include "filter/filter.h"
#include "filter/overlay_map.h"
#include "filter/stage_view.h"

struct stage_view {
	/* set at open */
	struct filter filter;        /* over the overlay, which has volume and file */
	struct block *volume, *file; /* the overlay's */
	struct overlay_map *map;     /* the overlay's */
	struct stage_view_options options;
	char mark[160]; /* the volume's, when it was opened */

	/* ring thread only */
	struct stage stage;
	struct list_node waiting; /* flushes and commits */
	struct ring_op begin;
	struct fiber *fiber; /* carries them out, one after the other; or has ended; or NULL */
	bool working;
	unsigned writing; /* writes under way */
	bool closing;     /* a commit is under way: no more writes */
	bool full;        /* the file could not grow: nobody can go on with it */
	bool undecided;   /* the commit was tried: it may be there */
	bool over;        /* undecided, and then committed and applied */
};

int stage_view_flush_file(struct stage_view *view);
/* What the file has from `at` on, a part of it or all up to `end`. 0 or -errno. */
int stage_view_extent(struct stage_view *view, uint64_t at, uint64_t end, struct extent *ret);
/* Makes durable what is staged, and which blocks that is. */
int stage_view_flush(struct stage_view *view);
int stage_view_commit(struct stage_view *view, struct error *error);
