/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Remote volumes: the real remote driver, a simulated link, and the real agent server on a host of its own.
 * An agent is freed between two events once its server came to an end; until then it holds the lock of a
 * target it writes to.
 */
#include "far_link.h"
#include "world.h"

#include "base/bytes.h"
#include "block/remote.h"
#include "export/agent_server.h"

#include <errno.h>
#include <stdlib.h>

#define TIMEOUT_MS 10000u

struct agent {
	struct list_node node; /* in world->agents */
	struct world *world;
	struct ring *host;
	struct agent_server *server;
	int fd;
	bool target, writes;
};

bool remote_is_available(void)
{
	return true;
}

/* The agent */

static bool is_locked(const struct world *world)
{
	list_for_each (node, &world->agents)
		if (container_of(node, struct agent, node)->writes)
			return true;
	return false;
}

static int agent_open(void *data, struct block **ret, struct ring *ring, const char *path,
    const struct block_open_options *options, struct error *error)
{
	struct agent *agent = data;
	int res;

	if (options->write && is_locked(agent->world))
		return error_set(error, -EALREADY, "another agent writes to %s", path);
	res = world_open_disk(agent->world, ring, agent->target, options->write, ret, error);
	if (res == 0)
		agent->writes = options->write;
	return res;
}

static void agent_free(void *data)
{
	struct agent *agent = data;

	list_remove(&agent->node);
	agent_server_free(agent->server);
	ring_sim_link_close(agent->world->sim, agent->fd);
	ring_free(agent->host);
	free(agent);
}

static void agent_ended(void *data, int res)
{
	struct agent *agent = data;

	ring_sim_after(agent->world->sim, 0, agent_free, agent);
}

/* Notes of who wrote last are gone when they are taken, and made by agents that end in order. */
static uint64_t take_note(void *data, const struct block_facts *now)
{
	struct world *world = data;
	uint64_t writer = world->note && world->note_generation != world->target_generation
	                      ? LAST_WRITER_OTHER
	                      : world->note;

	world->note = 0;
	return writer;
}

static void put_note(void *data, const struct block_facts *now, uint64_t session)
{
	struct world *world = data;

	world->note = session;
	world->note_generation = world->target_generation;
}

/* Somebody else writes to the target while nobody holds its lock, where the job must see it. */
static void maybe_meet_stranger(struct world *world)
{
	struct rand *rand = ring_sim_rand(world->sim);
	uint64_t size, at;
	uint8_t *data = ring_sim_disk_data(world->sim, world->target_fd, &size);

	if (is_locked(world) || size == 0 || !(world->note || world->target_connected) || rand_below(rand, 3))
		return;
	at = rand_below(rand, size);
	rand_bytes(rand, data + at, min_u64(size - at, rand_between(rand, 1, 9000)));
	ring_sim_disk_settle(world->sim, world->target_fd);
	world->target_generation++;
	world_say(world, "a stranger writes to the target at %llu", (unsigned long long)at);
}

static int agent_start(struct world *world, bool target, int fd, struct ring *host, struct error *error)
{
	struct agent *agent = calloc(1, sizeof(*agent));
	struct agent_server_options options = {.fd_in = fd,
	    .fd_out = fd,
	    .notes = &world->notes,
	    .timeout_ms = TIMEOUT_MS,
	    .open = agent_open,
	    .open_data = agent};
	int res;

	if (!agent)
		abort();
	agent->world = world;
	agent->host = host;
	agent->fd = fd;
	agent->target = target;
	world->notes = (struct agent_notes){.take = take_note, .put = put_note, .data = world};
	list_append(&world->agents, &agent->node);
	res = agent_server_new(&agent->server, host, &options, error);
	if (res < 0)
		abort();
	agent_server_start(agent->server, agent_ended, agent);
	return 0;
}

/* Connecting */

int remote_connect(struct world *world, bool target, const struct block_open_options *options,
    struct block **ret, struct error *error)
{
	struct block_open_options link_options = *options;
	struct block *remote;
	struct ring *host;
	int fds[2], res;

	if (ring_sim_now_ns(world->sim) < world->boot_ns)
		return error_set(error, -ENOTCONN, "the remote machine is down");
	host = ring_sim_host_new(world->sim, "agent");
	if (world->boot_ns) {
		world->boot_ns = 0;
		ring_sim_power_on(world->sim, world->source_fd);
		ring_sim_power_on(world->sim, world->target_fd);
	}
	if (target && options->write) {
		maybe_meet_stranger(world);
		world->target_connected = true;
	}
	/* Much data through little room is many steps that show nothing new. */
	far_link_new(world->sim, world->client, host, world->scenario.source_size > 200000, fds);
	agent_start(world, target, fds[1], host, error);
	link_options.link.timeout_ms = TIMEOUT_MS;
	res = remote_new(&remote, world->client, fds[0], fds[0], target ? "remote:target" : "remote:source",
	    target ? "target" : "source", &link_options, error);
	if (res < 0) {
		ring_sim_link_close(world->sim, fds[0]);
		return res;
	}
	*ret = far_link_wrap(world->sim, remote, fds[0]);
	return 0;
}

/* Faults and the end */

void remote_break(struct world *world, enum ring_sim_break how)
{
	list_for_each (node, &world->agents)
		ring_sim_link_break(world->sim, container_of(node, struct agent, node)->fd, how);
}

void remote_kill(struct world *world, enum ring_sim_kill how)
{
	const struct scenario *scenario = &world->scenario;

	list_for_each (node, &world->agents)
		ring_sim_kill(container_of(node, struct agent, node)->host, how);
	if (how != RING_SIM_KILL_MACHINE)
		return;
	if (scenario->source == PLACE_REMOTE)
		ring_sim_power_cut(world->sim, world->source_fd);
	if (scenario->target == PLACE_REMOTE)
		ring_sim_power_cut(world->sim, world->target_fd);
	if (scenario->source == PLACE_REMOTE || scenario->target == PLACE_REMOTE)
		world->boot_ns =
		    ring_sim_now_ns(world->sim) + rand_below(ring_sim_rand(world->sim), 20000000000);
}

void remote_end(struct world *world)
{
	uint64_t limit = ring_sim_now_ns(world->sim) + 200000000000;

	world->boot_ns = 0;
	while (!list_empty(&world->agents)) {
		if (ring_sim_step(world->sim) < 0 || ring_sim_now_ns(world->sim) > limit) {
			world_fail(world, "an agent never ended");
			return;
		}
	}
}
