/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pace of the kernel's own mirror, for those who use the device that is moved: the governor's rate as the part of the time that the
 * kernel's copy may take. The kernel tells how long requests took in the mean only, so an interval is slow as a whole, or not.
 */
#pragma once

#include "sync/governor.h"

#include <sys/types.h>

struct move_govern {
	struct governor_options options; /* set by who uses it; all 0: nothing is governed */

	bool begun;
	struct governor governor;
	struct governor_limits limits;
	uint64_t at_ns, done, requests, waited_ms; /* when it was looked at last */
	double full_rate; /* bytes per second that the copy would have with all the time; 0: not known */
	unsigned percent;
};

bool move_governs(const struct move_govern *govern);
/*
 * Called every so often. `device`: the one that is moved; `done`: bytes that the copy has done. Returns the percentage for the time until the next call,
 * `percent_max` at most.
 */
unsigned move_govern_percent(struct move_govern *govern, dev_t device, uint64_t done, unsigned percent_max);
