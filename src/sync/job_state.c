/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The state table of a job. */
#include "sync/job_state.h"

#include <assert.h>

#define TO(state) (1u << (state))

static const struct {
	const char *name;
	unsigned next; /* set of TO() */
} states[JOB_STATES] = {
    [JOB_CREATED] = {"created", TO(JOB_OPENING) | TO(JOB_FAILED) | TO(JOB_CANCELLED)},
    [JOB_OPENING] = {"opening", TO(JOB_RUNNING) | TO(JOB_WAITING) | TO(JOB_FAILED) | TO(JOB_CANCELLED)},
    [JOB_RUNNING] = {"running",
        TO(JOB_FLUSHING) | TO(JOB_WAITING) | TO(JOB_COMPLETED) | TO(JOB_FAILED) | TO(JOB_CANCELLED)},
    [JOB_WAITING] = {"waiting", TO(JOB_OPENING) | TO(JOB_FAILED) | TO(JOB_CANCELLED)},
    [JOB_FLUSHING] = {"flushing",
        TO(JOB_VERIFYING) | TO(JOB_COMPLETED) | TO(JOB_WAITING) | TO(JOB_FAILED) | TO(JOB_CANCELLED)},
    [JOB_VERIFYING] = {"verifying", TO(JOB_COMPLETED) | TO(JOB_WAITING) | TO(JOB_FAILED) | TO(JOB_CANCELLED)},
    [JOB_COMPLETED] = {"completed", 0},
    [JOB_CANCELLED] = {"cancelled", 0},
    [JOB_FAILED] = {"failed", 0},
};

const char *job_state_name(enum job_state state)
{
	return states[state].name;
}

void job_state_set(enum job_state *state, enum job_state to)
{
	assert(states[*state].next & TO(to));
	*state = to;
}
