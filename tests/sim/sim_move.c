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

struct runs {
	struct sim_line line;
	const char *fault; /* only this one, at `step` */
	uint64_t step;

	uint64_t count, steps, struck; /* sums */
};

static bool take_option(void *data, int option, const char *text)
{
	struct runs *runs = data;

	if (option == OPTION_FAULT)
		runs->fault = text;
	else
		runs->step = strtoull(text, NULL, 0);
	return true;
}

static void tell_faults(void)
{
	fprintf(stderr, "faults:\n");
	for (int i = 0; i < FAULTS; i++)
		fprintf(stderr, "  '%s'\n", fault_name((enum fault_what)i));
}

static void force_fault(struct world *world, const struct runs *runs)
{
	for (int i = 0; runs->fault && i < FAULTS; i++) {
		if (strcmp(fault_name((enum fault_what)i), runs->fault))
			continue;
		world->forced = true;
		world->forced_what = (enum fault_what)i;
		world->forced_step = runs->step;
	}
}

static void tell_failure(const struct world *world, const struct runs *runs)
{
	printf("seed %llu failed: %s\n  replay: sim_move --start %llu --seeds 1 --verbose",
	    (unsigned long long)world->seed, world->story.failure, (unsigned long long)world->seed);
	if (world->forced)
		printf(" --fault '%s' --step %llu", runs->fault, (unsigned long long)runs->step);
	printf("\n");
}

static bool run_seed(void *data, uint64_t seed, bool told, uint64_t *ret_trace)
{
	struct runs *runs = data;
	const struct sim_line *line = &runs->line;
	struct world world;
	uint64_t steps;
	bool good;

	world_init(&world, seed, (enum plant)line->mistakes[line->plant].number, told && line->verbose);
	force_fault(&world, runs);
	good = world_run(&world);
	*ret_trace = ring_sim_trace(world.sim);
	steps = ring_sim_steps(world.sim);
	if (told && !good && line->plant == PLANT_NONE)
		tell_failure(&world, runs);
	if (told && line->trace)
		printf("seed %llu trace %016llx steps %llu\n", (unsigned long long)seed,
		    (unsigned long long)*ret_trace, (unsigned long long)steps);
	if (told) {
		runs->count++;
		runs->steps += steps;
		runs->struck += world.struck;
	}
	world_done(&world);
	return good;
}

/* Until a fault came too late to strike. Returns how many failed. */
static uint64_t run_every_step(struct runs *runs, uint64_t seed)
{
	uint64_t failed = 0, struck, trace;

	for (int what = 0; what <= FAULT_CUT_TARGET; what++) {
		runs->fault = fault_name((enum fault_what)what);
		runs->step = 0;
		do {
			struck = runs->struck;
			failed += !run_seed(runs, seed, true, &trace);
			runs->step++;
		} while (runs->struck > struck);
	}
	return failed;
}

static uint64_t run_all(struct runs *runs)
{
	uint64_t failed = 0;

	if (!runs->line.every_step)
		return sim_line_run(&runs->line);
	for (uint64_t i = 0; i < runs->line.seeds; i++)
		failed += run_every_step(runs, runs->line.start + i);
	return failed;
}

int main(int argc, char **argv)
{
	static const struct option more[] = {{"fault", required_argument, NULL, OPTION_FAULT},
	    {"step", required_argument, NULL, OPTION_STEP}, {0}};
	struct runs runs = {.line = {.program = "sim_move",
	                        .more_usage = "[--fault FAULT --step STEP]",
	                        .mistakes = mistakes,
	                        .mistakes_count = sizeof(mistakes) / sizeof(mistakes[0]),
	                        .more = more,
	                        .take = take_option,
	                        .run = run_seed,
	                        .data = &runs,
	                        .seeds = 1000,
	                        .start = 1}};
	const struct sim_line *line = &runs.line;
	uint64_t failed;

	if (!sim_line_parse(&runs.line, argc, argv)) {
		tell_faults();
		return 2;
	}
	failed = run_all(&runs);
	printf("%llu runs from seed %llu, %llu steps, %llu faults, %.1f s: %llu failed\n",
	    (unsigned long long)runs.count, (unsigned long long)line->start, (unsigned long long)runs.steps,
	    (unsigned long long)runs.struck, sim_line_seconds(line), (unsigned long long)failed);
	return sim_line_end(line, failed);
}
