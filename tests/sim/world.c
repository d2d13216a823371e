/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Runs one seed: attempts with faults, each taken up from the journal by the next, then one without. */
#include "world.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STEPS_MAX 3000000u

/* What the job asks for */

static bool is_dead(const struct world *world)
{
	return ring_sim_killed(world->client);
}

int world_open_disk(
    struct world *world, struct ring *ring, bool target, bool write, struct block **ret, struct error *error)
{
	const struct scenario *scenario = &world->scenario;
	struct volume_options options = {
	    .sim = world->sim,
	    .name = target ? "target" : "source",
	    .fd = target ? world->target_fd : world->source_fd,
	    .fd_direct = target ? world->target_direct : world->source_direct,
	    .sector_size = scenario->sector_size,
	    .direct_align = scenario->sector_size > 512 ? scenario->sector_size : 512,
	    .device = scenario->device,
	    .writable = write,
	    .hole_seed = scenario->hole_seed,
	    .generation = target ? world->target_generation : world->generation,
	    .plant = target ? world->plant : PLANT_NONE,
	};

	if (target && write && !scenario->target_exists && !world->target_made)
		options.zeroed = world->target_made = true;
	return volume_new(ret, ring, &options, error);
}

static int open_block(void *data, bool target, const struct block_open_options *options, struct block **ret,
    struct error *error)
{
	struct world *world = data;
	enum place place = target ? world->scenario.target : world->scenario.source;

	if (is_dead(world))
		return error_set(error, -ECANCELED, "the client is dead");
	if (place == PLACE_REMOTE)
		return remote_connect(world, target, options, ret, error);
	return world_open_disk(world, world->client, target, options->write, ret, error);
}

static int open_journal(void *data, bool create)
{
	struct world *world = data;

	if (is_dead(world))
		return -ECANCELED;
	if (!create)
		return world->journal_exists ? world->journal_fd : -ENOENT;
	ring_sim_disk_resize(world->sim, world->journal_fd, 0);
	world->journal_exists = true;
	world->journal_generation = world->generation;
	return world->journal_fd;
}

static void remove_journal(void *data)
{
	struct world *world = data;

	if (!is_dead(world))
		world->journal_exists = false;
}

static void state_changed(void *data, enum job_state state)
{
	struct world *world = data;

	if (world->crashed)
		return;
	world_say(world, "%s", job_state_name(state));
	if (state == JOB_COMPLETED)
		check_completed(world);
}

static void warning(void *data, const char *text)
{
	world_say((struct world *)data, "warning: %s", text);
}

static void step_hook(void *data)
{
	check_step(data);
}

/* Attempts */

static void begin_attempt(struct world *world)
{
	world->crashed = world->cancelled = world->completed = false;
	world->position = 0;
	world->faults_count = 0;
	world->target_connected = false;
	world->client = ring_sim_host_new(world->sim, "client");
	if (!world->last_attempt)
		world_plan_faults(world);
}

static struct job_options options_of(
    struct world *world, const struct endpoint *source, const struct endpoint *target)
{
	const struct scenario *scenario = &world->scenario;

	return (struct job_options){
	    .kind = scenario->kind,
	    .source = source,
	    .target = target,
	    .resume = true,
	    .verify = scenario->verify,
	    .detect_zeroes = scenario->detect_zeroes,
	    .ignore_holes = scenario->ignore_holes,
	    .list_read_errors = scenario->list_read_errors,
	    .size_mismatch = SIZE_ZERO_TAIL,
	    .retries = 8,
	    .session = SESSION_FIRST + world->sessions++,
	    .checkpoint_ns = scenario->checkpoint_ns,
	    .data = world,
	    .state_changed = state_changed,
	    .warning = warning,
	    .open_block = open_block,
	    .open_journal = open_journal,
	    .remove_journal = remove_journal,
	};
}

static enum job_result attempt(struct world *world)
{
	const struct endpoint source = {.kind = ENDPOINT_PATH, .name = "source", .path = "source"};
	const struct endpoint target = {.kind = ENDPOINT_PATH, .name = "target", .path = "target"};
	const struct job_options options = options_of(world, &source, &target);
	struct error error = {0};
	enum job_result result;

	begin_attempt(world);
	if (job_new(&world->job, world->client, &options, &error) < 0)
		abort();
	result = job_run(world->job, &error);
	world_say(world, "result %d%s %s", (int)result, world->crashed ? " (crashed)" : "", error.text);
	if (ring_sim_error(world->sim)) {
		world_fail(world, "the loop ended: %s", strerror(-ring_sim_error(world->sim)));
		return result;
	}
	ring_sim_forget_steps(world->sim);
	if (result == JOB_BAD_RANGES && !world->crashed)
		check_content(world);
	world->job = job_free(world->job);
	remote_end(world);
	world->client = ring_free(world->client);
	world_repair(world);
	check_attempt(world, result, &error);
	return result;
}

void world_init(struct world *world, uint64_t seed, enum plant plant, bool verbose)
{
	*world = (struct world){.seed = seed, .plant = plant, .story.verbose = verbose};
	list_init(&world->agents);
	world->sim = ring_sim_new(seed, STEPS_MAX);
	world->story.sim = world->sim;
	scenario_init(&world->scenario, ring_sim_rand(world->sim));
	world_make_disks(world);
	ring_sim_on_step(world->sim, step_hook, world);
}

void world_done(struct world *world)
{
	free(world->source_data);
	free(world->target_before);
	/* A loop that broke leaves operations that nobody will end: the seed has failed, let them be. */
	if (!ring_sim_error(world->sim))
		ring_sim_free(world->sim);
}

static void describe(const struct world *world)
{
	const struct scenario *scenario = &world->scenario;

	world_say(world, "%s %s -> %s, %llu -> %llu bytes, sector %u%s%s%s%s%s%s, %u attempts with faults",
	    scenario->kind == JOB_COPY ? "copy" : "sync",
	    scenario->source == PLACE_LOCAL ? "local" : "remote",
	    scenario->target == PLACE_LOCAL ? "local" : "remote", (unsigned long long)scenario->source_size,
	    (unsigned long long)scenario->target_size, scenario->sector_size,
	    scenario->verify ? ", verify" : "", scenario->device ? ", device" : "",
	    scenario->direct ? ", direct" : "", scenario->target_exists ? ", reused target" : "",
	    scenario->hole_seed ? ", holes" : "", scenario->list_read_errors ? ", lists read errors" : "",
	    scenario->attempts);
}

bool world_run(struct world *world)
{
	bool fresh = true; /* nothing to resume */

	if (world->forced)
		world->scenario.attempts = 1;
	describe(world);
	for (unsigned i = 0; i <= world->scenario.attempts && !world->story.failures; i++) {
		enum job_result result;

		world->last_attempt = i == world->scenario.attempts;
		/* After a good end there would be nothing to do. */
		if (i > 0 && !world->forced && (fresh || rand_below(ring_sim_rand(world->sim), 8) == 0)) {
			world_say(world, "the source changes");
			world_change_source(world);
		}
		result = attempt(world);
		fresh = !world->crashed && (result == JOB_OK || result == JOB_BAD_RANGES);
	}
	return world->story.failures == 0;
}
