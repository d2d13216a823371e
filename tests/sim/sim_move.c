/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Moves volumes in simulated worlds, one for each seed, and prints the seed of a world in which something
 * that must hold did not. --every-step: instead of what the seed chooses, each kind of crash at each step, a
 * run for each. Exit 0: all held; with --plant: the mistake was found.
 */
#include "world.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const plant_names[PLANTS] = {
    [PLANT_NONE] = "none",
    [PLANT_JOURNAL_BEFORE_FLUSH] = "journal-before-flush",
    [PLANT_NO_FLUSH] = "no-flush",
    [PLANT_LOST_WRITE] = "lost-write",
    [PLANT_SWALLOWED_ERROR] = "swallowed-error",
};

struct arguments {
	uint64_t seeds, start;
	enum plant plant;
	bool verbose, trace, every_step;
	const char *fault; /* only this one, at `step` */
	uint64_t step;
};

static int usage(void)
{
	fprintf(stderr, "usage: sim_move [--seeds N] [--start S] [--verbose] [--trace] [--plant MISTAKE]\n"
	                "                [--every-step | --fault FAULT --step STEP]\n"
	                "mistakes:");
	for (int i = 1; i < PLANTS; i++)
		fprintf(stderr, " %s", plant_names[i]);
	fprintf(stderr, "\nfaults:\n");
	for (int i = 0; i < FAULTS; i++)
		fprintf(stderr, "  '%s'\n", fault_name((enum fault_what)i));
	return 2;
}

static bool parse_plant(const char *text, enum plant *ret)
{
	for (int i = 0; i < PLANTS; i++) {
		if (!strcmp(plant_names[i], text)) {
			*ret = (enum plant)i;
			return true;
		}
	}
	return false;
}

static bool take_option(int option, struct arguments *ret)
{
	switch (option) {
	case 'n':
		ret->seeds = strtoull(optarg, NULL, 0);
		return true;
	case 's':
		ret->start = strtoull(optarg, NULL, 0);
		return true;
	case 'v':
		return ret->verbose = true;
	case 't':
		return ret->trace = true;
	case 'e':
		return ret->every_step = true;
	case 'f':
		ret->fault = optarg;
		return true;
	case 'k':
		ret->step = strtoull(optarg, NULL, 0);
		return true;
	case 'p':
		return parse_plant(optarg, &ret->plant);
	default:
		return false;
	}
}

static bool parse(int argc, char **argv, struct arguments *ret)
{
	static const struct option options[] = {
	    {"seeds", required_argument, NULL, 'n'},
	    {"start", required_argument, NULL, 's'},
	    {"verbose", no_argument, NULL, 'v'},
	    {"trace", no_argument, NULL, 't'},
	    {"plant", required_argument, NULL, 'p'},
	    {"every-step", no_argument, NULL, 'e'},
	    {"fault", required_argument, NULL, 'f'},
	    {"step", required_argument, NULL, 'k'},
	    {0},
	};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
		if (!take_option(option, ret))
			return false;
	return optind == argc;
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
	    (unsigned long long)world->seed, world->failure, (unsigned long long)world->seed);
	if (world->forced)
		printf(" --fault '%s' --step %llu", arguments->fault, (unsigned long long)arguments->step);
	printf("\n");
}

static struct outcome run_seed(uint64_t seed, const struct arguments *arguments)
{
	struct outcome outcome;
	struct world world;

	world_init(&world, seed, arguments->plant, arguments->verbose);
	force_fault(&world, arguments);
	outcome.good = world_run(&world);
	outcome.struck = world.struck;
	outcome.trace = ring_sim_trace(world.sim);
	outcome.steps = ring_sim_steps(world.sim);
	if (!outcome.good && arguments->plant == PLANT_NONE)
		tell_failure(&world, arguments);
	if (arguments->trace)
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

	quiet.verbose = quiet.trace = false;
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
	for (uint64_t i = 0; i < arguments->seeds; i++) {
		uint64_t seed = arguments->start + i;
		struct outcome outcome;

		if (arguments->every_step) {
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
	const char *seed_text = getenv("BLKMOVE_SEED");
	struct arguments arguments = {.seeds = 1000, .start = 1};
	struct sums sums = {0};
	struct timespec begin, end;

	if (seed_text) {
		arguments.start = strtoull(seed_text, NULL, 0);
		arguments.seeds = 1;
	}
	if (!parse(argc, argv, &arguments))
		return usage();
	/* What was told must be there when an assertion ends the program. */
	setvbuf(stdout, NULL, _IOLBF, 0);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	run_all(&arguments, &sums);
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%llu runs from seed %llu, %llu steps, %llu faults, %.1f s: %llu failed\n",
	    (unsigned long long)sums.runs, (unsigned long long)arguments.start,
	    (unsigned long long)sums.steps, (unsigned long long)sums.struck,
	    (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9,
	    (unsigned long long)sums.failed);
	if (arguments.plant != PLANT_NONE) {
		printf("the mistake %s was %s\n", plant_names[arguments.plant],
		    sums.failed ? "found" : "NOT found");
		return sums.failed == 0;
	}
	return sums.failed > 0;
}
