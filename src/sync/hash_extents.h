/*
 * The extents of a sync and of a verify: what differs between two volumes, found by comparing keyed digests that each side
 * computes where its data is. Both sides work in parallel, many chunks in flight. A chunk that differs is narrowed down
 * 1 MiB -> 64 KiB -> 4 KiB when one side is remote; when both are local, leaves are compared at once.
 *
 * What both sides report as hole is the same (unless ignore_holes); where the source is a hole the target is
 * compared with digests of zeros, and what differs is an EXTENT_ZERO; where only the target is a hole, the source's range
 * is an EXTENT_DATA without a look.
 */
#pragma once

#include "block/block.h"
#include "range/range_set.h"

struct hash_extents_options {
	uint64_t end;                 /* bytes to compare: not beyond either volume */
	const struct range_set *done; /* ranges to pass over; borrowed, must not change while running; or NULL */
	bool ignore_holes;            /* read and digest everything */
	const struct digest_key *key;
	unsigned window;              /* chunks in flight; 0: chosen */
	uint32_t top_granularity;     /* 0: chosen; else DIGEST_CHUNK, 65536 or DIGEST_LEAF */
	/* Called when a range has been compared and is equal. */
	void (*same)(void *data, uint64_t offset, uint64_t length);
	void *same_data;
	/* Called with all leaf digests of a range of the source, when not NULL; forces leaves everywhere. */
	void (*leaves)(void *data, uint64_t offset, uint64_t length, const uint8_t *leaves);
	void *leaves_data;
};

int hash_extents_new(struct extents **ret, struct block *source, struct block *compare,
    const struct hash_extents_options *options, struct error *error);
const struct error *hash_extents_error(const struct extents *extents);
