/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The extents of a sync and of a verify: what differs between two volumes, found by comparing keyed digests
 * that each side computes where its data is. Both sides work in parallel, many chunks in flight. A chunk that
 * differs is narrowed down 1 MiB -> 64 KiB -> 4 KiB when one side is remote; when both are local, leaves are
 * compared at once.
 *
 * What both sides report as hole is the same (unless ignore_holes, or the target's holes are not to be trusted: then it is
 * read); where the source is a hole the target is compared with digests of zeros; where only the target is a hole, the source's range is an EXTENT_DATA
 * without a look (with `leaves` its digests are compared with those of zeros). Holes that do not cover 64
 * KiB, counted from the volume's beginning, are read as data. What differs is an EXTENT_ZERO where the
 * source's leaf digest is that of zeros, else an EXTENT_DATA. Extents come in order of offset.
 */
#pragma once

#include "block/block.h"
#include "range/range_set.h"

struct hash_extents_options {
	uint64_t end; /* bytes to compare: not beyond either volume */
	/*
	 * Ranges to pass over, neither given nor said to be same; borrowed, must not change while running; or
	 * NULL. What they share 64 KiB with may be read again.
	 */
	const struct range_set *done;
	bool ignore_holes; /* read and digest everything */
	bool trust_holes;  /* believe the volume compared with, too, whatever its info.holes_trusted says */
	const struct digest_key *key;
	unsigned window;          /* chunks in flight; 0: chosen */
	uint32_t top_granularity; /* 0: chosen; else DIGEST_CHUNK, 65536 or DIGEST_LEAF */
	/*
	 * What cannot be read on either side (a medium error) is given as an EXTENT_DATA, for the copy engine
	 * to deal with, and not told to `leaves`. Otherwise it ends the comparison. Not for a verify.
	 */
	bool give_unreadable;
	/* Called from next(), in order of offset, when a range has been compared and is equal. */
	void (*same)(void *data, uint64_t offset, uint64_t length);
	void *same_data;
	/*
	 * Called from next(), in order of offset, with all leaf digests of each range of the source that is
	 * passed, NULL for a range that reads as zero (of any length). Makes the source tell leaves.
	 */
	void (*leaves)(void *data, uint64_t offset, uint64_t length, const uint8_t *leaves);
	void *leaves_data;
};

/*
 * Copies options and key. extents_free() runs the ring until requests under way have ended: nothing may hold
 * them back by then, such as a throttle that is paused.
 */
int hash_extents_new(struct extents **ret, struct block *source, struct block *compare,
    const struct hash_extents_options *options, struct error *error);
const struct error *hash_extents_error(const struct extents *extents);
