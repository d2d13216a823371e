/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What surrounds jobs in a program: the ring, signals, the control socket, progress. One job, or one after the other; between
 * them there is none (`job` is NULL), and `between` says what is done instead.
 */
#pragma once

#include "cli/cli.h"
#include "cli/report.h"
#include "cli/sync_snapshot.h"
#include "ring/ticker.h"

struct run {
	struct cli_options *options;
	struct ring *ring;
	struct job *job;
	struct report *report;
	struct signals *signals;
	struct control *control;
	struct sync_snapshot snapshot; /* where --snapshot asks for one */
	struct ticker ticker;
	const char *between; /* as a state's name */
	unsigned round;      /* of rounds: which one; 0: there are none */
	bool interrupted;
	bool paused;           /* as the user ordered: holds for the next job, too */
	uint64_t verifying_ns; /* when the job began to read back; 0: it did not */
	uint64_t give_up_ns;   /* interrupted while connecting: at this time it ends; else 0 */
};

/* `options` is borrowed. After an error, too, run_tear_down() must follow. */
int run_set_up(struct run *run, struct cli_options *options, const char *verb, struct error *error);
void run_tear_down(struct run *run);
/* Runs a job of these options, whose callbacks it sets, to its end. run->job stays, for who wants to know more, until run_job_end(). */
enum job_result run_job(
    struct run *run, struct job_options *options, struct job_progress *ret, struct error *error);
void run_job_end(struct run *run);
