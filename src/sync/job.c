/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The life of a job: states, lost links, controls. See job.h. */
#include "sync/job_private.h"

#include "base/bytes.h"
#include "filter/throttle.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#define CHECKPOINT_NS    2000000000u
#define BACKOFF_FIRST_NS 500000000u
#define BACKOFF_MAX_NS   30000000000u

static uint64_t random_session(void)
{
	uint64_t session = 0;

	if (getrandom(&session, sizeof(session), 0) != sizeof(session))
		return 0; /* nothing is noted, and a lost link leads to a comparison */
	return session % (SESSION_MAX - SESSION_FIRST) + SESSION_FIRST;
}

int job_new(struct job **ret, struct ring *ring, const struct job_options *options, struct error *error)
{
	struct job *job = calloc(1, sizeof(*job));

	if (!job)
		return error_set(error, -ENOMEM, "cannot begin: out of memory");
	job->ring = ring;
	job->options = *options;
	job->options.no_journal |= options->atomic;
	if (!job->options.checkpoint_ns)
		job->options.checkpoint_ns = CHECKPOINT_NS;
	job->rate = options->rate;
	job->session = options->session ? options->session : random_session();
	job->journal_fd = -1;
	*ret = job;
	return 0;
}

struct job *job_free(struct job *job)
{
	if (!job)
		return NULL;
	job_digests_end(job);
	job_changes_end(job);
	job_close(job);
	job_journal_end(job, false);
	range_set_done(&job->done);
	range_set_done(&job->fresh);
	range_set_done(&job->flushing);
	range_set_done(&job->bad);
	range_set_done(&job->differences);
	range_set_done(&job->moved);
	free(job);
	return NULL;
}

void job_set_state(struct job *job, enum job_state state)
{
	job_state_set(&job->state, state);
	if (job->options.state_changed)
		job->options.state_changed(job->options.data, state);
}

void job_warn(struct job *job, const char *format, ...)
{
	char text[512];
	va_list args;

	if (!job->options.warning)
		return;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	job->options.warning(job->options.data, text);
}

bool job_link_broken(struct job *job)
{
	return (job->source && block_link_error(job->source, &job->error) < 0) ||
	       (job->target && block_link_error(job->target, &job->error) < 0);
}

int job_wait_for(struct job *job, bool *done)
{
	int res;

	job->wake_wait = done;
	if (job->cancelled)
		*done = true;
	res = ring_run_until(job->ring, done);
	job->wake_wait = NULL;
	return res < 0 ? res : job->cancelled ? -ECANCELED : 0;
}

struct nap {
	struct ring_op op;
	bool over;
};

static void nap_over(struct ring_op *op, int res)
{
	container_of(op, struct nap, op)->over = true;
}

static int backoff(struct job *job)
{
	uint64_t wait =
	    min_u64((uint64_t)BACKOFF_FIRST_NS << min_u64(job->retries_in_a_row - 1, 10), BACKOFF_MAX_NS);
	struct nap nap = {.op = {.opcode = RING_TIMER, .done = nap_over}};
	int res;

	job_warn(job, "%s; trying again in %.1f s (%u of %u)", job->error.text, (double)wait / 1e9,
	    job->retries_in_a_row, job->options.retries);
	nap.op.deadline_ns = ring_now_ns(job->ring) + wait;
	ring_submit(job->ring, &nap.op);
	res = job_wait_for(job, &nap.over);
	ring_cancel(job->ring, &nap.op);
	while (nap.op.active)
		if (ring_step(job->ring) < 0)
			break;
	return res;
}

static bool uses_stream(const struct job *job)
{
	return job->options.source && job->options.target &&
	       (job->options.source->kind == ENDPOINT_STREAM || job->options.target->kind == ENDPOINT_STREAM);
}

static int check_stream(struct job *job)
{
	if (!uses_stream(job))
		return 0;
	if (job->options.kind != JOB_COPY)
		return error_set(&job->error, -EINVAL,
		    "a stream can only be copied, not compared; copy it to a file first");
	if (job->options.verify || job->options.dry_run || job->options.resume)
		return error_set(&job->error, -EINVAL,
		    "a stream passes once: --verify, --dry-run and --resume cannot be had; leave them out, "
		    "and compare "
		    "checksums with `blkmove digest --sha256`");
	return 0;
}

/* Once through: open, move, flush, verify. */
static int attempt(struct job *job)
{
	uint64_t before = job->done.bytes;
	int res = check_stream(job);

	if (res == 0)
		res = job_open(job);
	if (res == 0)
		res = job_digests_begin(job);
	if (res == 0)
		res = job_changes_begin(job);
	if (res == 0)
		res = job_journal_check(job);
	if (res == 0 && !job->options.atomic)
		job_changes_forget(job);
	if (res == 0)
		res = job_set_target_size(job);
	if (res == 0)
		res = job_journal_create(job);
	job->opened_before |= res == 0;
	if (res == 0)
		res = job->options.kind == JOB_VERIFY ? job_compare(job) : job_transfer(job);
	if (res == 0 && job->options.verify && job_writes(job))
		res = job_compare(job);
	if (res == 0 && !job->options.dry_run && !(job->options.allow & ALLOW_LIVE_SOURCE))
		res = job_check_source_mark(job);
	if (res == 0 && job->options.check_source)
		res = job->options.check_source(job->options.check_data, &job->error);
	if (res == 0 && job->differing_ranges == 0 && job->options.atomic && job_writes(job))
		res = job_commit(job);
	if (res == 0 && job->differing_ranges == 0) {
		job_digests_finish(job);
		job_changes_finish(job);
	}
	if (res < 0 && res != -ECANCELED && job_link_broken(job))
		res = -ENOTCONN;
	if (job->done.bytes != before)
		job->retries_in_a_row = 0;
	return res;
}

/* Whether another attempt may help: the link, or a remote end that has not yet noticed that we are gone. */
static bool is_worth_retrying(const struct job *job, int res)
{
	if (!job->opened_before || uses_stream(job) || job->cancelled ||
	    job->retries_in_a_row >= job->options.retries)
		return false;
	return res == -ENOTCONN || (job->retries > 0 && res == -EALREADY);
}

static int run_attempts(struct job *job)
{
	for (;;) {
		int res = job->cancelled ? -ECANCELED : attempt(job);

		if (!is_worth_retrying(job, res))
			return res;
		/* What was acknowledged but not flushed may be lost with the far side: it is done again. */
		range_set_done(&job->fresh);
		/* These are read again, and listed again if they are still bad. */
		range_set_done(&job->bad);
		job_close_lost(job);
		job_set_state(job, JOB_WAITING);
		job->retries++;
		job->retries_in_a_row++;
		res = backoff(job);
		if (res < 0)
			return res;
	}
}

/* What there is to say of an atomic run that did not come to its end. */
static void say_atomic(struct job *job, int res)
{
	struct error why = job->error;
	const char *name = job->target ? block_info(job->target)->name : "the target";

	if (res == -ECANCELED && job->cancelled)
		why = (struct error){.text = "interrupted"};
	if (job->committing && job->commit_told)
		return;
	if (job->committing)
		error_set(&job->error, res,
		    "%.330s; it is the old point or the new one once `blkmove recover` was run", why.text);
	else if (res == -ENOSPC)
		error_set(&job->error, res,
		    "%.240s; the stage takes what changes, and %.90s is as it was: make room, or name "
		    "another folder in "
		    "--atomic=DIR",
		    why.text, name);
	else if (job->wrote)
		error_set(&job->error, res, "%.280s; %.90s is as it was: %s", why.text, name,
		    job->options.no_resume ? "run it again"
		                           : "go on with what is staged by --resume, or run anew");
}

static enum job_result judge_failure(struct job *job, int res)
{
	struct error why;

	if (job->options.atomic)
		say_atomic(job, res);
	why = job->error;

	if (job->cancelled && res == -ECANCELED) {
		if (job->options.atomic && job->wrote)
			return JOB_INTERRUPTED;
		error_set(&job->error, res,
		    !job_writes(job) ? "interrupted"
		    : job->journal   ? "interrupted; the target is not usable yet: go on with --resume"
		                     : "interrupted; the target is not usable: run it again");
		return JOB_INTERRUPTED;
	}
	if (res == -ENOTCONN) {
		if (job->journal)
			error_set(
			    &job->error, res, "%.400s; mend the link, then go on with --resume", why.text);
		return JOB_LINK_LOST;
	}
	/* Later these come from a volume, not from us. */
	if (!job->wrote && (res == -EPERM || res == -EBUSY))
		return JOB_REFUSED;
	if (!job->wrote && res == -EALREADY)
		return JOB_LOCKED;
	return JOB_TROUBLE;
}

static enum job_result judge_end(struct job *job, int res)
{
	if (res < 0)
		return judge_failure(job, res);
	if (job->options.kind == JOB_VERIFY)
		return job->differing_ranges || job->source_size != job->target_size ? JOB_DIFFERS : JOB_OK;
	if (job->differing_ranges) {
		error_set(&job->error, -EILSEQ,
		    "%s reads back differently from the source in %llu ranges, the first at byte %llu: %s",
		    job->options.atomic ? "what was staged" : "the target",
		    (unsigned long long)job->differing_ranges,
		    (unsigned long long)job->differences.ranges[0].offset,
		    job->options.atomic ? "the target is as it was; check both devices, then run it again"
		                        : "do not use it; check both devices, then run blkmove sync");
		return JOB_TROUBLE;
	}
	if (job->bad.count) {
		error_set(&job->error, -EIO,
		    "%llu bytes of %s in %zu ranges could not be read and are zeros on the target; the "
		    "report lists them%s",
		    (unsigned long long)job->bad.bytes, block_info(job->source)->name, job->bad.count,
		    job->journal ? "; --resume tries them again" : "");
		return JOB_BAD_RANGES;
	}
	return JOB_OK;
}

/* A target that this job made and has not written to is not left behind, or at least named: an agent removes nothing. */
static void remove_untouched(struct job *job)
{
	const struct endpoint *target = job->options.target;
	struct error why = job->error;

	if (!job->target || !block_info(job->target)->created || job->wrote || !target)
		return;
	if (target->kind == ENDPOINT_PATH)
		unlink(target->path);
	else
		error_set(&job->error, why.code,
		    "%.300s; %s, which this run has made and not written to, is left: remove it", why.text,
		    target->name);
}

enum job_result job_run(struct job *job, struct error *error)
{
	int res = run_attempts(job);
	enum job_result result = judge_end(job, res);
	bool good = result == JOB_OK || result == JOB_DIFFERS;

	if (!good) {
		job_journal_note_end(job);
		job_changes_note_end(job);
		remove_untouched(job);
	}
	job_journal_end(job, good);
	job_set_state(job, good ? JOB_COMPLETED : result == JOB_INTERRUPTED ? JOB_CANCELLED : JOB_FAILED);
	*error = job->error;
	return result;
}

void job_cancel(struct job *job)
{
	job->cancelled = true;
	job->paused = false;
	if (job->source)
		throttle_cancel(job->source);
	if (job->copy)
		copy_stop(job->copy);
	if (job->wake_wait)
		*job->wake_wait = true;
}

void job_pause(struct job *job, bool paused)
{
	job->paused = paused;
	if (job->source)
		(paused ? throttle_pause : throttle_go_on)(job->source);
}

void job_set_rate(struct job *job, uint64_t rate)
{
	job->rate = rate;
	if (job->source)
		throttle_set_rate(job->source, rate);
}

void job_progress(struct job *job, struct job_progress *ret)
{
	struct copy_counts counts = job->earlier;
	uint64_t position = job->done.bytes + job->fresh.bytes + job->flushing.bytes + job->bad.bytes;

	if (job->copy) {
		counts.data += copy_counts(job->copy)->data;
		counts.zeroed += copy_counts(job->copy)->zeroed;
		counts.bad += copy_counts(job->copy)->bad;
	}
	if (job->options.kind == JOB_VERIFY)
		position = job->verified;
	job->position_max = max_u64(job->position_max, position);
	*ret = (struct job_progress){
	    .state = job->state,
	    .source_size = job->source_size,
	    .target_size = job->target_size,
	    .total = job->end,
	    .position = job->position_max,
	    .resumed = job->resumed,
	    .same = job->same,
	    .sent = counts.data,
	    .zeroed = counts.zeroed,
	    .bad = counts.bad,
	    .verified = job->verified,
	    .paused = job->paused,
	    .retries = job->retries,
	    .wrote = job->wrote,
	    .tracked = job->tracked,
	    .changed = job->tracked ? job->changed.bytes : 0,
	    .differing_ranges = job->differing_ranges,
	    .differing_bytes = job->differing_bytes,
	};
}

enum job_holds job_holds(const struct job *job)
{
	return job->holds;
}

const struct range_set *job_bad_ranges(const struct job *job)
{
	return &job->bad;
}

const struct range_set *job_differences(const struct job *job)
{
	return &job->differences;
}
