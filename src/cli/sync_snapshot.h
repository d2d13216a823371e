/* SPDX-License-Identifier: GPL-2.0-or-later */
/* sync --snapshot: a job reads a snapshot that is made for it. Between these functions and snapshot/snapshot.h stand the options and the words. */
#pragma once

#include "cli/cli.h"
#include "snapshot/snapshot.h"

struct sync_snapshot {
	/* set by the caller */
	const struct cli_options *options;
	struct ring *ring;
	void *data;
	void (*say)(void *data, const char *text);
	bool (*stopping)(void *data); /* asked while a hook runs */

	/* its own */
	struct snapshot *snapshot; /* NULL: --snapshot was not asked for, or it is settled */
	char path[400];
	struct endpoint source; /* what the job reads; its address stays */
	uint64_t next_ns;
	struct error stop; /* code: the run was ended, for this */
	bool lost;         /* the snapshot overflowed */
};

/* The options fit together. 0 or -EINVAL with words in options->error. */
int sync_snapshot_check(struct cli_options *options);
/* --snapshot=drop. Returns an exit code. */
int sync_snapshot_drop(struct cli_options *options);
/* Opens the series: what a killed run left goes. Does nothing where no snapshot was asked for, as do those below. */
int sync_snapshot_open(struct sync_snapshot *sync, struct error *error);
/* Makes a snapshot, and has the job read it. Again and again, with an end between. */
int sync_snapshot_take(struct sync_snapshot *sync, struct job_options *job, struct error *error);
/*
 * Some times a second: cancels the job when there is no more room. Between jobs (NULL), and while one reads the source itself, the base
 * goes when its pool gets full.
 */
void sync_snapshot_look(struct sync_snapshot *sync, struct job *job);
/*
 * The job has run (NULL: it could not be made): what it left behind is kept or removed; job_close() is called. Returns the result, which becomes JOB_TROUBLE with words when the run was
 * ended for want of room.
 */
enum job_result sync_snapshot_end(
    struct sync_snapshot *sync, struct job *job, enum job_result result, struct error *error);
/*
 * A job has read the source itself, with the base that is kept: that goes, when all is `good` or it is of no use any more. The job is
 * freed by then.
 */
void sync_snapshot_end_series(struct sync_snapshot *sync, enum job_holds holds, bool good);
/* Instead, for a process that ends at once; `job` may be NULL. */
void sync_snapshot_abandon(struct sync_snapshot *sync, const struct job *job);
void sync_snapshot_close(struct sync_snapshot *sync);
/* What an error of open or take ends the program with. */
enum job_result sync_snapshot_result(int res);
