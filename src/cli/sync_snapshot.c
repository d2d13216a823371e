/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Options of --snapshot, and a job over a snapshot: see sync_snapshot.h. */
#include "cli/sync_snapshot.h"

#include "base/parse_size.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_NS 1000000000u

enum option_key { KEY_SNAPSHOT = 768, KEY_SIZE, KEY_STORE, KEY_FILL, KEY_FREEZE, KEY_BEFORE, KEY_AFTER };

/* In the order of cli_snapshot.mode. */
static const char *const modes[] = {"off", "auto", "last", "drop", NULL};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct cli_options *options = state->input;
	struct cli_snapshot *snapshot = &options->snapshot;
	int res = 0;

	switch (key) {
	case KEY_SNAPSHOT:
		res = cli_choose(modes, "snapshot", arg, strlen(arg), &options->error);
		snapshot->mode = (unsigned)res;
		break;
	case KEY_SIZE:
		res = parse_size(arg, &snapshot->size, &options->error);
		break;
	case KEY_STORE:
		snapshot->store = arg;
		break;
	case KEY_FILL:
		res =
		    cli_parse_number("snapshot-fill", arg, "%", 1, 99, &snapshot->fill_max, &options->error);
		break;
	case KEY_FREEZE:
		snapshot->freeze = true;
		break;
	case KEY_BEFORE:
		snapshot->before = arg;
		break;
	case KEY_AFTER:
		snapshot->after = arg;
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	if (res < 0)
		argp_failure(state, JOB_TROUBLE, 0, "%s", options->error.text);
	return 0;
}

static const struct argp_option argp_options[] = {
    {"snapshot", KEY_SNAPSHOT, "HOW", 0,
        "read a snapshot of SRC made for this run: auto (kept as the base of the next run), last (none is "
        "kept), "
        "drop (copy nothing, remove what earlier runs kept), off (default)",
        2},
    {"snapshot-size", KEY_SIZE, "SIZE", 0, "LVM: room for what is overwritten meanwhile (default: chosen)",
        2},
    {"snapshot-store", KEY_STORE, "DEV", 0, "not LVM: the device that takes what is overwritten", 2},
    {"snapshot-fill", KEY_FILL, "PERCENT", 0,
        "end the run when the snapshot, or its pool, is as full (default: 90)", 2},
    {"freeze", KEY_FREEZE, NULL, 0, "freeze file systems on devices above SRC for the moment of the snapshot",
        2},
    {"before-snapshot", KEY_BEFORE, "COMMAND", 0, "run this first; if it fails nothing is done", 2},
    {"after-snapshot", KEY_AFTER, "COMMAND", 0, "run this when the snapshot is there, or has failed", 2},
    {0}};

const struct argp cli_argp_snapshot = {.options = argp_options, .parser = parse};

int sync_snapshot_check(struct cli_options *options)
{
	const struct cli_snapshot *snapshot = &options->snapshot;

	if (snapshot->mode == SNAPSHOT_OFF)
		return snapshot->size || snapshot->store || snapshot->fill_max || snapshot->freeze ||
		               snapshot->before || snapshot->after
		           ? error_set(&options->error, -EINVAL,
		                 "options of the snapshot are there, but none is asked for; add "
		                 "--snapshot=auto")
		           : 0;
	if (options->source.kind != ENDPOINT_PATH)
		return error_set(&options->error, -EINVAL,
		    "--snapshot needs a source on this machine; run blkmove there, and name this target");
	if (options->rounds.wanted && snapshot->mode != SNAPSHOT_AUTO)
		return error_set(&options->error, -EINVAL,
		    "--rounds needs --snapshot=auto, which keeps a base from round to round, and none at the "
		    "end");
	if (options->job.resume)
		return error_set(&options->error, -EINVAL,
		    "--snapshot makes another snapshot each time, so there is nothing to resume; leave "
		    "--resume out: "
		    "what is equal already is not sent again");
	/* There is nothing that a journal could go on with. */
	options->no_journal = options->job.no_journal = options->job.no_resume = true;
	return 0;
}

static int open_series(struct sync_snapshot *sync, struct snapshot **ret, struct error *error)
{
	const struct cli_options *options = sync->options;
	const struct cli_snapshot *snapshot = &options->snapshot;
	const struct snapshot_options series = {.source = options->source.path,
	    .target = options->target.name,
	    .target_path = options->target.kind == ENDPOINT_PATH ? options->target.path : NULL,
	    .state_dir = options->state_dir,
	    .store = snapshot->store,
	    .size = snapshot->size,
	    .fill_max = snapshot->fill_max,
	    .freeze = snapshot->freeze,
	    .before = snapshot->before,
	    .after = snapshot->after,
	    .ring = sync->ring,
	    .data = sync->data,
	    .say = sync->say,
	    .stopping = sync->stopping};

	return snapshot_open(ret, &series, error);
}

int sync_snapshot_drop(struct cli_options *options)
{
	struct sync_snapshot sync = {.options = options};
	struct snapshot *snapshot;
	struct error error;
	int res = open_series(&sync, &snapshot, &error);

	if (res < 0)
		return cli_fail(sync_snapshot_result(res), &error);
	res = snapshot_settle(snapshot, SNAPSHOT_KEEP_NONE, &error);
	snapshot_close(snapshot);
	return res < 0 ? cli_fail(JOB_TROUBLE, &error) : JOB_OK;
}

int sync_snapshot_open(struct sync_snapshot *sync, struct error *error)
{
	return sync->options->snapshot.mode == SNAPSHOT_OFF ? 0 : open_series(sync, &sync->snapshot, error);
}

/* It may have overflowed between two looks. */
static int check(void *data, struct error *error)
{
	struct sync_snapshot *sync = data;
	struct error why;
	int res = snapshot_check(sync->snapshot, &why);

	if (res == 0)
		return 0;
	sync->lost = true;
	return error_set(error, res, "what was read is not of one moment: %.300s%s", why.text,
	    sync->options->job.atomic ? "" : "; the target is no copy: run it again");
}

int sync_snapshot_take(struct sync_snapshot *sync, struct job_options *job, struct error *error)
{
	int res;

	if (!sync->snapshot)
		return 0;
	sync->stop = (struct error){0};
	sync->lost = false;
	res = snapshot_take(sync->snapshot, error);
	if (res < 0)
		return res;
	snprintf(sync->path, sizeof(sync->path), "%s", snapshot_path(sync->snapshot));
	sync->source = (struct endpoint){.kind = ENDPOINT_PATH, .name = sync->path, .path = sync->path};
	job->source = &sync->source;
	job->check_source = check;
	job->check_data = sync;
	return 0;
}

static bool is_past_opening(struct job *job)
{
	struct job_progress progress;

	job_progress(job, &progress);
	return progress.state != JOB_CREATED && progress.state != JOB_OPENING;
}

void sync_snapshot_look(struct sync_snapshot *sync, struct job *job)
{
	uint64_t now_ns = ring_now_ns(sync->ring);

	if (!sync->snapshot || sync->stop.code || now_ns < sync->next_ns)
		return;
	sync->next_ns = now_ns + LOOK_NS;
	if (!sync->source.path) {
		/* Not while a job may be about to ask the base. */
		if (!job || is_past_opening(job))
			snapshot_watch_base(sync->snapshot);
		return;
	}
	/* Not while it is being made, or settled. */
	if (job && snapshot_watch(sync->snapshot, &sync->stop) < 0)
		job_cancel(job);
}

static enum snapshot_keep keep_after(const struct sync_snapshot *sync, const struct job *job, bool good)
{
	enum job_holds holds = job ? job_holds(job) : JOB_HOLDS_AS_BEFORE;

	if (holds == JOB_HOLDS_UNKNOWN || (good && sync->options->snapshot.mode == SNAPSHOT_LAST))
		return SNAPSHOT_KEEP_NONE;
	return holds == JOB_HOLDS_SOURCE ? SNAPSHOT_KEEP_FRESH : SNAPSHOT_KEEP_BASE;
}

enum job_result sync_snapshot_end(
    struct sync_snapshot *sync, struct job *job, enum job_result result, struct error *error)
{
	enum snapshot_keep keep;
	struct error why;

	if (!sync->source.path)
		return result;
	/* What cannot be read of it may have that reason. */
	if (job && result == JOB_TROUBLE && !sync->lost && check(sync, &why) < 0)
		error_set(&sync->stop, why.code, "%.320s (%.180s)", why.text, error->text);
	if (job)
		job_close(job);
	keep = keep_after(sync, job, result == JOB_OK);
	if (keep == SNAPSHOT_KEEP_NONE && result == JOB_OK && sync->options->snapshot.mode == SNAPSHOT_AUTO)
		sync->say(sync->data,
		    "it could not be noted that the target holds this snapshot, so it is "
		    "not kept: the next run "
		    "compares everything. Of a thin volume the pool may hold its metadata "
		    "for a run that was killed; if nobody else does: `dmsetup message POOL 0 "
		    "release_metadata_snap`");
	if (snapshot_settle(sync->snapshot, keep, &why) < 0)
		sync->say(sync->data, why.text);
	sync->source = (struct endpoint){0};
	if (!sync->stop.code || result == JOB_OK)
		return result;
	*error = sync->stop;
	return JOB_TROUBLE;
}

void sync_snapshot_end_series(struct sync_snapshot *sync, enum job_holds holds, bool good)
{
	struct error why;

	if (!sync->snapshot || (!good && holds != JOB_HOLDS_UNKNOWN))
		return;
	if (snapshot_settle(sync->snapshot, SNAPSHOT_KEEP_NONE, &why) < 0)
		sync->say(sync->data, why.text);
}

void sync_snapshot_abandon(struct sync_snapshot *sync, const struct job *job)
{
	if (sync->snapshot)
		snapshot_settle_later(
		    sync->snapshot, keep_after(sync, sync->source.path ? job : NULL, false));
}

void sync_snapshot_close(struct sync_snapshot *sync)
{
	sync->snapshot = snapshot_close(sync->snapshot);
}

enum job_result sync_snapshot_result(int res)
{
	switch (res) {
	case -EPERM:
	case -EOPNOTSUPP:
		return JOB_REFUSED;
	case -EALREADY:
		return JOB_LOCKED;
	case -ECANCELED:
		return JOB_INTERRUPTED;
	default:
		return JOB_TROUBLE;
	}
}
