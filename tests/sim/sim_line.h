/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What all simulations have: a command line (which seeds, how much is told, a planted mistake), the runs, and how it ends. */
#pragma once

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define SIM_LINE_MORE 4u

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
	const struct option
	    *more; /* options of its own, at most SIM_LINE_MORE, with values from 256 on; or NULL */
	bool (*take)(void *data, int option, const char *text);
	/* Whether all held. Not `told`: says and counts nothing. */
	bool (*run)(void *data, uint64_t seed, bool told, uint64_t *ret_trace);
	void *data;

	/* set at the begin as the program likes it, and by the words */
	uint64_t seeds, start;
	bool verbose, trace, every_step;
	int plant; /* of mistakes */

	struct timespec begun;
};

/* BLKMOVE_SEED is one seed, too. False after telling what may be said. */
bool sim_line_parse(struct sim_line *line, int argc, char **argv);
bool sim_line_wrong(const struct sim_line *line);
/* Makes the mistake of base/plant.h that was asked for. False after telling, in a program that is built without them. */
bool sim_line_plant(const struct sim_line *line);
/* Runs the seeds, until a planted mistake is found; one in 50 twice, which must not differ. Returns how many failed. */
uint64_t sim_line_run(const struct sim_line *line);
/* Since parsing. */
double sim_line_seconds(const struct sim_line *line);
/* The exit code; where a mistake was planted, whether it was found. */
int sim_line_end(const struct sim_line *line, uint64_t failed);
