/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of bitmap_file share: bitmap_file.c (claims and bits), bitmap_round.c (writing), bitmap_load.c (begin, load), bitmap_merge.c, bitmap_grow.c. */
#pragma once

#include "range/bitmap_file.h"

#define ROUND_PAGES    16u  /* bitmap pages written in one round */
#define SETTLE_PAGES   256u /* pages whose bits are cleared in one turn */
#define SUPER_COPIES   2u
#define ROUND_ATTEMPTS 6u

struct bitmap_write {
	struct bitmap_file *map;
	struct ring_op op;
	uint8_t *block; /* a copy: what is being written does not change */
	uint64_t offset, at;
};

struct bitmap_file {
	/* set at the start */
	struct ring *ring;
	int fd;
	uint64_t regions, pages;
	uint64_t ahead;     /* regions that are logged at once, at least */
	struct bitmap used; /* if more than one: those of the logged ones that somebody had a claim on */

	/* bits; ring thread only, as all that follows */
	struct bitmap dirty, logged;
	struct bitmap warm;    /* claimed as such since the last clearing: not cleared at the next */
	struct list_node uses; /* claims held */
	int lost;

	/* intents */
	struct list_node pending,
	    recording; /* claims that wait for a record; that are in the one being written */
	struct bitmap_record record;
	uint64_t sequence; /* of the last durable record */
	uint64_t tail;     /* records up to this one are in the pages, their slots are free */

	/* pages: `touched` differ from what is on the disk; `run` are being written, in turns */
	struct bitmap touched, run;
	uint64_t run_sequence;
	bool running, run_wanted;
	uint64_t runs; /* that have ended */
	bool merging;  /* what is logged may not be on the disk yet */

	/* clearing */
	struct bitmap clearing; /* of a window of pages */
	uint64_t window, cursor;
	bool settling;

	/* superblock */
	struct bitmap_super super, super_next;
	uint64_t super_sequence;
	unsigned super_left; /* copies of super_next to be written yet */
	bool super_busy;     /* one control path records, others wait */
	int super_res;
	bool super_done;
	bool closing;

	/* the round under way */
	bool in_round, with_record, with_super;
	unsigned writes, writes_left, attempts;
	uint64_t round_pages[ROUND_PAGES];
	unsigned round_pages_count;
	int round_res;
	struct bitmap_write ios[ROUND_PAGES + 1];
	uint8_t *blocks;
	struct ring_op op; /* fdatasync; the wait before another attempt */
};

/* bitmap_file.c */
/* As bitmap_file_record(); with another size. super NULL: what is in effect by then. */
int bitmap_super_record(
    struct bitmap_file *map, const struct bitmap_super *super, uint64_t size, struct error *error);

/* What is logged for a claim. */
struct bitmap_intent bitmap_claim_intent(const struct bitmap_file *map, const struct bitmap_claim *claim);

/* bitmap_merge.c */
/* Runs the ring until a run that began after this has written all pages that are touched. 0 or -errno: the map is lost. */
int bitmap_write_touched(struct bitmap_file *map);

/* bitmap_round.c */
/* Begins a round when there is something to write and none is under way. */
void bitmap_round_start(struct bitmap_file *map);
static inline uint64_t bitmap_record_at(const struct bitmap_super *super, uint64_t sequence)
{
	return (SUPER_COPIES + sequence % super->records) * BITMAP_BLOCK;
}
static inline uint64_t bitmap_page_at(const struct bitmap_super *super, uint64_t index)
{
	return (SUPER_COPIES + super->records + index) * BITMAP_BLOCK;
}
