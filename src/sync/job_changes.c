/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is known of changes: which tracker may answer for this run, and what is noted for the next. A tracker names what changed
 * since a base; that the target holds this base is known from an earlier run's record, or the user says so. In every doubt
 * both volumes are compared.
 */
#include "sync/job_private.h"

#include "base/parse_size.h"
#include "sync/base_record.h"
#include "track/track.h"

#include <errno.h>
#include <string.h>

/* Where the source is on this machine; NULL elsewhere. */
static const char *source_path(const struct job *job)
{
	const struct endpoint *source = job->options.source;

	return source && source->kind == ENDPOINT_PATH ? source->path : NULL;
}

static bool is_nbd(const struct job *job)
{
	const struct endpoint *source = job->options.source;

	return source && (source->kind == ENDPOINT_NBD || source->kind == ENDPOINT_CAPTIVE);
}

static bool is_asked_for(const struct job *job)
{
	return job->options.changes >= CHANGES_TRACKER || job->options.base;
}

static bool wants_tracker(const struct job *job)
{
	if (job->options.kind != JOB_SYNC || !job->target || job->blank || job->options.digests_path)
		return false;
	return job->options.changes == CHANGES_AUTO || job->options.changes >= CHANGES_TRACKER;
}

/* Words of a doubt; "" where there is nothing to say. */
static void compare_instead(struct job *job, const char *tracker, const struct error *why)
{
	job_warn(job, "both volumes are compared; changes cannot be had%s%s: %s", tracker ? " from " : "",
	    tracker ? tracker : "", why->text);
}

static void adopt(struct job *job, enum track_kind kind, struct track_changes *changes)
{
	char changed[16], size[16];

	job->tracked = true;
	job->compare = false;
	job->changed = changes->ranges;
	range_set_init(&changes->ranges);
	if (changes->points)
		json_array_extend(job->points, changes->points);
	job_warn(job, "%s of %s may have changed since %s (%s): nothing else is read",
	    format_size(job->changed.bytes, changed, sizeof(changed)),
	    format_size(job->end, size, sizeof(size)), changes->base, track_name(kind));
}

/* Asks one tracker after the other: one at most has to do with a source. */
static int ask(struct job *job, const struct track_request *request)
{
	bool one = job->options.changes >= CHANGES_TRACKER;
	struct error why = {0};
	int res = -ENODEV;

	for (int kind = 0; kind < TRACK_KINDS && res == -ENODEV; kind++) {
		struct track_changes changes;

		if (one && (enum job_changes)(CHANGES_TRACKER + kind) != job->options.changes)
			continue;
		res = track_changes((enum track_kind)kind, request, &changes, &why);
		if (res == 0)
			adopt(job, (enum track_kind)kind, &changes);
		else if (res != -ENODEV || one)
			compare_instead(job, track_name((enum track_kind)kind), &why);
		track_changes_done(&changes);
	}
	if (res == -ENOTCONN)
		job->error = why;
	if (res == -ENODEV && !one)
		compare_instead(job, NULL,
		    &(struct error){.text = "no tracker knows such a source; see blkmove-sync(1)"});
	return res == -ENOTCONN ? res : 0;
}

/* Why the user's word for the base is not enough, or NULL. */
static const char *base_doubt(const struct job *job, const json_t *record)
{
	if (record || !job->options.base || job->target_size == job->end)
		return NULL;
	return "the target has another size than the source, and it cannot be seen which of them was resized";
}

static int find_changes(struct job *job)
{
	struct track_request request = {
	    .source = job->source, .path = source_path(job), .nbd = is_nbd(job), .base = job->options.base};
	bool say = is_asked_for(job) || json_array_size(job->points) > 0;
	struct error why = {0};
	json_t *record = NULL;
	int res = 0;

	if (job->update && is_asked_for(job))
		job_warn(job, "a resumed run compares what is not done yet");
	if (job->update)
		return 0;
	if (job->options.state_dir)
		record = base_record_load(job->options.state_dir, &job->target_facts, job->end, &why);
	if (why.code != -ESTALE && base_doubt(job, record))
		error_set(&why, -ESTALE, "%s", base_doubt(job, record));
	request.points = record;
	if (why.code == -ESTALE || (!record && !job->options.base && say))
		compare_instead(job, NULL, &why);
	else if (record || job->options.base)
		res = ask(job, &request);
	json_decref(record);
	return res;
}

int job_changes_begin(struct job *job)
{
	int res = 0;

	if (job->opened_before || job->options.kind == JOB_VERIFY || block_info(job->source)->stream)
		return 0;
	/* Before the first look at what changed, so that nothing falls between. */
	job->points = track_points(job->source, source_path(job));
	if (!job->points)
		return error_set(&job->error, -ENOMEM, "out of memory");
	if (wants_tracker(job))
		res = find_changes(job);
	return res;
}

void job_changes_forget(struct job *job)
{
	if (!job->opened_before && job_writes(job) && job->options.state_dir)
		base_record_forget(job->options.state_dir, job->target_facts.id);
}

void job_changes_finish(struct job *job)
{
	struct block_facts facts;
	struct error error = {0};
	int res;

	if (!job_writes(job) || !job->options.state_dir || json_array_size(job->points) == 0 ||
	    job->bad.count)
		return;
	res = block_facts(job->target, &facts, &error);
	if (res == 0)
		res = base_record_save(job->options.state_dir, &facts, job->end, job->points, &error);
	if (res < 0)
		job_warn(job,
		    "the volume is in order, but it could not be noted which base it holds: %s; name it with "
		    "--base= the next time",
		    error.text);
}

void job_changes_end(struct job *job)
{
	range_set_done(&job->changed);
	json_decref(job->points);
	job->points = NULL;
}
