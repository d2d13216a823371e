/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Legs on other machines: the real remote driver, a simulated link, the real agent on a host of its own. Links break, agents are
 * killed, their machines start anew without what was not flushed. An agent holds the lock of its leg until it has ended.
 */
#include "mirror_world.h"

#include "block/remote.h"
#include "export/agent_server.h"
#include "far_link.h"
#include "volume.h"

#include <errno.h>
#include <stdlib.h>

#define TIMEOUT_MS 1000u

struct far_agent {
	struct list_node node; /* in world->agents */
	struct mirror_world *world;
	struct ring *host;
	struct agent_server *server;
	enum mirror_leg_index leg;
	int fd;
};

static bool is_locked(const struct mirror_world *world, const struct far_agent *but)
{
	list_for_each (node, &world->agents) {
		const struct far_agent *agent = container_of(node, struct far_agent, node);

		if (agent != but && agent->leg == but->leg)
			return true;
	}
	return false;
}

static int agent_open(void *data, struct block **ret, struct ring *ring, const char *path,
    const struct block_open_options *options, struct error *error)
{
	struct far_agent *agent = data;

	if (is_locked(agent->world, agent))
		return error_set(error, -EALREADY, "another agent has it");
	return mirror_world_volume(agent->world, ring, agent->leg, ret, error);
}

static void agent_free(void *data)
{
	struct far_agent *agent = data;

	list_remove(&agent->node);
	agent_server_free(agent->server);
	ring_sim_link_close(agent->world->sim, agent->fd);
	ring_free(agent->host);
	free(agent);
}

static void agent_ended(void *data, int res)
{
	struct far_agent *agent = data;

	ring_sim_after(agent->world->sim, 0, agent_free, agent);
}

static void agent_start(struct mirror_world *world, enum mirror_leg_index leg, int fd, struct ring *host)
{
	struct far_agent *agent = calloc(1, sizeof(*agent));
	struct agent_server_options options = {
	    .fd_in = fd, .fd_out = fd, .timeout_ms = TIMEOUT_MS, .open = agent_open, .open_data = agent};

	if (!agent)
		abort();
	agent->world = world;
	agent->host = host;
	agent->fd = fd;
	agent->leg = leg;
	list_append(&world->agents, &agent->node);
	if (agent_server_new(&agent->server, host, &options, NULL) < 0)
		abort();
	agent_server_start(agent->server, agent_ended, agent);
}

int mirror_far_open(
    struct mirror_world *world, enum mirror_leg_index leg, struct block **ret, struct error *error)
{
	const struct block_open_options options = {.write = true, .link.timeout_ms = TIMEOUT_MS};
	struct mirror_far *far = &world->far[leg];
	struct block *remote;
	struct ring *host;
	int fds[2], res;

	if (ring_sim_now_ns(world->sim) < far->boot_ns)
		return error_set(error, -ENOTCONN, "its machine is down");
	if (far->down)
		ring_sim_power_on(world->sim, world->fds[leg]);
	host = ring_sim_host_new(world->sim, "agent");
	far_link_new(world->sim, world->host, host, true, fds);
	agent_start(world, leg, fds[1], host);
	res = remote_new(&remote, world->host, fds[0], fds[0], "far", "leg", &options, error);
	if (res < 0) {
		ring_sim_link_close(world->sim, fds[0]);
		return res;
	}
	far->down = false;
	*ret = far_link_wrap(world->sim, remote, fds[0]);
	return 0;
}

void mirror_far_break(struct mirror_world *world, enum mirror_leg_index leg)
{
	enum ring_sim_break how = (enum ring_sim_break)rand_below(ring_sim_rand(world->sim), 3);

	list_for_each (node, &world->agents) {
		struct far_agent *agent = container_of(node, struct far_agent, node);

		if (agent->leg == leg)
			ring_sim_link_break(world->sim, agent->fd, how);
	}
}

void mirror_far_kill(struct mirror_world *world, enum mirror_leg_index leg, enum ring_sim_kill how)
{
	struct mirror_far *far = &world->far[leg];

	list_for_each (node, &world->agents) {
		struct far_agent *agent = container_of(node, struct far_agent, node);

		if (agent->leg == leg)
			ring_sim_kill(agent->host, how);
	}
	if (how != RING_SIM_KILL_MACHINE)
		return;
	ring_sim_power_cut(world->sim, world->fds[leg]);
	far->boots++;
	far->down = true;
	far->boot_ns = ring_sim_now_ns(world->sim) + rand_below(ring_sim_rand(world->sim), 1000000000);
}

void mirror_far_end(struct mirror_world *world)
{
	uint64_t limit = ring_sim_now_ns(world->sim) + 200000000000;

	while (!list_empty(&world->agents)) {
		if (ring_sim_step(world->sim) < 0 || ring_sim_now_ns(world->sim) > limit) {
			mirror_world_fail(world, "an agent never ended");
			return;
		}
	}
	for (unsigned i = 0; i < MIRROR_LEGS; i++)
		world->far[i].boot_ns = 0;
}
