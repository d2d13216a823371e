/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a seed's world tells of itself, and the first thing in it that did not hold. */
#pragma once

#include "ring/ring_sim.h"

struct sim_story {
	const struct ring_sim *sim;
	bool verbose;
	unsigned failures;
	char failure[512]; /* the first */
};

/* With the simulated time, where it was asked for. */
void sim_say(const struct sim_story *story, const char *format, ...) __attribute__((format(printf, 2, 3)));
void sim_fail(struct sim_story *story, const char *format, ...) __attribute__((format(printf, 2, 3)));
