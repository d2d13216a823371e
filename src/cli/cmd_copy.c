/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blkmove copy, sync and verify: what each takes, then one job. */
#include "cli/cli.h"
#include "cli/rounds_options.h"
#include "cli/sync_snapshot.h"

#include "attach/lvm_points.h"
#include "base/parse_size.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum option_key {
	KEY_CHANGES = 512,
	KEY_BASE,
	KEY_DIGESTS,
	KEY_COMPARE_BLOCK,
	KEY_ATOMIC,
	KEY_KEEP_POINTS,
	KEY_LIST
};

int command_copy(int argc, char **argv)
{
	static const struct argp_child children[] = {{&cli_argp_write, 0, NULL, 0},
	    {&cli_argp_read, 0, NULL, 0}, {&cli_argp_holes, 0, NULL, 0}, {&cli_argp_job, 0, NULL, 0},
	    {&cli_argp_link, 0, NULL, 0}, {&cli_argp_report, 0, NULL, 0}, {&cli_argp_events, 0, NULL, 0},
	    {0}};
	static const struct argp argp = {.args_doc = "SRC DST",
	    .doc = "Copies all of SRC to DST; holes and zeros cost nothing, stale bytes do not survive.\v"
	           "SRC and DST: /dev/x, file.img (made if missing), [user@]host:PATH, nbd://..., [ SERVER "
	           "ARGS ], or - for a "
	           "stream."};
	struct cli_options options = {.job.kind = JOB_COPY};
	int res = cli_parse(&options, &argp, children, argc, argv, 2);

	if (res == 0)
		res = cli_run_job(&options, "copy");
	cli_options_done(&options);
	return res;
}

static error_t parse_sync(int key, char *arg, struct argp_state *state)
{
	struct cli_options *options = state->input;
	uint64_t size;
	int choice;

	switch (key) {
	case KEY_CHANGES:
		choice = cli_choose(cli_changes_names, "changes", arg, strlen(arg), &options->error);
		if (choice < 0)
			argp_failure(state, JOB_TROUBLE, 0, "%s", options->error.text);
		options->job.changes = (enum job_changes)choice;
		options->job.changes_named = true;
		return 0;
	case KEY_BASE:
		options->job.base = arg;
		return 0;
	case KEY_DIGESTS:
		options->job.digests_path = arg;
		return 0;
	case KEY_COMPARE_BLOCK:
		if (parse_size(arg, &size, &options->error) < 0 ||
		    (size != 1u << 20 && size != 65536 && size != 4096))
			argp_failure(
			    state, JOB_TROUBLE, 0, "--compare-block=%s: choose one of 1M, 64k, 4k", arg);
		options->job.top_granularity = (uint32_t)size;
		return 0;
	case KEY_ATOMIC:
		options->job.atomic = true;
		snprintf(options->stage_dir, sizeof(options->stage_dir), "%s", arg ? arg : "");
		options->job.stage_dir = arg ? options->stage_dir : NULL;
		return 0;
	case KEY_KEEP_POINTS:
		if (cli_parse_number("keep-points", arg, "", 1, STAGE_POINTS_MAX, &options->job.keep_points,
		        &options->error) < 0)
			argp_failure(state, JOB_TROUBLE, 0, "%s", options->error.text);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_option sync_options[] = {
    {"changes", KEY_CHANGES, "HOW", 0,
        "where changes are known from: auto, hash (compare both sides), digests (saved by the run before), "
        "or a "
        "tracker: dm-snapshot, dm-thin, dm-era, nbd-bitmap",
        1},
    {"base", KEY_BASE, "NAME", 0,
        "DST holds this: a snapshot of SRC, a thin volume, an era, or the beginning of a bitmap (default: as "
        "noted)",
        1},
    {"digests", KEY_DIGESTS, "FILE", 0, "saved digests: used if they fit, and saved anew at the end", 1},
    {"compare-block", KEY_COMPARE_BLOCK, "SIZE", 0,
        "the first block size compared: 1M, 64k or 4k (default: chosen)", 1},
    {"atomic", KEY_ATOMIC, "DIR", OPTION_ARG_OPTIONAL,
        "stage the round beside DST (or in DIR, there), then apply it: after a crash DST is the old point or "
        "the new one",
        1},
    {"keep-points", KEY_KEEP_POINTS, "N", 0,
        "with --atomic, for a thin volume of LVM's: keep the last N points as snapshots", 1},
    {0},
};

static int check_sync(struct cli_options *options)
{
	const struct job_options *job = &options->job;

	if (job->changes == CHANGES_DIGESTS && !job->digests_path)
		return error_set(&options->error, -EINVAL,
		    "--changes=digests needs --digests=FILE, where the last run saved them");
	if (job->digests_path && (job->changes >= CHANGES_TRACKER || job->base))
		return error_set(&options->error, -EINVAL,
		    "--digests cannot be had with a tracker, which does not see all of the source; leave one "
		    "out");
	if (job->keep_points && !job->atomic)
		return error_set(
		    &options->error, -EINVAL, "--keep-points needs --atomic: only whole points are kept");
	if (job->atomic && job->list_read_errors)
		return error_set(&options->error, -EINVAL,
		    "--atomic cannot be had with --on-read-error=list: a point with zeros for what cannot be "
		    "read is none");
	if (job->atomic && job->size_mismatch == SIZE_TRUNCATE)
		return error_set(&options->error, -EINVAL,
		    "--atomic cannot be had with --size-mismatch=truncate: a size is changed at once; set it "
		    "first");
	if (job->stage_dir && job->stage_dir[0] != '/')
		return error_set(&options->error, -EINVAL,
		    "--atomic=%.300s: name it from the root, as in /var/tmp", job->stage_dir);
	if (job->base && job->changes == CHANGES_HASH)
		return error_set(&options->error, -EINVAL, "--base is a tracker's, not for --changes=hash");
	return 0;
}

int command_sync(int argc, char **argv)
{
	static const struct argp own = {.options = sync_options, .parser = parse_sync};
	static const struct argp_child children[] = {{&own, 0, NULL, 0}, {&cli_argp_rounds, 0, NULL, 0},
	    {&cli_argp_snapshot, 0, NULL, 0}, {&cli_argp_write, 0, NULL, 0}, {&cli_argp_read, 0, NULL, 0},
	    {&cli_argp_holes, 0, NULL, 0}, {&cli_argp_job, 0, NULL, 0}, {&cli_argp_link, 0, NULL, 0},
	    {&cli_argp_report, 0, NULL, 0}, {&cli_argp_events, 0, NULL, 0}, {0}};
	static const struct argp argp = {.args_doc = "SRC DST",
	    .doc = "Makes DST equal to SRC: both sides digest their blocks where the data is, and only "
	           "blocks that differ are "
	           "sent.\vSRC and DST: /dev/x, file.img (made if missing), [user@]host:PATH, nbd://..., or "
	           "[ SERVER ARGS ]."};
	struct cli_options options = {.job.kind = JOB_SYNC};
	int res = cli_parse(&options, &argp, children, argc, argv, 2);

	options.job.points = lvm_points;
	if (res == 0 && (check_sync(&options) < 0 || rounds_options_check(&options) < 0 ||
	                    sync_snapshot_check(&options) < 0))
		res = cli_fail(JOB_TROUBLE, &options.error);
	if (res == 0 && options.snapshot.mode == SNAPSHOT_DROP)
		res = sync_snapshot_drop(&options);
	else if (res == 0)
		res = options.rounds.wanted ? cli_run_rounds(&options) : cli_run_job(&options, "sync");
	cli_options_done(&options);
	return res;
}

static error_t parse_verify(int key, char *arg, struct argp_state *state)
{
	struct cli_options *options = state->input;

	if (key != KEY_LIST)
		return ARGP_ERR_UNKNOWN;
	options->list = true;
	return 0;
}

static const struct argp_option verify_options[] = {
    {"list", KEY_LIST, NULL, 0, "print every range that differs, not just the first", 1},
    {0},
};

int command_verify(int argc, char **argv)
{
	static const struct argp own = {.options = verify_options, .parser = parse_verify};
	static const struct argp_child children[] = {{&own, 0, NULL, 0}, {&cli_argp_read, 0, NULL, 0},
	    {&cli_argp_job, 0, NULL, 0}, {&cli_argp_link, 0, NULL, 0}, {&cli_argp_report, 0, NULL, 0},
	    {&cli_argp_events, 0, NULL, 0}, {0}};
	static const struct argp argp = {.args_doc = "A B",
	    .doc = "Compares two volumes past the page cache. Exit code 0: the same, 1: they differ, 2: "
	           "trouble.\v"
	           "A and B: /dev/x, file.img, [user@]host:PATH, nbd://..., or [ SERVER ARGS ]."};
	struct cli_options options = {.job.kind = JOB_VERIFY};
	int res = cli_parse(&options, &argp, children, argc, argv, 2);

	if (res == 0)
		res = cli_run_job(&options, "verify");
	cli_options_done(&options);
	/* Three codes only: nothing but 0 and 1 says what the volumes are. */
	return res > JOB_DIFFERS ? JOB_TROUBLE : res;
}
