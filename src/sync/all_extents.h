/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The extents of a full copy: all of the source, data and zeros as the source tells them, but for what is
 * already done. */
#pragma once

#include "block/block.h"
#include "range/range_set.h"

struct all_extents_options {
	uint64_t end; /* bytes of the source to give; usually its size */
	const struct range_set
	    *done;         /* borrowed, may grow while running (only by what this source gave); or NULL */
	bool ignore_holes; /* give everything as DATA, whatever the source says */
};

int all_extents_new(struct extents **ret, struct block *source, const struct all_extents_options *options,
    struct error *error);
/*
 * The extents of a stream: consecutive DATA extents, all of one length_max, until stream_extents_end() or
 * until finish() is told of a shorter one. Where `extents` wraps a stream's, stream_extents_end() does
 * nothing and finish() ends it.
 */
int stream_extents_new(struct extents **ret, struct error *error);
void stream_extents_end(struct extents *extents);
