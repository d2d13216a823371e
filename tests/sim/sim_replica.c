/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replicas on two hosts in simulated worlds, one for each seed, and the seed of a world in which something that must hold did not. With
 * --plant (in the program that is built with the mistakes): exit 0 when the mistake was found.
 */
#include "replica_world.h"
#include "sim_line.h"

#include <stdio.h>
#include <stdlib.h>

#define TWICE 50u /* of so many seeds one is run again, and must be the same */

#ifdef BLKMOVE_PLANTS
enum planted planted_mistake;
#endif

static const struct {
	const char *name;
	enum planted mistake;
} plants[] = {
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

#define PLANTS (sizeof(plants) / sizeof(plants[0]))

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
	uint64_t runs, steps, requests, acknowledged, faults, kills, cuts, links, resyncs, promotions, forced,
	    splits, discards, checked, failed;
};

static void add(struct sums *sums, const struct replica_world *world)
{
	sums->runs++;
	sums->steps += ring_sim_steps(world->sim);
	sums->requests += world->requests;
	sums->acknowledged += world->acknowledged;
	sums->faults += world->faults;
	sums->kills += world->kills;
	sums->cuts += world->cuts;
	sums->links += world->links;
	sums->resyncs += world->resyncs;
	sums->promotions += world->promotions;
	sums->forced += world->forced;
	sums->splits += world->splits;
	sums->discards += world->discards;
	sums->checked += world->checked;
}

/* Returns the trace. */
static uint64_t run_seed(uint64_t seed, const struct arguments *arguments, bool quiet, struct sums *sums)
{
	static struct replica_world world;
	const struct sim_line *line = &arguments->line;
	uint64_t trace;
	bool good;

	replica_world_init(&world, seed, line->verbose && !quiet, quiet ? UINT64_MAX : arguments->watch);
	good = replica_world_run(&world);
	trace = ring_sim_trace(world.sim);
	if (!good && !quiet && (line->plant == 0 || line->verbose))
		printf("seed %llu (%s) failed: %s\n  replay: sim_replica --start %llu --seeds 1 --verbose\n",
		    (unsigned long long)seed, replicate_ack_name(world.scenario.ack), world.story.failure,
		    (unsigned long long)seed);
	if (line->trace && !quiet)
		printf("seed %llu trace %016llx steps %llu\n", (unsigned long long)seed,
		    (unsigned long long)trace, (unsigned long long)ring_sim_steps(world.sim));
	add(sums, &world);
	sums->failed += !good;
	replica_world_done(&world);
	return trace;
}

static void run_all(const struct arguments *arguments, struct sums *sums)
{
	const struct sim_line *line = &arguments->line;

	for (uint64_t i = 0; i < line->seeds && !(line->plant && sums->failed); i++) {
		struct sums ignored = {0};
		uint64_t seed = line->start + i, trace = run_seed(seed, arguments, false, sums);

		/* The same seed gives the same run: else a failure could not be replayed. */
		if (i % TWICE == 0 && run_seed(seed, arguments, true, &ignored) != trace) {
			printf("seed %llu is not repeatable\n", (unsigned long long)seed);
			sums->failed++;
		}
	}
}

int main(int argc, char **argv)
{
	static const struct option more[] = {{"watch", required_argument, NULL, 256}, {0}};
	const char *names[PLANTS];
	struct arguments arguments = {.watch = UINT64_MAX,
	    .line = {.program = "sim_replica",
	        .more_usage = "[--watch SECTOR]",
	        .mistakes = names,
	        .mistakes_count = PLANTS,
	        .more = more,
	        .take = take_option,
	        .data = &arguments,
	        .seeds = 3000,
	        .start = 1}};
	const struct sim_line *line = &arguments.line;
	struct sums sums = {0};

	for (unsigned i = 0; i < PLANTS; i++)
		names[i] = plants[i].name;
	if (!sim_line_parse(&arguments.line, argc, argv))
		return 2;
#ifdef BLKMOVE_PLANTS
	planted_mistake = plants[line->plant].mistake;
#else
	/* This one is built without them. */
	if (line->plant) {
		sim_line_wrong(line);
		return 2;
	}
#endif
	run_all(&arguments, &sums);
	printf("%llu runs from seed %llu, %llu steps, %llu requests, %llu writes acknowledged, %llu faults, "
	       "%llu kills, %llu losses of power, %llu links, %llu resyncs, %llu promotions, %llu by force, "
	       "%llu orders in split brains, %llu discards, %llu looks, %.1f s: %llu failed\n",
	    (unsigned long long)sums.runs, (unsigned long long)line->start, (unsigned long long)sums.steps,
	    (unsigned long long)sums.requests, (unsigned long long)sums.acknowledged,
	    (unsigned long long)sums.faults, (unsigned long long)sums.kills, (unsigned long long)sums.cuts,
	    (unsigned long long)sums.links, (unsigned long long)sums.resyncs,
	    (unsigned long long)sums.promotions, (unsigned long long)sums.forced,
	    (unsigned long long)sums.splits, (unsigned long long)sums.discards,
	    (unsigned long long)sums.checked, sim_line_seconds(line), (unsigned long long)sums.failed);
	return sim_line_end(line, sums.failed);
}
