/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of the snapshots share: snapshot.c (a series' life), snapshot_take.c (the moment), and the kinds. */
#pragma once

#include "attach/dm.h"
#include "attach/lvm.h"
#include "snapshot/snapshot.h"
#include "snapshot/snapshot_guard.h"
#include "snapshot/snapshot_record.h"

/* How one kind of volume is snapshotted. Each returns 0 or -errno with words. */
struct snapshot_kind {
	const char *name;
	/* Whether there can be one (-EPERM); sets record.fresh to its name and `path` to its device. Makes nothing. */
	int (*prepare)(struct snapshot *snapshot, struct error *error);
	/* All that needs no moment; or NULL. */
	int (*ready)(struct snapshot *snapshot, struct error *error);
	int (*make)(struct snapshot *snapshot, struct error *error);
	/* Removes all that the series has made but base and fresh. */
	int (*clear)(struct snapshot *snapshot, struct error *error);
	/* Percent, and of what: it becomes `what`. -ESTALE, -EIO: it is of no use any more. */
	int (*fill)(struct snapshot *snapshot, char *what, size_t length, struct error *error);
	bool shared;        /* what gets full is needed by others, too: nothing of ours stays there then */
	const char *advice; /* when it is full */
};

extern const struct snapshot_kind snapshot_lvm, snapshot_thin, snapshot_dm;

struct snapshot {
	struct snapshot_options options;
	char folder[512];
	int folder_fd; /* locked; -1: none */
	struct snapshot_record record;
	const struct snapshot_kind *kind;
	struct dm_facts source; /* name "" when there is no such device any more */
	char path[400];         /* of the fresh one */
	struct snapshot_guard guard;
	bool overfull; /* a watch has said so */
	uint64_t moment_ns;

	/* LVM */
	char group[LVM_NAME_MAX], volume[LVM_NAME_MAX];
	uint64_t extents; /* thick: of the store; thin: 0, it needs none */
	dev_t pool;       /* thin */

	/* plain */
	struct snapshot_dm_place {
		bool inserted;                   /* the source leads to an origin */
		dev_t origin;                    /* which is that, or will be */
		uint64_t sectors, begin, length; /* of the source; of the half of the store */
		dev_t store;
		unsigned slot;
	} place;
};

__attribute__((format(printf, 2, 3))) void snapshot_say(struct snapshot *snapshot, const char *format, ...);
int snapshot_save(struct snapshot *snapshot, struct error *error);
/* So many random digits, and an end. */
void snapshot_draw(char ret[SNAPSHOT_ID_LENGTH + 1]);
/* The `fill` of a kind whose fresh ones have a store of their own each. */
int snapshot_fill_own(struct snapshot *snapshot, char *what, size_t length, struct error *error);
/*
 * snapshot_take.c: -EPERM with words while a move of the source has not ended: its table would be another one, past the mirror that keeps both places
 * the same.
 */
int snapshot_may_be(const struct snapshot *snapshot, struct error *error);
/* See snapshot.h. The kind has prepared, and it is recorded. */
int snapshot_take_moment(struct snapshot *snapshot, struct error *error);
/* snapshot_store.c: whether the open device may be the store; -EPERM with words. `ours`: it is one already. */
int snapshot_store_judge(const struct snapshot *snapshot, int fd, bool ours, struct error *error);
