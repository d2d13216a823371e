/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rounds over a volume in use, and the last one when it has been stopped: what to do next, and when a round is short enough for
 * that. One table, asserted; and arithmetic over what was measured. Pure: no I/O, no clock.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* What is to be done now. */
enum rounds_step {
	ROUNDS_SEND, /* a round, while the source may be in use */
	ROUNDS_STOP, /* run what stops the source's user */
	ROUNDS_WAIT, /* until the source is seen to be free */
	ROUNDS_LAST, /* what still differs, from the source at rest; and its verification */
	ROUNDS_END,  /* see rounds.end */
	ROUNDS_STEPS,
};

/* What has become of it. */
enum rounds_event {
	ROUNDS_DONE, /* SEND: use rounds_sent(). STOP: the command said yes. WAIT: it is free. LAST: verified. */
	ROUNDS_FAILED,   /* STOP: the command failed. WAIT: the time is up. SEND, LAST: the job failed. */
	ROUNDS_CANCELED, /* the user wants no more of it */
};

enum rounds_end {
	ROUNDS_NO_END,
	ROUNDS_EQUAL,       /* the target is what the source was when it was stopped */
	ROUNDS_DIVERGE,     /* rounds do not get shorter; nothing was stopped */
	ROUNDS_NOT_STOPPED, /* the command failed: nothing was sent since the last round */
	ROUNDS_IN_USE,   /* the command said yes, the source is in use all the same: nothing was sent since */
	ROUNDS_BROKE,    /* a round failed */
	ROUNDS_GIVEN_UP, /* the user's wish */
};

/* What a round was. Seconds on one clock. */
struct round_figures {
	double moment_s; /* when the source was as this round has sent it: of a snapshot, when it was taken */
	double seconds;  /* how long it took, all in all, but for a verification of the whole volume */
	double ended_s;  /* when the next one may begin */
	uint64_t moved;  /* bytes written to the target */
};

struct rounds {
	/* set by the user */
	unsigned count; /* so many rounds before the stop; 0: */
	double until_s; /* until the next one is expected to take no longer */

	/* for the user to read */
	enum rounds_step step;
	enum rounds_end end;
	unsigned sent;         /* rounds that are complete, without the last */
	double expected_s;     /* what the next round will take; negative: not known yet */
	double expected_bytes; /* what it will move */
	double change_rate;    /* bytes a second that change in the source; negative: not known yet */
	double send_rate;      /* bytes a second of the last round, all in all */
	unsigned stuck;        /* rounds in a row that were not shorter, by a tenth, than one before them */

	/* rounds.c's */
	struct round_figures last;
	double shortest_s;
};

/* So many in a row are enough: it does not converge. */
#define ROUNDS_STUCK_MAX 3u

void rounds_init(struct rounds *rounds, unsigned count, double until_s);
const char *rounds_step_name(enum rounds_step step);
/* A round is complete: works out what to expect, and what is next. */
enum rounds_step rounds_sent(struct rounds *rounds, const struct round_figures *figures);
/* Anything else that may happen. What the table does not have is our own mistake and ends the program. */
enum rounds_step rounds_next(struct rounds *rounds, enum rounds_event event);
