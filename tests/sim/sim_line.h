/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The command line that all simulations have: which seeds, how much is told, a planted mistake; and how it ends. */
#pragma once

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define SIM_LINE_MORE 4u

struct sim_line {
	/* set by the program */
	const char *program, *more_usage;
	const char *const *mistakes; /* by their number; the first is "none" */
	int mistakes_count;
	const struct option *more; /* options of its own, at most SIM_LINE_MORE, with values from 256 on */
	bool (*take)(void *data, int option, const char *text);
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
/* Since parsing. */
double sim_line_seconds(const struct sim_line *line);
/* The exit code; where a mistake was planted, whether it was found. */
int sim_line_end(const struct sim_line *line, uint64_t failed);
