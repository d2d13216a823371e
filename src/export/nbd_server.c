/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Exports, listeners, the bytes that clients share, and how a server ends. Owns clients and listening sockets. */
#include "export/nbd_server_private.h"

#include "base/bytes.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define KEPT_BYTES     (8u << 20)
#define ACCEPT_REST    100000000u /* ns to wait when descriptors or memory are out */
#define CLIENT_SHARE   4u         /* one client takes at most this part of the bytes */
#define PATIENCE_TICK  20000000u
#define REMOVE_TICK_MS 5u

int nbd_server_new(
    struct nbd_server **ret, struct ring *ring, const struct nbd_server_options *options, struct error *error)
{
	struct nbd_server *server = calloc(1, sizeof(*server));

	if (!server)
		return error_set(error, -ENOMEM, "cannot make an NBD server: out of memory");
	server->ring = ring;
	server->options = *options;
	if (!server->options.connections_max)
		server->options.connections_max = NBD_CONNECTIONS;
	if (!server->options.inflight_bytes)
		server->options.inflight_bytes = NBD_INFLIGHT_BYTES;
	if (!server->options.handshake_ms)
		server->options.handshake_ms = NBD_HANDSHAKE_MS;
	server->buffers.kept_bytes_max = KEPT_BYTES;
	nbd_pipes_init(&server->pipes);
	list_init(&server->listeners);
	list_init(&server->clients);
	list_init(&server->starved);
	server->idle = true;
	*ret = server;
	return 0;
}

int nbd_server_add(struct nbd_server *server, const struct nbd_export *export, struct error *error)
{
	struct nbd_served *served;

	if (server->exports_count == NBD_EXPORTS_MAX)
		return error_set(error, -E2BIG,
		    "cannot export %s: %u exports are the most; start another server", export->name,
		    NBD_EXPORTS_MAX);
	if (strlen(export->name) >= NBD_EXPORT_TEXT)
		return error_set(error, -EINVAL, "cannot export '%.40s...': a name has %u bytes at most",
		    export->name, NBD_EXPORT_TEXT - 1);
	for (unsigned i = 0; i < server->exports_count; i++)
		if (!strcmp(server->exports[i]->name, export->name))
			return error_set(error, -EEXIST,
			    "cannot export two volumes as '%s'; give each a name of its own", export->name);
	if (block_info(export->block)->stream)
		return error_set(error, -EINVAL, "cannot export %s: a stream has no addresses",
		    block_info(export->block)->name);
	served = calloc(1, sizeof(*served));
	if (!served)
		return error_set(error, -ENOMEM, "cannot export %s: out of memory", export->name);
	snprintf(served->name, sizeof(served->name), "%s", export->name);
	snprintf(served->description, sizeof(served->description), "%s",
	    export->description ? export->description : "");
	served->block = export->block;
	served->read_only = export->read_only || !block_info(export->block)->writable;
	server->exports[server->exports_count++] = served;
	return 0;
}

const struct nbd_served *nbd_server_find(const struct nbd_server *server, struct nbd_text name)
{
	struct nbd_served *found = NULL;

	for (unsigned i = 0; i < server->exports_count && !found; i++)
		if (nbd_text_is(name, server->exports[i]->name))
			found = server->exports[i];
	if (!found && name.length == 0 && server->exports_count > 0 && !server->options.named_only)
		found = server->exports[0];
	return found && !found->leaving ? found : NULL;
}

/* Bytes */

bool nbd_server_take_bytes(struct nbd_client *client, uint64_t bytes)
{
	struct nbd_server *server = client->server;
	uint64_t most = server->options.inflight_bytes;
	bool first = client->bytes == 0, huge = bytes > BLOCK_IO_MAX;

	if (!first && client->bytes + bytes > most / CLIENT_SHARE)
		return false;
	/* One request a client goes on always: others may hold theirs for ever. Only huge ones, which hardly anybody sends, wait. */
	if ((!first || huge) && server->inflight_bytes + bytes > most + (huge ? NBD_PAYLOAD_MAX : 0)) {
		if (list_empty(&client->starved))
			list_append(&server->starved, &client->starved);
		return false;
	}
	client->bytes += bytes;
	server->inflight_bytes += bytes;
	return true;
}

void nbd_server_give_bytes(struct nbd_client *client, uint64_t bytes)
{
	assert(client->bytes >= bytes && client->server->inflight_bytes >= bytes);
	client->bytes -= bytes;
	client->server->inflight_bytes -= bytes;
}

void nbd_server_feed(struct nbd_server *server)
{
	struct list_node hungry, *node;

	if (server->stopping)
		return;
	/* Each once: who is still hungry then stands in the new list. */
	list_take(&hungry, &server->starved);
	while ((node = list_pop(&hungry)))
		nbd_client_pump(container_of(node, struct nbd_client, starved));
}

/* Listening */

static void accept_later(struct nbd_listener *listener, bool rest)
{
	struct ring *ring = listener->server->ring;

	listener->op.opcode = rest ? RING_TIMER : RING_POLL;
	listener->op.fd = listener->fd;
	listener->op.events = POLLIN;
	listener->op.deadline_ns = rest ? ring_now_ns(ring) + ACCEPT_REST : 0;
	ring_submit(ring, &listener->op);
}

static void listener_free(struct nbd_listener *listener)
{
	struct nbd_server *server = listener->server;

	list_remove(&listener->node);
	close(listener->fd);
	free(listener);
	nbd_server_check_idle(server);
}

/* 0 when none waits; -errno when none can be taken now. */
static int accept_all(struct nbd_listener *listener)
{
	struct nbd_server *server = listener->server;
	struct error error = {0};

	for (;;) {
		int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return 0;
		if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS))
			return -errno;
		if (fd < 0)
			continue; /* that client is gone already */
		if (nbd_server_connect(server, fd, &error) < 0 && server->options.client_failed)
			server->options.client_failed(server->options.data, &error);
	}
}

static void listener_ready(struct ring_op *op, int res)
{
	struct nbd_listener *listener = container_of(op, struct nbd_listener, op);

	if (listener->server->stopping)
		listener_free(listener);
	else
		accept_later(listener, accept_all(listener) < 0);
}

int nbd_server_listen(struct nbd_server *server, int fd, struct error *error)
{
	struct nbd_listener *listener = calloc(1, sizeof(*listener));

	if (!listener) {
		close(fd);
		return error_set(error, -ENOMEM, "cannot listen: out of memory");
	}
	/* A client may go between the poll and the accept. */
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	listener->server = server;
	listener->fd = fd;
	listener->op.done = listener_ready;
	list_append(&server->listeners, &listener->node);
	server->idle = false;
	accept_later(listener, false);
	return 0;
}

int nbd_server_connect(struct nbd_server *server, int fd, struct error *error)
{
	const int on = 1;

	if (server->clients_count >= server->options.connections_max) {
		close(fd);
		return error_set(error, -EUSERS,
		    "a client was turned away: %u are connected, the most allowed", server->clients_count);
	}
	/* The ring waits for sockets by itself. Both options fail on unix sockets, which need neither. */
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	return nbd_client_new(server, fd, error);
}

unsigned nbd_server_clients_of(const struct nbd_server *server, const char *name)
{
	unsigned count = 0;

	list_for_each (node, &server->clients) {
		const struct nbd_client *client = container_of(node, struct nbd_client, node);

		count += client->export && !strcmp(client->export->name, name);
	}
	return count;
}

/* The end */

void nbd_server_check_idle(struct nbd_server *server)
{
	server->idle = list_empty(&server->listeners) && server->clients_count == 0;
}

static const struct error cut = {.code = -ECANCELED, .text = "the server ended before the client"};

static bool uses(const struct nbd_client *client, const struct nbd_served *served)
{
	return !served || client->export == served || client->allocation_of == served;
}

/* Frees perhaps more than one: those that waited for bytes go on, and may end. */
static bool end_one(struct nbd_server *server, const struct nbd_served *served, const struct error *why)
{
	list_for_each (node, &server->clients) {
		struct nbd_client *client = container_of(node, struct nbd_client, node);

		if (!uses(client, served) || (why ? client->broken : client->ending))
			continue;
		nbd_client_end(client, why);
		nbd_client_check_end(client);
		return true;
	}
	return false;
}

/* Those of one export, or all. */
static void end_clients(struct nbd_server *server, const struct nbd_served *served, const struct error *why)
{
	while (end_one(server, served, why))
		;
}

static bool is_used(const struct nbd_server *server, const struct nbd_served *served)
{
	bool used = false;

	list_for_each (node, &server->clients)
		used |= uses(container_of(node, struct nbd_client, node), served);
	return used;
}

void nbd_server_remove(struct nbd_server *server, const char *name, unsigned patience_ms)
{
	uint64_t deadline = ring_now_ns(server->ring) + patience_ms * UINT64_C(1000000);
	struct nbd_served *served = NULL;
	unsigned at;

	for (at = 0; at < server->exports_count && !served; at++)
		if (!strcmp(server->exports[at]->name, name))
			served = server->exports[at];
	if (!served || served->leaving)
		return;
	served->leaving = true;
	end_clients(server, served, NULL);
	while (is_used(server, served)) {
		if (ring_now_ns(server->ring) >= deadline)
			end_clients(server, served, &cut);
		if (ring_wait_fd(server->ring, -1, 0, REMOVE_TICK_MS) < 0)
			break;
	}
	/* Others may have been added or have gone meanwhile. */
	for (at = 0; server->exports[at] != served; at++)
		;
	for (server->exports_count--; at < server->exports_count; at++)
		server->exports[at] = server->exports[at + 1];
	free(served);
}

static void stop(struct nbd_server *server, unsigned patience_ms)
{
	uint64_t deadline = ring_now_ns(server->ring) + patience_ms * UINT64_C(1000000);
	struct ring_op tick = {0};

	server->stopping = true;
	list_for_each (node, &server->listeners)
		ring_cancel(server->ring, &container_of(node, struct nbd_listener, node)->op);
	end_clients(server, NULL, NULL);
	while (!server->idle && ring_now_ns(server->ring) < deadline) {
		tick.opcode = RING_TIMER;
		tick.deadline_ns = min_u64(deadline, ring_now_ns(server->ring) + PATIENCE_TICK);
		if (ring_wait(server->ring, &tick) < 0)
			break;
	}
	end_clients(server, NULL, &cut);
	(void)ring_run_until(server->ring, &server->idle);
}

int nbd_server_stop(struct nbd_server *server, unsigned patience_ms, struct error *error)
{
	int worst = 0;

	stop(server, patience_ms);
	for (unsigned i = 0; i < server->exports_count; i++) {
		struct block *block = server->exports[i]->block;
		struct block_io io = {.op = BLOCK_FLUSH};
		int res = block_info(block)->writable ? block_wait(block, &io) : 0;

		if (res < 0 && worst == 0)
			worst = error_set(error, res,
			    "cannot flush %s: %s; what clients wrote last may not be on stable storage",
			    block_info(block)->name, strerror(-res));
	}
	return worst;
}

struct nbd_server *nbd_server_free(struct nbd_server *server)
{
	if (!server)
		return NULL;
	stop(server, 0);
	assert(server->inflight_bytes == 0);
	page_buffers_done(&server->buffers);
	nbd_pipes_done(&server->pipes);
	for (unsigned i = 0; i < server->exports_count; i++)
		free(server->exports[i]);
	free(server);
	return NULL;
}
