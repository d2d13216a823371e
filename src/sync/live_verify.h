/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compares both legs of a mirror while clients use it: range by range, under a lock against all writes, in the write-through mode. Each
 * leg is asked for digests, so nothing but these comes from one on another machine. What is dirty is passed over, unless it stays so: it will be copied. So
 * are holes of both legs: there is nothing to read. What differs becomes dirty, is counted and told, in this order. Ring thread only.
 */
#pragma once

#include "filter/mirror.h"

struct live_verify;

struct live_verify_counts {
	uint64_t verified;  /* bytes of the pass under way, or of the last: read from both legs */
	uint64_t holes;     /* bytes of it that read as zero on both, as both say */
	uint64_t differing; /* bytes that differed in it, in blocks of 4 KiB */
	uint64_t spoiled;   /* bytes of ranges that could not be read from the follower */
	uint64_t unread;    /* bytes that could not be read from the leader: neither equal nor not */
};

struct live_verify_options {
	/*
	 * The digests of whole legs are wanted, and mirror_changed() with them: of one of those that verify a mirror, and all of its passes
	 * are whole ones.
	 */
	bool roots;
	/* Borrowed data; all from the loop. `ended`: a pass is over. */
	void (*ended)(void *data);
	/* This differs, and the map has it, durably unless it is lost; in no order. May be NULL, and may stop the pass. */
	void (*differs)(void *data, uint64_t offset, uint64_t length);
	/* More is dirty than before. May be NULL. */
	void (*marked)(void *data);
	void *data;
};

/* Borrows the mirror. */
int live_verify_new(struct live_verify **ret, struct block *mirror, const struct live_verify_options *options,
    struct error *error);
/* Takes NULL; returns NULL. Runs the ring until nothing is under way. */
struct live_verify *live_verify_free(struct live_verify *verify);
/*
 * From the byte `from`, or a little before it, to the end. What differs becomes dirty; `spoiled`: also what cannot be read from the follower.
 * Not while a pass, or what is left of a stopped one, is under way: live_verify_idle(). 0, or -errno: no key for it can be drawn.
 */
int live_verify_start(struct live_verify *verify, uint64_t from, bool spoiled);
/* The volume has another size, which the map says. Not while a pass is under way. */
void live_verify_measure(struct live_verify *verify);
/* All before it has had its turn in this pass, or the last one. */
uint64_t live_verify_position(const struct live_verify *verify);
/* The follower was lost, or it is not wanted any more: lets all locks go; ended() is not called. */
void live_verify_stop(struct live_verify *verify);
bool live_verify_idle(const struct live_verify *verify);
/* What is dirty stays so for now, and is compared as all else; or it will be copied soon. */
void live_verify_keep(struct live_verify *verify, bool kept);
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
