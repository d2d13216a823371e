/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Live mirrors in simulated worlds, one for each seed, and the seed of a world in which something that must hold did not. With
 * --plant (in the program that is built with the mistakes): exit 0 when the mistake was found.
 */
#include "mirror_world.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef BLKMOVE_PLANTS
enum planted planted_mistake;
#endif

static const char *const plant_names[PLANTED_END] = {
    [PLANTED_NOTHING] = "none",
    [PLANTED_NO_INTENT] = "no-intent",
    [PLANTED_CLEAR_EARLY] = "clear-early",
    [PLANTED_NO_LOCK] = "no-lock",
    [PLANTED_LATE_RECORD] = "late-record",
    [PLANTED_LOST_MARK] = "lost-mark",
    [PLANTED_ONE_FLUSH] = "one-flush",
    [PLANTED_NO_DOUBT] = "no-doubt",
    [PLANTED_STALE_HOLES] = "stale-holes",
};

struct arguments {
	uint64_t seeds, start, watch;
	bool verbose, trace, every_step;
	enum planted plant;
};

static int usage(void)
{
	fprintf(stderr, "usage: sim_mirror [--seeds N] [--start S] [--verbose [--watch SECTOR]] [--trace] "
	                "[--plant MISTAKE]\nmistakes:");
	for (int i = 1; i < PLANTED_END; i++)
		fprintf(stderr, " %s", plant_names[i]);
	fprintf(stderr, "\n");
	return 2;
}

static bool parse_plant(const char *text, enum planted *ret)
{
	for (int i = 0; i < PLANTED_END; i++) {
		if (!strcmp(plant_names[i], text)) {
			*ret = (enum planted)i;
			return true;
		}
	}
	return false;
}

static bool parse(int argc, char **argv, struct arguments *ret)
{
	static const struct option options[] = {
	    {"seeds", required_argument, NULL, 'n'},
	    {"start", required_argument, NULL, 's'},
	    {"verbose", no_argument, NULL, 'v'},
	    {"trace", no_argument, NULL, 't'},
	    {"watch", required_argument, NULL, 'w'},
	    {"every-step", no_argument, NULL, 'e'},
	    {"plant", required_argument, NULL, 'p'},
	    {0},
	};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'n')
			ret->seeds = strtoull(optarg, NULL, 0);
		else if (option == 's')
			ret->start = strtoull(optarg, NULL, 0);
		else if (option == 'w')
			ret->watch = strtoull(optarg, NULL, 0);
		else if (option == 'e')
			ret->every_step = true;
		else if (option == 'v')
			ret->verbose = true;
		else if (option == 't')
			ret->trace = true;
		else if (option != 'p' || !parse_plant(optarg, &ret->plant))
			return false;
	}
	return optind == argc;
}

struct sums {
	uint64_t runs, steps, requests, faults, ready, cutovers, reverts, same, holes, failed;
};

static void tell_failure(const struct mirror_world *world)
{
	printf("seed %llu failed: %s\n", (unsigned long long)world->seed, world->failure);
	if (world->forced)
		printf("  %s %llu steps into the %s\n", world->forced_power ? "power cut" : "killed",
		    (unsigned long long)world->forced_steps, world->forced_revert ? "revert" : "cutover");
	printf("  replay: sim_mirror --start %llu --seeds 1 --verbose%s\n", (unsigned long long)world->seed,
	    world->forced ? " --every-step" : "");
}

/* Returns the trace. */
static uint64_t run_world(struct mirror_world *world, const struct arguments *arguments, struct sums *sums)
{
	bool good = mirror_world_run(world);
	uint64_t trace = ring_sim_trace(world->sim);

	if (!good && (arguments->plant == PLANTED_NOTHING || arguments->verbose))
		tell_failure(world);
	if (arguments->trace)
		printf("seed %llu trace %016llx steps %llu\n", (unsigned long long)world->seed,
		    (unsigned long long)trace, (unsigned long long)ring_sim_steps(world->sim));
	sums->runs++;
	sums->steps += ring_sim_steps(world->sim);
	sums->requests += world->requests;
	sums->faults += world->faults;
	sums->ready += world->ready;
	sums->cutovers += world->cutovers;
	sums->reverts += world->reverts;
	sums->same += world->same;
	sums->holes += world->holes;
	sums->failed += !good;
	mirror_world_done(world);
	return trace;
}

static uint64_t run_seed(uint64_t seed, const struct arguments *arguments, struct sums *sums)
{
	struct mirror_world world;

	mirror_world_init(&world, seed, arguments->verbose, arguments->watch);
	return run_world(&world, arguments, sums);
}

/* H25: a kill and a power cut at every step of a cutover and of a revert, until the switch is over before they strike. */
static void test_h25_crash_at_every_step(uint64_t seed, const struct arguments *arguments, struct sums *sums)
{
	for (unsigned form = 0; form < 4; form++) {
		bool struck = true;

		for (uint64_t steps = 0; struck && !sums->failed && steps < 2000; steps++) {
			struct mirror_world world;

			mirror_world_init(&world, seed, arguments->verbose, arguments->watch);
			world.forced = true;
			world.forced_power = form & 1;
			world.forced_revert = form & 2;
			world.forced_steps = steps;
			run_world(&world, arguments, sums);
			struck = world.struck;
		}
	}
}

static void run_all(const struct arguments *arguments, struct sums *sums)
{
	const struct arguments quiet = {.plant = PLANTED_END, .watch = UINT64_MAX};

	for (uint64_t i = 0; i < arguments->seeds; i++) {
		struct sums ignored = {0};
		uint64_t trace;

		if (arguments->every_step) {
			test_h25_crash_at_every_step(arguments->start + i, arguments, sums);
			continue;
		}
		trace = run_seed(arguments->start + i, arguments, sums);

		if (arguments->plant != PLANTED_NOTHING && sums->failed)
			return;
		/* The same seed gives the same run: else a failure could not be replayed. */
		if (i % 100 == 0 && run_seed(arguments->start + i, &quiet, &ignored) != trace) {
			printf("seed %llu is not repeatable\n", (unsigned long long)(arguments->start + i));
			sums->failed++;
		}
	}
}

int main(int argc, char **argv)
{
	const char *seed_text = getenv("BLKMOVE_SEED");
	struct arguments arguments = {.seeds = 2000, .start = 1, .watch = UINT64_MAX};
	struct sums sums = {0};
	struct timespec begin, end;

	if (seed_text) {
		arguments.start = strtoull(seed_text, NULL, 0);
		arguments.seeds = 1;
	}
	if (!parse(argc, argv, &arguments))
		return usage();
#ifdef BLKMOVE_PLANTS
	planted_mistake = arguments.plant;
#else
	if (arguments.plant != PLANTED_NOTHING)
		return usage();
#endif
	setvbuf(stdout, NULL, _IOLBF, 0);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	run_all(&arguments, &sums);
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%llu runs from seed %llu, %llu steps, %llu requests, %llu faults, %llu times ready, %llu "
	       "cutovers, "
	       "%llu reverts, %llu bytes found equal, %llu of holes, %.1f s: %llu failed\n",
	    (unsigned long long)sums.runs, (unsigned long long)arguments.start,
	    (unsigned long long)sums.steps, (unsigned long long)sums.requests,
	    (unsigned long long)sums.faults, (unsigned long long)sums.ready,
	    (unsigned long long)sums.cutovers, (unsigned long long)sums.reverts,
	    (unsigned long long)sums.same, (unsigned long long)sums.holes,
	    (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9,
	    (unsigned long long)sums.failed);
	if (arguments.plant == PLANTED_NOTHING)
		return sums.failed > 0;
	printf("the mistake %s was %s\n", plant_names[arguments.plant], sums.failed ? "found" : "NOT found");
	return sums.failed == 0;
}
