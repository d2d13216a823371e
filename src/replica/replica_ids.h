/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The generations of a replicated volume: names, drawn at random, for what a node's data are. Two nodes tell each other theirs when
 * they meet, and one table says which of them has the newer data, and whether their maps know what differs. Pure: no I/O, no
 * clock, no memory of its own. The idea, and most of the rules, are those of DRBD's generation identifiers ("The DRBD User's Guide",
 * chapter "DRBD Internals"). docs/replication.md has the table for people.
 *
 * What holds, whatever was interrupted:
 * - Before a write is acknowledged that the other node does not get, this one's `current` is a name that the other does not have, and
 *   the other's is one of this one's `base`.
 * - If the other's `current` is one of this one's `base`, or the same as its `current`, what differs is in the maps of the two
 *   together.
 * - With the same `current` on both, neither a `sender` nor `inconsistent`, nothing differs.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define REPLICA_HISTORY 8u
#define REPLICA_BASES   2u

struct replica_ids {
	uint64_t current; /* what this node's data are; 0: they never were a replica's, or were given up */
	/* What the other node may hold, whose differences to this one's data the map has; 0: none. */
	uint64_t base[REPLICA_BASES];
	uint64_t
	    history[REPLICA_HISTORY]; /* what this node's data were before, newest first; 0 behind the last */
	bool sender; /* with `current` on both: what reached this node and not the other is in the map */
	bool inconsistent; /* not `current`'s data yet: the target of a resync that has not ended */
	bool outdated;     /* the other node is known to have gone on */
	bool follows;      /* the other node was primary when this one heard of it last */
	bool full;         /* the map does not know what differs */
	bool
	    grown; /* the volume has, at its end, what the other may not have the same; the map has it, too */
	/* The volume had data when the map was made, that no replica put there; until somebody says what they are. With `current` 0 only. */
	bool foreign;
};

/* How two nodes that meet stand to each other; the first that fits, in this order. */
enum replica_relation {
	REPLICA_BOTH_NEW,
	REPLICA_SELF_FOREIGN, /* this node is new, and its volume has data that are not to be lost unasked */
	REPLICA_PEER_FOREIGN,
	REPLICA_SELF_NEW,
	REPLICA_PEER_NEW,
	REPLICA_SAME,
	REPLICA_SAME_SELF_SENT,
	REPLICA_SAME_PEER_SENT,
	REPLICA_SAME_BOTH_SENT, /* both wrote: a hand-over that was cut off */
	REPLICA_SELF_AHEAD,     /* this node went on from what the other has */
	REPLICA_PEER_AHEAD,
	REPLICA_PARTED,         /* both went on, from the same */
	REPLICA_SELF_FAR_AHEAD, /* the other has what this node had long ago: no map knows what differs */
	REPLICA_PEER_FAR_AHEAD,
	REPLICA_PARTED_LONG_AGO, /* something in both pasts is the same */
	REPLICA_UNRELATED,
	REPLICA_RELATIONS,
};

/* What follows from it. */
enum replica_verdict {
	REPLICA_IN_SYNC,     /* nothing differs */
	REPLICA_SOURCE,      /* the other is to get what the two maps say */
	REPLICA_TARGET,      /* this node is */
	REPLICA_SOURCE_FULL, /* the other is to get all that differs, and no map knows what does */
	REPLICA_TARGET_FULL,
	REPLICA_SPLIT,     /* both have what the other lacks: somebody must say whose is to be discarded */
	REPLICA_STRANGERS, /* nothing says that these were ever the same volume */
	REPLICA_NO_GOOD,   /* who would be the source has half of something only */
	REPLICA_VERDICTS,
};

const char *replica_relation_name(enum replica_relation relation);
/* Why, in one sentence for people, as this node sees it. */
const char *replica_relation_words(enum replica_relation relation);
const char *replica_verdict_name(enum replica_verdict verdict);
/* What the other node comes to, asked the same. */
enum replica_verdict replica_verdict_flip(enum replica_verdict verdict);

enum replica_relation replica_relate(const struct replica_ids *self, const struct replica_ids *peer);
enum replica_verdict replica_judge(const struct replica_ids *self, const struct replica_ids *peer);

/*
 * The steps that change them. `fresh` is a number that was never drawn before, not 0. What a step gives is to be on stable storage
 * before what follows from it takes effect.
 */
/* The data, whatever they are, are good, and the first of their line. `foreign` is over. */
void replica_ids_begin(struct replica_ids *ids, uint64_t fresh);
/* Writes are to be acknowledged here that the other does not get. Not while inconsistent. */
void replica_ids_part(struct replica_ids *ids, uint64_t fresh);
/* The same by a user's order with data that are inconsistent, or new: they count as good from now on. */
void replica_ids_force(struct replica_ids *ids, uint64_t fresh);
/*
 * Data will go from here to the other, which told these ids: this node's map has what is in the other's, too, or all (`full` is
 * over). Before the target is told to follow.
 */
void replica_ids_send(struct replica_ids *ids, const struct replica_ids *target);
/*
 * What the source sends arrives from now on, and makes this node's data the source's when all of it has come. The map may be emptied
 * then: the source's has it all.
 */
void replica_ids_follow(struct replica_ids *ids, const struct replica_ids *source);
/* At the source: the target is known to have recorded that it follows. */
void replica_ids_followed(struct replica_ids *ids);
/* At the target: all that differed has come, and is flushed on both sides. */
void replica_ids_arrived(struct replica_ids *ids);
/*
 * At a secondary that has all that the primary acknowledged, whose disk has failed: from now on it has more, of a generation that the primary
 * has named. What the primary's disk holds is its past, and no map knows what differs.
 */
void replica_ids_bear(struct replica_ids *ids, uint64_t name);
/* At that primary, when the other is known to have recorded it. */
void replica_ids_give_up(struct replica_ids *ids);
/* It is not known to have: this node goes on with its own data, and the other may have that name for what it had. */
void replica_ids_was_named(struct replica_ids *ids, uint64_t name);
/* The volume is to be larger: before it is. */
void replica_ids_grow(struct replica_ids *ids);
/* Nothing goes to the other any more; all that went there is flushed on both sides, and the map is empty. */
void replica_ids_rest(struct replica_ids *ids);
/*
 * By a user's order this node's data are given up for the peer's. Where the maps know what differs the node goes back, in name, to
 * what both had when they parted. `foreign` is over.
 */
void replica_ids_discard(struct replica_ids *ids, const struct replica_ids *peer);
