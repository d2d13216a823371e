/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A sparse volume in memory, for tests and trials: what was never written takes no memory. */
#pragma once

#include "block/block.h"

struct memory_options {
	const char *name;       /* NULL: "memory"; also its identity */
	uint32_t sector_size;   /* 0: 512 */
	uint32_t request_align; /* 0: 1 */
	bool read_only;
	bool resizable;
	bool zeroed;       /* claims that it was never written */
	bool no_extents;   /* reports everything as data */
	bool remote;       /* claims that a network lies between */
	bool no_fua;       /* heeds neither BLOCK_FUA nor BLOCK_NO_HOLE: block_submit() sees to both */
	uint64_t lie_seed; /* not 0: now and then reports a page that holds data as a hole */
};

struct memory_counts {
	uint64_t reads, writes, zeroes, trims, flushes, extents, digests; /* requests */
	uint64_t fuas;                                                    /* of these, with BLOCK_FUA */
	uint64_t bytes_read, bytes_written, bytes_zeroed;
};

int memory_new(struct block **ret, struct ring *ring, uint64_t size, const struct memory_options *options,
    struct error *error);
const struct memory_counts *memory_counts(struct block *memory);
/* Straight to the contents, past requests and counts, for tests. Returns 0 or -ENOMEM. */
int memory_poke(struct block *memory, uint64_t offset, const void *data, uint64_t length);
void memory_peek(struct block *memory, uint64_t offset, void *ret, uint64_t length);
