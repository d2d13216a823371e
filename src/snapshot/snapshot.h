/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Snapshots that are made for a run, so that it reads one moment of a volume in use: of LVM's volumes, thick and thin, and of
 * plain device-mapper devices. A *series* is what runs have made of one source for one target: the *base*, which the target holds
 * and whose changes the next run asks for, and while a run lasts the *fresh* one, which it reads.
 *
 * What a series makes is in its record, in the state folder, before it is made: the next run removes what a killed one left, and nothing
 * else ever (docs/formats/snapshots.md). An open series is locked. Control paths, one thread; while they wait they run the ring.
 */
#pragma once

#include "base/error.h"
#include "ring/ring.h"

#include <stdbool.h>
#include <stdint.h>

#define SNAPSHOT_FILL_MAX 90u /* percent; when a store or pool is as full as that, a run ends by itself */

struct snapshot;

/* Strings are borrowed until snapshot_close(). */
struct snapshot_options {
	const char *source;         /* path of a device of this machine */
	const char *target;         /* as it was named: the base is of this source for this target */
	const char *state_dir;      /* where the record lies */
	const char *target_path;    /* where that is on this machine; NULL: on another one */
	const char *store;          /* plain devices: the device that takes what is overwritten; or NULL */
	uint64_t size;              /* LVM, thick: bytes for what is overwritten; 0: chosen */
	unsigned fill_max;          /* percent; 0: SNAPSHOT_FILL_MAX */
	bool freeze;                /* file systems on devices above the source, for the moment */
	const char *before, *after; /* shell commands; or NULL */
	struct ring *ring;
	void *data;
	void (*say)(void *data, const char *text); /* what the user should know */
	bool (*stopping)(void *data);              /* asked while a hook runs; NULL: never */
};

/* What stays of a series. */
enum snapshot_keep {
	SNAPSHOT_KEEP_BASE, /* the target holds what it held: the fresh one goes */
	SNAPSHOT_KEEP_FRESH, /* the target holds the fresh one: it is the base from now on, the older one goes */
	SNAPSHOT_KEEP_NONE, /* what the target holds is not known, or there will be no next run */
};

/*
 * Locks the series, and removes what a killed run left of it. -EPERM with words: no snapshot can be made of such a source;
 * -EALREADY: another run works on this series.
 */
int snapshot_open(struct snapshot **ret, const struct snapshot_options *options, struct error *error);
/*
 * Makes the fresh one: the hook before; file systems freeze; the snapshot; they thaw; the hook after, which runs whenever the one before
 * has begun. When it fails there is no fresh one, and everything is as it was. -EPERM with words: refused (no room, no store, the hook
 * before failed, the source is being moved by attach/move.h); -ECANCELED: stopping() said so. There must be no fresh one.
 */
int snapshot_take(struct snapshot *snapshot, struct error *error);
/* The device of the fresh one, to read from: valid until it is settled. */
const char *snapshot_path(const struct snapshot *snapshot);
/* The name of the base; NULL when there is none. Whether the target holds it is not known here: trackers ask for its record. */
const char *snapshot_base(const struct snapshot *snapshot);
/* While the fresh one is read, every second or so: -ENOSPC with words when its store, or its pool, gets full. Waits for nothing. */
int snapshot_watch(struct snapshot *snapshot, struct error *error);
/*
 * When all of the fresh one was read: -ESTALE with words when it lost what was overwritten meanwhile, however quickly. What was read may be of several
 * moments then, without an error: the kernel lets the last write to the volume pass a read that was under way. Waits for nothing.
 */
int snapshot_check(struct snapshot *snapshot, struct error *error);
/*
 * When there is no fresh one: removes the base, and says so, when a pool that others need is so full.
 */
void snapshot_watch_base(struct snapshot *snapshot);
/* When the fresh one was made, by ring_now_ns(). */
uint64_t snapshot_moment_ns(const struct snapshot *snapshot);
/*
 * What became of the run; nothing may have the fresh one open any more. Removes what is not kept. Afterwards there is no fresh one. When
 * something cannot be removed, with words, it stays in the record, and the next snapshot_open() tries again.
 */
int snapshot_settle(struct snapshot *snapshot, enum snapshot_keep keep, struct error *error);
/*
 * For a process that ends at once and still has the fresh one open: a child settles when it has ended. Nothing of the series may be used afterwards.
 */
void snapshot_settle_later(struct snapshot *snapshot, enum snapshot_keep keep);
/* Without a settle: the fresh one stays for the next run to remove. Takes NULL; returns NULL. */
struct snapshot *snapshot_close(struct snapshot *snapshot);
