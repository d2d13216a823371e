/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Clients of the mirror: each does one thing after the other, all over the volume, and checks what it reads. */
#include "mirror_world.h"

#include "base/bytes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHECK_MAP      32u         /* one of so many acknowledged writes has the map looked at */
#define LATENCY_NS_MAX 5000000000u /* far above every time-out of the follower */

static bool is_write(const struct mirror_client *client)
{
	return client->io.op == BLOCK_WRITE || client->io.op == BLOCK_ZERO || client->io.op == BLOCK_TRIM;
}

/* While flushes fail, what was not flushed may go at any time: sooner than whoever asked for the flush is told. */
static void lose_unflushed(struct mirror_world *world)
{
	struct mirror_job_status status;

	mirror_job_status(world->job, &status);
	if (ring_sim_disk_options(world->sim, world->fds[status.authoritative])->fsync_error_ppm)
		model_lost(world->model);
}

static void check_read(struct mirror_client *client)
{
	struct mirror_world *world = client->world;
	uint64_t sector;

	lose_unflushed(world);
	sector = model_read_end(world->model, client->began, client->first, client->count, client->buf);
	if (sector == UINT64_MAX)
		return;
	mirror_world_fail(world, "sector %llu reads as %llx, which it cannot be (%s)",
	    (unsigned long long)sector,
	    (unsigned long long)get_le64(client->buf + (sector - client->first) * MODEL_SECTOR),
	    cutover_state_name(world->state));
}

static void check_result(struct mirror_client *client, int res)
{
	struct mirror_world *world = client->world;
	uint64_t took_ns = ring_sim_now_ns(world->sim) - client->start_ns;
	const struct ring_sim_disk_options *disk;
	struct mirror_job_status status;

	if (world->crashed)
		return;
	mirror_job_status(world->job, &status);
	/* Who waits for a leader that is away may wait long, and get an error at last. */
	if (status.away_ns || status.refused ||
	    mirror_counts(mirror_job_block(world->job))->leader_lost > client->links_lost)
		return;
	if (took_ns > LATENCY_NS_MAX)
		mirror_world_fail(world, "a request took %.3f s", (double)took_ns / 1e9);
	disk = ring_sim_disk_options(world->sim, world->fds[status.authoritative]);
	/* A leg may have failed it, and be well again before all of it has ended. */
	if (res < 0 &&
	    (res != -EIO || (!disk->write_error_ppm && !world->losses && client->start_ns > world->eio_ns)))
		mirror_world_fail(world, "a request failed: %s", strerror(-res));
}

static bool flushes(const struct mirror_client *client)
{
	return client->io.op == BLOCK_FLUSH || (is_write(client) && client->io.flags & BLOCK_FUA);
}

/* What a flush of anybody's has lost is told to the next client that flushes, unless one is under way that will be told. */
static void check_told(struct mirror_client *client, int res)
{
	struct mirror_world *world = client->world;

	if (!flushes(client) || world->crashed)
		return;
	if (res < 0)
		world->losses_told = world->losses;
	if (res < 0 || client->losses <= world->losses_told)
		return;
	for (unsigned i = 0; i < world->scenario.clients; i++)
		if (world->clients[i].busy && flushes(&world->clients[i]) &&
		    world->clients[i].losses < client->losses)
			return;
	mirror_world_fail(world, "a flush succeeded, although one before it had failed and nobody knows");
}

static void tell(const struct mirror_client *client, const char *what, int res)
{
	static const char *const ops[] = {[BLOCK_READ] = "read",
	    [BLOCK_WRITE] = "write",
	    [BLOCK_ZERO] = "zero",
	    [BLOCK_TRIM] = "trim",
	    [BLOCK_FLUSH] = "flush"};
	const struct mirror_world *world = client->world;
	uint64_t at = world->watch - client->first;

	if (client->io.op == BLOCK_FLUSH || (world->watch >= client->first && at < client->count))
		mirror_world_say(world, "%s %s%s %llu+%llu tag %llx: %d", what, ops[client->io.op],
		    client->io.flags & BLOCK_FUA ? " (fua)" : "", (unsigned long long)client->first,
		    (unsigned long long)client->count,
		    (unsigned long long)(client->io.op == BLOCK_FLUSH
		                             ? 0
		                             : get_le64(client->buf + at * MODEL_SECTOR)),
		    res);
}

static void client_done(struct block_io *io, int res)
{
	struct mirror_client *client = io->user;
	struct mirror_world *world = client->world;

	client->busy = false;
	world->in_flight--;
	if (world->watch != UINT64_MAX)
		tell(client, "ended", res);
	check_result(client, res);
	check_told(client, res);
	/* A trim may be nothing. */
	if (res == 0 && is_write(client) && io->op != BLOCK_TRIM && !world->crashed &&
	    world->acknowledged++ % CHECK_MAP == 0)
		mirror_world_check_map(world, client);
	if (is_write(client))
		model_write_end(world->model, client->first, client->count, client->began,
		    res == 0 && io->op != BLOCK_TRIM, io->flags & BLOCK_FUA);
	else if (res == 0 && io->op == BLOCK_READ)
		check_read(client);
	else if (io->op == BLOCK_READ)
		model_read_drop(world->model, client->began);
	else if (res == 0)
		model_flush_end(world->model, client->began);
}

static enum block_op choose_op(struct rand *rand)
{
	static const enum block_op ops[] = {BLOCK_WRITE, BLOCK_WRITE, BLOCK_WRITE, BLOCK_WRITE, BLOCK_WRITE,
	    BLOCK_WRITE, BLOCK_READ, BLOCK_READ, BLOCK_READ, BLOCK_READ, BLOCK_ZERO, BLOCK_TRIM, BLOCK_FLUSH};

	return ops[rand_below(rand, sizeof(ops) / sizeof(ops[0]))];
}

/* In sectors. */
static uint64_t choose_max(const struct mirror_scenario *scenario, struct rand *rand)
{
	uint64_t max = rand_one_in(rand, 4) ? scenario->io_max : 8;

	/* Of each length about as many as of twice that. */
	return scenario->large ? max_u64(max >> rand_below(rand, 10), 1) : max;
}

static void begin(struct mirror_client *client)
{
	struct mirror_world *world = client->world;
	struct rand *rand = ring_sim_rand(world->sim);
	uint64_t max = choose_max(&world->scenario, rand);

	client->io =
	    (struct block_io){.op = choose_op(rand), .buf = client->buf, .done = client_done, .user = client};
	/* Some places are liked more than others. */
	client->first = rand_below(rand, world->scenario.sectors);
	if (rand_below(rand, 3) == 0)
		client->first %= 64;
	client->count = rand_between(rand, 1, min_u64(max, world->scenario.sectors - client->first));
	if (client->io.op != BLOCK_FLUSH) {
		client->io.offset = client->first * MODEL_SECTOR;
		client->io.length = client->count * MODEL_SECTOR;
	}
	client->busy = true;
	client->losses = world->losses;
	client->links_lost = mirror_counts(mirror_job_block(world->job))->leader_lost;
	client->start_ns = ring_sim_now_ns(world->sim);
	world->in_flight++;
	world->requests++;
	if (is_write(client)) {
		uint64_t tag = client->io.op == BLOCK_WRITE ? model_new_tag(world->model) : 0;

		client->io.flags = rand_one_in(rand, 8) ? BLOCK_FUA : 0;
		model_fill(client->buf, client->first, client->count, tag);
		client->began = model_write_begin(world->model, client->first, client->count, tag);
	} else {
		client->began =
		    client->io.op == BLOCK_READ ? model_read_begin(world->model) : model_begin(world->model);
	}
	if (world->watch != UINT64_MAX)
		tell(client, "begun", 0);
	block_submit(mirror_job_block(world->job), &client->io);
}

void mirror_clients_step(struct mirror_world *world)
{
	struct rand *rand = ring_sim_rand(world->sim);

	if (!world->serving || world->quiet || world->crashed || world->story.failures)
		return;
	for (unsigned i = 0; i < world->scenario.clients; i++)
		if (!world->clients[i].busy && rand_one_in(rand, world->scenario.idle))
			begin(&world->clients[i]);
}

void mirror_clients_check_leg(struct mirror_world *world, enum mirror_leg_index leg)
{
	uint64_t size, sector, began = model_read_begin(world->model);
	const uint8_t *data = ring_sim_disk_data(world->sim, world->fds[leg], &size);

	sector = model_read_end(world->model, began, 0, world->scenario.sectors, data);
	if (sector != UINT64_MAX)
		mirror_world_fail(world, "the %s's sector %llu is %llx, which it cannot be (%s)",
		    leg == MIRROR_SOURCE ? "source" : "target", (unsigned long long)sector,
		    (unsigned long long)get_le64(data + sector * MODEL_SECTOR),
		    cutover_state_name(world->state));
}

void mirror_clients_init(struct mirror_world *world)
{
	for (unsigned i = 0; i < MIRROR_CLIENTS_MAX; i++) {
		world->clients[i].world = world;
		world->clients[i].buf =
		    aligned_alloc(4096, align_up(max_u64(world->scenario.io_max, 8) * MODEL_SECTOR, 4096));
		if (!world->clients[i].buf)
			abort();
	}
}

void mirror_clients_done(struct mirror_world *world)
{
	for (unsigned i = 0; i < MIRROR_CLIENTS_MAX; i++)
		free(world->clients[i].buf);
}
