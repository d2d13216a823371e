/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A mirror's job, run for a while and asked how it is. Header-only. After cmocka.h. */
#pragma once

#include "base/bytes.h"
#include "ring/ring.h"
#include "sync/mirror_job.h"

static inline struct mirror_job_status job_status(struct mirror_job *job)
{
	struct mirror_job_status status;

	mirror_job_status(job, &status);
	return status;
}

struct job_run {
	struct ring_op timer;
	struct mirror_job *job;
};

static inline void job_run_over(struct ring_op *op, int res)
{
	if (res == 0)
		mirror_job_stop(container_of(op, struct job_run, timer)->job);
}

/* So many nanoseconds, or until it ends: then the state is an end. One that has ended already only looks after the leg that is left. */
static inline enum cutover_state job_run_for(
    struct ring *ring, struct mirror_job *job, uint64_t ns, struct error *error)
{
	struct job_run run = {.job = job,
	    .timer = {.opcode = RING_TIMER, .deadline_ns = ring_now_ns(ring) + ns, .done = job_run_over}};

	ring_submit(ring, &run.timer);
	if (cutover_is_end(job_status(job).state))
		assert_int_equal(mirror_job_serve(job), 0);
	else
		mirror_job_run(job, error);
	ring_cancel(ring, &run.timer);
	while (run.timer.active)
		assert_int_equal(ring_step(ring), 0);
	return job_status(job).state;
}
