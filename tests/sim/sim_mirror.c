/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Live mirrors in simulated worlds, one for each seed, and the seed of a world in which something that must hold did not. With
 * --plant (in the program that is built with the mistakes): exit 0 when the mistake was found.
 */
#include "mirror_world.h"
#include "sim_line.h"

#include <stdio.h>
#include <stdlib.h>

static const struct sim_mistake mistakes[] = {
    {"none", PLANTED_NOTHING},
    {"no-intent", PLANTED_NO_INTENT},
    {"clear-early", PLANTED_CLEAR_EARLY},
    {"no-lock", PLANTED_NO_LOCK},
    {"late-record", PLANTED_LATE_RECORD},
    {"lost-mark", PLANTED_LOST_MARK},
    {"one-flush", PLANTED_ONE_FLUSH},
    {"no-doubt", PLANTED_NO_DOUBT},
    {"no-restore", PLANTED_NO_RESTORE},
    {"stale-holes", PLANTED_STALE_HOLES},
};

struct runs {
	struct sim_line line;
	uint64_t watch;

	/* sums */
	uint64_t count, steps, requests, faults, ready, cutovers, reverts, same, holes, receipts;
	uint64_t links_lost, restored, refused, passes, found;
};

static bool take_option(void *data, int option, const char *text)
{
	((struct runs *)data)->watch = strtoull(text, NULL, 0);
	return true;
}

static void tell_failure(const struct mirror_world *world)
{
	printf("seed %llu failed: %s\n", (unsigned long long)world->seed, world->story.failure);
	if (world->forced)
		printf("  %s %llu steps into the %s\n", world->forced_power ? "power cut" : "killed",
		    (unsigned long long)world->forced_steps, world->forced_revert ? "revert" : "cutover");
	printf("  replay: sim_mirror --start %llu --seeds 1 --verbose%s\n", (unsigned long long)world->seed,
	    world->forced ? " --every-step" : "");
}

static void add(struct runs *runs, const struct mirror_world *world)
{
	runs->count++;
	runs->steps += ring_sim_steps(world->sim);
	runs->requests += world->requests;
	runs->faults += world->faults;
	runs->ready += world->ready;
	runs->cutovers += world->cutovers;
	runs->reverts += world->reverts;
	runs->same += world->same;
	runs->holes += world->holes;
	runs->receipts += world->receipts;
	runs->links_lost += world->links_lost;
	runs->restored += world->restored;
	runs->refused += world->refused;
	runs->passes += world->scrub.passes;
	runs->found += world->scrub.found;
}

static bool run_world(struct runs *runs, struct mirror_world *world, bool told, uint64_t *ret_trace)
{
	const struct sim_line *line = &runs->line;
	bool good = mirror_world_run(world);

	*ret_trace = ring_sim_trace(world->sim);
	if (told && !good && (line->plant == PLANTED_NOTHING || line->verbose))
		tell_failure(world);
	if (told && line->trace)
		printf("seed %llu trace %016llx steps %llu\n", (unsigned long long)world->seed,
		    (unsigned long long)*ret_trace, (unsigned long long)ring_sim_steps(world->sim));
	if (told)
		add(runs, world);
	mirror_world_done(world);
	return good;
}

static bool run_seed(void *data, uint64_t seed, bool told, uint64_t *ret_trace)
{
	struct runs *runs = data;
	struct mirror_world world;

	mirror_world_init(&world, seed, told && runs->line.verbose, told ? runs->watch : UINT64_MAX);
	return run_world(runs, &world, told, ret_trace);
}

/* H25: a kill and a power cut at every step of a cutover and of a revert, until the switch is over before they strike. */
static bool test_h25_crash_at_every_step(struct runs *runs, uint64_t seed)
{
	bool good = true;

	for (unsigned form = 0; form < 4; form++) {
		bool struck = true;

		for (uint64_t steps = 0; struck && good && steps < 2000; steps++) {
			struct mirror_world world;
			uint64_t trace;

			mirror_world_init(&world, seed, runs->line.verbose, runs->watch);
			world.forced = true;
			world.forced_power = form & 1;
			world.forced_revert = form & 2;
			world.forced_steps = steps;
			good = run_world(runs, &world, true, &trace);
			struck = world.struck;
		}
	}
	return good;
}

static uint64_t run_every_step(struct runs *runs)
{
	uint64_t failed = 0;

	for (uint64_t i = 0; i < runs->line.seeds; i++)
		failed += !test_h25_crash_at_every_step(runs, runs->line.start + i);
	return failed;
}

int main(int argc, char **argv)
{
	static const struct option more[] = {{"watch", required_argument, NULL, 256}, {0}};
	struct runs runs = {.watch = UINT64_MAX,
	    .line = {.program = "sim_mirror",
	        .more_usage = "[--watch SECTOR]",
	        .mistakes = mistakes,
	        .mistakes_count = sizeof(mistakes) / sizeof(mistakes[0]),
	        .more = more,
	        .take = take_option,
	        .run = run_seed,
	        .data = &runs,
	        .seeds = 2000,
	        .start = 1}};
	const struct sim_line *line = &runs.line;
	uint64_t failed;

	if (!sim_line_parse(&runs.line, argc, argv) || !sim_line_plant(line))
		return 2;
	failed = line->every_step ? run_every_step(&runs) : sim_line_run(line);
	printf("%llu runs from seed %llu, %llu steps, %llu requests, %llu faults, %llu times ready, %llu "
	       "cutovers, "
	       "%llu reverts, %llu bytes found equal, %llu of holes, %llu digests checked, %llu links of the "
	       "authoritative leg lost, "
	       "%llu times restored, %llu refused, %llu verifications, %llu flipped bits found, %.1f s: %llu "
	       "failed\n",
	    (unsigned long long)runs.count, (unsigned long long)line->start, (unsigned long long)runs.steps,
	    (unsigned long long)runs.requests, (unsigned long long)runs.faults,
	    (unsigned long long)runs.ready, (unsigned long long)runs.cutovers,
	    (unsigned long long)runs.reverts, (unsigned long long)runs.same, (unsigned long long)runs.holes,
	    (unsigned long long)runs.receipts, (unsigned long long)runs.links_lost,
	    (unsigned long long)runs.restored, (unsigned long long)runs.refused,
	    (unsigned long long)runs.passes, (unsigned long long)runs.found, sim_line_seconds(line),
	    (unsigned long long)failed);
	return sim_line_end(line, failed);
}
