/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Atomic rounds in simulated worlds: the real stage over two simulated disks, the volume's and the stage's, with kills, power cuts and errors at
 * any step of any round, also while an earlier one is completed. After each the volume, once recovered, is the old point or the new one,
 * to the byte; what an interrupted round has staged is what it wrote. Exit 0: all held; with --plant: the mistake was found.
 */
#include "base/bytes.h"
#include "base/plant.h"
#include "block/stage.h"
#include "filter/stage_view.h"
#include "sim_line.h"
#include "sim_story.h"
#include "volume.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define VOLUME_MAX   200000u
#define REGIONS_MAX  40u
#define ROUNDS_MAX   3u
#define ATTEMPTS_MAX 8u /* of a round; the last one without faults */
#define ID           "sim"

static const struct sim_mistake mistakes[] = {
    {"none", PLANTED_NOTHING},
    {"unflushed", PLANTED_STAGE_UNFLUSHED},
    {"early-apply", PLANTED_STAGE_EARLY_APPLY},
    {"early-end", PLANTED_STAGE_EARLY_END},
    {"bits-first", PLANTED_STAGE_BITS_FIRST},
    {"old-unflushed", PLANTED_STAGE_OLD_UNFLUSHED},
};

struct region {
	uint64_t offset, length;
	bool zero;
};

struct world {
	struct sim_story story;
	struct ring_sim *sim;
	struct rand rand;
	uint64_t size;
	struct stage_layout layout;
	int volume_fd, stage_fd;
	bool stage_there; /* the file exists */
	unsigned faults;

	/* a round */
	uint8_t old[VOLUME_MAX], fresh[VOLUME_MAX], seen[VOLUME_MAX];
	uint8_t older
	    [VOLUME_MAX]; /* what the volume surely held before; somebody wrote `old` and may not have flushed it */
	struct region regions[REGIONS_MAX];
	unsigned regions_count;
	bool committing, acknowledged;
	bool flushed; /* all of it was staged and flushed, in the stage that is there */

	/* an attempt */
	struct ring *host;
	int cut; /* what happens at the step: enum cut */
};

enum cut { CUT_NOTHING, CUT_PROCESS, CUT_MACHINE, CUT_VOLUME, CUT_STAGE, CUTS };

#define fail(world, ...) sim_fail(&(world)->story, __VA_ARGS__)
#define say(world, ...)  sim_say(&(world)->story, __VA_ARGS__)

/* The world */

static struct block *open_disk(struct world *world, bool stage)
{
	struct volume_options options = {.sim = world->sim,
	    .name = stage ? "stage" : "volume",
	    .fd = stage ? world->stage_fd : world->volume_fd,
	    .fd_direct = -1,
	    .writable = true,
	    .hole_seed = 1};
	struct block *block;
	struct error error;

	if (volume_new(&block, world->host, &options, &error) < 0)
		abort();
	return block;
}

static void set_faults(struct world *world, bool on)
{
	int fds[] = {world->volume_fd, world->stage_fd};

	for (unsigned i = 0; i < 2; i++) {
		struct ring_sim_disk_options *disk = ring_sim_disk_options(world->sim, fds[i]);
		bool errors = on && rand_below(&world->rand, 6) == 0;

		disk->write_error_ppm = errors ? 4000 : 0;
		disk->fsync_error_ppm = errors ? 20000 : 0;
		disk->short_ppm = on ? 20000 : 0;
	}
	ring_sim_disk_space(world->sim, world->stage_fd,
	    on && rand_below(&world->rand, 12) == 0 ? rand_below(&world->rand, world->size + 20000)
	                                            : UINT64_MAX);
}

static void cut(void *data)
{
	struct world *world = data;

	world->faults++;
	say(world, "cut %d", world->cut);
	if (world->cut == CUT_PROCESS || world->cut == CUT_MACHINE)
		ring_sim_kill(
		    world->host, world->cut == CUT_PROCESS ? RING_SIM_KILL_PROCESS : RING_SIM_KILL_MACHINE);
	if (world->cut == CUT_MACHINE || world->cut == CUT_VOLUME)
		ring_sim_power_cut(world->sim, world->volume_fd);
	if (world->cut == CUT_MACHINE || world->cut == CUT_STAGE)
		ring_sim_power_cut(world->sim, world->stage_fd);
}

static void begin_attempt(struct world *world, bool faults)
{
	world->host = ring_sim_host_new(world->sim, "host");
	set_faults(world, faults);
	world->cut = faults ? (int)rand_below(&world->rand, CUTS) : CUT_NOTHING;
	if (world->cut)
		ring_sim_at_step(world->sim,
		    ring_sim_steps(world->sim) +
		        rand_below(&world->rand, 1u << rand_between(&world->rand, 3, 9)),
		    cut, world);
}

static void end_attempt(struct world *world)
{
	ring_sim_forget_steps(world->sim);
	ring_free(world->host);
	ring_sim_power_on(world->sim, world->volume_fd);
	ring_sim_power_on(world->sim, world->stage_fd);
	set_faults(world, false);
}

/* The round: what the volume is to become */

/* Only bytes of the new point are ever written: each byte is the old one's or the new one's. */
static void check_staged(struct world *world)
{
	for (uint64_t at = 0; at < world->size; at++) {
		if (world->seen[at] == world->fresh[at])
			continue;
		if (world->seen[at] != world->old[at])
			fail(
			    world, "what was staged at %llu was never written there", (unsigned long long)at);
		else if (world->flushed)
			fail(
			    world, "what was flushed at %llu is not staged any more", (unsigned long long)at);
	}
}

/* By somebody who flushes nothing. */
static void write_unflushed(struct world *world)
{
	struct rand *rand = &world->rand;
	uint64_t at = rand_below(rand, world->size), length = 1 + rand_below(rand, world->size - at);
	struct block_io io = {.op = BLOCK_WRITE, .offset = at, .length = length, .buf = world->old + at};
	struct block *disk;

	world->host = ring_sim_host_new(world->sim, "writer");
	disk = open_disk(world, false);
	rand_bytes(rand, world->old + at, length);
	if (block_wait(disk, &io) < 0)
		fail(world, "a disk without faults fails");
	block_free(disk);
	ring_free(world->host);
}

/* Before the commit a power cut may take back, by sectors, what nobody had flushed. A comparison finds that. */
static void look_what_is_lost(struct world *world)
{
	uint64_t size;
	const uint8_t *now = ring_sim_disk_data(world->sim, world->volume_fd, &size);

	for (uint64_t at = 0; at < size; at += STAGE_SECTOR) {
		uint64_t length = min_u64(STAGE_SECTOR, size - at);

		if (memcmp(now + at, world->old + at, length) && memcmp(now + at, world->older + at, length))
			return;
	}
	if (!memcmp(now, world->old, size))
		return;
	say(world, "what was not flushed is lost");
	memcpy(world->old, now, size);
	world->regions[0] = (struct region){.length = size};
	world->regions_count = 1;
	world->flushed = false;
}

static void begin_round(struct world *world)
{
	struct rand *rand = &world->rand;

	memcpy(world->older, world->old, world->size);
	if (rand_below(rand, 2))
		write_unflushed(world);
	memcpy(world->fresh, world->old, world->size);
	world->regions_count = (unsigned)rand_between(rand, 0, REGIONS_MAX);
	for (unsigned i = 0; i < world->regions_count; i++) {
		struct region *region = &world->regions[i];

		region->offset = rand_below(rand, world->size);
		region->length = 1 + rand_below(rand, min_u64(world->size - region->offset,
		                                          1u << rand_between(rand, 0, 16)));
		region->zero = rand_below(rand, 3) == 0;
		if (region->zero)
			memset(world->fresh + region->offset, 0, region->length);
		else
			rand_bytes(rand, world->fresh + region->offset, region->length);
	}
	world->committing = world->acknowledged = world->flushed = false;
}

/* An attempt */

static int view_io(
    struct block *view, enum block_op op, uint32_t flags, uint64_t offset, uint64_t length, void *buf)
{
	struct block_io io = {.op = op, .flags = flags, .offset = offset, .length = length, .buf = buf};

	return block_wait(view, &io);
}

struct pair {
	struct block_io io;
	unsigned *left;
	bool *done;
	int *res;
};

static void pair_done(struct block_io *io, int res)
{
	struct pair *pair = io->user;

	if (res < 0)
		*pair->res = res;
	*pair->done = --*pair->left == 0;
}

/* One or two regions at once, and perhaps a flush beside them. */
static int write_some(struct world *world, struct block *view, unsigned from, unsigned count)
{
	struct pair pairs[3];
	unsigned left = 0;
	bool done = false;
	int res = 0, loop;

	for (unsigned i = 0; i < count; i++) {
		const struct region *region = &world->regions[from + i];
		uint8_t *data = world->fresh + region->offset;
		bool zero = region->zero && bytes_are_zero(data, region->length);

		pairs[left++].io = (struct block_io){.op = zero ? BLOCK_ZERO : BLOCK_WRITE,
		    .offset = region->offset,
		    .length = region->length,
		    .buf = zero ? NULL : data};
	}
	if (rand_below(&world->rand, 4) == 0)
		pairs[left++].io = (struct block_io){.op = BLOCK_FLUSH};
	for (unsigned i = 0, all = left; i < all; i++) {
		pairs[i].left = &left;
		pairs[i].done = &done;
		pairs[i].res = &res;
		pairs[i].io.done = pair_done;
		pairs[i].io.user = &pairs[i];
		block_submit(view, &pairs[i].io);
	}
	loop = ring_run_until(world->host, &done);
	if (loop < 0)
		fail(world, "the loop ended with %d", loop);
	return res;
}

static int write_all(struct world *world, struct block *view)
{
	int res = 0;

	for (unsigned i = 0, count; res == 0 && i < world->regions_count; i += count) {
		count = (unsigned)min_u64(rand_between(&world->rand, 1, 2), world->regions_count - i);
		res = write_some(world, view, i, count);
	}
	/* As the job does: all that it wrote is durable before it asks for the commit. */
	return res < 0 ? res : view_io(view, BLOCK_FLUSH, 0, 0, 0, NULL);
}

static void remove_file(void *data)
{
	struct world *world = data;

	if (!ring_sim_killed(world->host))
		world->stage_there = false;
}

static void make_file(struct world *world)
{
	uint64_t size;

	memset(ring_sim_disk_data(world->sim, world->stage_fd, &size), 0, world->layout.length);
	ring_sim_disk_settle(world->sim, world->stage_fd);
	world->stage_there = true;
	world->flushed = false;
}

/* Goes on with what was staged, or begins anew. */
static struct block *open_view(struct world *world, bool *ret_resumed)
{
	struct stage_view_options options = {
	    .target_id = ID, .name = "/volume", .remove = remove_file, .data = world};
	struct block *file, *view;
	struct error error;

	if (!world->stage_there)
		make_file(world);
	file = open_disk(world, true);
	options.resume = rand_below(&world->rand, 4) && stage_is_resumable(file, ID, world->size);
	if (!options.resume && !ring_sim_killed(world->host))
		make_file(world);
	*ret_resumed = options.resume;
	return stage_view_new(&view, open_disk(world, false), file, &options, &error) < 0 ? NULL : view;
}

static void run_view(struct world *world, struct block *view, bool resumed)
{
	int res = view_io(view, BLOCK_READ, 0, 0, world->size, world->seen);

	if (res == 0 && !resumed && memcmp(world->seen, world->old, world->size))
		fail(world, "a view over a new stage is not the volume");
	if (res == 0 && resumed)
		check_staged(world);
	if (res < 0)
		return;
	/* A comparison would find all that differs; the regions are that, and more. */
	res = write_all(world, view);
	world->flushed |= res == 0;
	if (res == 0)
		res = view_io(view, BLOCK_READ, 0, 0, world->size, world->seen);
	if (res == 0 && memcmp(world->seen, world->fresh, world->size))
		fail(world, "the view is not what was written");
	if (res < 0 || ring_sim_killed(world->host))
		return;
	world->committing = true;
	res = view_io(view, BLOCK_FLUSH, BLOCK_COMMIT, 0, 0, NULL);
	say(world, "commit: %d", res);
	world->acknowledged = res == 0;
}

/* What file_open() does for the next who writes. */
static int settle(struct world *world)
{
	struct block *file = open_disk(world, true), *volume = open_disk(world, false);
	struct error error = {0};
	struct stage stage;
	int res = stage_look(file, &stage, &error);

	say(world, "there is a stage: %d, state %d", res, res == 0 ? (int)stage.state : -1);
	if (res == -ENODATA)
		res = 0;
	else if (res == 0 && stage.state == STAGE_COMMITTED) {
		res = stage_check(file, &stage, volume, &error);
		if (res == 0)
			res = stage_put_commit(file, &stage, &error);
		if (res == 0)
			res = stage_apply(file, &stage, volume, &error);
		if (res == 0)
			remove_file(world);
	}
	if (res == -ESTALE || res == -EBADMSG)
		fail(world, "what was committed is refused: %s", error.text);
	block_free(file);
	block_free(volume);
	return res;
}

static void run_attempt(struct world *world, bool faults)
{
	bool resumed;
	struct block *view;

	if (!world->committing)
		look_what_is_lost(world);
	begin_attempt(world, faults);
	view = world->stage_there && settle(world) < 0 ? NULL : open_view(world, &resumed);
	if (view && !world->committing)
		run_view(world, view, resumed);
	block_free(view);
	end_attempt(world);
}

/* Between attempts: nothing runs, nothing fails. True when the round is over. */
static bool judge(struct world *world)
{
	uint64_t size;
	const uint8_t *now;
	bool is_old, is_fresh;

	world->host = ring_sim_host_new(world->sim, "recovery");
	if (world->stage_there && settle(world) < 0)
		fail(world, "it cannot be recovered");
	ring_free(world->host);
	if (!world->acknowledged)
		look_what_is_lost(world);
	now = ring_sim_disk_data(world->sim, world->volume_fd, &size);
	is_old = !memcmp(now, world->old, world->size);
	is_fresh = !memcmp(now, world->fresh, world->size);
	if (!is_old && !is_fresh)
		fail(world, "the volume is a mixture");
	if (!is_old && !world->committing)
		fail(world, "the volume changed before the commit");
	if (!is_fresh && world->acknowledged)
		fail(world, "the volume is not the new point, which was acknowledged");
	/* Not committed after all: another attempt. */
	if (is_old && !is_fresh)
		world->committing = false;
	return is_fresh && (world->committing || world->acknowledged);
}

static void run_round(struct world *world)
{
	bool over = false;

	begin_round(world);
	for (unsigned i = 1; !over && i <= ATTEMPTS_MAX + 1 && !world->story.failures; i++) {
		run_attempt(world, i < ATTEMPTS_MAX);
		/* Sometimes the next attempt finds things as the crash left them. */
		if (i >= ATTEMPTS_MAX || world->acknowledged || rand_below(&world->rand, 2))
			over = judge(world);
	}
	if (!over)
		fail(world, "the round never came to its end");
	memcpy(world->old, world->fresh, world->size);
}

static bool run_seed(struct sim_line *line, uint64_t seed)
{
	static struct world world;
	struct ring_sim_disk_options disk = {0};
	uint64_t size;
	bool good;

	memset(&world, 0, sizeof(world));
	world.sim = ring_sim_new(seed, 0);
	world.story = (struct sim_story){.sim = world.sim, .verbose = line->verbose};
	rand_init(&world.rand, seed * 31 + 7);
	world.size = rand_between(&world.rand, 1, 1u << rand_between(&world.rand, 8, 17));
	if (!stage_layout(world.size, &world.layout))
		abort();
	disk.size = world.size;
	world.volume_fd = ring_sim_disk_new(world.sim, &disk);
	disk.size = world.layout.length;
	world.stage_fd = ring_sim_disk_new(world.sim, &disk);
	rand_bytes(&world.rand, world.old, world.size);
	memcpy(ring_sim_disk_data(world.sim, world.volume_fd, &size), world.old, world.size);
	ring_sim_disk_settle(world.sim, world.volume_fd);
	for (unsigned i = 0, rounds = (unsigned)rand_between(&world.rand, 1, ROUNDS_MAX);
	     i < rounds && !world.story.failures; i++)
		run_round(&world);
	sim_line_count(line, "faults", world.faults);
	good = sim_line_judge(line, seed, &world.story, "");
	ring_sim_free(world.sim);
	return good;
}

int main(int argc, char **argv)
{
	struct sim_line line = {.program = "sim_stage",
	    .mistakes = mistakes,
	    .mistakes_count = sizeof(mistakes) / sizeof(mistakes[0]),
	    .run = run_seed,
	    .seeds = 1000,
	    .start = 1};

	return sim_line_main(&line, argc, argv);
}
