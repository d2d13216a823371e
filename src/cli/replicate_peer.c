/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The way to the other host of a resource: its addresses, the link while the node seeks one (the host that the file names second dials it),
 * and the data's stream when the node sends.
 */
#include "cli/replicate_process.h"

#include "base/cleanup.h"
#include "replica/replica_wire.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define CONNECT_NS   UINT64_C(10000000000)
#define BACKOFF_NS   UINT64_C(500000000)
#define BACKOFF_MOST 4u                    /* doublings: 8 s */
#define ADDRESSES_NS UINT64_C(10000000000) /* before a name is looked up again */

uint64_t replicate_draw(void)
{
	uint64_t number = 0;

	while (number == 0 || number > REPLICA_NAME_MAX) {
		if (getrandom(&number, sizeof(number), 0) != sizeof(number))
			abort(); /* for 8 bytes it cannot fail, and without it nothing can be told apart */
		number &= REPLICA_NAME_MAX;
	}
	return number;
}

/* Connecting */

/* The other host knows this one by its address. */
static void bind_source(struct replicate_resource *resource, int fd, int family)
{
	struct replicate_address own[REPLICATE_ADDRESSES_MAX];
	const int on = 1;
	unsigned count = 0;

	if (replicate_stream_resolve(
	        resource->process->ring, replica_config_self(resource->config), own, &count, NULL) < 0)
		return;
	setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
	for (unsigned i = 0; i < count; i++) {
		struct sockaddr_in *four = (struct sockaddr_in *)&own[i].address;
		struct sockaddr_in6 *six = (struct sockaddr_in6 *)&own[i].address;

		if (own[i].address.ss_family != family)
			continue;
		if (family == AF_INET)
			four->sin_port = 0;
		else
			six->sin6_port = 0;
		if (bind(fd, (struct sockaddr *)&own[i].address, own[i].length) == 0)
			return;
	}
}

/* `shown` is where others find the descriptor, to end it. */
static int connect_to(struct replicate_resource *resource, const struct replicate_address *address,
    uint64_t deadline_ns, int *shown)
{
	struct ring *ring = resource->process->ring;
	int res = 0;
	socklen_t length = sizeof(res);
	uint64_t now_ns;

	*shown = socket(address->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (*shown < 0)
		return -errno;
	bind_source(resource, *shown, address->address.ss_family);
	if (connect(*shown, (const struct sockaddr *)&address->address, address->length) == 0)
		return 0;
	if (errno != EINPROGRESS)
		return -errno;
	now_ns = ring_now_ns(ring);
	res = now_ns < deadline_ns ? ring_wait_fd(ring, *shown, POLLOUT, (deadline_ns - now_ns) / 1000000 + 1)
	                           : 0;
	if (res <= 0)
		return res < 0 ? res : -ETIMEDOUT;
	if (getsockopt(*shown, SOL_SOCKET, SO_ERROR, &res, &length) < 0)
		return -errno;
	return -res;
}

static int connect_any(
    struct replicate_resource *resource, uint64_t deadline_ns, int *shown, struct error *error)
{
	const struct replicate_peer *peer = &resource->peer;
	const struct replica_config_host *other = replica_config_other(resource->config);
	int res = -ENOENT;

	for (unsigned i = 0; i < peer->addresses_count && res < 0 && !peer->closing; i++) {
		const struct replicate_address address = peer->addresses[i];

		cleanup_close(shown);
		*shown = -1;
		res = connect_to(resource, &address, deadline_ns, shown);
	}
	if (res < 0)
		return error_set(error, res, "cannot reach %s at %s: %s%s", other->name, other->address,
		    strerror(-res),
		    res == -ECONNREFUSED ? "; is the resource up there?"
		                         : "; is the machine on, and the address right in the file?");
	return 0;
}

static int greet(struct replicate_resource *resource, enum replica_stream stream, uint64_t link,
    uint64_t deadline_ns, int fd, struct error *error)
{
	struct replica_greeting greeting = {.stream = stream, .link = link, .ack = resource->config->ack};
	char line[REPLICA_GREETING_MAX];
	int length, res;

	snprintf(greeting.resource, sizeof(greeting.resource), "%s", resource->name);
	length = replica_greeting_format(&greeting, line);
	if (length < 0)
		return error_set(error, length, "cannot greet the other host");
	res = replicate_stream_write_line(fd, line, (size_t)length, error);
	if (res == 0)
		res = length =
		    replicate_stream_read_line(resource->process->ring, fd, deadline_ns, line, error);
	return res < 0 ? res : replica_greeting_answer_parse(line, (size_t)length, error);
}

/* Connects and greets. `shown` has the descriptor meanwhile, and keeps it on success. */
static int dial(struct replicate_resource *resource, enum replica_stream stream, uint64_t link, int *shown,
    struct error *error)
{
	const struct replica_config_host *other = replica_config_other(resource->config);
	uint64_t deadline_ns = ring_now_ns(resource->process->ring) + CONNECT_NS;
	struct replicate_tls *tls = NULL;
	struct tls *keys = NULL;
	int res = connect_any(resource, deadline_ns, shown, error);

	if (res < 0)
		return res;
	replicate_stream_tune(*shown, resource->config->timeout_ms);
	res = replicate_tls_find(resource->process, resource->config, &keys, error);
	if (res == 0 && keys)
		res = replicate_tls_wrap(
		    resource->process, keys, false, other->address_host, shown, &tls, error);
	if (res == 0)
		res = greet(resource, stream, link, deadline_ns, *shown, error);
	replicate_tls_let_go(tls, res < 0 ? error : NULL);
	return res < 0 ? error_prefix(error, "%s", other->name) : 0;
}

int replicate_peer_dial(void *data, uint64_t link, int *ret_fd, struct error *error)
{
	struct replicate_resource *resource = data;
	_cleanup_(cleanup_close) int fd = -1;
	int res = dial(resource, REPLICA_STREAM_DATA, link, &fd, error);

	if (res == 0)
		*ret_fd = take_fd(&fd);
	return res;
}

/* The link */

static bool dials(const struct replicate_resource *resource)
{
	return resource->config->self == 1;
}

int replicate_peer_take_link(
    struct replicate_resource *resource, int fd, bool server, uint64_t link, struct error *error)
{
	int res = replica_node_take_link(resource->node, fd, server, link, error);

	/* It is sought again when the node says so. */
	if (res == 0)
		replicate_peer_seek(resource, false);
	return res;
}

static int dial_link(struct replicate_resource *resource, struct error *error)
{
	struct replicate_peer *peer = &resource->peer;
	uint64_t link = replicate_draw();
	int res = dial(resource, REPLICA_STREAM_LINK, link, &peer->fd, error);

	if (res == 0 && !peer->closing)
		return replicate_peer_take_link(resource, take_fd(&peer->fd), false, link, error);
	cleanup_close(&peer->fd);
	peer->fd = -1;
	return res < 0 ? res : error_set(error, -ECANCELED, "not wanted any more");
}

void replicate_peer_note(struct replicate_resource *resource, const char *text)
{
	struct replicate_peer *peer = &resource->peer;

	if (!strcmp(peer->trying, text))
		return;
	snprintf(peer->trying, sizeof(peer->trying), "%s", text);
	resource->changed = true;
	if (text[0])
		replicate_say(resource, "%s", text);
}

static void try_once(struct replicate_resource *resource)
{
	struct replicate_peer *peer = &resource->peer;
	struct ring *ring = resource->process->ring;
	struct error error = {0};
	int res = replicate_stream_resolve(
	    ring, replica_config_other(resource->config), peer->addresses, &peer->addresses_count, &error);

	if (res == 0 && dials(resource) && peer->sought && !peer->closing)
		res = dial_link(resource, &error);
	/* It may have come from there, or be unwanted now. What the port has noted stays until it dials in vain no more. */
	if (res < 0 || dials(resource) || peer->failures)
		replicate_peer_note(resource, res < 0 && peer->sought && !peer->closing ? error.text : "");
	peer->failures = res < 0 ? peer->failures + 1 : 0;
	peer->next_ns =
	    ring_now_ns(ring) +
	    (res == 0 && !dials(resource)
	            ? ADDRESSES_NS
	            : BACKOFF_NS << (peer->failures < BACKOFF_MOST ? peer->failures : BACKOFF_MOST));
}

static bool is_due(const struct replicate_resource *resource)
{
	const struct replicate_peer *peer = &resource->peer;

	return peer->closing || (peer->sought && ring_now_ns(resource->process->ring) >= peer->next_ns);
}

static void seek(void *data)
{
	struct replicate_resource *resource = data;
	struct replicate_peer *peer = &resource->peer;

	while (!peer->closing) {
		peer->wake = is_due(resource);
		if (ring_run_until(resource->process->ring, &peer->wake) < 0)
			return;
		if (!peer->closing)
			try_once(resource);
	}
}

void replicate_peer_seek(void *data, bool on)
{
	struct replicate_resource *resource = data;
	struct replicate_peer *peer = &resource->peer;

	resource->changed = true;
	if (on && !peer->sought) {
		peer->next_ns = 0;
		peer->failures = 0;
		peer->wake = true;
	}
	peer->sought = on;
	if (!on)
		replicate_peer_note(resource, "");
}

void replicate_peer_tick(struct replicate_resource *resource)
{
	if (resource->peer.port && is_due(resource))
		resource->peer.wake = true;
}

int replicate_peer_open(struct replicate_resource *resource, struct error *error)
{
	struct replicate_peer *peer = &resource->peer;
	int res;

	peer->fd = -1;
	res = replicate_port_use(resource, error);
	if (res < 0)
		return res;
	/* A name is looked up when the other host is: where no name server answers, this host's clients need not wait for that. */
	(void)replicate_stream_resolve(
	    NULL, replica_config_other(resource->config), peer->addresses, &peer->addresses_count, NULL);
	return fiber_start(&peer->fiber, resource->process->ring, seek, resource, error);
}

void replicate_peer_close(struct replicate_resource *resource)
{
	struct replicate_peer *peer = &resource->peer;

	peer->closing = peer->wake = true;
	peer->sought = false;
	if (peer->fiber && peer->fd >= 0)
		shutdown(peer->fd, SHUT_RDWR);
	while (peer->fiber && !fiber_has_ended(peer->fiber) && ring_step(resource->process->ring) == 0)
		;
	peer->fiber = fiber_free(peer->fiber);
	replicate_port_leave(resource);
}
