/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One range of at most a chunk while it is being compared: what was asked of either side, at which level, and
 * what was found to differ. hash_extents.c owns the slots and their order; hash_slot.c asks and narrows down.
 */
#pragma once

#include "block/block.h"
#include "sync/hash_extents.h"

#define HASH_NODE         (DIGEST_LEAF * DIGEST_FANOUT)
#define HASH_CHUNK_LEAVES (DIGEST_CHUNK / DIGEST_LEAF)
#define HASH_CHUNK_NODES  (DIGEST_CHUNK / HASH_NODE)
#define HASH_REQUESTS_MAX (HASH_CHUNK_NODES / 2) /* nodes that differ, each apart from the next */

enum hash_side_index { HASH_SOURCE, HASH_COMPARE, HASH_SIDES };

enum hash_slot_kind {
	HASH_SAME,      /* holes on both sides; may be longer than a chunk */
	HASH_DIFFERENT, /* only the other side is a hole, or unreadable; may be longer than a chunk */
	HASH_COMPARED,  /* at most a chunk: the leaves tell */
};

enum hash_verdict { HASH_LEAF_SAME, HASH_LEAF_DATA, HASH_LEAF_ZERO };

struct hash_slot;

/* What all slots of a comparison share. */
struct hash_context {
	struct block *blocks[HASH_SIDES];
	struct digest *digest;
	struct digest_key key;
	bool leaves_asked[HASH_SIDES]; /* that side tells leaves at once; coarser digests are folded here */
	bool give_unreadable;
	void (*slot_done)(struct hash_slot *slot, int res); /* from the ring's loop */
	struct error error;
};

struct hash_side {
	bool hole;         /* set before the start: reads as zero */
	bool leaves_known; /* `leaves` has all of the range once no request is under way */
	uint8_t leaves[HASH_CHUNK_LEAVES * DIGEST_BYTES];
	uint8_t coarse[HASH_CHUNK_NODES * DIGEST_BYTES];
	struct block_io ios[HASH_REQUESTS_MAX];
	unsigned io_count;
};

struct hash_slot {
	/* set before the start */
	struct hash_context *context;
	enum hash_slot_kind kind;
	uint64_t offset, length;
	uint32_t granularity; /* first asked for; then where it stands */
	struct hash_side sides[HASH_SIDES];

	/* set by hash_slot.c */
	unsigned pending;
	int res;
	uint32_t nodes; /* bits: nodes that may differ */
	bool done, unreadable, narrowed;
	uint8_t verdicts[HASH_CHUNK_LEAVES];

	uint64_t cursor; /* bytes of it that were given; hash_extents.c's */
};

/* Begins to compare. True: it is done already, slot_done() is not called. */
bool hash_slot_start(struct hash_slot *slot);
/* A run of one verdict at the cursor: its verdict, and its length in bytes. */
enum hash_verdict hash_slot_run(const struct hash_slot *slot, uint64_t *ret_length);
