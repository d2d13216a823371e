/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads both legs of a mirror and compares them while clients use it: range by range, under a lock against all writes, in the write-through
 * mode. What is dirty is passed over: it will be copied. So are holes of both legs: there is nothing to read. A range that differs and was not known to is counted and becomes dirty.
 * Ring thread only.
 */
#pragma once

#include "filter/mirror.h"

struct live_verify;

struct live_verify_counts {
	uint64_t verified;  /* bytes of the pass under way, or of the last: read from both legs */
	uint64_t holes;     /* bytes of it that read as zero on both, as both say */
	uint64_t differing; /* bytes of ranges that differed in it */
	uint64_t spoiled;   /* bytes that could not be read from the follower: they are copied anew */
	uint64_t unread;    /* bytes that could not be read from the leader: neither equal nor not */
};

/* Borrows the mirror; ended() comes from the loop when a pass is over. */
int live_verify_new(struct live_verify **ret, struct block *mirror, void (*ended)(void *data), void *data,
    struct error *error);
/* Takes NULL; returns NULL. Runs the ring until nothing is under way. */
struct live_verify *live_verify_free(struct live_verify *verify);
/* From the beginning. Not while a pass, or what is left of a stopped one, is under way: live_verify_idle(). */
void live_verify_start(struct live_verify *verify);
/* The follower was lost, or it is not wanted any more: lets all locks go; ended() is not called. */
void live_verify_stop(struct live_verify *verify);
bool live_verify_idle(const struct live_verify *verify);
/* Bytes per second, 0: no limit; held: nothing new is begun. */
void live_verify_set_limits(struct live_verify *verify, uint64_t rate, bool held);
/* Whether the rate has kept it from more, since it was asked last. */
bool live_verify_limited(struct live_verify *verify);
/*
 * The digests of both legs (docs/formats/digests.md, "The root") as they were compared in the last pass, each range in its moment;
 * mirror_changed() has what was written since. Valid once a pass has ended, until the next.
 */
struct live_verify_roots {
	struct digest_key key;
	uint8_t roots[MIRROR_LEGS][DIGEST_BYTES];
};
void live_verify_roots(const struct live_verify *verify, struct live_verify_roots *ret);
const struct live_verify_counts *live_verify_counts(const struct live_verify *verify);
