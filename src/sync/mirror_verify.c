/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The verifications of a mirror: the one before it is ready, if that was asked for, whose digests become a receipt; and those on
 * demand, while it is. There is never more than one at a time: whatever ends the state READY but a difference that was found ends the pass. What
 * a pass without `resync` finds is dirty, and kept from the copy: that is not written down, so whatever copies from the map later copies it.
 */
#include "sync/mirror_job_private.h"

#include <errno.h>

#define UNREAD_REST 30u /* times as long before what cannot be read is verified again */

static void verify_ended(void *data)
{
	struct mirror_job *job = data;
	const struct live_verify_counts *counts = live_verify_counts(job->verify);
	struct error error;

	job->wake = true;
	job->differing += counts->differing;
	job->verified = counts->differing == 0 && counts->spoiled == 0 && counts->unread == 0;
	dirty_extents_look(job->extents);
	if (job->verified) {
		job->found = false;
		return;
	}
	/* Again, after a while. */
	job->verify_after_ns =
	    ring_now_ns(job->ring) + job->options.retry_ns * (counts->unread ? UNREAD_REST : 1);
	if (counts->differing)
		error_set(&error, -EILSEQ,
		    "%llu bytes differed between the legs although the map called them equal; they are "
		    "copied and all "
		    "is verified again. Look for a second writer or a failing disk",
		    (unsigned long long)counts->differing);
	else if (counts->unread)
		error_set(&error, -EIO,
		    "%llu bytes of the leg that clients read could not be read, and so not verified; all is "
		    "verified "
		    "again: mend the disk, or have them written anew through the mirror, by who uses them or "
		    "from a "
		    "backup",
		    (unsigned long long)counts->unread);
	else
		error_set(&error, -EIO,
		    "%llu bytes could not be read from the leg that follows; they are copied to it anew, and "
		    "all is "
		    "verified again",
		    (unsigned long long)counts->spoiled);
	mirror_job_warn(job, &error);
}

int mirror_verify_open(struct mirror_job *job, struct error *error)
{
	const struct live_verify_options options = {.roots = true, .ended = verify_ended, .data = job};

	return live_verify_new(&job->verify, job->mirror, &options, error);
}

void mirror_verify_before_ready(struct mirror_job *job)
{
	if (!live_verify_idle(job->verify) || ring_now_ns(job->ring) < job->verify_after_ns)
		return;
	if (live_verify_start(job->verify, 0, true) < 0)
		job->verify_after_ns = ring_now_ns(job->ring) + job->options.retry_ns;
}

/* On demand */

static void check_ended(void *data)
{
	struct mirror_job *job = data;

	job->check_over = job->wake = true;
	job->check_res = 0;
}

static void check_stop(struct mirror_job *job, int res)
{
	if (!job->checking || job->check_over)
		return;
	live_verify_stop(job->check);
	job->check_over = job->wake = true;
	job->check_res = res;
}

static void check_differs(void *data, uint64_t offset, uint64_t length)
{
	struct mirror_job *job = data;

	job->found = true;
	if (job->check_options.differs)
		job->check_options.differs(job->check_options.data, offset, length);
}

/* It is not ready from this moment on; and the copy is not to see it before it is told to keep off. */
static void check_marked(void *data)
{
	struct mirror_job *job = data;

	if (!job->check_options.resync && !job->keeps) {
		job->keeps = true;
		mirror_apply_limits(job);
	}
	mirror_job_event(job, MIRROR_DIRTIED);
}

bool mirror_verify_keeps(const struct mirror_job *job)
{
	return job->keeps && !job->clears && job->order == ORDER_NONE;
}

void mirror_verify_forget(struct mirror_job *job)
{
	if (!job->keeps)
		return;
	job->keeps = false;
	job->wake = true;
	mirror_apply_limits(job);
}

void mirror_job_copy_marked(struct mirror_job *job)
{
	mirror_verify_forget(job);
}

static int check_open(struct mirror_job *job)
{
	const struct live_verify_options options = {
	    .ended = check_ended, .differs = check_differs, .marked = check_marked, .data = job};
	struct error ignored;

	return job->check ? 0 : live_verify_new(&job->check, job->mirror, &options, &ignored);
}

/* It is ready, or would be but for what is marked. */
static bool can_check(const struct mirror_job *job)
{
	return job->state == CUTOVER_READY ||
	       (job->state == CUTOVER_SYNCING && mirror_verify_keeps(job) && mirror_attached(job->mirror) &&
	           mirror_leader_here(job->mirror) && mirror_mode(job->mirror) == MIRROR_WRITE_THROUGH);
}

int mirror_job_verify(struct mirror_job *job, const struct mirror_job_verify_options *options)
{
	int res;

	if (job->checking || (job->check && !live_verify_idle(job->check)))
		return -EBUSY;
	if (!can_check(job) || options->from >= bitmap_file_super(job->map)->size)
		return -EINVAL;
	res = check_open(job);
	if (res < 0)
		return res;
	job->check_options = *options;
	job->check_over = false;
	mirror_verify_apply_limits(job);
	res = live_verify_start(job->check, options->from, options->resync);
	job->checking = res == 0;
	return res;
}

void mirror_job_verify_stop(struct mirror_job *job)
{
	check_stop(job, -ECANCELED);
}

static void check_tell(struct mirror_job *job)
{
	job->checking = false;
	if (job->check_options.resync)
		mirror_verify_forget(job);
	if (job->check_options.ended)
		job->check_options.ended(
		    job->check_options.data, job->check_res, live_verify_position(job->check));
}

void mirror_look_after_verify(struct mirror_job *job)
{
	if (job->checking && job->check_over && live_verify_idle(job->check))
		check_tell(job);
}

void mirror_verify_end(struct mirror_job *job)
{
	check_stop(job, -ECANCELED);
	if (job->checking)
		check_tell(job);
}

/* Both */

void mirror_verify_doubt(struct mirror_job *job)
{
	check_stop(job, -ENOTCONN);
	/* More may be dirty than what was marked. */
	mirror_verify_forget(job);
	if (!job->verify)
		return;
	live_verify_stop(job->verify);
	job->verified = false;
}

void mirror_verify_measure(struct mirror_job *job)
{
	if (job->verify)
		live_verify_measure(job->verify);
	if (job->check)
		live_verify_measure(job->check);
}

bool mirror_verify_idle(const struct mirror_job *job)
{
	return (!job->verify || live_verify_idle(job->verify)) &&
	       (!job->check || live_verify_idle(job->check));
}

void mirror_verify_apply_limits(struct mirror_job *job)
{
	uint64_t rate = job->check_options.rate ? job->check_options.rate : job->limits.rate;
	bool held = job->paused || job->limits.hold;

	if (job->verify)
		live_verify_set_limits(job->verify, job->limits.rate, held);
	if (job->check) {
		live_verify_keep(job->check, mirror_verify_keeps(job));
		live_verify_set_limits(job->check, rate, held);
	}
}

/* The governor has to do with it. */
static bool check_is_governed(const struct mirror_job *job)
{
	return job->check && job->check_options.rate == 0;
}

uint64_t mirror_verify_governed(const struct mirror_job *job)
{
	return (job->verify ? live_verify_counts(job->verify)->verified : 0) +
	       (check_is_governed(job) ? live_verify_counts(job->check)->verified : 0);
}

bool mirror_verify_wanting(const struct mirror_job *job)
{
	return (job->verify && !live_verify_idle(job->verify)) ||
	       (check_is_governed(job) && !live_verify_idle(job->check));
}

bool mirror_verify_limited(struct mirror_job *job)
{
	bool limited = job->verify && live_verify_limited(job->verify);

	return (check_is_governed(job) && live_verify_limited(job->check)) || limited;
}

void mirror_verify_status(const struct mirror_job *job, struct mirror_job_status *ret)
{
	const struct live_verify_counts *counts;

	ret->differing = job->differing;
	if (job->verify) {
		counts = live_verify_counts(job->verify);
		ret->verified = counts->verified + counts->holes;
		ret->unverified = counts->unread;
	}
	if (!job->check)
		return;
	counts = live_verify_counts(job->check);
	ret->verifying = job->checking;
	ret->verify_position = live_verify_position(job->check);
	ret->verify_differing = counts->differing;
	ret->verify_unread = counts->unread + counts->spoiled;
}
