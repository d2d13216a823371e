/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Live mirrors in simulated worlds, one for each seed, and the seed of a world in which something that must hold did not. With
 * --plant (in the program that is built with the mistakes): exit 0 when the mistake was found.
 */
#include "mirror_world.h"
#include "sim_line.h"

#include <stdio.h>
#include <stdlib.h>

#ifdef BLKMOVE_PLANTS
enum planted planted_mistake;
#endif

static const char *const plant_names[PLANTED_STAGE_UNFLUSHED] = {
    [PLANTED_NOTHING] = "none",
    [PLANTED_NO_INTENT] = "no-intent",
    [PLANTED_CLEAR_EARLY] = "clear-early",
    [PLANTED_NO_LOCK] = "no-lock",
    [PLANTED_LATE_RECORD] = "late-record",
    [PLANTED_LOST_MARK] = "lost-mark",
    [PLANTED_ONE_FLUSH] = "one-flush",
    [PLANTED_NO_DOUBT] = "no-doubt",
    [PLANTED_NO_RESTORE] = "no-restore",
    [PLANTED_STALE_HOLES] = "stale-holes",
};

struct arguments {
	struct sim_line line;
	uint64_t watch;
};

static bool take_option(void *data, int option, const char *text)
{
	((struct arguments *)data)->watch = strtoull(text, NULL, 0);
	return true;
}

struct sums {
	uint64_t runs, steps, requests, faults, ready, cutovers, reverts, same, holes, receipts, failed;
	uint64_t links_lost, restored, refused, passes, found;
};

static void tell_failure(const struct mirror_world *world)
{
	printf("seed %llu failed: %s\n", (unsigned long long)world->seed, world->story.failure);
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

	if (!good && (arguments->line.plant == PLANTED_NOTHING || arguments->line.verbose))
		tell_failure(world);
	if (arguments->line.trace)
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
	sums->receipts += world->receipts;
	sums->links_lost += world->links_lost;
	sums->restored += world->restored;
	sums->refused += world->refused;
	sums->passes += world->scrub.passes;
	sums->found += world->scrub.found;
	sums->failed += !good;
	mirror_world_done(world);
	return trace;
}

static uint64_t run_seed(uint64_t seed, const struct arguments *arguments, struct sums *sums)
{
	struct mirror_world world;

	mirror_world_init(&world, seed, arguments->line.verbose, arguments->watch);
	return run_world(&world, arguments, sums);
}

/* H25: a kill and a power cut at every step of a cutover and of a revert, until the switch is over before they strike. */
static void test_h25_crash_at_every_step(uint64_t seed, const struct arguments *arguments, struct sums *sums)
{
	for (unsigned form = 0; form < 4; form++) {
		bool struck = true;

		for (uint64_t steps = 0; struck && !sums->failed && steps < 2000; steps++) {
			struct mirror_world world;

			mirror_world_init(&world, seed, arguments->line.verbose, arguments->watch);
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
	const struct arguments quiet = {.line = {.plant = PLANTED_END}, .watch = UINT64_MAX};

	for (uint64_t i = 0; i < arguments->line.seeds; i++) {
		struct sums ignored = {0};
		uint64_t trace;

		if (arguments->line.every_step) {
			test_h25_crash_at_every_step(arguments->line.start + i, arguments, sums);
			continue;
		}
		trace = run_seed(arguments->line.start + i, arguments, sums);

		if (arguments->line.plant != PLANTED_NOTHING && sums->failed)
			return;
		/* The same seed gives the same run: else a failure could not be replayed. */
		if (i % 100 == 0 && run_seed(arguments->line.start + i, &quiet, &ignored) != trace) {
			printf(
			    "seed %llu is not repeatable\n", (unsigned long long)(arguments->line.start + i));
			sums->failed++;
		}
	}
}

int main(int argc, char **argv)
{
	static const struct option more[] = {{"watch", required_argument, NULL, 256}, {0}};
	struct arguments arguments = {.watch = UINT64_MAX,
	    .line = {.program = "sim_mirror",
	        .more_usage = "[--watch SECTOR]",
	        .mistakes = plant_names,
	        .mistakes_count = PLANTED_STAGE_UNFLUSHED,
	        .more = more,
	        .take = take_option,
	        .data = &arguments,
	        .seeds = 2000,
	        .start = 1}};
	const struct sim_line *line = &arguments.line;
	struct sums sums = {0};

	if (!sim_line_parse(&arguments.line, argc, argv))
		return 2;
#ifdef BLKMOVE_PLANTS
	planted_mistake = (enum planted)line->plant;
#else
	/* This one is built without them. */
	if (line->plant != PLANTED_NOTHING) {
		sim_line_wrong(line);
		return 2;
	}
#endif
	run_all(&arguments, &sums);
	printf("%llu runs from seed %llu, %llu steps, %llu requests, %llu faults, %llu times ready, %llu "
	       "cutovers, "
	       "%llu reverts, %llu bytes found equal, %llu of holes, %llu digests checked, %llu links of the "
	       "authoritative leg lost, "
	       "%llu times restored, %llu refused, %llu verifications, %llu flipped bits found, %.1f s: %llu "
	       "failed\n",
	    (unsigned long long)sums.runs, (unsigned long long)line->start, (unsigned long long)sums.steps,
	    (unsigned long long)sums.requests, (unsigned long long)sums.faults,
	    (unsigned long long)sums.ready, (unsigned long long)sums.cutovers,
	    (unsigned long long)sums.reverts, (unsigned long long)sums.same, (unsigned long long)sums.holes,
	    (unsigned long long)sums.receipts, (unsigned long long)sums.links_lost,
	    (unsigned long long)sums.restored, (unsigned long long)sums.refused,
	    (unsigned long long)sums.passes, (unsigned long long)sums.found, sim_line_seconds(line),
	    (unsigned long long)sums.failed);
	return sim_line_end(line, sums.failed);
}
