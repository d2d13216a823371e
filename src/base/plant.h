/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Mistakes that the simulations of mirrors, stages and replicas must find (tests/sim/sim_mirror.c, sim_stage.c, sim_replicate.c, sim_replica.c). They exist only in programs built with
 * BLKMOVE_PLANTS, which the simulation's own build of some files is; elsewhere PLANTED() is false and leaves nothing behind.
 */
#pragma once

#include <stdbool.h>

enum planted {
	PLANTED_NOTHING,
	PLANTED_NO_INTENT,   /* a write begins although its intent is not on the disk */
	PLANTED_CLEAR_EARLY, /* bits are cleared before both legs were flushed */
	PLANTED_NO_LOCK,     /* a write does not wait for a copy of its range */
	PLANTED_LATE_RECORD, /* the legs are swapped although it is not recorded yet */
	PLANTED_LOST_MARK,   /* a write behind the copy's back leaves no dirty bit */
	PLANTED_ONE_FLUSH,   /* bits are cleared when the follower was flushed and the other leg was not */
	PLANTED_NO_DOUBT,    /* what a lost follower had not flushed is not dirty */
	PLANTED_STALE_HOLES, /* what a leg called a hole is taken for one although it was written since */
	PLANTED_NO_RESTORE,  /* what a machine lost that was started anew is not made good */
	PLANTED_STAGE_UNFLUSHED, /* the commit of a stage is written before the stage is on stable storage */
	PLANTED_STAGE_EARLY_APPLY,   /* a stage is applied before its commit is on stable storage */
	PLANTED_STAGE_EARLY_END,     /* a stage counts as applied before the volume was flushed */
	PLANTED_STAGE_BITS_FIRST,    /* what is staged is noted before its data are on stable storage */
	PLANTED_STAGE_OLD_UNFLUSHED, /* a round begins over what nobody has flushed */
	PLANTED_NO_BARRIER,          /* a replica's writes do not wait for the flush ahead of them */
	PLANTED_OVERTAKING,          /* nor for a write ahead of them in the same place */
	PLANTED_EARLY_FLUSH,         /* a flush that must be lasting ends when it is sent */
	PLANTED_FORGOTTEN_FAILURE,   /* what comes behind a write that failed is written all the same */
	PLANTED_IDLE_FLUSH,          /* a flush that need not be lasting is not sent to the other node */
	PLANTED_EARLY_ANSWERS,       /* what a lost node lacks is acknowledged before that is recorded */
	PLANTED_NO_BASE,             /* a new generation forgets what the other node may have */
	PLANTED_WRONG_SOURCE,        /* of two nodes that parted one gets the other's data, unasked */
	PLANTED_EARLY_EMPTY,         /* a target's map is emptied before the source's has it */
	PLANTED_EARLY_ARRIVED,       /* a target counts as good before either node has flushed */
	PLANTED_EARLY_SERVE,         /* a node serves before it is recorded that it sends */
	PLANTED_LATE_WRITES,         /* nor are writes waited for that only the source gets */
	PLANTED_NO_FOLLOWS,          /* a node forgets that the other is primary */
	PLANTED_NO_GROWN,            /* a volume grows, and that is not recorded before */
	PLANTED_CLEAN_END,           /* what is new at its end is not in the map */
	PLANTED_EARLY_DIVERT, /* a primary whose disk failed goes on before the other node has recorded that */
	PLANTED_ANY_BOOT, /* what a machine had not flushed before it was started anew is taken for there */
	PLANTED_NO_OUTDATED, /* a node forgets that the other has gone on alone, and said so */
	PLANTED_END,
};

#ifdef BLKMOVE_PLANTS
extern enum planted planted_mistake;
#define PLANTED(what) (planted_mistake == (what))
#else
#define PLANTED(what) false
#endif
