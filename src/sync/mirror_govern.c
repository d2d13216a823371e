/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How fast the copy of a mirror may be: what clients feel goes to the governor, its limits go to the source of extents. */
#include "sync/mirror_job_private.h"

#include "base/bytes.h"

#include <errno.h>

#define INTERVAL_NS 200000000u
/*
 * While there are clients. What lies in the page cache is read on their thread, so in little pieces; it is written by another, and
 * what a write costs the kernel beside its bytes (ext4 turns each into a transaction of its journal where the file had a hole) has
 * to be seldom on a processor that clients want. Bytes.
 */
#define BUSY_READ   (16u << 10)
#define BUSY_EXTENT (256u << 10)
#define EXTENTS_MIN 2u /* one is read while another is written */
#define FORGETS     16u

/*
 * As much under way as the rate needs: twice what comes in while an extent is copied. More would only pile up when the target falters,
 * and then take all processors at once.
 */
static uint64_t window(const struct mirror_job *job, uint64_t extent_max)
{
	double in_time = 2 * (double)job->limits.rate * (double)job->quickest_ns / 1e9;

	if (!job->limits.slow_ns || !job->busy || !job->quickest_ns)
		return job->limits.window;
	return min_u64(max_u64((uint64_t)in_time, EXTENTS_MIN * extent_max), job->limits.window);
}

/* The least of the last seconds: what had to wait in a queue does not count. */
static void note_quickest(struct mirror_job *job)
{
	uint64_t now_ns = dirty_extents_quickest_ns(job->extents), slower_ns;

	if (!now_ns)
		return;
	slower_ns = job->quickest_ns ? job->quickest_ns + job->quickest_ns / FORGETS : now_ns;
	job->quickest_ns = min_u64(now_ns, slower_ns);
}

void mirror_apply_limits(struct mirror_job *job)
{
	bool through = mirror_mode(job->mirror) == MIRROR_WRITE_THROUGH;
	bool busy = (through || job->busy) && !job->held;
	uint64_t extent_max = max_u64(BUSY_EXTENT, bitmap_file_super(job->map)->region_size);
	struct dirty_limits limits = {
	    .rate = job->limits.rate, .window = window(job, extent_max), .extent_max = busy ? extent_max : 0};

	if (job->held)
		limits = (struct dirty_limits){0};
	copy_set_read_max(job->copy, busy ? BUSY_READ : 0);
	dirty_extents_set_limits(job->extents, &limits);
	dirty_extents_hold(
	    job->extents, !job->held && (job->paused || job->limits.hold || mirror_verify_keeps(job)));
	mirror_verify_apply_limits(job);
}

void mirror_held(void *data, bool held)
{
	struct mirror_job *job = data;

	job->held = held;
	mirror_apply_limits(job);
}

/* What the copy and the verification have moved. */
static uint64_t done_with(const struct mirror_job *job)
{
	return dirty_extents_copied(job->extents) + dirty_extents_same(job->extents) +
	       mirror_verify_governed(job);
}

static bool is_wanting(const struct mirror_job *job)
{
	return (mirror_job_dirty(job) > 0 && !mirror_verify_keeps(job)) ||
	       dirty_extents_active(job->extents) > 0 || mirror_verify_wanting(job);
}

/* Of two limits; 0 is none. */
static uint64_t lesser(uint64_t one, uint64_t other)
{
	return one && other ? min_u64(one, other) : max_u64(one, other);
}

/* What both budgets allow. */
static void combine_limits(struct mirror_job *job)
{
	const struct governor_limits *own = &job->member.limits, *common = &job->common.limits;

	job->limits = *own;
	job->common_binds = false;
	if (!job->common.budget)
		return;
	job->common_binds = common->rate && (!own->rate || common->rate < own->rate);
	job->limits = (struct governor_limits){.hold = own->hold || common->hold,
	    .rate = lesser(own->rate, common->rate),
	    .window = lesser(own->window, common->window),
	    .slow_ns = lesser(own->slow_ns, common->slow_ns)};
}

void mirror_take_limits(struct mirror_job *job)
{
	combine_limits(job);
	mirror_apply_limits(job);
}

/* The budget that does not keep the copy from more has more for its other members. */
static void ask_budgets(struct mirror_job *job, struct budget_report *report, uint64_t now_ns)
{
	bool limited = report->limited;

	report->limited = limited && !job->common_binds;
	budget_report(&job->member, report, now_ns);
	report->limited = limited && job->common_binds;
	if (job->common.budget)
		budget_report(&job->common, report, now_ns);
	combine_limits(job);
}

void mirror_look_at_speed(struct mirror_job *job)
{
	uint64_t now_ns = ring_now_ns(job->ring), copied = done_with(job);
	struct budget_report report = {
	    .following = mirror_attached(job->mirror) && !job->paused && !cutover_is_end(job->state),
	    .wanting = is_wanting(job),
	    .copied = copied > job->governed_copied ? copied - job->governed_copied : 0};
	const struct mirror_counts *counts = mirror_counts(job->mirror);
	struct histogram_figures figures;

	if (now_ns < job->govern_after_ns)
		return;
	mirror_latency_recent(job->mirror, &figures);
	report.requests = counts->reads_writes - job->governed_counts.reads_writes;
	report.slow = counts->slow - job->governed_counts.slow;
	report.p99_ns = figures.p99_ns;
	report.limited = dirty_extents_limited(job->extents) || mirror_verify_limited(job);
	if (report.requests > 0)
		job->busy_ns = now_ns;
	job->busy = job->busy_ns && now_ns < job->busy_ns + job->options.settle_ns;
	job->govern_after_ns = now_ns + INTERVAL_NS;
	job->governed_copied = copied;
	job->governed_counts = *counts;
	note_quickest(job);
	ask_budgets(job, &report, now_ns);
	mirror_set_slow(job->mirror, job->limits.slow_ns);
	mirror_apply_limits(job);
}

void mirror_job_govern(struct mirror_job *job, const struct governor_options *options)
{
	budget_set(job->member.budget, options, ring_now_ns(job->ring));
	job->member.min_rate = job->common.min_rate = options->min_rate;
	job->govern_after_ns = 0;
	job->wake = true;
}

void mirror_job_set_priority(struct mirror_job *job, unsigned priority)
{
	job->member.priority = job->common.priority = priority;
	job->govern_after_ns = 0;
	job->wake = true;
}

void mirror_job_pause(struct mirror_job *job, bool paused)
{
	job->paused = paused;
	job->wake = true;
	if (job->apart && !paused) {
		job->apart = false;
		job->attach_after_ns = 0;
	}
	/* A switch under way goes back, if it still can; its order stands. */
	job->cutover.give_up |= paused;
	mirror_apply_limits(job);
}

int mirror_job_let_target_go(struct mirror_job *job)
{
	if (mirror_job_follower(job) != MIRROR_TARGET || job->state == CUTOVER_CUTTING)
		return -EINVAL;
	job->apart = true;
	mirror_job_pause(job, true);
	mirror_detach(job->mirror);
	return 0;
}
