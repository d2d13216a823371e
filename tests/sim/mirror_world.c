/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The lives of a mirror: see mirror_world.h. */
#include "mirror_world.h"

#include "base/bytes.h"
#include "block/digest_root.h"
#include "filter/filter.h"
#include "volume.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEPS_MAX   600000u
#define GOAL_STEPS  200000u /* in which the last life must come to its end */
#define TIMEOUT_NS  300000000u
#define CHECK_EVERY 32u
#define CHECK_LARGE 4096u
#define TAIL        0xa5

void mirror_world_stop(struct mirror_world *world)
{
	if (world->job)
		mirror_job_stop(world->job);
}

/* Sees when a flush of the authoritative leg fails: from that moment on what was not flushed may be gone. */

struct flush_watch {
	struct filter filter;
	struct mirror_world *world;
	enum mirror_leg_index leg;
};

static void watch_answered(struct filter *filter, struct block_io *io, int res)
{
	struct flush_watch *watch = container_of(filter, struct flush_watch, filter);
	struct mirror_world *world = watch->world;

	if (res < 0 && res != -ENOTCONN && !world->crashed && mirror_job_block(world->job) &&
	    mirror_authoritative(mirror_job_block(world->job)) == watch->leg) {
		mirror_world_say(world, "a flush of the authoritative leg failed");
		model_lost(world->model);
		world->losses++;
	}
	block_complete(io, res);
}

static void watch_submit(struct block *block, struct block_io *io)
{
	if (io->op == BLOCK_FLUSH || io->flags & BLOCK_FUA)
		filter_child(filter_of(block), io, watch_answered);
	else
		filter_forward(filter_of(block), io);
}

static void watch_free(struct block *block)
{
	filter_done(filter_of(block));
	free(container_of(filter_of(block), struct flush_watch, filter));
}

static void watch_new(
    struct block **ret, struct mirror_world *world, enum mirror_leg_index leg, struct block *below)
{
	static const struct block_driver driver = {.name = "flush-watch",
	    .submit = watch_submit,
	    .facts = filter_facts,
	    .link_error = filter_link_error,
	    .free = watch_free};
	struct flush_watch *watch = calloc(1, sizeof(*watch));

	if (!watch)
		abort();
	filter_init(&watch->filter, &driver, below);
	watch->world = world;
	watch->leg = leg;
	*ret = &watch->filter.block;
}

/* What the job asks for */

int mirror_world_volume(struct mirror_world *world, struct ring *host, enum mirror_leg_index leg,
    struct block **ret, struct error *error)
{
	struct volume_options options = {.sim = world->sim,
	    .name = leg == MIRROR_SOURCE ? "source" : "target",
	    .fd = world->fds[leg],
	    .fd_direct = -1,
	    .sector_size = MODEL_SECTOR,
	    .direct_align = MODEL_SECTOR,
	    .writable = true,
	    .hole_seed = world->scenario.sparse ? world->seed + 1 : 0,
	    .boot = 1 + world->far[leg].boots,
	    .late_holes = world->scenario.sparse};

	/* Whoever opens a file to ask for its holes writes out first what is dirty. */
	if (world->scenario.sparse)
		ring_sim_disk_settle(world->sim, world->fds[leg]);
	return volume_new(ret, host, &options, error);
}

static int open_leg(void *data, enum mirror_leg_index leg, struct block **ret, struct error *error)
{
	struct mirror_world *world = data;
	struct block *volume;
	int res;

	if (ring_sim_killed(world->host))
		return error_set(error, -ECANCELED, "the host is dead");
	if (world->follower_off)
		return error_set(error, -EIO, "it has no power");
	res = world->scenario.far[leg] ? mirror_far_open(world, leg, &volume, error)
	                               : mirror_world_volume(world, world->host, leg, &volume, error);
	if (res == 0)
		watch_new(ret, world, leg, volume);
	return res;
}

static int open_map(void *data, bool create)
{
	struct mirror_world *world = data;

	if (!create && !world->map_exists)
		return -ENOENT;
	world->map_exists = true;
	return world->map_fd;
}

/* Checks */

/* What lies behind the mirror's end on the target is none of its business. */
static void check_tail(struct mirror_world *world)
{
	uint64_t size;
	const uint8_t *data = ring_sim_disk_data(world->sim, world->fds[MIRROR_TARGET], &size);

	for (uint64_t at = world->scenario.sectors * MODEL_SECTOR; at < size; at++)
		if (data[at] != TAIL)
			mirror_world_fail(world,
			    "byte %llu of the target, behind the mirror's end, was written",
			    (unsigned long long)at);
	if (block_info(mirror_job_block(world->job))->size != world->scenario.sectors * MODEL_SECTOR)
		mirror_world_fail(world, "clients see another size");
}

static uint64_t first_difference(struct mirror_world *world)
{
	uint64_t size;
	const uint8_t *source = ring_sim_disk_data(world->sim, world->fds[MIRROR_SOURCE], &size);
	const uint8_t *target = ring_sim_disk_data(world->sim, world->fds[MIRROR_TARGET], &size);

	if (!memcmp(source, target, world->scenario.sectors * MODEL_SECTOR))
		return UINT64_MAX;
	for (uint64_t i = 0; i < world->scenario.sectors; i++)
		if (memcmp(source + i * MODEL_SECTOR, target + i * MODEL_SECTOR, MODEL_SECTOR) &&
		    !model_sector_busy(world->model, i) && i != world->scrub.planted)
			return i;
	return UINT64_MAX;
}

/* What is said to be equal is. */
static void check_equal(struct mirror_world *world, const struct mirror_job_status *status)
{
	uint64_t sector;

	/* The mirror's own look must find nothing that the map does not know. */
	if (status->differing)
		mirror_world_fail(
		    world, "verify found %llu bytes that differ", (unsigned long long)status->differing);
	/* A power cut that nobody has noticed yet. */
	if ((status->state != CUTOVER_READY && !status->revert_ready) || world->follower_off ||
	    status->away_ns || world->far[MIRROR_SOURCE].down || world->far[MIRROR_TARGET].down)
		return;
	if (status->dirty || !status->attached)
		mirror_world_fail(world, "%s, but %llu bytes are dirty", cutover_state_name(status->state),
		    (unsigned long long)status->dirty);
	sector = first_difference(world);
	if (sector != UINT64_MAX)
		mirror_world_fail(world, "%s, but sector %llu differs", cutover_state_name(status->state),
		    (unsigned long long)sector);
}

static void check_step(struct mirror_world *world)
{
	struct mirror_job_status status;

	mirror_job_status(world->job, &status);
	if (status.state != CUTOVER_CUTTING && !cutover_is_end(status.state) &&
	    status.authoritative != cutover_authority(status.state))
		mirror_world_fail(world, "%s, but leg %d is authoritative", cutover_state_name(status.state),
		    (int)status.authoritative);
	if (ring_sim_steps(world->sim) % (world->scenario.large ? CHECK_LARGE : CHECK_EVERY) == 0)
		check_equal(world, &status);
}

static void root_of(
    struct mirror_world *world, unsigned leg, const struct digest_key *key, uint8_t ret[DIGEST_BYTES])
{
	uint8_t leaves[DIGEST_CHUNK / DIGEST_LEAF * DIGEST_BYTES];
	uint64_t size, length = world->scenario.sectors * MODEL_SECTOR;
	const uint8_t *data = ring_sim_disk_data(world->sim, world->fds[leg], &size);
	struct digest_root root;

	if (digest_root_init(&root, key, NULL) < 0)
		abort();
	for (uint64_t at = 0; at < length; at += DIGEST_CHUNK) {
		uint64_t n = min_u64(DIGEST_CHUNK, length - at);

		digest_leaves(root.digest, data + at, n, leaves);
		digest_root_add(&root, at, n, leaves);
	}
	memcpy(ret, root.sum, DIGEST_BYTES);
	digest_root_done(&root);
}

/* What a receipt says of both legs at a switch, when it says that nothing was written since they were looked at. */
static void check_digests(struct mirror_world *world)
{
	const struct mirror_job_digests *digests = mirror_job_digests(world->job);
	uint8_t root[DIGEST_BYTES];

	if (!digests->known || digests->written_since)
		return;
	world->receipts++;
	for (unsigned i = 0; i < MIRROR_LEGS; i++) {
		root_of(world, i, &digests->key, root);
		if (memcmp(root, digests->roots[i], DIGEST_BYTES))
			mirror_world_fail(world, "the digest of leg %u at the switch is wrong", i);
	}
}

/* Each switch has a name of its own, and is told once. */
static void switched(void *data)
{
	struct mirror_world *world = data;
	struct mirror_job_status status;

	if (world->crashed)
		return;
	mirror_job_status(world->job, &status);
	if (status.generation == 0 ||
	    (status.nonce == world->told_nonce && status.generation <= world->told_generation))
		mirror_world_fail(
		    world, "switch %llu was told before", (unsigned long long)status.generation);
	world->told_nonce = status.nonce;
	world->told_generation = status.generation;
}

static void state_changed(void *data, enum cutover_state state)
{
	struct mirror_world *world = data;

	if (world->crashed)
		return;
	mirror_world_say(world, "%s", cutover_state_name(state));
	world->state = state;
	world->ready += state == CUTOVER_READY;
	world->cutovers += state == CUTOVER_SWITCHED;
	world->reverts += state == CUTOVER_REVERTED;
	if (state == CUTOVER_SWITCHED || state == CUTOVER_REVERTED)
		check_digests(world);
	/* What was planned for the follower is not for the leg that clients now depend on. */
	if (state == CUTOVER_SWITCHED || state == CUTOVER_REVERTED) {
		mirror_faults_repair(world);
		/* All was flushed just before, so a power cut since then took nothing. */
		for (unsigned i = 0; i < MIRROR_LEGS; i++)
			ring_sim_power_on(world->sim, world->fds[i]);
		world->follower_off = false;
	}
	if (world->forced && world->life == 0 &&
	    state == (world->forced_revert ? CUTOVER_SWITCHED : CUTOVER_CUTTING))
		world->end_step = ring_sim_steps(world->sim) + world->forced_steps;
	/* The most delicate moments are in a switch and soon after it. */
	if (!world->forced &&
	    (state == CUTOVER_CUTTING || state == CUTOVER_SWITCHED || state == CUTOVER_REVERTED) &&
	    rand_one_in(ring_sim_rand(world->sim), 6))
		world->end_step = ring_sim_steps(world->sim) + rand_below(ring_sim_rand(world->sim), 150);
	if (world->last_life)
		world->switches += state == CUTOVER_SWITCHED || state == CUTOVER_REVERTED;
}

static void warning(void *data, const char *text)
{
	struct mirror_world *world = data;

	world->restored += strstr(text, "were written to it from the other leg") != NULL;
	mirror_world_say(world, "warning: %s", text);
}

/* The last life: over to the target, perhaps back and over again, and to an end. */
static void pursue_goals(struct mirror_world *world)
{
	uint64_t steps = ring_sim_steps(world->sim) - world->begun_step;
	struct mirror_job_status status;

	if (steps > GOAL_STEPS) {
		mirror_world_fail(world, "it does not come to its end: %s", cutover_state_name(world->state));
		return;
	}
	if (ring_sim_steps(world->sim) % 50 || steps < 2000 || mirror_scrub_waits(world))
		return;
	mirror_job_status(world->job, &status);
	if (world->switches < 1 + world->seed % 3) {
		if (status.state == CUTOVER_READY)
			mirror_job_cutover(world->job);
		else if (status.revert_ready)
			mirror_job_revert(world->job);
		return;
	}
	world->quiet = true;
	if (world->in_flight || !(status.state == CUTOVER_READY || status.revert_ready))
		return;
	mirror_clients_check_leg(world, MIRROR_SOURCE);
	mirror_clients_check_leg(world, MIRROR_TARGET);
	if (first_difference(world) != UINT64_MAX)
		mirror_world_fail(world, "the legs differ at the end");
	if (mirror_job_finish(world->job) < 0)
		mirror_job_abort(world->job);
}

static void step_hook(void *data)
{
	struct mirror_world *world = data;

	if (!world->serving || world->crashed || world->story.failures)
		return;
	check_step(world);
	mirror_clients_step(world);
	mirror_faults_step(world);
	if (!world->crashed)
		mirror_scrub_step(world);
	if (world->last_life && !world->crashed)
		pursue_goals(world);
}

/* Lives */

static struct mirror_job_options options_of(struct mirror_world *world)
{
	const struct mirror_scenario *scenario = &world->scenario;

	return (struct mirror_job_options){.resume = world->map_exists,
	    .nonce = world->seed + 1,
	    .region_size = scenario->region_size,
	    .records = scenario->records,
	    .compare = scenario->compare,
	    .larger_target = scenario->tail > 0,
	    .verify = scenario->verify,
	    .copy_mode = world->last_life ? MIRROR_COPY_AUTO : scenario->copy_mode,
	    .governor = scenario->governor,
	    .follower_timeout_ns = TIMEOUT_NS,
	    .source_timeout_ns = scenario->source_timeout_ns,
	    .settle_ns = 100000000,
	    .settle_busy_ns = 100000000,
	    .settle_keep = 1,
	    .stable_max = scenario->stable_max,
	    .retry_ns = 50000000,
	    .cutover_window_ns = 200000000,
	    .late = scenario->late_wait && !world->last_life ? MIRROR_LATE_WAIT : MIRROR_LATE_DEFER,
	    .data = world,
	    .open_leg = open_leg,
	    .open_map = open_map,
	    .state_changed = state_changed,
	    .switched = switched,
	    .warning = warning};
}

static void begin_life(struct mirror_world *world)
{
	struct rand *rand = ring_sim_rand(world->sim);
	uint64_t now = ring_sim_steps(world->sim);

	world->crashed = world->quiet = world->follower_off = world->leader_cut = false;
	world->losses = world->losses_told = 0;
	if (world->forced)
		world->scenario.lives = 2;
	world->last_life = world->life + 1 >= world->scenario.lives;
	world->host = ring_sim_host_new(world->sim, "host");
	world->begun_step = now;
	world->end_step = now + rand_between(rand, 200, 8000);
	world->fault_step = now + rand_below(rand, 2000);
	world->repair_step = UINT64_MAX;
	if (world->forced)
		world->end_step = world->fault_step = UINT64_MAX;
	mirror_world_say(world, "life %u%s", world->life, world->last_life ? ", the last" : "");
}

static void end_life(struct mirror_world *world)
{
	struct mirror_job_status status;

	mirror_job_status(world->job, &status);
	world->same += status.same;
	world->holes += status.holes;
	world->refused += status.refused;
	if (mirror_job_block(world->job))
		check_tail(world);
	world->links_lost +=
	    mirror_job_block(world->job) ? mirror_counts(mirror_job_block(world->job))->leader_lost : 0;
	/* Clients of a mirror that has ended go on with its last leg; here they come to an end. */
	world->quiet = true;
	while (world->in_flight && ring_sim_step(world->sim) == 0)
		;
	if (ring_sim_error(world->sim)) {
		mirror_world_fail(world, "the loop ended: %s", strerror(-ring_sim_error(world->sim)));
		return;
	}
	world->serving = false;
	world->job = mirror_job_free(world->job);
	mirror_far_end(world);
	world->host = ring_free(world->host);
	/* Whoever goes on now was told that something may be lost. */
	if (status.refused)
		model_crash(world->model, true);
	if (world->crashed) {
		for (unsigned i = 0; i < MIRROR_LEGS; i++)
			ring_sim_power_on(world->sim, world->fds[i]);
		ring_sim_power_on(world->sim, world->map_fd);
		model_crash(world->model, world->power_cut);
	}
	mirror_faults_repair(world);
}

static void live(struct mirror_world *world)
{
	struct mirror_job_options options = options_of(world);
	struct mirror_job_status status;
	struct error error = {0};
	int res;

	begin_life(world);
	options = options_of(world);
	mirror_job_new(&world->job, world->host, &options, &error);
	res = mirror_job_open(world->job, &error);
	mirror_job_status(world->job, &status);
	world->state = status.state;
	if (res == 0) {
		world->serving = true;
		world->state = mirror_job_run(world->job, &error);
		mirror_world_say(world, "run ended: %s %s", cutover_state_name(world->state), error.text);
		world->ended = !world->crashed && cutover_is_end(world->state);
	} else if (res == -EALREADY) {
		world->ended = true;
	} else {
		mirror_world_fail(world, "cannot begin: %s", error.text);
	}
	end_life(world);
	if (world->ended && !world->story.failures)
		mirror_clients_check_leg(world, cutover_authority(world->state));
	world->life++;
}

bool mirror_world_run(struct mirror_world *world)
{
	while (!world->ended && !world->story.failures && world->life < world->scenario.lives)
		live(world);
	if (!world->ended && !world->story.failures)
		mirror_world_fail(world, "it has no end");
	return world->story.failures == 0;
}

/* By the number of the seed: the others stay what they are. */
static void grow(struct mirror_scenario *scenario, uint64_t seed, struct rand *rand)
{
	scenario->large = seed % MIRROR_LARGE == 30;
	if (scenario->large) {
		scenario->sectors = rand_between(rand, 8 << 20, 16 << 20) / MODEL_SECTOR;
		scenario->io_max = BLOCK_IO_MAX / MODEL_SECTOR;
		/* Each of their requests is work, and so many steps must be enough for the copy. */
		scenario->idle += 100;
		scenario->lives = scenario->lives > 1 ? 2 : 1;
		scenario->governor.max_rate *= 64;
	}
	/* Two of the longest writes at once are one too many, and there are always some that are longer than all the room. */
	if (scenario->large || seed % 4 == 1)
		scenario->stable_max = scenario->io_max * MODEL_SECTOR / 2;
	if (seed % 5 == 2)
		scenario->tail = (seed % 7 + 1) * MODEL_SECTOR;
}

static void scenario_init(struct mirror_scenario *scenario, uint64_t seed, struct rand *rand)
{
	static const uint32_t regions[] = {4096, 8192, 16384, 65536};

	*scenario = (struct mirror_scenario){.sectors = rand_between(rand, 60, 700),
	    .region_size = regions[rand_below(rand, 4)],
	    .records = (uint32_t)rand_between(rand, 4, 9),
	    .clients = (unsigned)rand_between(rand, 1, MIRROR_CLIENTS_MAX),
	    .lives = (unsigned)rand_between(rand, 1, 4),
	    .copy_mode = (enum mirror_copy_mode)rand_below(rand, 3),
	    .governor = {.max_rate = rand_one_in(rand, 3) ? rand_between(rand, 1, 8) << 20 : 0,
	        .target_ns = rand_one_in(rand, 4) ? rand_between(rand, 100000, 5000000) : 0,
	        .impact = rand_one_in(rand, 6) ? 20 : 0},
	    .idle = (uint32_t)rand_between(rand, 1, 60),
	    .late_wait = rand_one_in(rand, 4),
	    .compare = rand_one_in(rand, 3),
	    .verify = rand_one_in(rand, 3),
	    .sparse = rand_one_in(rand, 2),
	    .far = {rand_one_in(rand, 3), rand_one_in(rand, 3)},
	    .source_timeout_ns = rand_one_in(rand, 3) ? 500000000 : 20000000000};
	/* Each request is many steps of a link. */
	if (scenario->far[MIRROR_SOURCE] || scenario->far[MIRROR_TARGET])
		scenario->idle += 60;
	scenario->io_max = rand_one_in(rand, 3) ? MIRROR_IO_MAX / MODEL_SECTOR : rand_between(rand, 1, 100);
	grow(scenario, seed, rand);
}

/* A target that was once a copy: here and there it has got something else. */
static void make_older_copy(struct mirror_world *world, uint8_t *data)
{
	struct rand *rand = ring_sim_rand(world->sim);

	model_fill_initial(data, world->scenario.sectors);
	for (unsigned i = 0; i < 5; i++)
		rand_bytes(rand, data + rand_below(rand, world->scenario.sectors * MODEL_SECTOR), 1);
}

/* Ranges of the source that nobody ever wrote; the target may have got something there, or not. */
static void make_blank(struct mirror_world *world, uint8_t *legs[MIRROR_LEGS])
{
	struct rand *rand = ring_sim_rand(world->sim);

	for (uint64_t at = 0, n; at < world->scenario.sectors; at += n) {
		bool source = rand_below(rand, 4), target = rand_below(rand, 3);

		n = min_u64(rand_between(rand, 1, 200), world->scenario.sectors - at);
		for (uint64_t i = at; source && i < at + n; i++)
			model_set_blank(world->model, i);
		if (source)
			memset(legs[MIRROR_SOURCE] + at * MODEL_SECTOR, 0, n * MODEL_SECTOR);
		if (source && target)
			memset(legs[MIRROR_TARGET] + at * MODEL_SECTOR, 0, n * MODEL_SECTOR);
	}
}

static void make_disks(struct mirror_world *world)
{
	struct rand *rand = ring_sim_rand(world->sim);
	uint64_t size = world->scenario.sectors * MODEL_SECTOR;
	struct ring_sim_disk_options disk = {.size = size, .short_ppm = 20000};
	struct ring_sim_disk_options map = {.size_max = 64 * BITMAP_BLOCK};
	uint8_t *data[MIRROR_LEGS];

	for (unsigned i = 0; i < MIRROR_LEGS; i++) {
		disk.size = size + (i == MIRROR_TARGET ? world->scenario.tail : 0);
		world->fds[i] = ring_sim_disk_new(world->sim, &disk);
		data[i] = ring_sim_disk_data(world->sim, world->fds[i], &disk.size);
	}
	memset(data[MIRROR_TARGET] + size, TAIL, world->scenario.tail);
	model_fill_initial(data[MIRROR_SOURCE], world->scenario.sectors);
	if (!world->scenario.compare)
		rand_bytes(rand, data[MIRROR_TARGET], size);
	else
		make_older_copy(world, data[MIRROR_TARGET]);
	if (world->scenario.sparse)
		make_blank(world, data);
	for (unsigned i = 0; i < MIRROR_LEGS; i++)
		ring_sim_disk_settle(world->sim, world->fds[i]);
	world->map_fd = ring_sim_disk_new(world->sim, &map);
}

void mirror_world_init(struct mirror_world *world, uint64_t seed, bool verbose, uint64_t watch)
{
	*world = (struct mirror_world){.seed = seed, .story.verbose = verbose, .watch = watch};
	world->scrub = (struct mirror_scrub){.plants = seed % 4 == 2, .planted = UINT64_MAX};
	world->sim = ring_sim_new(seed, STEPS_MAX);
	world->story.sim = world->sim;
	list_init(&world->agents);
	scenario_init(&world->scenario, seed, ring_sim_rand(world->sim));
	world->model = model_new(world->scenario.sectors);
	make_disks(world);
	mirror_clients_init(world);
	ring_sim_on_step(world->sim, step_hook, world);
	mirror_world_say(world,
	    "%llu sectors, regions of %u, %u records, %u clients, idle %u, %u lives, mode %d",
	    (unsigned long long)world->scenario.sectors, world->scenario.region_size, world->scenario.records,
	    world->scenario.clients, world->scenario.idle, world->scenario.lives,
	    (int)world->scenario.copy_mode);
}

void mirror_world_done(struct mirror_world *world)
{
	model_free(world->model);
	mirror_clients_done(world);
	if (!ring_sim_error(world->sim))
		ring_sim_free(world->sim);
}
