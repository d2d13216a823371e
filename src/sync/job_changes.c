/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is known of changes: which tracker may answer for this run, and what is noted for the next. A tracker names what changed
 * since a base; that the target holds this base is known from an earlier run's record, or the user says so. In every doubt
 * both volumes are compared.
 */
#include "sync/job_private.h"

#include "sync/base_record.h"

#include <errno.h>

static bool wants_tracker(const struct job *job)
{
	if (job->options.kind != JOB_SYNC || !job->target || job->blank || job->options.digests_path)
		return false;
	return job->options.changes == CHANGES_AUTO || job->options.changes >= CHANGES_TRACKER;
}

static void say(void *data, const char *text)
{
	job_warn(data, "%s", text);
}

static void adopt(struct job *job, struct track_changes *changes)
{
	job->tracked = true;
	job->compare = false;
	job->changed = changes->ranges;
	range_set_init(&changes->ranges);
	/* In front: the later ones. */
	if (changes->points && json_array_extend(changes->points, job->points) == 0) {
		json_decref(job->points);
		job->points = json_incref(changes->points);
	}
}

/* What an earlier run may have written before it was ended is changed, too: not all trackers would name it. */
static int add_partial(struct job *job, const struct range_set *partial)
{
	int res = range_set_add_all(&job->changed, partial);

	if (res == 0 && partial->count)
		job_warn(job, "an earlier run was ended halfway: what it may have written is sent again");
	return res < 0 ? error_set(&job->error, res, "out of memory") : 0;
}

static int find_changes(struct job *job)
{
	struct error doubt = {.code = -ENOENT, .text = "there is no folder for notes"};
	struct known_changes_request request = {.source = job->source,
	    .endpoint = job->options.source,
	    .how = job->options.changes,
	    .base = job->options.base,
	    .doubt = &doubt,
	    .size = job->end,
	    .target_size = job->target_size,
	    .has_tracker = json_array_size(job->points) > 0,
	    .explain = job->options.changes_named,
	    .data = job,
	    .say = say};
	struct track_changes changes = {0};
	struct range_set partial = {0};
	json_t *points = NULL;
	int res;

	if (job->update) {
		if (request.base || request.how >= CHANGES_TRACKER)
			job_warn(job, "a resumed run compares what is not done yet");
		return 0;
	}
	if (job->options.state_dir)
		points =
		    base_record_load(job->options.state_dir, &job->target_facts, job->end, &partial, &doubt);
	request.points = points;
	res = known_changes_find(&request, &changes, &job->error);
	if (res == 1) {
		adopt(job, &changes);
		res = add_partial(job, &partial);
	}
	/* With a base by the user's word nothing is noted that the word would not be needed for again. */
	if (res == 0 && job->tracked && !request.base)
		job->base_points = json_incref(points);
	track_changes_done(&changes);
	range_set_done(&partial);
	json_decref(points);
	return res;
}

int job_changes_begin(struct job *job)
{
	if (job->opened_before || job->options.kind == JOB_VERIFY || block_info(job->source)->stream)
		return 0;
	/* Before the first look at what changed, so that nothing falls between. */
	job->points = track_points(
	    job->source, known_changes_path(job->options.source), job->options.allow & ALLOW_LIVE_SOURCE);
	if (!job->points)
		return error_set(&job->error, -ENOMEM, "out of memory");
	if (job->options.kind == JOB_SYNC && job->blank && job->options.changes_named)
		job_warn(
		    job, "the target was made just now: all of the source is copied, nothing is compared");
	return wants_tracker(job) ? find_changes(job) : 0;
}

static int note_partial(struct job *job, const struct block_facts *target)
{
	struct error ignored;

	return base_record_begin(job->options.state_dir, target, job->end, job->base_points, &job->changed,
	    job->session, &ignored);
}

void job_changes_forget(struct job *job)
{
	/* Of an atomic run the target is changed by its commit alone, which may come after a link was lost. */
	if (!job_writes(job) || (job->opened_before && !job->options.atomic))
		return;
	job->holds = JOB_HOLDS_UNKNOWN;
	if (!job->options.state_dir)
		return;
	job->noted_partial = job->base_points && note_partial(job, &job->target_facts) == 0;
	if (job->noted_partial)
		job->holds = JOB_HOLDS_AS_BEFORE;
	else
		base_record_forget(job->options.state_dir, job->target_facts.id);
}

void job_changes_distrust(struct job *job)
{
	if (job->noted_partial) {
		base_record_forget(job->options.state_dir, job->target_facts.id);
		job->holds = JOB_HOLDS_UNKNOWN;
	}
	job->noted_partial = false;
	json_decref(job->base_points);
	job->base_points = NULL;
}

static int note(struct job *job, const json_t *points, struct error *error)
{
	struct block_facts facts;
	int res = block_facts(job->target, &facts, error);

	return res < 0 ? res : base_record_save(job->options.state_dir, &facts, job->end, points, error);
}

void job_changes_finish(struct job *job)
{
	struct error error = {0};

	if (!job_writes(job) || !job->options.state_dir || job->bad.count)
		return;
	if (json_array_size(job->points) == 0) {
		job_changes_distrust(job);
		return;
	}
	if (note(job, job->points, &error) == 0)
		job->holds = JOB_HOLDS_SOURCE;
	else
		job_warn(job,
		    "the volume is in order, but it could not be noted which base it holds: %s; name it with "
		    "--base= the next time",
		    error.text);
}

/*
 * Whatever was moved lies in `changed`. A flush, so that its mark does not change any more by what is on its way; after a link was lost nobody knows
 * who writes there, but for the agent.
 */
void job_changes_note_end(struct job *job)
{
	struct block_io flush = {.op = BLOCK_FLUSH};
	struct block_facts facts;
	struct error ignored;

	if (job->differing_ranges)
		job_changes_distrust(job);
	if (!job->noted_partial || !job->target || job_link_broken(job))
		return;
	if (block_wait(job->target, &flush) == 0 && block_facts(job->target, &facts, &ignored) == 0)
		(void)note_partial(job, &facts);
}

void job_changes_end(struct job *job)
{
	range_set_done(&job->changed);
	json_decref(job->points);
	json_decref(job->base_points);
	job->points = job->base_points = NULL;
}
