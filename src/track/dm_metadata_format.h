/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What thin_delta and era_invalidate print, element by element: pure, every number doubted. docs/formats/dm-thin.md and
 * dm-era.md show it. Both are handlers for xml.h; what the document lacks at its end, the _end functions say.
 */
#pragma once

#include "track/changes.h"
#include "track/xml.h"

/* thin_delta: all but what is `same`. */
struct thin_delta {
	struct changes *changes; /* set by the caller, as are these: */
	uint64_t left, right;    /* ids of base and source */
	uint64_t block;          /* bytes */
	bool saw_superblock, saw_diff;
};

int thin_delta_element(
    void *thin_delta, unsigned depth, const char *name, const char *const *attributes, struct error *error);
int thin_delta_end(const struct thin_delta *delta, struct error *error);

/* era_invalidate: blocks written. */
struct era_blocks {
	struct changes *changes; /* set by the caller */
	uint64_t block;          /* bytes */
	bool saw_blocks;
};

int era_blocks_element(
    void *era_blocks, unsigned depth, const char *name, const char *const *attributes, struct error *error);
int era_blocks_end(const struct era_blocks *blocks, struct error *error);
