/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The command line of blkmove mirror, as given or as kept for --resume. */
#pragma once

#include "cli/cli.h"
#include "cli/devices.h"
#include "cli/listen.h"
#include "sync/mirror_job.h"
#include "sync/preflight.h"

#define MIRRORS_MAX 64u /* in one process */

struct mirror_command {
	bool follows;               /* stands behind an --and: what holds for all is refused */
	struct cli_options options; /* reaching the legs, words, the error */
	struct listen listen;
	struct devices devices; /* one, or none */
	struct endpoint legs[MIRROR_LEGS];
	unsigned legs_count;
	const char *name;                 /* NULL: made from the target's */
	const char *resumes[MIRRORS_MAX]; /* the mirrors to go on with */
	unsigned resumes_count;
	const char *forget; /* the mirror to forget */
	const char *overwrite,
	    *overwrite_newer; /* the target's name, for what it carries, and for a newer one */
	bool foreground, full, paused, json, quiet;
	unsigned interval_s;              /* between lines in the foreground, without a terminal; 0: 10 */
	enum size_mismatch size_mismatch; /* zero-tail: the target may be larger */
	unsigned allow;                   /* set of preflight_allow */
	enum cache_mode cache;
	enum job_changes changes;
	bool changes_named; /* whatever is chosen is said, and why */
	const char *base;
	const char *digests; /* a file of saved ones, of the target; NULL: none */

	struct mirror_job_options job;
	bool cutover_auto;  /* as soon as it is ready */
	int64_t cutover_at; /* CLOCK_REALTIME seconds; 0: not by the clock */
	/* While the words of the first time are parsed again; else NULL. What was done already is not asked for any more. */
	const struct mirror_pending *pending;
	char name_made[MIRROR_LEGS * 64];
};

/*
 * Parses what stands before, between or behind --and. Called a second time, for --resume, it adds to what is there: later words
 * win. Returns 0 or an exit code, after printing what is wrong. The words, and their array, are borrowed.
 */
int mirror_command_parse(struct mirror_command *command, int argc, char **argv);
/* A cutover is to be ordered by itself. */
static inline bool mirror_command_orders(const struct mirror_command *command)
{
	return command->cutover_auto || command->cutover_at;
}
void mirror_command_done(struct mirror_command *command);
