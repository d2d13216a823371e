/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of `sync --rounds` share: rounds_run.c (its life), rounds_stop.c (the command, and waiting), rounds_words.c. */
#pragma once

#include "cli/run.h"
#include "sync/rounds.h"

#include <time.h>

struct round_run {
	/* set at the start */
	struct run run;       /* run.options: the command line's */
	struct block *source; /* for looking who uses it; or NULL */

	struct rounds rounds;
	/* of the last job that ran */
	enum job_result result;
	struct error error; /* why it ended, but for an equal target */
	struct job_progress progress;
	enum job_holds holds;
	double job_s, verify_s; /* how long it took; how much of that was reading back */

	time_t held_at; /* the target is the source as it was then, flushed; 0: it is of no one moment */
	bool partial;   /* the target was written to since */
	double
	    all_s; /* how long the last job took that looked at the whole volume; negative: there was none */

	/* since the stop */
	double stopped_at_s, stop_s, wait_s, last_s, last_verify_s;
	char blind[200]; /* why somebody may use the source unseen; "": that would be seen */
};

/* Seconds of the ring's clock. */
double round_run_now_s(struct round_run *run);

/* Whether there is anything to look at: a server's client does not see who else uses its volume. */
bool rounds_can_look(const struct round_run *run);
/* Each gives what became of it, with words in run->error. */
enum rounds_event rounds_stop(struct round_run *run);
enum rounds_event rounds_wait(struct round_run *run);
/* Closes what was opened for looking. */
void rounds_stop_looking(struct round_run *run);

/* A round is complete, and rounds_sent() was called. */
void rounds_say_round(struct round_run *run, const struct round_figures *figures);
/* Before the stop command: what is going to happen, and how long it may take. */
void rounds_say_stop(struct round_run *run);
void rounds_say_end(struct round_run *run, enum job_result code);
