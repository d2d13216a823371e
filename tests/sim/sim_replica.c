/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replicas on two hosts in simulated worlds, one for each seed, and the seed of a world in which something that must hold did not. With
 * --plant (in the program that is built with the mistakes): exit 0 when the mistake was found.
 */
#include "replica_world.h"
#include "sim_line.h"

#include <stdio.h>
#include <stdlib.h>

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
};

struct runs {
	struct sim_line line;
	uint64_t watch;

	/* sums */
	uint64_t count, steps, requests, acknowledged, faults, kills, cuts, links, resyncs, promotions,
	    forced, splits, discards, checked, leases, handed;
};

static bool take_option(void *data, int option, const char *text)
{
	((struct runs *)data)->watch = strtoull(text, NULL, 0);
	return true;
}

static void add(struct runs *runs, const struct replica_world *world)
{
	runs->count++;
	runs->steps += ring_sim_steps(world->sim);
	runs->requests += world->requests;
	runs->acknowledged += world->acknowledged;
	runs->faults += world->faults;
	runs->kills += world->kills;
	runs->cuts += world->cuts;
	runs->links += world->links;
	runs->resyncs += world->resyncs;
	runs->promotions += world->promotions;
	runs->forced += world->forced;
	runs->splits += world->splits;
	runs->discards += world->discards;
	runs->checked += world->checked;
	runs->leases += world->leases > 0;
	runs->handed += world->handed;
}

static bool run_seed(void *data, uint64_t seed, bool told, uint64_t *ret_trace)
{
	static struct replica_world world;
	struct runs *runs = data;
	const struct sim_line *line = &runs->line;
	bool good;

	replica_world_init(&world, seed, told && line->verbose, told ? runs->watch : UINT64_MAX);
	good = replica_world_run(&world);
	*ret_trace = ring_sim_trace(world.sim);
	if (told && !good && (line->plant == 0 || line->verbose))
		printf("seed %llu (%s) failed: %s\n  replay: sim_replica --start %llu --seeds 1 --verbose\n",
		    (unsigned long long)seed, replicate_ack_name(world.scenario.ack), world.story.failure,
		    (unsigned long long)seed);
	if (told && line->trace)
		printf("seed %llu trace %016llx steps %llu\n", (unsigned long long)seed,
		    (unsigned long long)*ret_trace, (unsigned long long)ring_sim_steps(world.sim));
	if (told)
		add(runs, &world);
	replica_world_done(&world);
	return good;
}

int main(int argc, char **argv)
{
	static const struct option more[] = {{"watch", required_argument, NULL, 256}, {0}};
	struct runs runs = {.watch = UINT64_MAX,
	    .line = {.program = "sim_replica",
	        .more_usage = "[--watch SECTOR]",
	        .mistakes = mistakes,
	        .mistakes_count = sizeof(mistakes) / sizeof(mistakes[0]),
	        .more = more,
	        .take = take_option,
	        .run = run_seed,
	        .data = &runs,
	        .seeds = 3000,
	        .start = 1}};
	const struct sim_line *line = &runs.line;
	uint64_t failed;

	if (!sim_line_parse(&runs.line, argc, argv) || !sim_line_plant(line))
		return 2;
	failed = sim_line_run(line);
	printf("%llu runs from seed %llu, %llu steps, %llu requests, %llu writes acknowledged, %llu faults, "
	       "%llu kills, %llu losses of power, %llu links, %llu resyncs, %llu promotions, %llu by force, "
	       "%llu orders in split brains, %llu discards, %llu orders to hand over, leases in %llu worlds, "
	       "%llu looks, %.1f s: %llu failed\n",
	    (unsigned long long)runs.count, (unsigned long long)line->start, (unsigned long long)runs.steps,
	    (unsigned long long)runs.requests, (unsigned long long)runs.acknowledged,
	    (unsigned long long)runs.faults, (unsigned long long)runs.kills, (unsigned long long)runs.cuts,
	    (unsigned long long)runs.links, (unsigned long long)runs.resyncs,
	    (unsigned long long)runs.promotions, (unsigned long long)runs.forced,
	    (unsigned long long)runs.splits, (unsigned long long)runs.discards,
	    (unsigned long long)runs.handed, (unsigned long long)runs.leases,
	    (unsigned long long)runs.checked, sim_line_seconds(line), (unsigned long long)failed);
	return sim_line_end(line, failed);
}
