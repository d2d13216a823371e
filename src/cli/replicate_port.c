/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the other hosts dial: a port for each distinct address, whose streams say in a greeting which resource they are for. Whoever dials may
 * be anybody: what was not greeted has a deadline, there are few of them, and a new one pushes out the oldest.
 */
#include "cli/replicate_process.h"

#include "base/cleanup.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define GREETING_NS     UINT64_C(10000000000)
#define GREETERS        64u /* that have not been greeted; more, and the oldest goes */
#define GREETERS_MAX    256u
#define BACKLOG         256
#define TUNE_TIMEOUT_MS 30000u              /* before it is known for which resource the stream is */
#define ACCEPT_REST     UINT64_C(100000000) /* ns to wait when descriptors or memory are out */

struct listener {
	struct replicate_port *port;
	int fd;
	struct ring_op op;
};

struct replicate_port {
	struct list_node node;
	struct replicate_process *process;
	char *host, *number;
	struct tls *keys;                    /* NULL: no TLS */
	const struct replica_config *config; /* whose keys they are */
	char said[512];                      /* of TLS, last */
	unsigned users;
	struct listener listeners[REPLICATE_ADDRESSES_MAX];
	unsigned listeners_count;
	struct list_node greeters;
	unsigned greeters_count;
	bool closing;
};

struct greeter {
	struct list_node node;
	struct replicate_port *port;
	struct sockaddr_storage from;
	const char *peer; /* the name of that host in certificates */
	int fd;
	bool pushed, over;
	struct fiber *fiber;
};

/* A stream's greeting */

static struct replicate_resource *find(const struct replicate_port *port, const char *name)
{
	struct replicate_process *process = port->process;

	for (unsigned i = 0; i < process->count; i++)
		if (process->resources[i].peer.port == port && !strcmp(process->resources[i].name, name))
			return &process->resources[i];
	return NULL;
}

/* The sender takes for durable what the receiver has answered, which must mean the same by it. */
static int judge_ack(struct replicate_resource *resource, enum replicate_ack ack, struct error *error)
{
	const struct replica_config *config = resource->config;
	char words[256];

	if (ack == config->ack)
		return 0;
	snprintf(words, sizeof(words),
	    "%.44s has `ack = %s`, %.44s `ack = %s`: make their files of %.64s the same; then down and up",
	    replica_config_other(config)->name, replicate_ack_name(ack), replica_config_self(config)->name,
	    replicate_ack_name(config->ack), resource->name);
	if (resource->peer.sought)
		replicate_peer_note(resource, words);
	return error_set(error, -EINVAL, "%s", words);
}

/* Who may get a stream: a resource that waits for one, from its other host. */
static int judge(const struct greeter *greeter, const struct replica_greeting *greeting,
    struct replicate_resource **ret, struct error *error)
{
	struct replicate_resource *resource = find(greeter->port, greeting->resource);
	struct replica_node_status status;
	char name[80];

	if (!resource || resource->state != REPLICATE_UP)
		return error_set(error, -ENOENT,
		    "%s is not up on this host; `blkmove replicate up %s` there, or look for why it failed",
		    greeting->resource, greeting->resource);
	if (!replicate_stream_is_from(
	        &greeter->from, resource->peer.addresses, resource->peer.addresses_count))
		return error_set(error, -EPERM, "%s is no address of %s, the other host of %s",
		    replicate_stream_name(&greeter->from, name, sizeof(name)),
		    replica_config_other(resource->config)->name, resource->name);
	if (judge_ack(resource, greeting->ack, error) < 0)
		return error->code;
	replica_node_status(resource->node, &status);
	if (greeting->stream == REPLICA_STREAM_LINK && !resource->peer.sought)
		return error_set(error, -EBUSY,
		    status.linked || status.wanted
		        ? "%s has a link still on %s, which is given up when nothing comes from it"
		        : "%s is disconnected on %s; `blkmove replicate connect %s` there",
		    resource->name, replica_config_self(resource->config)->name, resource->name);
	if (greeting->stream == REPLICA_STREAM_DATA && !status.linked)
		return error_set(error, -ENOTCONN, "%s has no link: there can be no data", resource->name);
	*ret = resource;
	return 0;
}

static int answer(struct greeter *greeter, const char *refusal, struct error *error)
{
	char line[REPLICA_GREETING_MAX];
	int length = replica_greeting_answer_format(refusal, line);

	return length < 0 ? error_set(error, length, "out of memory")
	                  : replicate_stream_write_line(greeter->fd, line, (size_t)length, error);
}

static void hand_over(
    struct greeter *greeter, struct replicate_resource *resource, const struct replica_greeting *greeting)
{
	struct error error;
	int fd = greeter->fd, res;

	/* The node's from here on; nobody shuts it any more. */
	greeter->fd = -1;
	replicate_stream_tune(fd, resource->config->timeout_ms);
	if (greeting->stream == REPLICA_STREAM_LINK)
		res = replicate_peer_take_link(resource, fd, true, greeting->link, &error);
	else
		res = replica_node_take_data(resource->node, fd, greeting->link, &error);
	if (res < 0)
		replicate_warn(resource, error.text);
}

/* Who has not proved who he is may say so again and again. */
static void tell(struct replicate_port *port, const struct error *error)
{
	char prefix[48];

	if (!strcmp(port->said, error->text) || port->process->options->quiet)
		return;
	snprintf(port->said, sizeof(port->said), "%s", error->text);
	fprintf(stderr, "%s: %s:%s: %s\n", replicate_prefix(port->process, prefix), port->host, port->number,
	    error->text);
}

/* 0: greeted, and the stream is the resource's. */
static int converse(struct greeter *greeter, uint64_t deadline_ns, struct error *error)
{
	struct replicate_resource *resource = NULL;
	struct replica_greeting greeting;
	char line[REPLICA_GREETING_MAX];
	int length =
	    replicate_stream_read_line(greeter->port->process->ring, greeter->fd, deadline_ns, line, error);
	int res = length < 0 ? length : replica_greeting_parse(line, (size_t)length, &greeting, error);
	struct error ignored;

	if (res == 0)
		res = judge(greeter, &greeting, &resource, error);
	/* Who said nothing hears nothing. */
	if (length < 0)
		return length;
	if (answer(greeter, res < 0 ? error->text : NULL, &ignored) == 0 && res == 0)
		hand_over(greeter, resource, &greeting);
	return 0;
}

static void greet(void *data)
{
	struct greeter *greeter = data;
	struct replicate_port *port = greeter->port;
	uint64_t deadline_ns = ring_now_ns(port->process->ring) + GREETING_NS;
	struct replicate_tls *tls = NULL;
	struct error error = {0};
	int res = 0;

	if (port->keys)
		res = replicate_tls_wrap(
		    port->process, port->keys, true, greeter->peer, &greeter->fd, &tls, &error);
	if (res == 0)
		res = converse(greeter, deadline_ns, &error);
	replicate_tls_let_go(tls, &error);
	if (error.code == -EACCES)
		tell(port, &error);
	cleanup_close(&greeter->fd);
	greeter->fd = -1;
	greeter->over = true;
	port->process->wake = true;
}

/* Accepting */

/* The host of that address; NULL: of no resource's. Anybody else is not even listened to. */
static const struct replica_config_host *find_host(
    const struct replicate_port *port, const struct sockaddr_storage *from)
{
	const struct replicate_process *process = port->process;

	for (unsigned i = 0; i < process->count; i++) {
		const struct replicate_peer *peer = &process->resources[i].peer;

		if (peer->port == port &&
		    replicate_stream_is_from(from, peer->addresses, peer->addresses_count))
			return replica_config_other(process->resources[i].config);
	}
	return NULL;
}

static void push_out_oldest(struct replicate_port *port)
{
	list_for_each (node, &port->greeters) {
		struct greeter *greeter = container_of(node, struct greeter, node);

		if (greeter->over || greeter->pushed || greeter->fd < 0)
			continue;
		greeter->pushed = true;
		shutdown(greeter->fd, SHUT_RDWR);
		return;
	}
}

/* Takes the descriptor. */
static void take(struct replicate_port *port, int fd, const struct sockaddr_storage *from)
{
	const struct replica_config_host *host = find_host(port, from);
	struct greeter *greeter;
	struct error error;

	if (host && port->greeters_count >= GREETERS)
		push_out_oldest(port);
	greeter = host && port->greeters_count < GREETERS_MAX ? calloc(1, sizeof(*greeter)) : NULL;
	if (!greeter) {
		close(fd);
		return;
	}
	greeter->port = port;
	greeter->fd = fd;
	greeter->from = *from;
	greeter->peer = host->address_host;
	replicate_stream_tune(fd, TUNE_TIMEOUT_MS);
	list_append(&port->greeters, &greeter->node);
	port->greeters_count++;
	if (fiber_start(&greeter->fiber, port->process->ring, greet, greeter, &error) < 0) {
		close(take_fd(&greeter->fd));
		greeter->over = true;
	}
}

static void accept_later(struct listener *listener, bool rest);

static void came(struct ring_op *op, int res)
{
	struct listener *listener = container_of(op, struct listener, op);
	struct sockaddr_storage from = {0};
	socklen_t length = sizeof(from);
	int fd = 0;

	while (!listener->port->closing && fd >= 0) {
		fd = accept4(listener->fd, (struct sockaddr *)&from, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0)
			take(listener->port, fd, &from);
		length = sizeof(from);
	}
	if (!listener->port->closing)
		accept_later(listener, errno != EAGAIN && errno != ECONNABORTED);
}

static void accept_later(struct listener *listener, bool rest)
{
	struct ring *ring = listener->port->process->ring;

	listener->op = (struct ring_op){.opcode = rest ? RING_TIMER : RING_POLL,
	    .fd = listener->fd,
	    .events = POLLIN,
	    .deadline_ns = rest ? ring_now_ns(ring) + ACCEPT_REST : 0,
	    .done = came};
	ring_submit(ring, &listener->op);
}

/* Ports */

static int bind_one(const struct replicate_address *address, int *ret_fd)
{
	const int on = 1;
	_cleanup_(cleanup_close) int fd =
	    socket(address->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (address->address.ss_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	if (bind(fd, (const struct sockaddr *)&address->address, address->length) < 0 ||
	    listen(fd, BACKLOG) < 0)
		return -errno;
	*ret_fd = take_fd(&fd);
	return 0;
}

static int bind_all(struct replicate_port *port, const struct replica_config_host *host, struct error *error)
{
	struct replicate_address addresses[REPLICATE_ADDRESSES_MAX];
	unsigned count = 0;
	int res = replicate_stream_resolve(port->process->ring, host, addresses, &count, error);

	if (res < 0)
		return res;
	for (unsigned i = 0; i < count; i++) {
		struct listener *listener = &port->listeners[port->listeners_count];

		res = bind_one(&addresses[i], &listener->fd);
		if (res < 0)
			return error_set(error, res, "cannot listen at %s, this host's address: %s; %s",
			    host->address, strerror(-res),
			    res == -EADDRINUSE
			        ? "`ss -ltnp` says who does. Resources that share a port are to be up in one "
			          "process; else another port may stand in the file of both hosts"
			        : "is it this machine's? The file's [host] of the same name has it");
		listener->port = port;
		port->listeners_count++;
	}
	for (unsigned i = 0; i < count; i++)
		accept_later(&port->listeners[i], false);
	return 0;
}

static void port_free(struct replicate_port *port)
{
	struct ring *ring = port->process->ring;
	bool busy = true;

	port->closing = true;
	for (unsigned i = 0; i < port->listeners_count; i++)
		if (port->listeners[i].op.active)
			ring_cancel(ring, &port->listeners[i].op);
	list_for_each (node, &port->greeters) {
		struct greeter *greeter = container_of(node, struct greeter, node);

		if (greeter->fd >= 0)
			shutdown(greeter->fd, SHUT_RDWR);
	}
	while (busy) {
		busy = false;
		for (unsigned i = 0; i < port->listeners_count; i++)
			busy |= port->listeners[i].op.active;
		list_for_each (node, &port->greeters)
			busy |= !container_of(node, struct greeter, node)->over;
		if (busy && ring_step(ring) < 0)
			return; /* what waits on the ring cannot be freed */
	}
	replicate_ports_look(port->process);
	for (unsigned i = 0; i < port->listeners_count; i++)
		close(port->listeners[i].fd);
	list_remove(&port->node);
	free(port->host);
	free(port->number);
	free(port);
}

int replicate_port_use(struct replicate_resource *resource, struct error *error)
{
	struct replicate_process *process = resource->process;
	const struct replica_config_host *host = replica_config_self(resource->config);
	struct replicate_port *port;
	int res;

	list_for_each (node, &process->ports) {
		port = container_of(node, struct replicate_port, node);
		if (strcmp(port->host, host->address_host) || strcmp(port->number, host->address_port))
			continue;
		if (!replicate_tls_is_same(port->config, resource->config))
			return error_set(error, -EINVAL,
			    "%s and %s share the address %s, and name different TLS keys; name the same, or "
			    "give one of them another port",
			    resource->name, port->config->name, host->address);
		port->users++;
		resource->peer.port = port;
		return 0;
	}
	port = calloc(1, sizeof(*port));
	if (!port)
		return error_set(error, -ENOMEM, "out of memory");
	port->process = process;
	port->config = resource->config;
	port->host = strdup(host->address_host);
	port->number = strdup(host->address_port);
	list_init(&port->greeters);
	list_append(&process->ports, &port->node);
	res = port->host && port->number ? replicate_tls_find(process, port->config, &port->keys, error)
	                                 : error_set(error, -ENOMEM, "out of memory");
	if (res == 0)
		res = bind_all(port, host, error);
	if (res < 0) {
		port_free(port);
		return res;
	}
	port->users = 1;
	resource->peer.port = port;
	return 0;
}

void replicate_port_leave(struct replicate_resource *resource)
{
	struct replicate_port *port = resource->peer.port;

	resource->peer.port = NULL;
	if (port && --port->users == 0)
		port_free(port);
}

void replicate_ports_look(struct replicate_process *process)
{
	list_for_each (node, &process->ports) {
		struct replicate_port *port = container_of(node, struct replicate_port, node);

		list_for_each_safe (at, &port->greeters) {
			struct greeter *greeter = container_of(at, struct greeter, node);

			if (!greeter->over || (greeter->fiber && !fiber_has_ended(greeter->fiber)))
				continue;
			list_remove(&greeter->node);
			port->greeters_count--;
			fiber_free(greeter->fiber);
			free(greeter);
		}
	}
}
