/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Locks on byte ranges of one volume, for one ring's thread: overlapping writes reach both legs of a mirror in one order, and
 * none meets a copy of the same range. Each lock is of a kind, and a table says which kinds exclude each other where their
 * ranges overlap. First come, first served among those that exclude each other, so none starves. The lock's memory is the
 * caller's, from range_lock_take() until range_lock_drop() or range_lock_leave(); a request holds one lock at a time, so there is no deadlock.
 */
#pragma once

#include "base/list.h"
#include "ring/ring.h"

#include <stdint.h>

#define RANGE_LOCK_KINDS 4u

struct range_locks {
	struct ring *ring;
	uint8_t excludes[RANGE_LOCK_KINDS]; /* by kind: bits 1u << kind; symmetric */
	struct list_node locks;             /* all, in the order of their coming */
	unsigned count;
};

struct range_lock {
	/* set by the caller */
	uint64_t offset, length; /* bytes, length > 0 */
	unsigned kind;
	void (*granted)(
	    struct range_lock *lock); /* from the ring's loop, unless range_lock_take() said yes */

	/* range_lock.c's */
	struct range_locks *locks;
	struct list_node node;
	unsigned blockers; /* earlier ones that exclude it */
	bool held;
	struct ring_op op; /* granted() runs from the loop */
};

void range_locks_init(struct range_locks *locks, struct ring *ring, const uint8_t excludes[RANGE_LOCK_KINDS]);
/* True: held at once, and granted() is not called. False: granted() follows. */
bool range_lock_take(struct range_locks *locks, struct range_lock *lock);
/* Only once it is held. Those that waited for it are told from the loop. */
void range_lock_drop(struct range_lock *lock);
/* Only before it is held. True: it is not waited for any more, and its memory is the caller's. False: it has come; granted() follows. */
bool range_lock_leave(struct range_lock *lock);
