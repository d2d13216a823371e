/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Moves the data once over, from the extents to the last flush. */
#include "sync/job_private.h"

#include "base/bytes.h"

#include <errno.h>
#include <string.h>

#define ZERO_PIECE (256ull << 20)

struct pass {
	bool done;
	int res;
};

static void pass_done(void *data, int res)
{
	struct pass *pass = data;

	pass->done = true;
	pass->res = res;
}

static void bad_range(void *data, uint64_t offset, uint64_t length, int res)
{
	struct job *job = data;

	if (range_set_add(&job->bad, offset, length) < 0)
		job->bad_lost = true;
}

static void add_counts(struct job *job)
{
	const struct copy_counts *counts = copy_counts(job->copy);

	job->earlier.data += counts->data;
	job->earlier.zeroed += counts->zeroed;
	job->earlier.bad += counts->bad;
}

/* Runs the engine over the extents; what was written by then is flushed and noted, unless that failed itself.
 */
static int run_engine(struct job *job, struct extents *extents)
{
	struct copy_options options = {.detect_zeroes = job->options.detect_zeroes,
	    .skip_zeroes = job->blank,
	    .dry_run = job->options.dry_run,
	    .resumable = job->journal,
	    .bad_range = job->options.list_read_errors ? bad_range : NULL,
	    .bad_range_data = job,
	    .sending = job_digests_see_sent(job) ? job_digests_sending : NULL,
	    .sending_data = job};
	struct pass pass = {0};
	int res = copy_new(&job->copy, job->source, job->target, extents, &options, &job->error);
	int loop;

	if (res < 0)
		return res;
	job_checkpoint_start(job);
	copy_start(job->copy, pass_done, &pass);
	if (job->cancelled)
		copy_stop(job->copy);
	loop = ring_run_until(job->ring, &pass.done);
	job_checkpoint_stop(job);
	if (loop < 0)
		return error_set(&job->error, loop, "the event loop failed: %s", strerror(-loop));
	if (pass.res < 0 && pass.res != -ECANCELED)
		job->error = *copy_error(job->copy);
	else if (job->bad_lost)
		pass.res = error_set(&job->error, -ENOMEM,
		    "out of memory for the list of what cannot be read: it may lack ranges");
	add_counts(job);
	job->copy = copy_free(job->copy);
	return job->checkpoint_res < 0 ? job->checkpoint_res : pass.res;
}

/* In pieces, so that it can be interrupted. */
static int zero_tail(struct job *job)
{
	uint64_t at = job->end, size = block_info(job->target)->size;

	while (at < size && job->options.size_mismatch == SIZE_ZERO_TAIL) {
		struct block_io io = {
		    .op = BLOCK_ZERO, .offset = at, .length = min_u64(size - at, ZERO_PIECE)};
		int res = job->cancelled ? -ECANCELED : block_wait(job->target, &io);

		if (res < 0)
			return error_set(&job->error, res, "cannot zero the end of %s: %s",
			    block_info(job->target)->name, strerror(-res));
		at += io.length;
	}
	return 0;
}

/* A file that this job made, that only grew, or whose cutting the user asked for. */
static bool may_cut(const struct job *job)
{
	const struct block_info *target = block_info(job->target);

	return target->resizable &&
	       (job->blank || target->size <= job->end || job->options.size_mismatch == SIZE_TRUNCATE);
}

/* A stream's length is known only now: files are cut to it, the rest of a device is what the user said. */
static int end_of_stream(struct job *job)
{
	const struct block_info *target = block_info(job->target);
	struct block_io io = {.op = BLOCK_RESIZE};
	int res;

	job->end = job->earlier.data + job->earlier.zeroed + job->earlier.bad;
	if (target->stream || target->size == job->end)
		return 0;
	if (job->options.size_mismatch == SIZE_ZERO_TAIL && target->size > job->end)
		return zero_tail(job);
	if (!may_cut(job))
		return error_set(&job->error, -EFBIG,
		    "the stream ended after %llu bytes, the target %s is larger: behind them it holds what "
		    "it held before; add --size-mismatch=zero-tail to zero the rest%s",
		    (unsigned long long)job->end, target->name,
		    target->resizable ? ", or --size-mismatch=truncate to cut the file" : "");
	io.length = job->end;
	res = block_wait(job->target, &io);
	if (res < 0)
		error_set(&job->error, res, "cannot set the size of %s: %s", target->name, strerror(-res));
	return res;
}

int job_set_target_size(struct job *job)
{
	struct block_io io = {.op = BLOCK_RESIZE, .length = job->end};
	int res;

	if (!job_writes(job) || block_info(job->source)->stream || !block_info(job->target)->resizable ||
	    job->target_size == job->end || job->options.size_mismatch != SIZE_TRUNCATE)
		return 0;
	res = block_wait(job->target, &io);
	if (res < 0)
		return error_set(&job->error, res, "cannot set the size of %s: %s",
		    block_info(job->target)->name, strerror(-res));
	job->target_size = job->end;
	return 0;
}

static int finish_target(struct job *job)
{
	int res;

	job_set_state(job, JOB_FLUSHING);
	res = block_info(job->source)->stream ? end_of_stream(job) : zero_tail(job);
	if (res == 0)
		res = job_checkpoint_now(job);
	return res;
}

int job_commit(struct job *job)
{
	struct error why = {0};
	struct block_io io = {.op = BLOCK_FLUSH, .flags = BLOCK_COMMIT, .error = &why};
	int res;

	if (job->cancelled)
		return -ECANCELED;
	/* What was noted of it is true until now. */
	job_changes_forget(job);
	job->committing = true;
	res = block_wait(job->target, &io);
	job->commit_told = res < 0 && why.text[0];
	if (res < 0)
		return error_set(&job->error, res, "cannot bring %.120s to its new point: %.300s",
		    block_info(job->target)->name, why.text[0] ? why.text : strerror(-res));
	return 0;
}

static int run_pass(struct job *job, struct range_set *skip)
{
	struct extents *extents = NULL;
	int res = job_extents_new(&extents, job, skip);

	if (res == 0)
		res = run_engine(job, extents);
	job_extents_free(job, extents);
	return res;
}

/* A dry run compares with a target that was not made longer: all that would lie behind its end is to be sent. */
static int count_growth(struct job *job, struct range_set *skip)
{
	uint64_t size = job->target ? block_info(job->target)->size : job->end;

	if (job_writes(job) || !job->compare || size >= job->end)
		return 0;
	range_set_done(skip);
	if (size > 0 && range_set_add(skip, 0, size) < 0)
		return error_set(&job->error, -ENOMEM, "out of memory");
	job->compare = false;
	return run_pass(job, skip);
}

int job_transfer(struct job *job)
{
	struct range_set skip;
	int res;

	job_set_state(job, JOB_RUNNING);
	job->wrote = job_writes(job);
	range_set_init(&skip);
	res = range_set_add_all(&skip, &job->done);
	if (res < 0)
		error_set(&job->error, res, "out of memory");
	if (res == 0)
		res = run_pass(job, &skip);
	if (res == 0)
		res = count_growth(job, &skip);
	range_set_done(&skip);
	if (!job_writes(job))
		return res;
	if (res == 0)
		return finish_target(job);
	if (res != -ENOTCONN && job->checkpoint_res == 0) {
		struct error first = job->error;

		/* What has been written so far need not be written again. */
		(void)job_checkpoint_now(job);
		job->error = first;
	}
	return res;
}
