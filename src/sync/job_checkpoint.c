/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Checkpoints: flush the target, then note in the journal what that made durable. Never the other way round.
 */
#include "sync/job_private.h"

#include <errno.h>
#include <string.h>

static void arm(struct job *job);

static void checkpoint_end(struct job *job, int res)
{
	job->checkpoint_busy = false;
	if (res == 0)
		res = range_set_add_all(&job->done, &job->flushing);
	range_set_done(&job->flushing);
	job->checkpoint_res = res;
	if (res < 0 && job->copy)
		copy_stop(job->copy);
}

static void noted(void *data, int res)
{
	struct job *job = data;

	if (res < 0)
		error_set(&job->error, res,
		    "cannot write the journal: %s; make room in %s, then go on with --resume", strerror(-res),
		    job->options.state_dir ? job->options.state_dir : "its folder");
	checkpoint_end(job, res);
}

static void flushed(struct block_io *io, int res)
{
	struct job *job = io->user;

	if (res < 0) {
		error_set(
		    &job->error, res, "cannot flush %s: %s", block_info(job->target)->name, strerror(-res));
		if (block_link_error(job->target, &job->error) < 0)
			res = -ENOTCONN;
		checkpoint_end(job, res);
	} else if (job->journal) {
		journal_append(job->journal, &job->flushing, noted, job);
	} else {
		checkpoint_end(job, 0);
	}
}

static void begin(struct job *job)
{
	job->checkpoint_busy = true;
	job->flushing = job->fresh;
	range_set_init(&job->fresh);
	job->flush.op = BLOCK_FLUSH;
	job->flush.offset = job->flush.length = 0;
	job->flush.done = flushed;
	job->flush.user = job;
	block_submit(job->target, &job->flush);
}

static void timer_done(struct ring_op *op, int res)
{
	struct job *job = container_of(op, struct job, timer);

	if (!job->timer_wanted)
		return;
	/* What a slow or paused throttle holds must not keep a failed run from ending. */
	if (job->copy && copy_error(job->copy)->code)
		job_let_go(job);
	if (job->fresh.count && !job->checkpoint_busy && job->checkpoint_res == 0)
		begin(job);
	arm(job);
}

static void arm(struct job *job)
{
	job->timer.opcode = RING_TIMER;
	job->timer.deadline_ns = ring_now_ns(job->ring) + job->options.checkpoint_ns;
	job->timer.done = timer_done;
	ring_submit(job->ring, &job->timer);
}

void job_checkpoint_start(struct job *job)
{
	job->checkpoint_res = 0;
	if (!job_writes(job))
		return;
	job->timer_wanted = true;
	arm(job);
}

void job_checkpoint_stop(struct job *job)
{
	job->timer_wanted = false;
	ring_cancel(job->ring, &job->timer);
	while (job->timer.active || job->checkpoint_busy)
		if (ring_step(job->ring) < 0)
			return;
}

int job_checkpoint_now(struct job *job)
{
	if (!job_writes(job) || job->checkpoint_res < 0)
		return job->checkpoint_res;
	begin(job);
	while (job->checkpoint_busy) {
		int res = ring_step(job->ring);

		if (res < 0)
			return res;
	}
	return job->checkpoint_res;
}
