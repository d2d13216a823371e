/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replicas on two hosts in simulated worlds, one for each seed, and the seed of a world in which something that must hold did not. With
 * --plant (in the program that is built with the mistakes): exit 0 when the mistake was found.
 */
#include "replica_world.h"
#include "sim_line.h"

static const struct sim_mistake mistakes[] = {
    {"none", PLANTED_NOTHING},
    {"no-intent", PLANTED_NO_INTENT},
    {"clear-early", PLANTED_CLEAR_EARLY},
    {"no-barrier", PLANTED_NO_BARRIER},
    {"idle-flush", PLANTED_IDLE_FLUSH},
    {"early-answers", PLANTED_EARLY_ANSWERS},
    {"no-base", PLANTED_NO_BASE},
    {"wrong-source", PLANTED_WRONG_SOURCE},
    {"early-empty", PLANTED_EARLY_EMPTY},
    {"early-arrived", PLANTED_EARLY_ARRIVED},
    {"early-serve", PLANTED_EARLY_SERVE},
    {"late-writes", PLANTED_LATE_WRITES},
    {"no-follows", PLANTED_NO_FOLLOWS},
    {"no-grown", PLANTED_NO_GROWN},
    {"clean-end", PLANTED_CLEAN_END},
    {"early-divert", PLANTED_EARLY_DIVERT},
    {"any-boot", PLANTED_ANY_BOOT},
    {"no-outdated", PLANTED_NO_OUTDATED},
};

static bool run_seed(struct sim_line *line, uint64_t seed)
{
	static struct replica_world world;
	bool good;

	replica_world_init(&world, seed, line->verbose, line->watch);
	replica_world_run(&world);
	sim_line_count(line, "requests", world.requests);
	sim_line_count(line, "writes acknowledged", world.acknowledged);
	sim_line_count(line, "faults", world.faults);
	sim_line_count(line, "kills", world.kills);
	sim_line_count(line, "losses of power", world.cuts);
	sim_line_count(line, "links", world.links);
	sim_line_count(line, "resyncs", world.resyncs);
	sim_line_count(line, "promotions", world.promotions);
	sim_line_count(line, "by force", world.forced);
	sim_line_count(line, "orders in split brains", world.splits);
	sim_line_count(line, "discards", world.discards);
	sim_line_count(line, "orders to hand over", world.handed);
	sim_line_count(line, "worlds with leases", world.leases > 0);
	sim_line_count(line, "orders to be larger", world.resizes);
	sim_line_count(line, "sizes that grew", world.grown);
	sim_line_count(line, "volumes with data", world.foreign);
	sim_line_count(line, "of them given up", world.given_up);
	sim_line_count(line, "verifications", world.scrub.passes);
	sim_line_count(line, "differences marked", world.scrub.marked);
	sim_line_count(line, "hooks", world.hooks);
	sim_line_count(line, "maps lost or damaged", world.maps_lost);
	sim_line_count(line, "flushes that failed", world.flushes_failed);
	sim_line_count(line, "dead disks borne", world.borne);
	sim_line_count(line, "writes on them", world.diverted);
	sim_line_count(line, "given over", world.given_over);
	sim_line_count(line, "looks", world.checked);
	good = sim_line_judge(line, seed, &world.story, "");
	replica_world_done(&world);
	return good;
}

int main(int argc, char **argv)
{
	struct sim_line line = {.program = "sim_replica",
	    .mistakes = mistakes,
	    .mistakes_count = sizeof(mistakes) / sizeof(mistakes[0]),
	    .can_watch = true,
	    .run = run_seed,
	    .seeds = 3000,
	    .start = 1};

	return sim_line_main(&line, argc, argv);
}
