/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a seed decides at the start: sizes, contents, ways. */
#include "world.h"

#include "base/bytes.h"

#include <stdlib.h>
#include <string.h>

static uint64_t random_size(struct rand *rand, uint32_t sector)
{
	static const uint64_t maxima[] = {2, 5000, 70000, 300000, 300000, 1200000, 3500000};
	uint64_t size = rand_below(rand, maxima[rand_below(rand, sizeof(maxima) / sizeof(maxima[0]))]);

	return align_up(size, sector);
}

static bool often(struct rand *rand)
{
	return rand_below(rand, 4) != 0;
}

static bool seldom(struct rand *rand)
{
	return rand_below(rand, 4) == 0;
}

static void choose_places(struct scenario *scenario, struct rand *rand)
{
	if (!remote_is_available())
		return;
	scenario->target = rand_below(rand, 2) ? PLACE_REMOTE : PLACE_LOCAL;
	scenario->source = seldom(rand) ? PLACE_REMOTE : PLACE_LOCAL;
}

static void choose_faults(struct scenario *scenario, struct rand *rand)
{
	static const uint64_t local[] = {10, 30, 100, 100}, far[] = {30, 100, 400, 1200};
	bool remote = scenario->target == PLACE_REMOTE || scenario->source == PLACE_REMOTE;

	scenario->attempts = (unsigned)rand_between(rand, 1, 4);
	scenario->faults_max = (unsigned)rand_between(rand, 1, 3);
	scenario->step_max = (remote ? far : local)[rand_below(rand, 4)];
	scenario->short_ppm = seldom(rand) ? 100000 : 0;
	scenario->checkpoint_ns = rand_between(rand, 20000, 1000000);
}

void scenario_init(struct scenario *scenario, struct rand *rand)
{
	*scenario = (struct scenario){
	    .kind = rand_below(rand, 2) ? JOB_COPY : JOB_SYNC,
	    .verify = seldom(rand),
	    .detect_zeroes = often(rand),
	    .ignore_holes = seldom(rand),
	    .list_read_errors = seldom(rand),
	    .device = rand_below(rand, 2),
	    .direct = often(rand),
	    .target_exists = often(rand),
	    .hole_seed = often(rand) ? rand_u64(rand) | 1 : 0,
	};
	scenario->sector_size = !scenario->device ? 1 : seldom(rand) ? 4096 : 512;
	scenario->source_size = scenario->target_size = random_size(rand, scenario->sector_size);
	if (scenario->target_exists && seldom(rand))
		scenario->target_size += align_up(rand_below(rand, 100000), scenario->sector_size);
	choose_places(scenario, rand);
	choose_faults(scenario, rand);
}

/* Runs of noise, zeros, and pages that are zero but for one byte (H03). */
static void fill(struct rand *rand, uint8_t *data, uint64_t size)
{
	for (uint64_t at = 0, n; at < size; at += n) {
		n = min_u64(rand_between(rand, 1, 1 + size / 4), size - at);
		switch (rand_below(rand, 3)) {
		case 0:
			rand_bytes(rand, data + at, n);
			break;
		case 1:
			data[at + rand_below(rand, n)] = (uint8_t)rand_between(rand, 1, 255);
			break;
		default:
			break;
		}
	}
}

/* Some small changes, as a volume in use sees them. */
static void sprinkle(struct rand *rand, uint8_t *data, uint64_t size)
{
	unsigned count = (unsigned)rand_below(rand, 20);

	for (unsigned i = 0; size && i < count; i++) {
		uint64_t at = rand_below(rand, size);
		uint64_t n = min_u64(rand_between(rand, 1, 6000), size - at);

		if (rand_below(rand, 2))
			rand_bytes(rand, data + at, n);
		else
			memset(data + at, 0, n);
	}
}

static int make_disk(struct world *world, uint64_t size)
{
	const struct scenario *scenario = &world->scenario;
	const struct ring_sim_disk_options options = {
	    .size = size,
	    .sector_size = scenario->sector_size,
	    .short_ppm = scenario->short_ppm,
	    .latency_min_ns = 10000,
	    .latency_max_ns = rand_between(ring_sim_rand(world->sim), 20000, 400000),
	    .no_fallocate = seldom(ring_sim_rand(world->sim)),
	};

	return ring_sim_disk_new(world->sim, &options);
}

static void fill_target(struct world *world)
{
	struct rand *rand = ring_sim_rand(world->sim);
	uint64_t size;
	uint8_t *data = ring_sim_disk_data(world->sim, world->target_fd, &size);

	if (!world->scenario.target_exists)
		return;
	if (rand_below(rand, 2)) {
		memcpy(data, world->source_data, world->scenario.source_size);
		sprinkle(rand, data, size);
	} else {
		/* H05: an existing target holds anything but zeros. */
		rand_bytes(rand, data, size);
	}
	ring_sim_disk_settle(world->sim, world->target_fd);
}

void world_make_disks(struct world *world)
{
	const struct ring_sim_disk_options journal = {.size_max = 16 << 20};
	struct scenario *scenario = &world->scenario;
	struct rand *rand = ring_sim_rand(world->sim);
	uint32_t align = scenario->sector_size > 512 ? scenario->sector_size : 512;
	uint64_t size;
	uint8_t *data;

	world->source_fd = make_disk(world, scenario->source_size);
	world->target_fd = make_disk(world, scenario->target_size);
	world->journal_fd = ring_sim_disk_new(world->sim, &journal);
	world->source_direct = world->target_direct = -1;
	if (scenario->direct) {
		world->source_direct = ring_sim_disk_direct(world->sim, world->source_fd, align);
		world->target_direct = ring_sim_disk_direct(world->sim, world->target_fd, align);
	}
	data = ring_sim_disk_data(world->sim, world->source_fd, &size);
	fill(rand, data, size);
	ring_sim_disk_settle(world->sim, world->source_fd);
	world->source_data = malloc(size + 1);
	world->target_before = malloc(scenario->target_size + 1);
	if (!world->source_data || !world->target_before)
		abort();
	memcpy(world->source_data, data, size);
	fill_target(world);
	memcpy(world->target_before, ring_sim_disk_data(world->sim, world->target_fd, &size),
	    scenario->target_size);
}

void world_change_source(struct world *world)
{
	uint64_t size;
	uint8_t *data = ring_sim_disk_data(world->sim, world->source_fd, &size);

	sprinkle(ring_sim_rand(world->sim), data, size);
	ring_sim_disk_settle(world->sim, world->source_fd);
	memcpy(world->source_data, data, size);
	world->generation++;
}
