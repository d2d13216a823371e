/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the parts of dirty_extents share: dirty_extents.c (slots and limits), dirty_find.c (what comes next), dirty_failed.c (what could
 * not be read).
 */
#pragma once

#include "sync/dirty_compare.h"
#include "sync/dirty_extents.h"
#include "sync/leg_holes.h"

#define DIRTY_SLOTS 64u

enum slot_state { SLOT_FREE, SLOT_WAITING, SLOT_COMPARING, SLOT_GRANTED, SLOT_GIVEN };

struct dirty_slot {
	struct dirty_extents *dirty;
	enum slot_state state;
	bool abandoned; /* its lock is let go, or will be when it comes */
	bool zero;      /* the authoritative leg had a hole when this was found */
	bool again;     /* one region, that could not be read before */
	uint64_t offset, length;
	uint64_t begun_ns;
	struct range_lock lock;
	struct bitmap_claim claim;
	struct dirty_compare compare;
};

struct dirty_extents {
	struct extents extents;
	struct block *mirror;
	struct bitmap_file *map;
	uint64_t size, region_size;
	struct dirty_limits limits;
	struct dirty_slot slots[DIRTY_SLOTS];
	unsigned active; /* slots that are not free */
	uint64_t bytes;  /* of them */
	uint64_t cursor; /* region: those before it have had their turn in this round */
	uint64_t looked; /* region: holes are known between the cursor and here */
	struct leg_holes holes;
	double tokens;    /* bytes; negative: debt */
	uint64_t seen_ns; /* up to when tokens were filled */
	struct ring_op timer;
	struct ring_op turn_over;
	uint64_t turn;                 /* bytes given in this turn of the loop */
	uint64_t copied, same, passed; /* bytes */
	uint64_t quickest_ns;          /* of the copies since somebody asked; 0: none */
	bool held, comparing;
	bool limited; /* by the rate, since somebody asked */
	struct digest_key key;
	struct bitmap failed; /* regions that could not be read */
	uint64_t again;       /* region: of these, those before it have had their turn */
	uint64_t again_many;  /* regions: how many may be readable if one is */
	uint64_t again_after_ns;
	bool round_over; /* since one failed */
};

/* dirty_find.c */
/* Fills in which range a free slot is for, and its kind. False when there is none now. */
bool dirty_find(struct dirty_extents *dirty, uint64_t length_max, struct dirty_slot *ret);
/* The legs have told of their holes. */
void dirty_looked(struct leg_holes *holes);

/* dirty_failed.c */
/* A slot's range could not be read from the leg that leads; has been done with. */
void dirty_failed(struct dirty_slot *slot);
void dirty_succeeded(struct dirty_slot *slot);
/* Whether a region is not to be given with the others; *ret_after: the first one behind it that is. */
bool dirty_has_failed(const struct dirty_extents *dirty, uint64_t region, uint64_t *ret_after);
/* As dirty_find(): one that failed, if it is time for that. */
bool dirty_find_failed(struct dirty_extents *dirty, struct dirty_slot *ret);
