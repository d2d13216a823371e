/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Moves volumes in simulated worlds, one for each seed, and prints the seed of a world in which something
 * that must hold did not. --every-step: instead of what the seed chooses, each kind of crash at each step, a
 * run for each. Exit 0: all held; with --plant: the mistake was found.
 */
#include "sim_line.h"
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OPTION_FAULT = 256, OPTION_STEP };

static const struct sim_mistake mistakes[] = {
    {"none", PLANT_NONE},
    {"journal-before-flush", PLANT_JOURNAL_BEFORE_FLUSH},
    {"no-flush", PLANT_NO_FLUSH},
    {"lost-write", PLANT_LOST_WRITE},
    {"swallowed-error", PLANT_SWALLOWED_ERROR},
};

static const char *fault; /* only this one, at `step` */
static uint64_t step;

static void take_option(int option, const char *text)
{
	if (option == OPTION_FAULT)
		fault = text;
	else
		step = strtoull(text, NULL, 0);
}

static void tell_faults(void)
{
	fprintf(stderr, "faults:\n");
	for (int i = 0; i < FAULTS; i++)
		fprintf(stderr, "  '%s'\n", fault_name((enum fault_what)i));
}

static void force_fault(struct world *world)
{
	for (int i = 0; fault && i < FAULTS; i++) {
		if (strcmp(fault_name((enum fault_what)i), fault))
			continue;
		world->forced = true;
		world->forced_what = (enum fault_what)i;
		world->forced_step = step;
	}
}

static bool run_world(struct sim_line *line, uint64_t seed, bool *ret_struck)
{
	struct world world;
	char more[80] = "";
	bool good;

	world_init(&world, seed, (enum plant)line->mistakes[line->plant].number, line->verbose);
	force_fault(&world);
	world_run(&world);
	*ret_struck = world.struck;
	sim_line_count(line, "faults", world.struck);
	if (world.forced)
		snprintf(more, sizeof(more), " --fault '%s' --step %llu", fault, (unsigned long long)step);
	good = sim_line_judge(line, seed, &world.story, more);
	world_done(&world);
	return good;
}

static bool run_seed(struct sim_line *line, uint64_t seed)
{
	bool struck;

	return run_world(line, seed, &struck);
}

/* Until a fault came too late to strike. */
static uint64_t run_every_step(struct sim_line *line, uint64_t seed)
{
	uint64_t failed = 0;

	for (int what = 0; what <= FAULT_CUT_TARGET; what++) {
		bool struck = true;

		fault = fault_name((enum fault_what)what);
		for (step = 0; struck; step++)
			failed += !run_world(line, seed, &struck);
	}
	return failed;
}

int main(int argc, char **argv)
{
	static const struct option more[] = {{"fault", required_argument, NULL, OPTION_FAULT},
	    {"step", required_argument, NULL, OPTION_STEP}, {0}};
	struct sim_line line = {.program = "sim_move",
	    .more_usage = " [--fault FAULT --step STEP]",
	    .mistakes = mistakes,
	    .mistakes_count = sizeof(mistakes) / sizeof(mistakes[0]),
	    .plants_itself = true,
	    .more = more,
	    .take = take_option,
	    .run = run_seed,
	    .run_every_step = run_every_step,
	    .seeds = 1000,
	    .start = 1};
	int code = sim_line_main(&line, argc, argv);

	if (code == 2)
		tell_faults();
	return code;
}
