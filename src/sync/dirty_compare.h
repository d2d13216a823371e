/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Asks both legs of a mirror for the digests of one range, below the clients: is there anything to copy? Ring thread only. */
#pragma once

#include "block/block.h"

#define DIRTY_COMPARE_MAX DIGEST_CHUNK /* bytes, within one chunk */

struct dirty_compare {
	struct block_io ios[2];
	uint8_t digests[2][DIRTY_COMPARE_MAX / DIGEST_LEAF * DIGEST_BYTES];
	unsigned pending;
	bool failed;                                               /* one of the legs could not be read */
	int source_res;                                            /* 0: the first could */
	void (*done)(struct dirty_compare *compare, bool differs); /* true also when it cannot be known */
};

/* The range begins at a leaf's border and lies within one chunk. done() comes from the loop, once. */
void dirty_compare_start(struct dirty_compare *compare, struct block *source, struct block *target,
    const struct digest_key *key, uint64_t offset, uint64_t length);
