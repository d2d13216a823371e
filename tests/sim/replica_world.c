/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The lives of two nodes: see replica_world.h. Each process is a fiber on a host of its own, from its begin to its end. */
#include "replica_world.h"

#include "base/bytes.h"
#include "range/bitmap_file.h"
#include "replica/replica_note.h"
#include "volume.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STEPS_MAX   1500000u
#define PULSE_NS    5000000u
#define TIMEOUT_MS  1000u
#define RETRY_NS    50000000u
#define FOLLOWER_NS 2000000000u
#define LOOK_EVERY  16u
#define CHECK_EVERY 512u

/* What a node asks for */

static int open_volume(void *data, struct block **ret, struct error *error)
{
	struct replica_host *host = data;
	const struct volume_options options = {.sim = host->world->sim,
	    .name = host->index ? "beta" : "alpha",
	    .fd = host->disk_fd,
	    .fd_direct = -1,
	    .sector_size = LEDGER_SECTOR,
	    .direct_align = LEDGER_SECTOR,
	    .writable = true,
	    .boot = 1 + host->cuts};

	return volume_new(ret, host->ring, &options, error);
}

static int open_map(void *data)
{
	return ((struct replica_host *)data)->map_fd;
}

static uint64_t draw(void *data)
{
	return ++((struct replica_host *)data)->world->names;
}

static void serve(void *data, bool open)
{
	struct replica_host *host = data;

	host->serving = open && !host->dying;
	host->reigns = host->refuses = false;
	if (host->serving)
		replica_promise_look_at_role(host);
	else if (!open && !host->dying)
		replica_world_say(host->world, "%u serves no more", host->index);
	while (!open && host->in_flight && ring_step(host->ring) == 0)
		;
}

static void fence_done(void *data)
{
	struct replica_host *host = data;

	if (!replica_host_is_up(host) || replica_host_other(host)->ring)
		return;
	replica_host_is_told(host);
}

static void fence(void *data)
{
	struct replica_host *host = data, *other = replica_host_other(host);
	struct replica_world *world = host->world;

	host->asks_to_fence = true;
	/* In peace the hook fails: the other node is well. */
	if (host->dying || world->peace)
		return;
	replica_world_say(world, "%u fences the other", host->index);
	replica_host_kill(other, true);
	other->begin_ns = ring_sim_now_ns(world->sim) + rand_between(&world->rand, 50, 500) * 1000000;
	ring_sim_after(world->sim, rand_between(&world->rand, 1, 20) * 1000000, fence_done, host);
}

static void answer(void *data, int res, const char *text)
{
	struct replica_host *host = data;

	if (host->dying)
		return;
	replica_world_say(host->world, "%u answers: %d %s", host->index, res, text ? text : "");
	host->commanded = false;
	host->answer = res;
}

static void changed(void *data)
{
}

static void warning(void *data, const char *text)
{
	struct replica_host *host = data;

	if (!host->dying)
		replica_world_say(host->world, "%u warns: %s", host->index, text);
}

static void disk_failed(void *data)
{
	((struct replica_host *)data)->disk_failures++;
}

/* A process */

static struct replica_node_options options_of(struct replica_host *host)
{
	const struct replica_scenario *scenario = &host->world->scenario;

	return (struct replica_node_options){.name = 1 + host->index,
	    .gone = scenario->gone,
	    .ack = scenario->ack,
	    .queue_max = scenario->queue_max,
	    .pull_ahead = scenario->pull_ahead,
	    .compare = scenario->compare,
	    .detach = scenario->detach,
	    .disk_failures = host->disk_failures,
	    .log_ahead = scenario->log_ahead,
	    .timeout_ms = TIMEOUT_MS,
	    .retry_ns = RETRY_NS,
	    .follower_timeout_ns = FOLLOWER_NS,
	    .governor = scenario->governor,
	    .data = host,
	    .open_volume = open_volume,
	    .open_map = open_map,
	    .draw = draw,
	    .seek = replica_net_seek,
	    .dial = replica_net_dial,
	    .serve = serve,
	    .fence = fence,
	    .disk_failed = disk_failed,
	    .before_resync = scenario->hooks ? replica_faults_before_resync : NULL,
	    .answer = answer,
	    .changed = changed,
	    .warning = warning};
}

static void live(void *data)
{
	struct replica_host *host = data;
	const struct replica_node_options options = options_of(host);
	struct error error;
	int res = replica_node_new(&host->node, host->ring, &options, &error);

	if (host->map == MAP_LOST && res == 0)
		replica_world_fail(host->world, "%u begins with a map that is lost", host->index);
	if (host->map != MAP_GOOD && res == -EBADMSG && !host->dying) {
		res = replica_map_renew(host);
		if (res == 0 && !host->dying)
			res = replica_node_new(&host->node, host->ring, &options, &error);
	}
	if (host->map == MAP_RENEWED && res == 0)
		replica_map_found(host);
	if (res < 0 && !host->dying && !host->map_fails)
		replica_world_fail(host->world, "%u cannot begin: %s", host->index, error.text);
	if (res == 0 && !host->dying) {
		host->running = true;
		res = replica_node_run(host->node);
		if (res < 0 && !host->dying)
			replica_world_fail(host->world, "%u ends: %s", host->index, strerror(-res));
	}
	host->running = false;
	while (host->in_flight && ring_step(host->ring) == 0)
		;
	host->node = replica_node_free(host->node);
	host->ended = true;
}

void replica_host_begin(struct replica_host *host)
{
	struct replica_world *world = host->world;

	if (host->off) {
		ring_sim_power_on(world->sim, host->disk_fd);
		ring_sim_power_on(world->sim, host->map_fd);
	}
	host->off = host->dying = host->ended = host->running = host->serving = host->reigns = host->seeks =
	    host->refuses = false;
	host->commanded = host->verifies = host->asks_to_fence = false;
	host->excused = true;
	host->map_fails = ring_sim_disk_options(world->sim, host->map_fd)->fsync_error_ppm > 0;
	host->answer = 0;
	host->link = 0;
	host->life++;
	host->node = NULL;
	replica_world_say(world, "%u begins", host->index);
	if (host->damaged)
		replica_map_damage(host);
	host->ring = ring_sim_host_new(world->sim, host->index ? "beta" : "alpha");
	if (fiber_start(&host->fiber, host->ring, live, host, NULL) < 0)
		abort();
}

/* Its fiber has ended. */
static void bury(struct replica_host *host)
{
	struct replica_world *world = host->world;

	host->fiber = fiber_free(host->fiber);
	host->ring = ring_free(host->ring);
	host->dying = host->serving = host->seeks = false;
	if (!host->begin_ns)
		host->begin_ns = ring_sim_now_ns(world->sim) + rand_between(&world->rand, 1, 1500) * 1000000;
	replica_world_say(world, "%u has ended", host->index);
}

void replica_host_stop(struct replica_host *host)
{
	if (!replica_host_is_up(host))
		return;
	replica_world_say(host->world, "%u is stopped", host->index);
	replica_node_stop(host->node);
}

void replica_host_kill(struct replica_host *host, bool power)
{
	struct replica_world *world = host->world;

	if (!host->ring || host->dying)
		return;
	replica_world_say(world, power ? "%u loses power" : "%u is killed", host->index);
	host->dying = true;
	host->serving = host->reigns = false;
	host->seeks = false;
	world->kills++;
	ring_sim_kill(host->ring, power ? RING_SIM_KILL_MACHINE : RING_SIM_KILL_PROCESS);
	if (host->running)
		replica_node_stop(host->node);
	if (power) {
		ring_sim_power_cut(world->sim, host->disk_fd);
		ring_sim_power_cut(world->sim, host->map_fd);
		host->off = true;
		host->cuts++;
		host->losses++;
		world->cuts++;
		replica_promise_power_lost(host);
	} else {
		replica_promise_memory_lost(host);
	}
}

static int command(struct replica_host *host, const struct replica_event *event, const char *name)
{
	int res;

	if (!replica_host_is_up(host) || host->commanded)
		return -EBUSY;
	replica_world_say(host->world, "%u is told: %s", host->index, name);
	host->commanded = true;
	res = replica_node_command(host->node, event);
	if (res < 0)
		host->commanded = false;
	return res;
}

int replica_host_resize(struct replica_host *host, uint64_t size)
{
	const struct replica_event event = {.kind = REPLICA_RESIZE, .size = size};
	char name[64];

	snprintf(name, sizeof(name), "resize to %llu sectors", (unsigned long long)size / LEDGER_SECTOR);
	return command(host, &event, name);
}

int replica_host_command(struct replica_host *host, enum replica_event_kind kind, bool force)
{
	static const char *const names[] = {[REPLICA_CONNECT] = "connect",
	    [REPLICA_DISCONNECT] = "disconnect",
	    [REPLICA_MAKE_PRIMARY] = "primary",
	    [REPLICA_MAKE_SECONDARY] = "secondary",
	    [REPLICA_DISCARD] = "discard",
	    [REPLICA_HAND_OVER] = "hand over"};
	struct replica_world *world = host->world;
	const struct replica_event event = {.kind = kind,
	    .force = force,
	    .lease_ms = rand_one_in(&world->rand, 3) ? 0 : (uint32_t)rand_between(&world->rand, 1, 400)};
	char name[64];

	if (!replica_host_is_up(host) || host->commanded)
		return -EBUSY;
	snprintf(name, sizeof(name), "%s%s", names[kind], force ? ", by force" : "");
	if (kind == REPLICA_MAKE_PRIMARY)
		host->forced = force;
	if (kind == REPLICA_DISCARD)
		host->discards = host->given_up = true;
	return command(host, &event, name);
}

/* The world */

static void watch(struct replica_world *world)
{
	uint64_t size, at = world->watch * LEDGER_SECTOR;

	for (unsigned i = 0; i < 2 * LEDGER_NODES; i++) {
		int fd = world->hosts[i / 2].disk_fd;
		const uint8_t *data = i % 2 ? ring_sim_disk_stable(world->sim, fd, &size)
		                            : ring_sim_disk_data(world->sim, fd, &size);
		uint32_t now = at < size ? get_le32(data + at) & 0xffff : 0;

		if (world->watched[i / 2][i % 2] == now)
			continue;
		world->watched[i / 2][i % 2] = now;
		replica_world_say(world, "%u: sector %llu is of write %u%s", i / 2,
		    (unsigned long long)world->watch, now, i % 2 ? ", for good" : "");
	}
}

static void look_at_flushes(struct replica_host *host)
{
	uint64_t failed = ring_sim_disk_counts(host->world->sim, host->disk_fd)->flushes_failed;

	if (failed == host->flushes_failed)
		return;
	host->flushes_failed = failed;
	host->losses++;
	replica_promise_flush_failed(host);
}

static void step_hook(void *data)
{
	struct replica_world *world = data;
	uint64_t step = ring_sim_steps(world->sim);

	if (world->over || world->story.failures)
		return;
	if (world->watch < LEDGER_SECTORS)
		watch(world);
	for (unsigned i = 0; i < LEDGER_NODES; i++)
		look_at_flushes(&world->hosts[i]);
	replica_promise_notes(world);
	if (step % LOOK_EVERY == 0) {
		replica_promise_look(world);
		replica_patience_look(world);
	}
	if (step % CHECK_EVERY == 0)
		replica_promise_check(world);
	for (unsigned i = 0; i < LEDGER_NODES; i++) {
		struct replica_host *host = &world->hosts[i];

		if (!host->ring && host->begin_ns <= ring_sim_now_ns(world->sim)) {
			host->begin_ns = 0;
			replica_host_begin(host);
		}
	}
	for (unsigned i = 0; i < LEDGER_NODES; i++)
		replica_promise_look_at_role(&world->hosts[i]);
	replica_net_step(world);
	replica_clients_step(world);
	if (!world->peace)
		replica_faults_step(world);
	else
		replica_finale_step(world);
}

/* So that something happens when nobody does anything. */
static void pulse(void *data)
{
	struct replica_world *world = data;

	if (!world->over && !world->story.failures)
		ring_sim_after(world->sim, PULSE_NS, pulse, world);
}

static void turn(struct replica_world *world)
{
	bool any = false;

	for (unsigned i = 0; i < LEDGER_NODES; i++) {
		struct replica_host *host = &world->hosts[i];

		if (!host->ring)
			continue;
		any = true;
		ring_step(host->ring);
		if (host->ended)
			bury(host);
	}
	if (!any)
		ring_sim_step(world->sim);
	if (ring_sim_error(world->sim) && !world->over && !world->story.failures)
		replica_world_fail(world, "the loop ended: %s", strerror(-ring_sim_error(world->sim)));
}

bool replica_world_run(struct replica_world *world)
{
	while (!world->over && !world->story.failures)
		turn(world);
	/* What has failed is left where it is: the program ends, or the next world begins without it. */
	if (world->story.failures)
		return false;
	for (unsigned i = 0; i < LEDGER_NODES; i++)
		replica_host_stop(&world->hosts[i]);
	while (world->hosts[0].ring || world->hosts[1].ring) {
		turn(world);
		/* The one may have been waiting for nothing but the other. */
		if (ring_sim_error(world->sim) == -ELOOP)
			replica_world_fail(world, "a node does not end");
		if (world->story.failures)
			break;
	}
	return world->story.failures == 0;
}

static void scenario_init(struct replica_scenario *scenario, uint64_t seed, struct rand *rand)
{
	static const uint32_t regions[] = {4096, 4096, 8192, 16384};
	uint32_t region_size = regions[rand_below(rand, 4)];
	bool slow = rand_one_in(rand, 4);

	*scenario = (struct replica_scenario){.sectors = (unsigned)rand_between(rand, 60, 400),
	    .clients = (unsigned)rand_between(rand, 1, REPLICA_CLIENTS),
	    .region_size = {region_size, rand_one_in(rand, 8) ? regions[rand_below(rand, 4)] : region_size},
	    .records = (uint32_t)rand_between(rand, 4, 9),
	    .log_ahead = rand_one_in(rand, 2) ? 1 : 4096u << rand_below(rand, 6),
	    .ack = (enum replicate_ack)rand_below(rand, REPLICATE_ACKS),
	    .gone = rand_one_in(rand, 3) ? REPLICA_GONE_FREEZE : REPLICA_GONE_CONTINUE,
	    .queue_max = rand_between(rand, 8, 100) << 10,
	    .pull_ahead = rand_one_in(rand, 2),
	    .compare = rand_one_in(rand, 3),
	    .detach = rand_one_in(rand, 2),
	    .quarrels = rand_one_in(rand, 3),
	    .dies = rand_one_in(rand, 2),
	    .migrates = rand_one_in(rand, 4),
	    .grows = rand_one_in(rand, 3),
	    .hooks = rand_one_in(rand, 3),
	    .forgets = rand_one_in(rand, 4),
	    .weak = seed % 8 == 3,
	    .idle = (uint32_t)rand_between(rand, 20, 200),
	    .order_every = (uint32_t)rand_between(rand, 30, 500),
	    .fault_every = (uint32_t)rand_between(rand, 300, 3000),
	    .chaos_steps = rand_between(rand, 1500, 14000),
	    .foreign = {seed / 8 % 4 >= 2, seed / 8 % 4 % 2},
	    .span = (unsigned)rand_between(rand, 1, LEDGER_SPAN),
	    .governor = {.max_rate = rand_one_in(rand, 4) ? rand_between(rand, 1, 8) << 20 : 0},
	    .link = {.delay_ns = rand_between(rand, 1000, 2000000),
	        .jitter_ns = rand_below(rand, 100000),
	        .bytes_per_second = slow                   ? rand_between(rand, 400000, 2000000)
	                            : rand_one_in(rand, 2) ? 0
	                                                   : rand_between(rand, 2000000, 1000000000),
	        .capacity = rand_one_in(rand, 2) ? 16384 : 65536,
	        .short_ppm = (uint32_t)rand_below(rand, 2) * 200000}};
	/* There it matters what the other's memory had. */
	if (scenario->weak)
		scenario->ack = seed / 8 % 3 ? REPLICATE_DURABLE : REPLICATE_RECEIVED;
}

static void make_host(struct replica_world *world, unsigned index)
{
	struct replica_host *host = &world->hosts[index];
	const struct ring_sim_disk_options disk = {
	    .size = world->scenario.sectors * LEDGER_SECTOR, .short_ppm = 20000};
	const struct ring_sim_disk_options map = {.size_max = 64 * BITMAP_BLOCK};
	struct ring *ring;
	uint64_t size;

	host->world = world;
	host->index = index;
	host->device = host->sectors = world->scenario.sectors;
	host->disk_fd = ring_sim_disk_new(world->sim, &disk);
	host->map_fd = ring_sim_disk_new(world->sim, &map);
	ledger_fill(ring_sim_disk_data(world->sim, host->disk_fd, &size), 1 + index, 0,
	    world->scenario.sectors, false);
	ring_sim_disk_settle(world->sim, host->disk_fd);
	ring = ring_sim_host_new(world->sim, "maker");
	if (replica_map_make(host, ring, world->scenario.sectors, world->scenario.region_size[index],
	        world->seed * 2 + index + 1) < 0)
		abort();
	ring_free(ring);
}

void replica_world_init(struct replica_world *world, uint64_t seed, bool verbose, uint64_t watched)
{
	memset(world, 0, sizeof(*world));
	world->seed = seed;
	world->watch = watched;
	world->sim = ring_sim_new(seed, STEPS_MAX);
	world->story = (struct sim_story){.sim = world->sim, .verbose = verbose};
	rand_init(&world->rand, seed * 31 + 7);
	scenario_init(&world->scenario, seed, &world->rand);
	ledger_init(&world->ledger, world->scenario.sectors);
	replica_net_begin(world);
	for (unsigned i = 0; i < LEDGER_NODES; i++)
		make_host(world, i);
	for (unsigned i = 0; i < REPLICA_CLIENTS; i++)
		world->clients[i].world = world;
	world->peace_step = ring_sim_steps(world->sim) + world->scenario.chaos_steps;
	world->mend_step = world->strike_step = UINT64_MAX;
	ring_sim_on_step(world->sim, step_hook, world);
	pulse(world);
	replica_world_say(world, "%u sectors, regions of %u and %u, %s, %u clients, %llu steps of chaos",
	    world->scenario.sectors, world->scenario.region_size[0], world->scenario.region_size[1],
	    replicate_ack_name(world->scenario.ack), world->scenario.clients,
	    (unsigned long long)world->scenario.chaos_steps);
}

void replica_world_done(struct replica_world *world)
{
	if (world->story.failures == 0)
		ring_sim_free(world->sim);
}
