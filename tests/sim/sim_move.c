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

static const char *const plant_names[PLANTS] = {
    [PLANT_NONE] = "none",
    [PLANT_JOURNAL_BEFORE_FLUSH] = "journal-before-flush",
    [PLANT_NO_FLUSH] = "no-flush",
    [PLANT_LOST_WRITE] = "lost-write",
    [PLANT_SWALLOWED_ERROR] = "swallowed-error",
};

struct arguments {
	struct sim_line line;
	const char *fault; /* only this one, at `step` */
	uint64_t step;
};

static bool take_option(void *data, int option, const char *text)
{
	struct arguments *arguments = data;

	if (option == OPTION_FAULT)
		arguments->fault = text;
	else
		arguments->step = strtoull(text, NULL, 0);
	return true;
}

static void tell_faults(void)
{
	fprintf(stderr, "faults:\n");
	for (int i = 0; i < FAULTS; i++)
		fprintf(stderr, "  '%s'\n", fault_name((enum fault_what)i));
}

struct outcome {
	bool good;
	unsigned struck;
	uint64_t trace, steps;
};

static void force_fault(struct world *world, const struct arguments *arguments)
{
	for (int i = 0; arguments->fault && i < FAULTS; i++) {
		if (strcmp(fault_name((enum fault_what)i), arguments->fault))
			continue;
		world->forced = true;
		world->forced_what = (enum fault_what)i;
		world->forced_step = arguments->step;
	}
}

static void tell_failure(const struct world *world, const struct arguments *arguments)
{
	printf("seed %llu failed: %s\n  replay: sim_move --start %llu --seeds 1 --verbose",
	    (unsigned long long)world->seed, world->story.failure, (unsigned long long)world->seed);
	if (world->forced)
		printf(" --fault '%s' --step %llu", arguments->fault, (unsigned long long)arguments->step);
	printf("\n");
}

static struct outcome run_seed(uint64_t seed, const struct arguments *arguments)
{
	struct outcome outcome;
	struct world world;

	world_init(&world, seed, (enum plant)arguments->line.plant, arguments->line.verbose);
	force_fault(&world, arguments);
	outcome.good = world_run(&world);
	outcome.struck = world.struck;
	outcome.trace = ring_sim_trace(world.sim);
	outcome.steps = ring_sim_steps(world.sim);
	if (!outcome.good && arguments->line.plant == PLANT_NONE)
		tell_failure(&world, arguments);
	if (arguments->line.trace)
		printf("seed %llu trace %016llx steps %llu\n", (unsigned long long)seed,
		    (unsigned long long)outcome.trace, (unsigned long long)outcome.steps);
	fflush(stdout);
	world_done(&world);
	return outcome;
}

/* The same seed gives the same run: else a failure could not be replayed. */
static bool is_repeatable(uint64_t seed, const struct arguments *arguments, const struct outcome *first)
{
	struct arguments quiet = *arguments;
	struct outcome second;

	quiet.line.verbose = quiet.line.trace = false;
	second = run_seed(seed, &quiet);
	if (second.trace == first->trace && second.steps == first->steps)
		return true;
	printf("seed %llu is not repeatable\n", (unsigned long long)seed);
	return false;
}

struct sums {
	uint64_t runs, steps, struck, failed;
};

static bool add(struct sums *sums, const struct outcome *outcome)
{
	sums->runs++;
	sums->steps += outcome->steps;
	sums->struck += outcome->struck;
	sums->failed += !outcome->good;
	return outcome->good;
}

/* Until a fault came too late to strike. */
static void run_every_step(uint64_t seed, const struct arguments *arguments, struct sums *sums)
{
	struct arguments one = *arguments;

	for (int what = 0; what <= FAULT_CUT_TARGET; what++) {
		struct outcome outcome = {.struck = 1};

		one.fault = fault_name((enum fault_what)what);
		for (one.step = 0; outcome.struck; one.step++) {
			outcome = run_seed(seed, &one);
			add(sums, &outcome);
		}
	}
}

static void run_all(const struct arguments *arguments, struct sums *sums)
{
	for (uint64_t i = 0; i < arguments->line.seeds; i++) {
		uint64_t seed = arguments->line.start + i;
		struct outcome outcome;

		if (arguments->line.every_step) {
			run_every_step(seed, arguments, sums);
			continue;
		}
		outcome = run_seed(seed, arguments);
		if (add(sums, &outcome) && i % 50 == 0 && !is_repeatable(seed, arguments, &outcome))
			sums->failed++;
	}
}

int main(int argc, char **argv)
{
	static const struct option more[] = {{"fault", required_argument, NULL, OPTION_FAULT},
	    {"step", required_argument, NULL, OPTION_STEP}, {0}};
	struct arguments arguments = {.line = {.program = "sim_move",
	                                  .more_usage = "[--fault FAULT --step STEP]",
	                                  .mistakes = plant_names,
	                                  .mistakes_count = PLANTS,
	                                  .more = more,
	                                  .take = take_option,
	                                  .data = &arguments,
	                                  .seeds = 1000,
	                                  .start = 1}};
	const struct sim_line *line = &arguments.line;
	struct sums sums = {0};

	if (!sim_line_parse(&arguments.line, argc, argv)) {
		tell_faults();
		return 2;
	}
	run_all(&arguments, &sums);
	printf("%llu runs from seed %llu, %llu steps, %llu faults, %.1f s: %llu failed\n",
	    (unsigned long long)sums.runs, (unsigned long long)line->start, (unsigned long long)sums.steps,
	    (unsigned long long)sums.struck, sim_line_seconds(line), (unsigned long long)sums.failed);
	return sim_line_end(line, sums.failed);
}
