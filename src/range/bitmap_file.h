/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The map of a mirror: which regions of its two legs may differ, kept in a file so that a kill or a power cut loses nothing of
 * it, and what the file says of the legs (which one is authoritative, the cutover's state). docs/formats/map.md has the bytes.
 *
 * Two bits a region are kept in memory. *dirty*: the legs differ here, a copy is due. *logged*: the file says, durably, that
 * they may. Dirty regions are always logged; a logged one that is not dirty was copied or written to both legs, but not all
 * of that is known to be on stable storage.
 *
 * All I/O runs on the ring. What is written is written in rounds: one intent record with all that waits, some bitmap pages,
 * one fdatasync; one round at a time. Ring thread only.
 */
#pragma once

#include "range/bitmap.h"
#include "range/bitmap_format.h"
#include "ring/ring.h"

struct bitmap_file;

/*
 * Somebody is about to write to these regions, or to copy them: while he is, they stay logged. Embedded in the requests of the
 * user, who sets `done` and `warm` and leaves the rest alone.
 */
struct bitmap_claim {
	void (*done)(struct bitmap_claim *claim, int res); /* 0, or -errno: the map is lost */
	bool warm; /* likely to be wanted again: the regions stay logged over the next clearing */

	uint64_t first, count;         /* regions */
	struct list_node use, waiting; /* bitmap_file's */
};

/*
 * Begins a map in `fd` (borrowed), whatever was in it before. `super` has nonce, size, region_size, records, state,
 * authoritative and ids; `dirty` the regions that differ, or NULL: all. -E2BIG: larger regions are needed. Control path: runs the ring.
 */
int bitmap_file_create(struct bitmap_file **ret, struct ring *ring, int fd, const struct bitmap_super *super,
    const struct bitmap *dirty, struct error *error);
/*
 * Opens an earlier one. What may differ is dirty. -EBADMSG with words when it is none, or damaged: then only a comparison of the legs
 * says what differs. A damaged page only makes its own regions dirty. 1: it was given up, or is not to be trusted: all is dirty, but the
 * superblock holds. -ENOTRECOVERABLE with words: nor can it be told which leg is the authoritative one; nothing was changed. Control path.
 */
int bitmap_file_load(struct bitmap_file **ret, struct ring *ring, int fd, bool distrust, struct error *error);
/* What the superblock of a map says that others may have open. 0, -EBADMSG or another -errno with words. */
int bitmap_file_peek(int fd, struct bitmap_super *ret, struct error *error);
/* Waits for the round under way. No claim may be held. Takes NULL; returns NULL. */
struct bitmap_file *bitmap_file_free(struct bitmap_file *map);

const struct bitmap_super *bitmap_file_super(const struct bitmap_file *map);
/*
 * Makes state, authoritative, generation, undecided, ids and note of `super` durable (its size is not looked at), in both superblocks. When it fails it is not known which
 * of old and new a later load finds: nothing may be acknowledged until a record of either succeeded. Control path.
 */
int bitmap_file_record(struct bitmap_file *map, const struct bitmap_super *super, struct error *error);

/*
 * 1: the regions of [offset, offset + length) are logged already, go on; 0: done() follows; negative: the map is lost. Hold the
 * claim in each of these cases, until bitmap_file_release().
 */
int bitmap_file_claim(struct bitmap_file *map, struct bitmap_claim *claim, uint64_t offset, uint64_t length);
void bitmap_file_release(struct bitmap_file *map, struct bitmap_claim *claim);
/*
 * From now on what is logged for a warm claim is logged with its neighbours, in groups of so many regions, a power of two: fewer records for
 * those who write here and there, and more that may differ after a crash. 0 or -ENOMEM.
 */
int bitmap_file_log_ahead(struct bitmap_file *map, uint64_t regions);

const struct bitmap *bitmap_file_dirty(const struct bitmap_file *map);
const struct bitmap *bitmap_file_logged(const struct bitmap_file *map);
/* The regions of a claim differ from now on. */
void bitmap_file_mark(struct bitmap_file *map, const struct bitmap_claim *claim);
/* The regions of a claim are about to be copied: they are not dirty any more. If that fails, mark them. */
void bitmap_file_take(struct bitmap_file *map, const struct bitmap_claim *claim);
/* Adds to `ret` what is dirty, and what bitmap_file_doubt() would make so. */
void bitmap_file_in_doubt(const struct bitmap_file *map, struct bitmap *ret);
/*
 * These regions are known to be the same on both legs, without a copy: not dirty any more. Nobody who holds a claim there, or waits
 * for one, counts on their being so. Returns how many were.
 */
uint64_t bitmap_file_equal(struct bitmap_file *map, uint64_t first, uint64_t count);
/* All that is logged, but for neighbours that nobody used, is dirty: a leg has come back, and what it had not flushed may be lost. Returns how many became so. */
uint64_t bitmap_file_doubt(struct bitmap_file *map);

/*
 * What is set in `more` (all: NULL) is dirty, and durably so when this returns. 0, or -errno: the map is lost. Clients may claim meanwhile.
 * Control path.
 */
int bitmap_file_merge(struct bitmap_file *map, const struct bitmap *more);
/*
 * Nothing is dirty or logged any more, durably when this returns; after a crash in its midst some may be. Waits for claims that are held; none
 * comes meanwhile. 0, or -errno: the map is lost. Control path.
 */
int bitmap_file_empty(struct bitmap_file *map);
/*
 * The volume has become larger. What is new is dirty, and the region that the old end lay in; durably, when this returns. A crash in its
 * midst leaves the map of the old size or of the new one. 0, also when it has that size; -EINVAL: it is smaller; -E2BIG: it would have too
 * many regions; or another -errno, with words: it has the old size, or the map is lost. Until it returns there may be bits beyond the end.
 * Clients may claim meanwhile. Control path.
 */
int bitmap_file_grow(struct bitmap_file *map, uint64_t size, struct error *error);
/*
 * Clears, in two steps, what is logged but not dirty, not claimed, and not warm: begin() notes what may be cleared, false when
 * there is nothing now; then the user flushes both legs; end() clears what nobody touched meanwhile, if they were flushed, and
 * writes the pages behind the user's back. Large maps take several turns. What was warm is not any more at the next one: a region
 * that clients write to again and again costs no further record.
 */
bool bitmap_file_settle_begin(struct bitmap_file *map);
void bitmap_file_settle_end(struct bitmap_file *map, bool flushed);
/* True while nothing is being written, nor waits to be. */
bool bitmap_file_idle(const struct bitmap_file *map);
/* From now on nothing is noted, as if it could not be written, `res` says why; the file is told so as soon as that can be. */
void bitmap_file_lose(struct bitmap_file *map, int res);
/* 0, or why the map was lost: it could not be written time and again. What happens from then on is not noted. */
int bitmap_file_lost(const struct bitmap_file *map);
