/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How fast the copy goes and how much clients dirty, for people. */
#include "cli/mirror_run.h"

#define LOOK_NS   200000000u
#define SMOOTHING 0.15 /* about the last second counts most */

void mirror_pace_look(struct mirror_run *run)
{
	struct mirror_pace *pace = &run->pace;
	uint64_t now_ns = ring_now_ns(run->process->ring), interval_ns = now_ns - pace->look_ns;
	double seconds = (double)interval_ns / 1e9, copied, dirtied;
	struct mirror_job_status status;

	if (interval_ns < LOOK_NS)
		return;
	mirror_job_status(run->job, &status);
	copied = (double)(status.copied + status.same - pace->done);
	/* What came to be dirty: what is so now, less what was, and what was copied since. */
	dirtied = (double)status.dirty - (double)pace->dirty + copied;
	/* What is being copied is neither dirty nor done: one look's error is made good by another's. */
	if (pace->look_ns) {
		pace->dirty_rate += SMOOTHING * (dirtied / seconds - pace->dirty_rate);
		pace->sync_rate += SMOOTHING * (copied / seconds - pace->sync_rate);
	}
	pace->done = status.copied + status.same;
	pace->dirty = status.dirty;
	pace->look_ns = now_ns;
}
