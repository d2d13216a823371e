/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A child process that sees to it that nothing stays as it is only for the moment of a snapshot: file systems that are frozen, a device that is
 * suspended, a database that a hook has quiesced. It freezes and thaws by order; when this process has died, or what is frozen has been so for
 * SNAPSHOT_GUARD_PATIENCE_S, it undoes all by itself. It hears no signal that can be ignored. Control paths; the owner is one thread.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <sys/types.h>

#define SNAPSHOT_GUARD_PATIENCE_S 60u
#define SNAPSHOT_GUARD_MOUNTS_MAX 32u

/* Set by the caller before the start; descriptors and words stay his. */
struct snapshot_guard {
	int mounts[SNAPSHOT_GUARD_MOUNTS_MAX]; /* one open file on each file system to freeze */
	unsigned mounts_count;
	const char *device; /* to resume, by its name; or NULL */
	char *const *hook;  /* to run, once it is due, when this process has died; or NULL */

	/* the guard's own */
	pid_t pid; /* 0: none */
	int fd;
	bool frozen;
};

int snapshot_guard_start(struct snapshot_guard *guard, struct error *error);
/* All file systems, or none: -errno with words. */
int snapshot_guard_freeze(struct snapshot_guard *guard, struct error *error);
/* -ETIMEDOUT with words when they had been thawed before. They are thawed in any case. */
int snapshot_guard_thaw(struct snapshot_guard *guard, struct error *error);
/*
 * The device is about to be suspended, or was resumed: it looks, and resumes it if that is not so. -ETIMEDOUT with words when that had been
 * done already.
 */
int snapshot_guard_suspending(struct snapshot_guard *guard, bool suspending, struct error *error);
/* The hook must run from now on, or need not any more. */
int snapshot_guard_owes_hook(struct snapshot_guard *guard, bool owes, struct error *error);
/* Thaws what is frozen; the hook is not run. Does nothing when there is none. */
void snapshot_guard_end(struct snapshot_guard *guard);
