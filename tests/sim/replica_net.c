/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The network between two replicas: who seeks a link gets one when both do, who dials gets a stream, what is made breaks, falls silent, or
 * arrives late, one end before the other. A session in a simulation closes no descriptor; here its end does (see the wraps in meson.build),
 * so that the other end hears of it as it would from the kernel.
 */
#include "replica_world.h"

#include "wire/session.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define SESSIONS   64u
#define DIAL_NS    3000000u
#define LATE_NS    200000000u
#define LINK_EVERY 60u /* steps */

static struct {
	struct ring_sim *sim;
	struct {
		const struct session *session;
		int fd;
	} sessions[SESSIONS];
} net;

int __real_session_new(
    struct session **ret, struct ring *ring, const struct session_options *options, struct error *error);
int __wrap_session_new(
    struct session **ret, struct ring *ring, const struct session_options *options, struct error *error);
struct session *__real_session_free(struct session *session);
struct session *__wrap_session_free(struct session *session);
int __real_close(int fd);
int __wrap_close(int fd);

int __wrap_close(int fd)
{
	if (fd < RING_SIM_FD)
		return __real_close(fd);
	ring_sim_link_close(net.sim, fd);
	return 0;
}

int __wrap_session_new(
    struct session **ret, struct ring *ring, const struct session_options *options, struct error *error)
{
	int res = __real_session_new(ret, ring, options, error);

	if (res < 0) {
		ring_sim_link_close(net.sim, options->fd_in);
		return res;
	}
	for (unsigned i = 0; i < SESSIONS; i++) {
		if (net.sessions[i].session)
			continue;
		net.sessions[i].session = *ret;
		net.sessions[i].fd = options->fd_in;
		return 0;
	}
	abort();
}

struct session *__wrap_session_free(struct session *session)
{
	__real_session_free(session);
	for (unsigned i = 0; session && i < SESSIONS; i++) {
		if (net.sessions[i].session != session)
			continue;
		net.sessions[i].session = NULL;
		ring_sim_link_close(net.sim, net.sessions[i].fd);
	}
	return NULL;
}

void replica_net_begin(struct replica_world *world)
{
	net = (typeof(net)){.sim = world->sim};
}

/* Parcels */

static void take(struct replica_parcel *parcel, struct replica_host *host)
{
	struct error error;
	int res;

	if (parcel->data)
		res = replica_node_take_data(host->node, parcel->fd, parcel->link, &error);
	else
		res = replica_node_take_link(host->node, parcel->fd, parcel->server, parcel->link, &error);
	replica_world_say(host->world, "%u %s %s %llx: %s", host->index, res < 0 ? "refuses" : "takes",
	    parcel->data ? "data of" : "link", (unsigned long long)parcel->link, res < 0 ? error.text : "");
	if (res == 0 && !parcel->data) {
		replica_faults_soon(host->world);
		host->link = parcel->link;
		host->seeks = host->asks_to_fence = false;
		host->excused = true;
	}
}

static void arrive(void *data)
{
	struct replica_parcel *parcel = data;
	struct replica_host *host = &parcel->world->hosts[parcel->to];

	if (replica_host_is_up(host) && host->life == parcel->life && !parcel->world->story.failures)
		take(parcel, host);
	else
		ring_sim_link_close(parcel->world->sim, parcel->fd);
	parcel->used = false;
}

static void send(struct replica_host *to, int fd, uint64_t link, bool data, bool server, uint64_t ns)
{
	struct replica_world *world = to->world;

	for (unsigned i = 0; i < REPLICA_PARCELS; i++) {
		struct replica_parcel *parcel = &world->parcels[i];

		if (parcel->used)
			continue;
		*parcel = (struct replica_parcel){.world = world,
		    .to = to->index,
		    .life = to->life,
		    .link = link,
		    .fd = fd,
		    .used = true,
		    .data = data,
		    .server = server};
		ring_sim_after(world->sim, ns, arrive, parcel);
		return;
	}
	abort();
}

/* Both have a process. */
static void connect_hosts(struct replica_world *world, int ret_fds[2])
{
	ring_sim_link_new(
	    world->sim, world->hosts[0].ring, world->hosts[1].ring, &world->scenario.link, ret_fds);
	world->fds[world->fds_count++ % REPLICA_LINKS] = ret_fds[0];
	world->links++;
}

static uint64_t some_ns(struct replica_world *world)
{
	return rand_below(&world->rand, rand_one_in(&world->rand, 10) ? LATE_NS : 1000000);
}

/* What nodes ask for */

void replica_net_seek(void *data, bool on)
{
	struct replica_host *host = data;

	host->seeks = on && !host->dying;
}

void replica_host_pass(struct replica_host *host, uint64_t ns)
{
	struct ring_op timer = {.opcode = RING_TIMER, .deadline_ns = ring_now_ns(host->ring) + ns};

	ring_wait(host->ring, &timer);
}

int replica_net_dial(void *data, uint64_t link, int *ret_fd, struct error *error)
{
	struct replica_host *host = data, *other = replica_host_other(host);
	struct replica_world *world = host->world;
	int fds[2];

	replica_host_pass(host, rand_below(&world->rand, DIAL_NS));
	if (!host->dying && (world->cut || !replica_host_is_up(other))) {
		replica_host_pass(host, rand_below(&world->rand, 30 * DIAL_NS));
		return error_set(error, -EHOSTUNREACH, "the other node cannot be reached");
	}
	if (host->dying || !replica_host_is_up(other))
		return error_set(error, -ECANCELED, "it is over");
	connect_hosts(world, fds);
	*ret_fd = fds[host->index];
	send(other, fds[other->index], link, true, true, some_ns(world));
	return 0;
}

void replica_net_step(struct replica_world *world)
{
	struct replica_host *hosts = world->hosts;
	unsigned dials;
	uint64_t link;
	int fds[2];

	/* Until one has come or was refused there is no other. */
	for (unsigned i = 0; i < REPLICA_PARCELS; i++)
		if (world->parcels[i].used && !world->parcels[i].data)
			return;
	if (world->cut || !replica_host_is_up(&hosts[0]) || !replica_host_is_up(&hosts[1]) ||
	    !hosts[0].seeks || !hosts[1].seeks || !rand_one_in(&world->rand, LINK_EVERY))
		return;
	connect_hosts(world, fds);
	dials = (unsigned)rand_below(&world->rand, LEDGER_NODES);
	link = rand_between(&world->rand, 1, UINT32_MAX);
	for (unsigned i = 0; i < LEDGER_NODES; i++)
		send(&hosts[i], fds[i], link, false, i != dials, some_ns(world));
}

/* Faults */

void replica_net_break(struct replica_world *world)
{
	unsigned count = world->fds_count < REPLICA_LINKS ? world->fds_count : REPLICA_LINKS;
	unsigned how = (unsigned)rand_below(&world->rand, 6), side = (unsigned)rand_below(&world->rand, 2);
	bool all = how >= 3 && rand_one_in(&world->rand, 2);

	for (unsigned i = 0; i < count; i++) {
		int fd = world->fds[(world->fds_count - 1 - i) % REPLICA_LINKS];

		if (how < 3)
			ring_sim_link_break(world->sim, fd, (enum ring_sim_break)how);
		else
			ring_sim_link_mute(world->sim, fd + (int)side);
		if (!all && rand_one_in(&world->rand, 2))
			break;
	}
}
