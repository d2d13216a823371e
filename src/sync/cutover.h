/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The cutover: the states of a live mirror with the only ways between them, one table, asserted; and the switch from leg to
 * leg. A state that must outlive a crash is in the map's superblock, recorded before it takes effect.
 */
#pragma once

#include "filter/mirror.h"

/* The numbers are in map files. */
enum cutover_state {
	CUTOVER_SYNCING = 0,   /* the target follows, and something differs */
	CUTOVER_READY = 1,     /* both legs are written before the acknowledgement, nothing differs */
	CUTOVER_CUTTING = 2,   /* requests are held */
	CUTOVER_SWITCHED = 3,  /* the target is authoritative, the source follows */
	CUTOVER_REVERTED = 4,  /* the source is authoritative again; goes on as syncing */
	CUTOVER_FINISHED = 5,  /* the target is the volume, alone */
	CUTOVER_CANCELLED = 6, /* the source is the volume, alone; the target is not usable */
	CUTOVER_FAILED = 7,    /* as cancelled, but not by the user */
	CUTOVER_STATES,
};

const char *cutover_state_name(enum cutover_state state);
bool cutover_may_follow(enum cutover_state from, enum cutover_state to);
/* Moves on; an edge that is not in the table is our own mistake and ends the program. */
void cutover_state_set(enum cutover_state *state, enum cutover_state to);
bool cutover_is_end(enum cutover_state state);
/* Which leg is authoritative in a state; a superblock that says otherwise is not to be believed. */
enum mirror_leg_index cutover_authority(enum cutover_state state);

/* Embedded; one for each mirror. */
struct cutover {
	/* set by the user */
	struct ring *ring;
	struct block *mirror;
	uint64_t window_ns; /* longest hold, from its begin to its end */
	bool
	    without_leader; /* also while the authoritative leg is away: the follower has all that was acknowledged */
	bool (*quiet)(void *data); /* no copy from leg to leg is under way */
	/* The parts have changed; nobody was let go yet. Sets the state, so that it and the legs are one fact. */
	void (*swapped)(void *data, enum cutover_state to);
	/* Clients are held from now on, or are about to be let go. */
	void (*held)(void *data, bool held);
	/* 0, or -errno: why it is of no use to wait any longer. Asked again and again. */
	int (*hindered)(void *data);
	void *data;
	bool
	    give_up; /* may be set while it runs: as if the time were up, with -EINTR, while nothing is recorded */

	/* cutover.c's */
	struct ring_op timer;
	bool late, flushed;
	int flush_res;
};

/*
 * Makes the other leg authoritative: flushes both, notes in the map that it is about to, holds requests, waits until nothing is
 * under way and nothing differs, flushes both again, records `to` in the map, swaps, lets go. 0: done. -ETIMEDOUT: not within the
 * window; -ENOTCONN: the follower was lost, or the leader; -EINTR: given up; another -errno: what hinders, or the map. In these cases all is as
 * before; but a map that could not be made to say so by the end of the window (with no end, for some seconds) is lost, and
 * MIRROR_MAP_LOST was told before anybody was let go. Control path: runs the ring.
 */
int cutover_switch(struct cutover *cutover, enum cutover_state to, struct error *error);
/* Records a state without a switch: finish, cancel, fail. 0 or -errno: then try again. Control path. */
int cutover_record(struct bitmap_file *map, enum cutover_state state, struct error *error);
/* After a switch, done or not: notes in the map that it is over. 0, also when there is nothing to note, or -errno: try again. Control path. */
int cutover_decided(struct bitmap_file *map, struct error *error);
