/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Verifications on demand, ordered and stopped at any moment: none may report a difference, whatever is being written, copied or lost. In
 * some worlds a bit of the target's disk flips once the mirror is ready, which the next pass must find, and mend, or mark until somebody asks for that.
 */
#include "mirror_world.h"

#include "base/bytes.h"

#include <errno.h>

#define TRIES 16u

static bool is_in(uint64_t sector, uint64_t offset, uint64_t length)
{
	return sector * MODEL_SECTOR >= offset && sector * MODEL_SECTOR < offset + length;
}

static void differs(void *data, uint64_t offset, uint64_t length)
{
	struct mirror_world *world = data;
	struct mirror_scrub *scrub = &world->scrub;

	if (world->crashed)
		return;
	if (scrub->planted == UINT64_MAX || !is_in(scrub->planted, offset, length)) {
		mirror_world_fail(world,
		    "a verification found a difference at byte %llu, where there is none",
		    (unsigned long long)offset);
		return;
	}
	mirror_world_say(world, "found the sector that was planted");
	scrub->told = true;
}

static uint8_t *sector_of(struct mirror_world *world, unsigned leg, uint64_t sector)
{
	uint64_t size;

	return ring_sim_disk_data(world->sim, world->fds[leg], &size) + sector * MODEL_SECTOR;
}

static bool is_mended(struct mirror_world *world, uint64_t sector)
{
	return !memcmp(
	    sector_of(world, MIRROR_SOURCE, sector), sector_of(world, MIRROR_TARGET, sector), MODEL_SECTOR);
}

static void ended(void *data, int res, uint64_t position)
{
	struct mirror_world *world = data;
	struct mirror_scrub *scrub = &world->scrub;
	uint64_t size = world->scenario.sectors * MODEL_SECTOR;

	if (world->crashed)
		return;
	mirror_world_say(
	    world, "verification ended at byte %llu: %s", (unsigned long long)position, strerror(-res));
	if (position > size || (res == 0) != (position == size) ||
	    (res < 0 && res != -ECANCELED && res != -ENOTCONN))
		mirror_world_fail(
		    world, "a verification ended at byte %llu with %d", (unsigned long long)position, res);
	scrub->passes += res == 0;
	scrub->position = position % size;
	/* Or a client has written over it. */
	if (res == 0 && scrub->planted != UINT64_MAX && !scrub->told && !is_mended(world, scrub->planted) &&
	    !model_sector_busy(world->model, scrub->planted))
		mirror_world_fail(
		    world, "the difference in sector %llu was not found", (unsigned long long)scrub->planted);
}

static int begin(struct mirror_world *world, uint64_t from, uint64_t rate, bool resync)
{
	const struct mirror_job_verify_options options = {
	    .from = from, .rate = rate, .resync = resync, .differs = differs, .ended = ended, .data = world};
	int res = mirror_job_verify(world->job, &options);

	if (res == 0)
		mirror_world_say(world, "verification begins at byte %llu", (unsigned long long)from);
	return res;
}

static bool plant_at(struct mirror_world *world, uint64_t sector)
{
	const struct bitmap_file *map = mirror_map(mirror_job_block(world->job));
	uint8_t *target = sector_of(world, MIRROR_TARGET, sector);

	/* Of zeros it might be a hole, which is not read. */
	if (model_sector_busy(world->model, sector) || get_le64(target) == 0 || !is_mended(world, sector) ||
	    bitmap_test(bitmap_file_dirty(map), sector * MODEL_SECTOR / bitmap_file_super(map)->region_size))
		return false;
	target[rand_below(ring_sim_rand(world->sim), MODEL_SECTOR)] ^= 4;
	mirror_world_say(world, "a bit of the target's sector %llu flips", (unsigned long long)sector);
	world->scrub.planted = sector;
	return true;
}

/* Nobody copies it before he is asked to; but a client may write over it. */
static void pursue_marked(struct mirror_world *world, const struct mirror_job_status *status)
{
	if (!world->scrub.told || status->dirty == 0)
		mirror_world_fail(world, "something is marked, and nobody was told of it");
	if (!rand_one_in(ring_sim_rand(world->sim), 100))
		return;
	mirror_world_say(world, "what is marked is to be copied");
	mirror_job_copy_marked(world->job);
	world->scrub.marked++;
}

static void pursue_planted(struct mirror_world *world, const struct mirror_job_status *status)
{
	struct mirror_scrub *scrub = &world->scrub;

	/* There it is never verified; and the way back is another goal. */
	if (status->state == CUTOVER_SWITCHED)
		scrub->plants = false;
	if (status->state != CUTOVER_READY && !status->marked)
		return;
	for (unsigned i = 0; scrub->planted == UINT64_MAX && i < TRIES; i++)
		plant_at(world, rand_below(ring_sim_rand(world->sim), world->scenario.sectors));
	if (scrub->planted == UINT64_MAX || status->verifying)
		return;
	if (status->marked) {
		pursue_marked(world, status);
		return;
	}
	if (!is_mended(world, scrub->planted)) {
		if (scrub->told && !model_sector_busy(world->model, scrub->planted))
			mirror_world_fail(world, "ready, and sector %llu is known to differ",
			    (unsigned long long)scrub->planted);
		begin(world, 0, 0, rand_one_in(ring_sim_rand(world->sim), 2));
		return;
	}
	scrub->found += scrub->told;
	scrub->plants = false;
	scrub->planted = UINT64_MAX;
}

void mirror_scrub_step(struct mirror_world *world)
{
	struct rand *rand = ring_sim_rand(world->sim);
	struct mirror_scrub *scrub = &world->scrub;
	struct mirror_job_status status;

	if (mirror_scrub_waits(world)) {
		mirror_job_status(world->job, &status);
		pursue_planted(world, &status);
		return;
	}
	if (!rand_one_in(rand, 300))
		return;
	if (begin(world, rand_one_in(rand, 2) ? scrub->position : 0,
	        rand_one_in(rand, 3) ? rand_between(rand, 1, 8) << 20 : 0, rand_one_in(rand, 2)) == -EBUSY &&
	    rand_one_in(rand, 8))
		mirror_job_verify_stop(world->job);
}

bool mirror_scrub_waits(const struct mirror_world *world)
{
	return world->scrub.plants && world->last_life;
}
