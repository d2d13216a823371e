/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How fast the copy in the background may be, so that the clients of the volume do not feel it: slow growth while less than a
 * percent of their requests is too slow, a cut when it is more and the copy makes the difference. Pure arithmetic: told what was measured in each
 * interval, it says what the next one may take. No clock, no memory of its own.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct governor_options {
	uint64_t target_ns; /* the clients' p99 is to stay below this; 0: see impact */
	unsigned
	    impact; /* percent that the p99 may be above that with the copy paused; 0 with target_ns 0: no governing */
	uint64_t
	    min_rate; /* bytes per second, whatever the clients feel; 0: 256 KiB/s, so that it ends some day */
	uint64_t max_rate; /* bytes per second; 0: no limit */
};

/* Of the last interval. */
struct governor_sample {
	uint64_t interval_ns;
	uint64_t requests; /* of clients */
	uint64_t slow;     /* of them: took longer than governor_limits.slow_ns */
	uint64_t p99_ns;   /* of those of the last one or two seconds */
	uint64_t copied;   /* bytes */
};

/* For the next interval. */
struct governor_limits {
	bool hold;        /* no copy at all: the clients are measured without it */
	uint64_t rate;    /* bytes per second; 0: no limit */
	uint64_t window;  /* bytes in flight; 0: no limit */
	uint64_t slow_ns; /* which requests to count as slow; 0: none */
};

/* Requests, and slow ones; the older ones count for less. */
struct governor_tally {
	double requests, slow;
};

struct governor {
	struct governor_options options;
	uint64_t rate;  /* allowed now */
	bool searching; /* doubles until the first time that it was too much */

	unsigned hold_left; /* intervals of a hold */
	bool guilty;        /* by the last hold it was the copy that made them slow */
	struct governor_tally copying, holding;
	uint64_t rate_before; /* of the hold */
	uint64_t judged_ns;   /* since the last hold */

	/* with impact: the p99 with the copy paused */
	bool measured;        /* once at least */
	uint64_t baseline_ns; /* 0: there were no clients */
	uint64_t measured_ns; /* so long already, in this pause */
	uint64_t since_ns;    /* since the last pause */
};

void governor_init(struct governor *governor, const struct governor_options *options);
/* Changes the options and keeps what was learned. */
void governor_set(struct governor *governor, const struct governor_options *options);
void governor_update(
    struct governor *governor, const struct governor_sample *sample, struct governor_limits *ret);
