/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The extents of a sync whose changes are known: what changed in the source, data and zeros as the source tells them, but for what is already done. */
#pragma once

#include "block/block.h"
#include "range/range_set.h"

struct changed_extents_options {
	uint64_t end;                    /* bytes of the source to give */
	const struct range_set *changed; /* borrowed for the call */
	const struct range_set *done;    /* borrowed for the call; or NULL */
	bool ignore_holes;               /* give everything as DATA, whatever the source says */
};

int changed_extents_new(struct extents **ret, struct block *source,
    const struct changed_extents_options *options, struct error *error);
