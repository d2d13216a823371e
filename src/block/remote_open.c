/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The link of a remote volume: ssh started, hands shaken, the volume opened there, facts asked, all of it
 * ended. Control paths: they run the ring, and none waits without end.
 */
#include "block/remote_json.h"
#include "block/remote_private.h"
#include "wire/control.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TIMEOUT_MS_DEFAULT 30000u
#define LOGIN_MS           120000u /* for a person who types a password; sshd's LoginGraceTime */
#define LOGIN_MS_ALONE     10000u

static unsigned timeout_of(const struct link_options *link)
{
	return link->timeout_ms ? link->timeout_ms : TIMEOUT_MS_DEFAULT;
}

int remote_call_frame(
    struct remote *remote, const struct frame *frame, const void *payload, struct error *error)
{
	struct remote_call *call = remote->call;
	int res;

	if (frame->type == FRAME_ERROR) {
		res = control_error_parse(payload, frame->payload_length, &call->error, error);
		call->res = call->error.code;
	} else if (frame->type == FRAME_OPENED) {
		res = remote_parse_opened(payload, frame->payload_length, call->ret, error);
	} else {
		res = remote_parse_facts(payload, frame->payload_length, call->ret, error);
	}
	if (res < 0)
		return res;
	call->done = true;
	remote->call = NULL;
	return 0;
}

/* Once the link broke: why, as well as can be known. */
static void explain(struct remote *remote)
{
	if (remote->explained)
		return;
	remote->explained = true;
	if (remote->transport && remote->error.code == -ENOTCONN)
		transport_explain(remote->transport, &remote->error);
}

/* Sends a control request and runs the ring until its answer. Takes json. */
static int call(
    struct remote *remote, struct remote_call *call, enum frame_type type, json_t *json, struct error *error)
{
	int res;

	if (remote->broken || session_error(remote->session, NULL) < 0) {
		json_decref(json);
		return error_set(error, -ENOTCONN, "the link is broken");
	}
	call->id = remote_next_id(remote, REMOTE_CONTROL);
	res = session_send_json(remote->session, type, call->id, json, error);
	if (res < 0)
		return res;
	remote->call = call;
	remote->progress_ns = ring_now_ns(remote->block.ring);
	/* Opening writes out what the page cache holds of an image, and devices may be slow to tell of themselves:
	 * the agent answers nothing meanwhile. That its process ended is still heard at once. */
	session_set_patient(remote->session, !remote->prompt);
	res = ring_run_until(remote->block.ring, &call->done);
	session_set_patient(remote->session, false);
	remote->call = NULL;
	if (res < 0)
		return error_set(error, res, "the event loop failed: %s", strerror(-res));
	if (remote->broken)
		explain(remote);
	if (call->res == 0)
		return 0;
	if (remote->broken)
		call->error = remote->error;
	return error_set(error, call->error.code, "%s", call->error.text);
}

static int remote_facts(struct block *block, struct block_facts *ret, struct error *error)
{
	struct remote *remote = container_of(block, struct remote, block);
	struct block_facts facts = {0};
	struct remote_call asked = {.answer = FRAME_FACTS_REPLY, .ret = &facts};
	int res = call(remote, &asked, FRAME_FACTS, NULL, error);

	if (res < 0) {
		error_prefix(error, "cannot learn about %s", block->info.name);
		return res;
	}
	*ret = facts;
	return 0;
}

static int remote_link_error(struct block *block, struct error *error)
{
	struct remote *remote = container_of(block, struct remote, block);

	if (!remote->broken && session_error(remote->session, NULL) == 0)
		return 0;
	if (remote->broken)
		explain(remote);
	else
		session_error(remote->session, &remote->error);
	return error_set(
	    error, -ENOTCONN, "the link to %s broke: %.400s", block->info.name, remote->error.text);
}

void remote_hang_up(struct block *block, const char *why)
{
	struct remote *remote = container_of(block, struct remote, block);
	struct error error;

	if (remote->broken)
		return;
	error_set(&error, -ENOTCONN, "%s", why);
	session_break(remote->session, &error);
}

static void remote_free(struct block *block)
{
	struct remote *remote = container_of(block, struct remote, block);
	bool healthy = !remote->broken;

	remote->session = session_free(remote->session);
	transport_free(remote->transport, healthy);
	if (ring_run_until(block->ring, &remote->idle) < 0)
		return; /* the loop broke: the memory may still be in use */
	free(remote->slots);
	free(remote);
}

static const struct block_driver remote_driver = {
    .name = "remote",
    .submit = remote_submit,
    .facts = remote_facts,
    .link_error = remote_link_error,
    .free = remote_free,
};

static enum session_compress compress_of(enum compress_mode mode)
{
	switch (mode) {
	case COMPRESS_NONE:
		return SESSION_COMPRESS_NONE;
	case COMPRESS_ZSTD:
		return SESSION_COMPRESS_ALWAYS;
	default:
		return SESSION_COMPRESS_AUTO;
	}
}

/* What the agent says must fit what was asked. */
static int check_opened(
    const struct block_info *info, const struct block_open_options *options, struct error *error)
{
	if (options->write && !info->writable)
		return error_set(error, -EPROTO, "the agent opened it for reading only");
	if (options->write && (options->stage == STAGE_NEW || options->stage == STAGE_RESUME) &&
	    !info->staged)
		return error_set(error, -EOPNOTSUPP,
		    "the agent there knows nothing of --atomic; install the same release on both machines");
	if (info->created && !options->create)
		return error_set(error, -EPROTO, "the agent made a new file, which was not asked");
	if (info->zeroed && !info->created)
		return error_set(error, -EPROTO, "the agent says that an existing volume was never written");
	if (info->created && info->size != options->create_size)
		return error_set(error, -EPROTO, "the agent made a file of %llu bytes, not of %llu",
		    (unsigned long long)info->size, (unsigned long long)options->create_size);
	return 0;
}

static int open_there(
    struct remote *remote, const char *path, const struct block_open_options *options, struct error *error)
{
	struct remote_call asked = {.answer = FRAME_OPENED, .ret = &remote->block.info};
	json_t *json = remote_json_open(path, options);
	int res;

	if (!json)
		return error_set(
		    error, -EILSEQ, "the name is not UTF-8, which names on other machines must be");
	if (strlen(path) >= PATH_MAX) {
		json_decref(json);
		return error_set(error, -ENAMETOOLONG, "the name is too long");
	}
	res = call(remote, &asked, FRAME_OPEN, json, error);
	if (res == 0)
		res = check_opened(&remote->block.info, options, error);
	if (!options->write)
		remote->block.info.writable = false;
	return res;
}

static int make(struct remote **ret, struct ring *ring, const char *name, struct error *error)
{
	struct remote *remote = calloc(1, sizeof(*remote));
	int res;

	if (!remote)
		return error_set(error, -ENOMEM, "out of memory");
	remote->block.driver = &remote_driver;
	remote->block.ring = ring;
	snprintf(remote->block.info.name, sizeof(remote->block.info.name), "%s", name);
	remote->block.info.remote = remote->block.info.linked = true;
	res = remote_init(remote, error);
	if (res < 0) {
		free(remote);
		return res;
	}
	*ret = remote;
	return 0;
}

/* Takes the descriptors and the transport (or NULL), also on failure. */
static int connect_and_open(struct block **ret, struct ring *ring, const struct session_options *link,
    struct transport *transport, const char *name, const char *path, const struct block_open_options *options,
    struct error *error)
{
	struct session_options with_handlers = *link;
	struct remote *remote = NULL;
	int res = make(&remote, ring, name, error);

	if (res < 0) {
		close(link->fd_in);
		if (link->fd_out != link->fd_in)
			close(link->fd_out);
		transport_free(transport, false);
		return res;
	}
	remote->transport = transport;
	remote->timeout_ns = (uint64_t)link->timeout_ms * 1000000;
	remote->prompt = options->link.prompt;
	with_handlers.header = remote_header;
	with_handlers.frame = remote_frame;
	with_handlers.tick = remote_tick;
	with_handlers.closed = remote_closed;
	with_handlers.data = remote;
	res = session_new(&remote->session, ring, &with_handlers, error);
	if (res == 0)
		res = open_there(remote, path, options, error);
	else
		remote->broken = true;
	if (res < 0) {
		remote_free(&remote->block);
		error_prefix(error, "cannot open %s", name);
		return res;
	}
	*ret = &remote->block;
	return 0;
}

static struct session_options link_of(
    const struct block_open_options *options, int fd_in, int fd_out, unsigned login_ms)
{
	return (struct session_options){
	    .fd_in = fd_in,
	    .fd_out = fd_out,
	    .timeout_ms = timeout_of(&options->link),
	    .handshake_ms = timeout_of(&options->link) + login_ms,
	    .compress = compress_of(options->link.compress),
	    .compress_level = options->link.compress_level,
	};
}

int remote_new(struct block **ret, struct ring *ring, int fd_in, int fd_out, const char *name,
    const char *path, const struct block_open_options *options, struct error *error)
{
	struct session_options link = link_of(options, fd_in, fd_out, 0);

	return connect_and_open(ret, ring, &link, NULL, name, path, options, error);
}

/* With a terminal, ssh may ask for a password there. */
static unsigned login_ms(void)
{
	int terminal = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);

	if (terminal < 0)
		return LOGIN_MS_ALONE;
	close(terminal);
	return LOGIN_MS;
}

int remote_open(struct block **ret, struct ring *ring, const struct endpoint *endpoint,
    const struct block_open_options *options, struct error *error)
{
	const struct ssh_options ssh = {
	    .program = options->link.ssh_program,
	    .host = endpoint->host,
	    .ssh_options = options->link.ssh_options,
	    .agent_path = options->link.agent_path,
	    .timeout_ms = timeout_of(&options->link),
	};
	struct session_options link;
	struct transport *transport;
	int fd_in, fd_out, res;

	res = transport_ssh(&transport, ring, &ssh, &fd_in, &fd_out, error);
	if (res < 0) {
		error_prefix(error, "cannot open %s", endpoint->name);
		return res;
	}
	link = link_of(options, fd_in, fd_out, login_ms());
	return connect_and_open(ret, ring, &link, transport, endpoint->name, endpoint->path, options, error);
}
