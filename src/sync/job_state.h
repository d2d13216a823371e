/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The states of a job and the only ways between them: one table, asserted. */
#pragma once

#include <stdbool.h>

enum job_state {
	JOB_CREATED,
	JOB_OPENING,   /* both volumes are opened and looked at */
	JOB_RUNNING,   /* data moves, or is compared */
	JOB_WAITING,   /* a link was lost; it is tried again after a while */
	JOB_FLUSHING,  /* all is written; the target makes it durable */
	JOB_VERIFYING, /* the target is read back and compared */
	JOB_COMPLETED, /* equal, flushed, verified if asked */
	JOB_CANCELLED, /* stopped by the user; the target is not usable, --resume goes on */
	JOB_FAILED,
	JOB_STATES,
};

const char *job_state_name(enum job_state state);
/* Moves on; an edge that is not in the table is our own mistake and ends the program. */
void job_state_set(enum job_state *state, enum job_state to);
