/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Live mirrors in simulated worlds, one for each seed, and the seed of a world in which something that must hold did not. With
 * --plant (in the program that is built with the mistakes): exit 0 when the mistake was found.
 */
#include "mirror_world.h"
#include "sim_line.h"

#include <stdio.h>

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

static bool run_world(struct sim_line *line, struct mirror_world *world)
{
	char more[80] = "";
	bool good;

	mirror_world_run(world);
	sim_line_count(line, "requests", world->requests);
	sim_line_count(line, "faults", world->faults);
	sim_line_count(line, "times ready", world->ready);
	sim_line_count(line, "cutovers", world->cutovers);
	sim_line_count(line, "reverts", world->reverts);
	sim_line_count(line, "bytes found equal", world->same);
	sim_line_count(line, "of holes", world->holes);
	sim_line_count(line, "digests checked", world->receipts);
	sim_line_count(line, "links of the authoritative leg lost", world->links_lost);
	sim_line_count(line, "times restored", world->restored);
	sim_line_count(line, "refused", world->refused);
	sim_line_count(line, "verifications", world->scrub.passes);
	sim_line_count(line, "flipped bits found", world->scrub.found);
	sim_line_count(line, "marked before", world->scrub.marked);
	if (world->forced)
		snprintf(more, sizeof(more), " --every-step # %s %llu steps into the %s",
		    world->forced_power ? "power cut" : "killed", (unsigned long long)world->forced_steps,
		    world->forced_revert ? "revert" : "cutover");
	good = sim_line_judge(line, world->seed, &world->story, more);
	mirror_world_done(world);
	return good;
}

static bool run_seed(struct sim_line *line, uint64_t seed)
{
	struct mirror_world world;

	mirror_world_init(&world, seed, line->verbose, line->watch);
	return run_world(line, &world);
}

/* H25: a kill and a power cut at every step of a cutover and of a revert, until the switch is over before they strike. */
static uint64_t test_h25_crash_at_every_step(struct sim_line *line, uint64_t seed)
{
	bool good = true;

	for (unsigned form = 0; form < 4; form++) {
		bool struck = true;

		for (uint64_t steps = 0; struck && good && steps < 2000; steps++) {
			struct mirror_world world;

			mirror_world_init(&world, seed, line->verbose, line->watch);
			world.forced = true;
			world.forced_power = form & 1;
			world.forced_revert = form & 2;
			world.forced_steps = steps;
			good = run_world(line, &world);
			struck = world.struck;
		}
	}
	return !good;
}

int main(int argc, char **argv)
{
	struct sim_line line = {.program = "sim_mirror",
	    .mistakes = mistakes,
	    .mistakes_count = sizeof(mistakes) / sizeof(mistakes[0]),
	    .can_watch = true,
	    .run = run_seed,
	    .run_every_step = test_h25_crash_at_every_step,
	    .seeds = 2000,
	    .start = 1};

	return sim_line_main(&line, argc, argv);
}
