/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How fast the copy goes and how much clients dirty, and what the governor makes of both. */
#include "cli/mirror_run.h"

#define WINDOW_NS  1000000000u /* of the clients' latency */
#define LOOK_NS    200000000u
#define SMOOTHING  0.15

void mirror_pace_init(struct mirror_run *run)
{
	struct mirror_pace *pace = &run->pace;

	pace->look_ns = ring_now_ns(run->ring);
	histogram_init(&pace->latency, WINDOW_NS, pace->look_ns);
	governor_init(&pace->governor, &run->command->governor);
	mirror_pace_change(run);
}

void mirror_pace_answered(struct mirror_run *run, uint64_t ns)
{
	run->pace.requests++;
	histogram_add(&run->pace.latency, ring_now_ns(run->ring), ns);
}

void mirror_pace_change(struct mirror_run *run)
{
	const struct governor_options *options = &run->command->governor;

	governor_set(&run->pace.governor, options);
	run->pace.governed = options->target_ns || options->impact;
	if (!run->pace.governed)
		mirror_job_set_limits(run->job, options->max_rate, 0);
}

static void govern(struct mirror_run *run, uint64_t interval_ns, uint64_t copied)
{
	struct mirror_pace *pace = &run->pace;
	struct histogram_figures figures;
	struct governor_limits limits;
	struct governor_sample sample = {
	    .interval_ns = interval_ns, .requests = pace->requests - pace->seen_requests, .copied = copied};

	histogram_figures(&pace->latency, ring_now_ns(run->ring), &figures);
	sample.p99_ns = figures.p99_ns;
	governor_update(&pace->governor, &sample, &limits);
	/* Held is: a byte a second. A pause of the user's is another thing. */
	mirror_job_set_limits(run->job, limits.hold ? 1 : limits.rate, limits.window);
}

void mirror_pace_look(struct mirror_run *run)
{
	struct mirror_pace *pace = &run->pace;
	uint64_t now_ns = ring_now_ns(run->ring), interval_ns = now_ns - pace->look_ns;
	struct mirror_job_status status;
	uint64_t done, copied;
	double seconds = (double)interval_ns / 1e9, dirtied;

	if (interval_ns < LOOK_NS)
		return;
	mirror_job_status(run->job, &status);
	done = status.copied + status.same;
	copied = done - pace->seen_done;
	dirtied = (double)status.dirty - (double)pace->seen_dirty + (double)copied;
	if (pace->seen_dirty || pace->seen_done)
		pace->dirty_rate += SMOOTHING * ((dirtied > 0 ? dirtied / seconds : 0) - pace->dirty_rate);
	pace->sync_rate += SMOOTHING * ((double)copied / seconds - pace->sync_rate);
	if (pace->governed && !cutover_is_end(status.state))
		govern(run, interval_ns, copied);
	pace->seen_requests = pace->requests;
	pace->seen_done = done;
	pace->seen_dirty = status.dirty;
	pace->look_ns = now_ns;
}
