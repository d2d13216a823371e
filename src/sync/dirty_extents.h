/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The extents of a live mirror: what is dirty, and what becomes so. An extent is whole regions, held under a lock against
 * writes to both legs and claimed in the map from the moment it is given until it is finished. Holes of both legs are not given,
 * those of the authoritative leg alone are given as ZERO. The source never ends: when nothing is dirty, next() says "none
 * yet". Ring thread only.
 */
#pragma once

#include "filter/mirror.h"

struct dirty_limits {
	uint64_t rate;       /* bytes per second; 0: no limit */
	uint64_t window;     /* bytes of extents given and not finished; 0: no limit; one is always given */
	uint64_t extent_max; /* bytes, at least a region; 0: whatever the engine takes */
};

/* Borrows the mirror. */
int dirty_extents_new(struct extents **ret, struct block *mirror, struct error *error);
void dirty_extents_set_limits(struct extents *extents, const struct dirty_limits *limits);
/*
 * From now on what is dirty is compared first, and only copied if the legs differ there: while the map does not know what
 * differs. With that key; NULL: no more. Not while any is active if it was comparing before.
 */
void dirty_extents_compare(struct extents *extents, const struct digest_key *key);
/* Bytes that were dirty and found equal so far. */
uint64_t dirty_extents_same(const struct extents *extents);
/* Bytes that are not dirty any more and not copied yet. */
uint64_t dirty_extents_taken(const struct extents *extents);
/* Gives none while held; those that are given are finished. */
void dirty_extents_hold(struct extents *extents, bool held);
/* Whether the rate has kept it from giving more, since it was asked last. */
bool dirty_extents_limited(struct extents *extents);
/* How long the quickest copy took, its comparison included, of those that ended since it was asked last; 0: none did. */
uint64_t dirty_extents_quickest_ns(struct extents *extents);
/* More may be dirty than before: for MIRROR_DIRTIED. */
void dirty_extents_look(struct extents *extents);
/*
 * For MIRROR_DETACHED: lets go the locks of all extents, given or not, so that no write waits for a leg that is gone. The engine
 * still finishes what it was given.
 */
void dirty_extents_abandon(struct extents *extents);
/*
 * The volume is about to have `size` bytes: 0 or -ENOMEM, and nothing has changed; has another size, which the map says. Not while any is
 * active.
 */
int dirty_extents_reserve(struct extents *extents, uint64_t size);
void dirty_extents_measure(struct extents *extents);
/* Extents that are being copied, or wait for their lock: while there are any, a clean map does not mean equal legs. */
unsigned dirty_extents_active(const struct extents *extents);
/*
 * Bytes of regions that could not be read from the authoritative leg: they stay dirty, are passed over until all others have had their
 * turn, and are then tried again, one at a time, whenever dirty_extents_look() is called and some time has passed.
 */
uint64_t dirty_extents_unreadable(const struct extents *extents);
/* Bytes copied so far. */
uint64_t dirty_extents_copied(const struct extents *extents);
/* Bytes that were dirty and needed no copy so far: the authoritative leg has holes there; the follower, too, or it was zeroed. */
uint64_t dirty_extents_holes(const struct extents *extents);
