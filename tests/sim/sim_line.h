/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What all simulations have: a command line (which seeds, how much is told, a planted mistake), the runs and their sums, and how it ends. */
#pragma once

#include "sim_story.h"

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>

#define SIM_LINE_MORE 4u
#define SIM_LINE_SUMS 32u

/* By the name that --plant takes; the number is base/plant.h's, or the program's own. */
struct sim_mistake {
	const char *name;
	int number;
};

struct sim_line {
	/* set by the program */
	const char *program, *more_usage;
	const struct sim_mistake *mistakes; /* the first is "none", 0 */
	int mistakes_count;
	bool plants_itself; /* its mistakes are not those of base/plant.h: run() makes them */
	bool can_watch;
	const struct option
	    *more; /* options of its own, at most SIM_LINE_MORE, with values from 256 on; or NULL */
	void (*take)(int option, const char *text);
	/* Whether all held; ends with sim_line_judge(). */
	bool (*run)(struct sim_line *line, uint64_t seed);
	uint64_t (*run_every_step)(struct sim_line *line, uint64_t seed); /* how many failed; or NULL */

	/* set at the begin as the program likes it, and by the words */
	uint64_t seeds, start, watch;
	bool verbose, trace, every_step;
	int plant; /* of mistakes */

	/* set by the runs */
	uint64_t last_trace, count, steps;
	struct sim_sum {
		const char *what;
		uint64_t count;
	} sums[SIM_LINE_SUMS];
};

/*
 * What main() returns: 0 when all held, or a planted mistake was found; 2 after telling what may be said. Runs the seeds (BLKMOVE_SEED is one seed,
 * too) until a planted mistake is found, one in 50 twice, which must not differ.
 */
int sim_line_main(struct sim_line *line, int argc, char **argv);
/* Adds to what is told of all runs: "7 `what`", in the order of the first run. */
void sim_line_count(struct sim_line *line, const char *what, uint64_t count);
/* At the end of a run, before its sim is freed. `more`: what the words for a replay need beside the seed. Whether all held. */
bool sim_line_judge(struct sim_line *line, uint64_t seed, const struct sim_story *story, const char *more);
