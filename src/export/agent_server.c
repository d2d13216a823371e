/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The agent's server: one session, one volume. It lives until the client is gone and every request has come
 * back from the disk; then done() runs, and the lock on the volume goes with agent_server_free().
 */
#include "export/agent_server_private.h"

#include "base/cleanup.h"
#include "wire/control.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define TIMEOUT_MS_DEFAULT 30000u

/* When nothing is under way any more: the end, from the loop. */
static void maybe_end(struct agent_server *server)
{
	if (server->broken && server->busy == 0 && !server->control_running && !server->later.active &&
	    !server->end.active && !server->over)
		ring_defer(server->ring, &server->end, 0);
}

static void end_done(struct ring_op *op, int res)
{
	struct agent_server *server = container_of(op, struct agent_server, end);

	if (!server->done)
		return; /* not started yet: agent_server_start() comes back here */
	server->over = true;
	server->done(server->done_data, server->error.code);
}

/* Slots */

int agent_slot_take(
    struct agent_server *server, const struct frame *frame, struct agent_slot **ret, struct error *error)
{
	struct list_node *node = NULL;
	struct agent_slot *slot;

	if (session_credit_take(server->session, frame_cost(frame))) {
		node = list_pop(&server->free);
		if (!node)
			session_credit_give(server->session, frame_cost(frame));
	}
	if (!node)
		return error_set(error, -EPROTO,
		    "more under way than the credits allow (%u requests, %u bytes)", AGENT_REQUESTS,
		    AGENT_BYTES);
	slot = container_of(node, struct agent_slot, node);
	slot->request = *frame;
	slot->credited = true;
	server->busy++;
	*ret = slot;
	return 0;
}

static void give_credit(struct agent_slot *slot)
{
	if (slot->credited)
		session_credit_give(slot->server->session, frame_cost(&slot->request));
	slot->credited = false;
}

void agent_slot_release(struct agent_slot *slot)
{
	struct agent_server *server = slot->server;

	give_credit(slot);
	if (slot->buf)
		page_buffers_put(&server->buffers, slot->buf, slot->buf_size);
	slot->buf = NULL;
	free(slot->text);
	slot->text = NULL;
	list_append(&server->free, &slot->node);
	server->busy--;
	maybe_end(server);
}

/* The client may see the answer from now on, and with it its credit. */
static void answer_started(struct session_send *send)
{
	struct agent_slot *slot = container_of(send, struct agent_slot, send);

	give_credit(slot);
	if (slot->server->control == slot)
		slot->server->control = NULL;
}

static void answer_sent(struct session_send *send, int res)
{
	struct agent_slot *slot = container_of(send, struct agent_slot, send);

	if (slot->server->control == slot)
		slot->server->control = NULL;
	agent_slot_release(slot);
}

void agent_slot_answer(struct agent_slot *slot)
{
	slot->send.frame.id = slot->request.id;
	slot->send.started = answer_started;
	slot->send.sent = answer_sent;
	session_send(slot->server->session, &slot->send);
}

static void answer_json(struct agent_slot *slot, enum frame_type type, json_t *take_json)
{
	_cleanup_(control_cleanup) json_t *json = take_json;
	static const struct error no_memory = {-ENOMEM, "the agent has no memory for an answer"};

	slot->text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	if (!slot->text) {
		session_break(slot->server->session, &no_memory);
		agent_slot_release(slot);
		return;
	}
	slot->send.frame = (struct frame){.type = type, .payload_length = (uint32_t)strlen(slot->text)};
	slot->send.payload = slot->text;
	slot->send.compressible = false;
	agent_slot_answer(slot);
}

void agent_slot_answer_error(struct agent_slot *slot, int code, const char *words)
{
	answer_json(slot, FRAME_ERROR, control_error(code, words));
}

/* OPEN and FACTS */

static int open_block(struct agent_server *server, struct error *error)
{
	const struct remote_open *open = &server->open;
	const struct block_open_options options = {
	    .write = open->write,
	    .create = open->create,
	    .create_size = open->create_size,
	    .force_held = open->force_held,
	    .cache = open->cache,
	    .session = open->session,
	    .stage = open->stage,
	    .stage_dir = open->stage_dir[0] ? open->stage_dir : NULL,
	    .keep_points = open->keep_points,
	};

	if (server->options.open)
		return server->options.open(
		    server->options.open_data, &server->block, server->ring, open->path, &options, error);
	return file_open(&server->block, server->ring, open->path, server->options.policy, &options, error);
}

static void run_open(struct agent_server *server, struct agent_slot *slot)
{
	struct error error = {0};
	int res = open_block(server, &error);

	if (server->broken) {
		agent_slot_release(slot);
	} else if (res < 0) {
		server->error = error;
		agent_slot_answer_error(slot, res, error.text);
	} else {
		server->error = (struct error){0};
		answer_json(slot, FRAME_OPENED, remote_json_opened(block_info(server->block)));
	}
}

/* Before the client's first write. It is a note of how the volume was when this session began. */
static void take_note(struct agent_server *server, struct block_facts *facts)
{
	const struct agent_notes *notes = server->options.notes;

	if (notes && !server->noted && server->open.session && block_info(server->block)->writable) {
		server->last_writer = notes->take(notes->data, facts);
		server->noted = true;
	}
	facts->last_writer = server->last_writer;
}

/* After the client's last write, and while its volume is still locked. What is not flushed would change it later. */
static void put_note(struct agent_server *server)
{
	struct block_io flush = {.op = BLOCK_FLUSH};
	struct block_facts facts = {0};
	struct error ignored;

	if (server->noted && block_wait(server->block, &flush) == 0 &&
	    block_facts(server->block, &facts, &ignored) == 0)
		server->options.notes->put(server->options.notes->data, &facts, server->open.session);
}

static void run_facts(struct agent_server *server, struct agent_slot *slot)
{
	struct block_facts facts = {0};
	struct error error = {0};
	int res = block_facts(server->block, &facts, &error);

	if (res == 0)
		take_note(server, &facts);
	if (server->broken)
		agent_slot_release(slot);
	else if (res < 0)
		agent_slot_answer_error(slot, res, error.text);
	else
		answer_json(slot, FRAME_FACTS_REPLY, remote_json_facts(&facts));
}

static void later_done(struct ring_op *op, int res)
{
	struct agent_server *server = container_of(op, struct agent_server, later);
	struct agent_slot *slot = server->control;

	server->control_running = true;
	if (server->broken)
		agent_slot_release(slot);
	else if (server->opening)
		run_open(server, slot);
	else
		run_facts(server, slot);
	server->control_running = false;
	maybe_end(server);
}

static int control_header(struct agent_server *server, const struct frame *frame, struct error *error)
{
	const char *name = frame_type_name(frame->type);

	if (server->control)
		return error_set(error, -EPROTO, "%s before the last control request was answered", name);
	if (frame->type == FRAME_OPEN && server->block)
		return error_set(error, -EPROTO, "a second OPEN");
	if (frame->type == FRAME_FACTS && !server->block)
		return error_set(error, -EPROTO, "FACTS before a volume was opened");
	return agent_slot_take(server, frame, &server->receiving, error);
}

static int control_frame(struct agent_server *server, const struct frame *frame, const void *payload,
    struct agent_slot *slot, struct error *error)
{
	server->opening = frame->type == FRAME_OPEN;
	if (server->opening && remote_parse_open(payload, frame->payload_length, &server->open, error) < 0) {
		agent_slot_release(slot);
		return -EPROTO;
	}
	server->control = slot;
	ring_defer(server->ring, &server->later, 0);
	return 0;
}

/* The session's handlers */

static int on_header(void *data, const struct frame *frame, struct session_sink *ret, struct error *error)
{
	struct agent_server *server = data;

	if (frame->id == 0)
		return error_set(error, -EPROTO, "%s without an id", frame_type_name(frame->type));
	if (frame->type == FRAME_OPEN || frame->type == FRAME_FACTS)
		return control_header(server, frame, error);
	return agent_request_header(server, frame, ret, error);
}

static int on_frame(void *data, const struct frame *frame, const void *payload, struct error *error)
{
	struct agent_server *server = data;
	struct agent_slot *slot = server->receiving;

	server->receiving = NULL;
	if (frame->type == FRAME_OPEN || frame->type == FRAME_FACTS)
		return control_frame(server, frame, payload, slot, error);
	agent_request_submit(slot, payload);
	return 0;
}

static void on_closed(void *data)
{
	struct agent_server *server = data;
	struct agent_slot *receiving = server->receiving;

	server->broken = true;
	if (!session_ended(server->session))
		session_error(server->session, &server->error);
	if (receiving) {
		server->receiving = NULL;
		agent_slot_release(receiving);
	}
	maybe_end(server);
}

/* Life */

static int make(struct agent_server **ret, struct ring *ring, const struct agent_server_options *options)
{
	struct agent_server *server = calloc(1, sizeof(*server));

	if (!server)
		return -ENOMEM;
	server->slots = calloc(AGENT_SLOTS, sizeof(*server->slots));
	if (!server->slots) {
		free(server);
		return -ENOMEM;
	}
	server->ring = ring;
	server->options = *options;
	server->buffers.kept_bytes_max = AGENT_BYTES;
	server->later.done = later_done;
	server->end.done = end_done;
	list_init(&server->free);
	for (unsigned i = 0; i < AGENT_SLOTS; i++) {
		server->slots[i].server = server;
		list_append(&server->free, &server->slots[i].node);
	}
	*ret = server;
	return 0;
}

int agent_server_new(struct agent_server **ret, struct ring *ring, const struct agent_server_options *options,
    struct error *error)
{
	unsigned timeout_ms = options->timeout_ms ? options->timeout_ms : TIMEOUT_MS_DEFAULT;
	struct session_options link = {
	    .fd_in = options->fd_in,
	    .fd_out = options->fd_out,
	    .server = true,
	    .timeout_ms = timeout_ms,
	    .handshake_ms = timeout_ms,
	    .offer = {.requests = AGENT_REQUESTS, .bytes = AGENT_BYTES},
	    .header = on_header,
	    .frame = on_frame,
	    .closed = on_closed,
	};
	struct agent_server *server;
	int res = make(&server, ring, options);

	if (res < 0) {
		close(options->fd_in);
		if (options->fd_out != options->fd_in)
			close(options->fd_out);
		return error_set(error, res, "cannot start the agent: out of memory");
	}
	link.data = server;
	res = session_new(&server->session, ring, &link, error);
	if (res < 0) {
		free(server->slots);
		free(server);
		return res;
	}
	*ret = server;
	return 0;
}

void agent_server_start(struct agent_server *server, void (*done)(void *data, int res), void *data)
{
	server->done = done;
	server->done_data = data;
	maybe_end(server);
}

const struct error *agent_server_error(const struct agent_server *server)
{
	return &server->error;
}

static void ignore_done(void *data, int res)
{
}

struct agent_server *agent_server_free(struct agent_server *server)
{
	const struct error closed = {-ECANCELED, "closed on this side"};

	if (!server)
		return NULL;
	session_break(server->session, &closed);
	if (!server->over)
		agent_server_start(server, ignore_done, NULL);
	/* If the loop itself broke, the kernel may still use the memory: better to keep it. */
	if (ring_run_until(server->ring, &server->over) < 0)
		return NULL;
	session_free(server->session);
	put_note(server);
	block_free(server->block);
	page_buffers_done(&server->buffers);
	free(server->slots);
	free(server);
	return NULL;
}
