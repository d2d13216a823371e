/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One client: its bytes in, in large pieces; its replies out, many in one write; and its end, which waits for everything that is
 * under way. Owned by the server; frees itself.
 */
#include "export/nbd_server_private.h"

#include "base/bytes.h"

#include <assert.h>
#include <errno.h>
#include <linux/sockios.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define DIRECT_MIN 65536u /* a payload's rest that is worth a read of its own */

/* Input */

static void read_more(struct nbd_client *client)
{
	struct nbd_slot *slot = client->payload;
	size_t left = slot ? slot->request.length - client->payload_have : 0, most;

	client->payload_direct =
	    left >= (client->long_payloads ? 1 : DIRECT_MIN) && client->in_start == client->in_end;
	if (client->payload_direct && slot->pipe) {
		nbd_stream_read_pipe(&client->stream, slot->pipe->write_fd, left);
		return;
	}
	if (client->payload_direct) {
		nbd_stream_read(&client->stream, (char *)slot->buf + client->payload_have, left);
		return;
	}
	/* After a long payload comes another: its bytes shall not go through here. */
	most = client->long_payloads ? NBD_REQUEST_BYTES : NBD_INPUT_BYTES;
	memmove(client->in, client->in + client->in_start, client->in_end - client->in_start);
	client->in_end -= client->in_start;
	client->in_start = 0;
	assert(client->in_end < NBD_INPUT_BYTES);
	most = client->in_end < most ? most : NBD_INPUT_BYTES;
	nbd_stream_read(&client->stream, client->in + client->in_end, most - client->in_end);
}

void nbd_client_pump(struct nbd_client *client)
{
	enum nbd_step step = NBD_STEP_ON;

	while (step == NBD_STEP_ON && !client->ending && !client->stream.read_op.active) {
		if (client->phase == NBD_PHASE_REQUESTS)
			step = nbd_slot_step(client);
		else
			step = nbd_handshake_step(client);
	}
	if (step == NBD_STEP_MORE && !client->ending)
		read_more(client);
	nbd_client_check_end(client);
}

static void link_broke(struct nbd_client *client, const char *what, int res)
{
	struct error error;

	/* A client that just goes is as usual as one that takes its leave. */
	if (res == -ECONNRESET || res == -EPIPE)
		error.text[0] = '\0';
	else
		error_set(&error, res, "the link broke while %s: %s", what, strerror(-res));
	error.code = res;
	nbd_client_end(client, &error);
}

static void came_to_an_end(struct nbd_client *client)
{
	struct error error;

	/* Between two requests it is in order: perhaps the client still reads its replies. */
	if (client->phase == NBD_PHASE_REQUESTS && !client->payload && !client->discard &&
	    client->in_start == client->in_end) {
		nbd_client_end(client, NULL);
		return;
	}
	error_set(&error, -ECONNRESET, "it went in the middle of %s",
	    client->phase == NBD_PHASE_REQUESTS ? "a request" : "the negotiation");
	/* A port scan, or a look at whether somebody listens. */
	if (client->phase == NBD_PHASE_FLAGS)
		error.text[0] = '\0';
	nbd_client_end(client, &error);
}

/* Whether this client still has replies that it did not take. Of TCP: that its machine did not. */
static bool is_behind(const struct nbd_client *client)
{
	int unsent = 0;

	return ioctl(client->stream.fd, SIOCOUTQ, &unsent) == 0 && unsent > 0;
}

/* A pipe holds so many pieces, however short they are. Then the payload comes the other way; so does the end of a link. */
static void leave_pipe(struct nbd_client *client)
{
	int res = nbd_slot_leave_pipe(client->payload, client->payload_have);
	struct error error;

	if (res < 0)
		nbd_client_end(client, (error_set(&error, res, "no memory for its request"), &error));
}

static void set_pace(struct nbd_client *client)
{
	struct nbd_server *server = client->server;

	/* Who sends more than a socket holds waits for us to take it. */
	if (client->payload || client->long_payloads)
		ring_linger(server->ring, 0);
	else if (nbd_pace_asks(&server->pace))
		ring_linger(server->ring, nbd_pace_next(&server->pace, is_behind(client)));
}

static void received(struct nbd_stream *stream, int res)
{
	struct nbd_client *client = container_of(stream, struct nbd_client, stream);

	if (client->ending)
		; /* too late */
	else if (res < 0 && client->payload && client->payload->pipe)
		leave_pipe(client);
	else if (res < 0 && res != -EINTR && res != -EAGAIN)
		link_broke(client, "reading", res);
	else if (res == 0)
		came_to_an_end(client);
	else if (client->payload_direct)
		client->payload_have += res > 0 ? (size_t)res : 0;
	else
		client->in_end += res > 0 ? (size_t)res : 0;
	if (client->phase == NBD_PHASE_REQUESTS && client->server->options.paced)
		set_pace(client);
	nbd_client_pump(client);
}

/* Output */

static void release_all(struct list_node *slots)
{
	struct list_node *node;

	while ((node = list_pop(slots)))
		nbd_slot_release(container_of(node, struct nbd_slot, node));
}

static void add_iov(struct nbd_client *client, void *data, size_t length)
{
	if (length > 0)
		client->iov[client->iov_count++] = (struct iovec){.iov_base = data, .iov_len = length};
}

static void send_batch(struct nbd_client *client)
{
	struct list_node *node;

	client->iov_first = client->iov_count = 0;
	client->piped = NULL;
	for (unsigned i = 0; i < NBD_BATCH && !client->piped && (node = list_pop(&client->answered)); i++) {
		struct nbd_slot *slot = container_of(node, struct nbd_slot, node);

		list_append(&client->sending, node);
		add_iov(client, slot->header, slot->header_length);
		if (slot->pipe && slot->payload_length > 0) {
			client->piped = slot;
			client->piped_left = slot->payload_length;
		} else {
			add_iov(client, slot->buf, slot->payload_length);
		}
	}
	if (client->iov_count > 0)
		nbd_stream_write(&client->stream, client->iov, client->iov_count);
}

static void later_done(struct ring_op *op, int res)
{
	struct nbd_client *client = container_of(op, struct nbd_client, later);

	if (client->broken)
		release_all(&client->answered);
	else if (!client->stream.write_op.active)
		send_batch(client);
	nbd_client_check_end(client);
}

void nbd_client_send_soon(struct nbd_client *client)
{
	/* Once a turn of the loop, so that what this turn still answers goes along. */
	if (!client->stream.write_op.active && !client->later.active)
		ring_defer(client->server->ring, &client->later, 0);
}

/* Sends what is left of the batch; false when that is nothing. */
static bool send_on(struct nbd_client *client)
{
	if (client->iov_first < client->iov_count)
		nbd_stream_write(
		    &client->stream, client->iov + client->iov_first, client->iov_count - client->iov_first);
	else if (client->piped && client->piped_left > 0)
		nbd_stream_splice(&client->stream, client->piped->pipe->read_fd, client->piped_left);
	else
		return false;
	return true;
}

static void batch_moved(struct nbd_client *client, size_t bytes)
{
	if (client->iov_first == client->iov_count) {
		client->piped_left -= bytes;
		client->piped->pipe->empty = client->piped_left == 0;
		return;
	}
	while (bytes > 0) {
		struct iovec *iov = &client->iov[client->iov_first];
		size_t length = min_u64(bytes, iov->iov_len);

		iov->iov_base = (char *)iov->iov_base + length;
		iov->iov_len -= length;
		bytes -= length;
		if (iov->iov_len == 0)
			client->iov_first++;
	}
}

/* The answers of the negotiation are out. */
static void negotiated(struct nbd_client *client)
{
	struct error error;

	client->answers.used = client->answers_sent = 0;
	if (client->ending)
		return;
	client->phase = client->phase_next;
	if (client->end_next) {
		nbd_client_end(client, NULL);
	} else if (client->phase == NBD_PHASE_TLS) {
		if (nbd_stream_start_tls(&client->stream, client->server->options.tls) < 0)
			nbd_client_end(client, (error_set(&error, -ENOMEM, "no memory for TLS"), &error));
	} else if (client->phase == NBD_PHASE_REQUESTS) {
		ring_cancel(client->server->ring, &client->timer);
		free(client->answers.data);
		client->answers.data = NULL;
		if (nbd_slots_new(client) < 0)
			nbd_client_end(client, (error_set(&error, -ENOMEM, "no memory for it"), &error));
	}
}

static void answers_moved(struct nbd_client *client, size_t bytes)
{
	client->answers_sent += bytes;
	if (client->answers_sent < client->answers.used) {
		client->iov[0] = (struct iovec){.iov_base = client->answers.data + client->answers_sent,
		    .iov_len = client->answers.used - client->answers_sent};
		nbd_stream_write(&client->stream, client->iov, 1);
		return;
	}
	negotiated(client);
}

static void sent(struct nbd_stream *stream, int res)
{
	struct nbd_client *client = container_of(stream, struct nbd_client, stream);
	struct nbd_server *server = client->server;

	if (res == -EINTR || res == -EAGAIN)
		res = 0;
	if (res < 0 && !client->broken)
		link_broke(client, "writing", res);
	if (client->broken) {
		release_all(&client->sending);
		release_all(&client->answered);
	} else if (client->phase != NBD_PHASE_REQUESTS) {
		answers_moved(client, (size_t)res);
	} else {
		batch_moved(client, (size_t)res);
		if (!send_on(client)) {
			release_all(&client->sending);
			send_batch(client);
		}
	}
	nbd_client_pump(client);
	nbd_server_feed(server);
}

static void tls_started(struct nbd_stream *stream, int res, struct error *error)
{
	struct nbd_client *client = container_of(stream, struct nbd_client, stream);

	client->phase = client->phase_next = NBD_PHASE_OPTIONS;
	if (res < 0 && !client->ending)
		nbd_client_end(client, error);
	nbd_client_pump(client);
}

/* Beginning and end */

static void timer_done(struct ring_op *op, int res)
{
	struct nbd_client *client = container_of(op, struct nbd_client, timer);
	struct error error;

	if (!client->ending && client->phase != NBD_PHASE_REQUESTS && res != -ECANCELED)
		nbd_client_end(
		    client, (error_set(&error, -ETIMEDOUT, "it did not end its negotiation in %u ms",
		                 client->server->options.handshake_ms),
		                &error));
	nbd_client_check_end(client);
}

void nbd_client_end(struct nbd_client *client, const struct error *why)
{
	struct nbd_server *server = client->server;

	if (why && why->text[0] && !client->broken && server->options.client_failed) {
		struct error error = *why;

		error_prefix(&error, "client %s", client->peer);
		server->options.client_failed(server->options.data, &error);
	}
	client->ending = true;
	if (!why || client->broken)
		return;
	client->broken = true;
	nbd_stream_shut(&client->stream);
	if (!client->stream.write_op.active)
		release_all(&client->sending);
	release_all(&client->answered);
}

static void client_free(struct nbd_client *client)
{
	struct nbd_server *server = client->server;

	list_remove(&client->node);
	list_remove(&client->starved);
	nbd_stream_done(&client->stream);
	free(client->answers.data);
	free(client->slots);
	free(client->in);
	free(client);
	server->clients_count--;
	if (server->options.clients_changed)
		server->options.clients_changed(server->options.data, server->clients_count);
	nbd_server_check_idle(server);
	nbd_server_feed(server);
}

void nbd_client_check_end(struct nbd_client *client)
{
	if (!client->ending || client->under_way > 0 || client->later.active ||
	    client->stream.write_op.active || !list_empty(&client->answered) || !list_empty(&client->sending))
		return;
	/* The payload of a request that will not be. */
	if (client->payload && !client->stream.read_op.active) {
		nbd_slot_release(client->payload);
		client->payload = NULL;
	}
	if (client->stream.read_op.active)
		nbd_stream_shut(&client->stream);
	if (client->timer.active)
		ring_cancel(client->server->ring, &client->timer);
	if (!client->stream.read_op.active && !client->timer.active)
		client_free(client);
}

static void name_peer(struct nbd_client *client)
{
	struct sockaddr_storage address;
	socklen_t length = sizeof(address), size = sizeof(struct ucred);
	char host[48] = "?", port[8] = "?";
	struct ucred process = {0};
	int fd = client->stream.fd;

	if (getpeername(fd, (struct sockaddr *)&address, &length) == 0 && address.ss_family != AF_UNIX) {
		getnameinfo((struct sockaddr *)&address, length, host, sizeof(host), port, sizeof(port),
		    NI_NUMERICHOST | NI_NUMERICSERV);
		snprintf(
		    client->peer, sizeof(client->peer), strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
		return;
	}
	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &process, &size);
	snprintf(client->peer, sizeof(client->peer), "pid %d", (int)process.pid);
}

static void client_init(struct nbd_client *client, struct nbd_server *server, int fd)
{
	client->server = server;
	client->stream = (struct nbd_stream){
	    .ring = server->ring, .fd = fd, .received = received, .sent = sent, .tls_started = tls_started};
	nbd_stream_init(&client->stream);
	name_peer(client);
	list_init(&client->starved);
	list_init(&client->free);
	list_init(&client->answered);
	list_init(&client->sending);
	client->later.done = later_done;
	client->timer = (struct ring_op){.opcode = RING_TIMER,
	    .deadline_ns = ring_now_ns(server->ring) + server->options.handshake_ms * UINT64_C(1000000),
	    .done = timer_done};
}

int nbd_client_new(struct nbd_server *server, int fd, struct error *error)
{
	struct nbd_client *client = calloc(1, sizeof(*client));

	if (client) {
		client_init(client, server, fd);
		client->in = malloc(NBD_INPUT_BYTES);
		client->answers.data = malloc(NBD_ANSWERS_BYTES);
		client->answers.size = NBD_ANSWERS_BYTES;
	}
	if (!client || !client->in || !client->answers.data) {
		if (client) {
			free(client->in);
			free(client->answers.data);
		}
		free(client);
		close(fd);
		return error_set(error, -ENOMEM, "a client was turned away: out of memory");
	}
	list_append(&server->clients, &client->node);
	server->clients_count++;
	server->idle = false;
	ring_submit(server->ring, &client->timer);
	nbd_handshake_begin(client);
	if (server->options.clients_changed)
		server->options.clients_changed(server->options.data, server->clients_count);
	return 0;
}
