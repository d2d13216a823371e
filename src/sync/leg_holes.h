/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the legs of a live mirror say of their holes, so that a sparse volume costs what its data cost. The legs are asked without
 * any lock, while clients write: the answer is a hint. It becomes knowledge when it is used: where a leg called a range a hole, and
 * nobody has written there since that leg was opened (mirror_leg_written()), it reads as zero in this very moment. Legs whose holes
 * are not to be trusted are not asked, and have none. Ring thread only.
 */
#pragma once

#include "filter/mirror.h"

#define LEG_HOLES_EXTENTS 128u

enum leg_hole {
	LEG_HOLE_NONE,   /* may hold anything on the authoritative leg */
	LEG_HOLE_SOURCE, /* reads as zero there, and may hold anything on the follower */
	LEG_HOLE_BOTH,   /* reads as zero on both */
};

struct leg_holes {
	/* set by the user */
	struct block *mirror;
	void (*done)(struct leg_holes *holes); /* from the loop, also when they were abandoned */

	/* leg_holes.c's */
	uint64_t begin, end; /* bytes: what was answered; begin == end: nothing */
	uint64_t asked;
	struct block_io ios[MIRROR_LEGS]; /* by leg, as the answers */
	struct extent extents[MIRROR_LEGS][LEG_HOLES_EXTENTS];
	unsigned counts[MIRROR_LEGS], lives[MIRROR_LEGS];
	unsigned pending;
	bool abandoned;
};

/* Whether asking about what lies at `offset` may be of use; if not, *ret_end is up to where it is of none. */
bool leg_holes_possible(const struct leg_holes *holes, uint64_t offset, uint64_t *ret_end);
/* Asks about [offset, offset + length); answered is [begin, end), a part from its begin. Not while it is asking. */
void leg_holes_ask(struct leg_holes *holes, uint64_t offset, uint64_t length);
bool leg_holes_asking(const struct leg_holes *holes);
/* A leg has gone: what was answered is forgotten, and so will be what it says yet. */
void leg_holes_abandon(struct leg_holes *holes);
/*
 * What lies at `offset` now, begin <= offset < end, and up to where. At the volume's end or a multiple of `unit` (power of two,
 * of which offset is one); what is a hole but for a part of a unit is none.
 */
enum leg_hole leg_holes_at(const struct leg_holes *holes, uint64_t offset, uint64_t unit, uint64_t *ret_end);
