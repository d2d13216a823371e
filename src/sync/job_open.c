/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opens both volumes, looks at them, judges; after a lost link insists on the very same volumes. */
#include "sync/job_private.h"

#include "filter/throttle.h"

#include <errno.h>
#include <string.h>

static int open_one(
    struct job *job, bool target, const struct block_open_options *options, struct block **ret)
{
	const struct endpoint *endpoint = target ? job->options.target : job->options.source;

	if (job->options.open_block)
		return job->options.open_block(job->options.data, target, options, ret, &job->error);
	if (options->stage != STAGE_SETTLE && endpoint->kind != ENDPOINT_SSH &&
	    endpoint->kind != ENDPOINT_PATH)
		return error_set(&job->error, -EPERM,
		    "refused: %s can have no stage: --atomic is for image files and devices, here or on a "
		    "machine with an agent",
		    endpoint->name);
	if (options->stage != STAGE_SETTLE && endpoint->kind == ENDPOINT_PATH)
		return stage_view_open(
		    ret, job->ring, endpoint->path, NULL, options, job->options.points, &job->error);
	return block_open(ret, job->ring, endpoint, options, &job->error);
}

/* While ssh logs in to the target's machine the source's disk would be idle. */
static bool may_read_ahead(const struct job *job)
{
	return job->options.target && job->options.target->kind == ENDPOINT_SSH && !job->opened_before &&
	       !job->options.resume && !job->options.dry_run && job->rate == 0 && !job->paused;
}

static int open_source(struct job *job)
{
	struct block_open_options options = {
	    .cache = job->options.cache, .link = job->options.link, .read_ahead = may_read_ahead(job)};
	bool sync = job->options.kind == JOB_SYNC;
	struct block *block;
	int res;

	options.changes_since = sync ? job->options.base : NULL;
	options.list_bitmaps =
	    sync && !job->options.digests_path && known_changes_list_bitmaps(job->options.changes);
	/* A verify reads what is on the medium. */
	if (job->source)
		return 0;
	if (job->options.verify || job->options.kind == JOB_VERIFY)
		options.cache = CACHE_DIRECT;
	res = open_one(job, false, &options, &block);
	if (res < 0)
		return res;
	res = throttle_new(&job->source, block, job->rate, &job->error);
	if (res < 0)
		return res;
	if (job->paused)
		throttle_pause(job->source);
	return 0;
}

static enum stage_use stage_use(const struct job *job)
{
	if (!job->options.atomic || !job_writes(job))
		return STAGE_SETTLE;
	return job->options.resume || job->opened_before ? STAGE_RESUME : STAGE_NEW;
}

static int open_target(struct job *job)
{
	struct block_open_options options = {
	    .write = job_writes(job),
	    .create = job_writes(job) && !job->opened_before,
	    .create_size = block_info(job->source)->size,
	    .target = job->options.kind != JOB_VERIFY,
	    .force_held = job->options.allow & (ALLOW_HELD | ALLOW_MOUNTED),
	    .session = job_writes(job) ? job->session : 0,
	    .cache = job->options.cache,
	    .stage = stage_use(job),
	    .stage_dir = job->options.stage_dir,
	    .keep_points = job->options.keep_points,
	    .link = job->options.link,
	};
	int res;

	if (job->target)
		return 0;
	if (job->options.verify || job->options.kind == JOB_VERIFY)
		options.cache = CACHE_DIRECT;
	res = open_one(job, true, &options, &job->target);
	/* A dry run, and there is no target yet. */
	return res == -ENOENT && job->options.dry_run ? 0 : res;
}

static int look(struct job *job, struct block *block, struct block_facts *ret)
{
	struct error error = {0};
	int res = block_facts(block, ret, &error);

	if (res < 0 && !block_link_error(block, &job->error))
		job->error = error;
	return res;
}

void job_distrust(struct job *job)
{
	range_set_done(&job->done);
	job->compare = job->restart_journal = true;
	job->blank = job->tracked = false;
	job_changes_distrust(job);
	/* They stand for a target that this job has since written to. */
	job_digests_end(job);
}

/* -ESTALE: a name leads elsewhere than it did. */
static int check_again(struct job *job, struct block *block, const struct block_facts *now,
    const struct block_facts *before, uint64_t size)
{
	const struct block_info *info = block_info(block);

	if (info->size != size)
		return error_set(&job->error, -ESTALE,
		    "%s had %llu bytes and has %llu since the link came back; look what it is now, then run "
		    "again",
		    info->name, (unsigned long long)size, (unsigned long long)info->size);
	if (strcmp(now->id, before->id))
		return error_set(&job->error, -ESTALE,
		    "%s is another volume since the link came back (it was %s, it is %s); look what it is "
		    "now, then run again",
		    info->name, before->id[0] ? before->id : "unknown", now->id[0] ? now->id : "unknown");
	return 0;
}

/* Why what was done before the link was lost cannot be relied on, or NULL. */
static const char *reopen_doubt(const struct job *job, const struct block_facts *source,
    const struct block_facts *target, bool target_again)
{
	if (strcmp(source->mark, job->source_facts.mark))
		return "the source was written while the link was away";
	if (!job->target || !job_writes(job))
		return NULL;
	/* The lock went with the link: somebody else may have had it. */
	if (target_again && target->last_writer != job->session &&
	    (target->last_writer || !job->options.assume_unchanged))
		return target->last_writer ? "the target was written while the link was away"
		                           : "it cannot be known whether the target was written while the "
		                             "link was away";
	/* The new stage knows of no earlier writes. What was asked to be committed writes itself. */
	if (job->options.atomic && target_again && !job->committing &&
	    strcmp(target->mark, job->target_facts.mark))
		return "the target was written while the link was away";
	if ((!source->id[0] || !source->mark[0] || !target->id[0]) && !job->options.assume_unchanged)
		return "it cannot be known whether the link leads to the same volumes, unwritten";
	return NULL;
}

static int reopen_checks(
    struct job *job, const struct block_facts *source, const struct block_facts *target, bool target_again)
{
	int res = check_again(job, job->source, source, &job->source_facts, job->source_size);
	const char *doubt;

	if (res == 0 && job->target)
		res = check_again(job, job->target, target, &job->target_facts, job->target_size);
	if (res < 0)
		return res;
	/* Whether it is the very stage that holds what is done cannot be known. */
	if (job->options.atomic && target_again)
		range_set_done(&job->done);
	doubt = reopen_doubt(job, source, target, target_again);
	if (doubt) {
		job_warn(job, "%s: comparing all of it", doubt);
		job->source_facts = *source;
		if (job->target)
			job->target_facts = *target;
		job_distrust(job);
	}
	return 0;
}

static int judge(struct job *job, const struct block_facts *source, const struct block_facts *target)
{
	struct preflight preflight = {.source = block_info(job->source),
	    .target = block_info(job->target),
	    .source_facts = source,
	    .target_facts = target,
	    .allow = job->options.allow,
	    .overwrite = job->options.overwrite,
	    .size_mismatch = job->options.size_mismatch,
	    .update = job->update || job->options.kind == JOB_SYNC};

	if (job->options.kind != JOB_VERIFY)
		return preflight_check(&preflight, &job->end, &job->error);
	job->end =
	    preflight.source->size < preflight.target->size ? preflight.source->size : preflight.target->size;
	return 0;
}

static void remember(struct job *job, const struct block_facts *source, const struct block_facts *target)
{
	job->source_facts = *source;
	job->target_facts = *target;
	job->source_size = block_info(job->source)->size;
	job->end = job->source_size;
	if (job->target) {
		job->target_size = block_info(job->target)->size;
		job->blank = block_info(job->target)->zeroed;
	}
	job->compare = job->options.kind == JOB_SYNC && !job->blank && job->target;
}

static int first_checks(struct job *job, const struct block_facts *source, const struct block_facts *target)
{
	int res;

	remember(job, source, target);
	if (!job->target)
		return 0;
	res = job_journal_load(job);
	/* The stage of a resumed run may hold anything. */
	job->update |= job->options.atomic && job->options.resume;
	if (res == 0 && block_info(job->target)->recovered)
		job_warn(job, "%s was brought to the point of an earlier --atomic round first",
		    block_info(job->target)->name);
	if (res == 0)
		res = judge(job, source, target);
	if (res == 0 && job->options.atomic && job_writes(job) && !target->mark[0])
		job_warn(job,
		    "whether somebody else writes to %s during the round cannot be seen there: take care "
		    "that nobody does",
		    block_info(job->target)->name);
	if (res == 0 && job_writes(job) && block_info(job->target)->no_flush)
		job_warn(job,
		    "%s cannot be flushed (its server offers neither FLUSH nor FUA): after a power cut there "
		    "it may lack "
		    "what is called done here; have the server flush before you rely on it",
		    block_info(job->target)->name);
	return res;
}

/* What keeps a copy from being of one moment is told before a target is made. */
static int judge_source(struct job *job, const struct block_facts *source)
{
	static const struct block_facts nothing;
	struct preflight preflight = {.source = block_info(job->source),
	    .target = block_info(job->source),
	    .source_facts = source,
	    .target_facts = &nothing,
	    .allow = job->options.allow};
	uint64_t end;

	if (job->options.kind == JOB_VERIFY || job->opened_before)
		return 0;
	return preflight_check(&preflight, &end, &job->error);
}

int job_open(struct job *job)
{
	struct block_facts source = {0}, target = {0};
	bool target_again = !job->target;
	int res;

	job_set_state(job, JOB_OPENING);
	res = open_source(job);
	if (res == 0)
		res = look(job, job->source, &source);
	if (res == 0)
		res = judge_source(job, &source);
	if (res == 0)
		res = open_target(job);
	if (res == 0 && job->target)
		res = look(job, job->target, &target);
	if (res < 0)
		return res;
	return job->opened_before ? reopen_checks(job, &source, &target, target_again)
	                          : first_checks(job, &source, &target);
}

void job_close(struct job *job)
{
	job->target = block_free(job->target);
	job->source = block_free(job->source);
}

void job_close_lost(struct job *job)
{
	struct error ignored;

	if (job->target && block_link_error(job->target, &ignored) < 0)
		job->target = block_free(job->target);
	if (job->source && block_link_error(job->source, &ignored) < 0)
		job->source = block_free(job->source);
}

int job_check_source_mark(struct job *job)
{
	struct block_facts now = {0};
	int res = look(job, job->source, &now);

	if (res < 0)
		return res;
	if (!strcmp(now.mark, job->source_facts.mark))
		return 0;
	return error_set(&job->error, -ESTALE,
	    "the source %s was written while it was read, so the target is not of one moment; stop the "
	    "writer and run "
	    "blkmove sync, or copy a snapshot",
	    block_info(job->source)->name);
}
