/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The control socket of a running job or mirror: see control.h. One ring thread; a few clients at most. */
#include "cli/control.h"

#include "base/cleanup.h"
#include "base/run_dir.h"
#include "cli/control_client.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define LINE_MAX_BYTES 4096u
#define CLIENTS_MAX    16u
#define FOLLOWERS_MAX  8u /* the others can still ask */

struct client {
	struct control *control; /* NULL: free place */
	int fd;
	bool follows;
	struct ring_op op;
	size_t length;
	char line[LINE_MAX_BYTES];
};

struct control {
	struct ring *ring;
	int fd;
	char path[108];
	struct ring_op accept_op;
	bool closing, events;
	json_t *(*answer)(void *data, const json_t *request);
	void *data;
	struct client clients[CLIENTS_MAX];
};

static void read_more(struct client *client);

static void hang_up(struct client *client)
{
	cleanup_close(&client->fd);
	client->control = NULL;
}

json_t *control_ok(void)
{
	return json_pack("{s:b}", "ok", 1);
}

json_t *control_refuse(const char *format, ...)
{
	char words[512];
	va_list args;

	va_start(args, format);
	vsnprintf(words, sizeof(words), format, args);
	va_end(args);
	return json_pack("{s:b, s:s}", "ok", 0, "error", words);
}

json_t *control_answer(
    const struct control_command *commands, const char *unable, void *data, const json_t *request)
{
	const char *name = json_string_value(json_object_get(request, "command"));
	char known[400] = "";

	for (; name && commands->name; commands++) {
		size_t length = strlen(known);

		if (!strcmp(commands->name, name))
			return commands->hindered && unable[0] ? control_refuse("%s", unable)
			                                       : commands->answer(data, commands, request);
		snprintf(known + length, sizeof(known) - length, "%s%s", length ? ", " : "", commands->name);
	}
	return name ? control_refuse("the commands are %s", known)
	            : control_refuse("a request names its \"command\"");
}

unsigned control_followers(const struct control *control)
{
	unsigned count = 0;

	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		count += control->clients[i].control && control->clients[i].follows;
	return count;
}

static bool asks_for_events(const struct control *control, const json_t *request)
{
	const char *command = json_string_value(json_object_get(request, "command"));

	return control->events && command && !strcmp(command, "events");
}

/* Whether all of the line went out: nobody is waited for. */
static bool send_line(const struct client *client, const json_t *json)
{
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	size_t length = text ? strlen(text) : 0;
	struct iovec iov[2] = {{text, length}, {"\n", 1}};
	struct msghdr message = {.msg_iov = iov, .msg_iovlen = 2};
	ssize_t sent = sendmsg(client->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);

	free(text);
	return sent == (ssize_t)length + 1;
}

/* A client that does not take its answer loses it. */
static void answer_line(struct client *client, size_t length)
{
	struct control *control = client->control;
	json_t *request = json_loadb(client->line, length, 0, NULL), *reply;
	bool events = asks_for_events(control, request);

	if (!json_is_object(request))
		reply = control_refuse("a request is one JSON object a line");
	else if (events && control_followers(control) == FOLLOWERS_MAX)
		reply = control_refuse("%u follow the events already, the most", FOLLOWERS_MAX);
	else
		reply = control->answer(control->data, request);
	client->follows = events && json_is_true(json_object_get(reply, "ok"));
	(void)send_line(client, reply);
	json_decref(reply);
	json_decref(request);
}

void control_allow_events(struct control *control)
{
	control->events = true;
}

void control_tell(struct control *control, json_t *take_event)
{
	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		struct client *client = &control->clients[i];

		/* The read that is under way then ends. */
		if (client->control && client->follows && !send_line(client, take_event))
			shutdown(client->fd, SHUT_RDWR);
	}
	json_decref(take_event);
}

static void answer_lines(struct client *client)
{
	char *end;

	while (!client->follows && (end = memchr(client->line, '\n', client->length))) {
		size_t used = (size_t)(end - client->line) + 1;

		answer_line(client, used - 1);
		client->length -= used;
		memmove(client->line, client->line + used, client->length);
	}
}

static void read_done(struct ring_op *op, int res)
{
	struct client *client = container_of(op, struct client, op);

	if (res <= 0 || client->control->closing) {
		hang_up(client);
		return;
	}
	client->length += (size_t)res;
	answer_lines(client);
	if (client->follows)
		client->length = 0;
	if (client->length == LINE_MAX_BYTES)
		hang_up(client);
	else
		read_more(client);
}

static void read_more(struct client *client)
{
	client->op = (struct ring_op){.opcode = RING_READ,
	    .fd = client->fd,
	    .offset = RING_STREAM,
	    .buf = client->line + client->length,
	    .length = LINE_MAX_BYTES - client->length,
	    .done = read_done};
	ring_submit(client->control->ring, &client->op);
}

static void wait_for_client(struct control *control);

static void take_client(struct control *control, int fd)
{
	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		struct client *client = &control->clients[i];

		if (client->control)
			continue;
		client->control = control;
		client->fd = fd;
		client->length = 0;
		client->follows = false;
		read_more(client);
		return;
	}
	close(fd);
}

static void may_accept(struct ring_op *op, int res)
{
	struct control *control = container_of(op, struct control, accept_op);
	int fd;

	if (res < 0 || control->closing)
		return;
	fd = accept4(control->fd, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= 0)
		take_client(control, fd);
	wait_for_client(control);
}

static void wait_for_client(struct control *control)
{
	control->accept_op =
	    (struct ring_op){.opcode = RING_POLL, .fd = control->fd, .events = POLLIN, .done = may_accept};
	ring_submit(control->ring, &control->accept_op);
}

/* What has the socket, if that is somebody. What was just killed still listens for a moment, and gives no answer. */
int control_check_free(const char *name, bool fixed, struct error *error)
{
	const char *way = fixed ? "end that one first" : "choose another --name";
	struct error ignored;
	json_t *status = control_ask(name, json_pack("{s:s}", "command", "status"), &ignored);

	if (status)
		error_set(error, -EALREADY,
		    "a %s %s runs already, as process %d, with another --state-dir (%.150s -> %.150s); see "
		    "`blkmove status %s`, or %s",
		    control_string(status, "kind"), name, (int)control_number(status, "pid"),
		    control_string(status, "source"), control_string(status, "target"), name, way);
	else if (ignored.code == -EPROTO || ignored.code == -ETIMEDOUT)
		error_set(error, -EALREADY, "something called %s runs already, and gives no answer; end it%s",
		    name, fixed ? "" : ", or choose another --name");
	else
		return 0;
	json_decref(status);
	return error->code;
}

static int make_socket(struct control *control, const char *name, struct error *error)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char dir[4096], pid[16];
	int res;

	snprintf(pid, sizeof(pid), "%d", (int)getpid());

	run_dir_path(dir, sizeof(dir));
	res = run_dir_make(dir, error);
	if (res < 0)
		return res;
	res = snprintf(control->path, sizeof(control->path), "%s/%s.sock", dir, name ? name : pid);
	if ((size_t)res >= sizeof(control->path))
		return error_set(error, -ENAMETOOLONG,
		    "%s is too long for a socket; name another in BLKMOVE_RUN_DIR", dir);
	res = name ? control_check_free(name, false, error) : 0;
	if (res < 0)
		return res;
	memcpy(address.sun_path, control->path, sizeof(address.sun_path));
	unlink(control->path);
	control->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (control->fd < 0 || fchmod(control->fd, 0600) < 0 ||
	    bind(control->fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    chmod(control->path, 0600) < 0 || listen(control->fd, 4) < 0)
		return error_set(
		    error, -errno, "cannot make the control socket %s: %s", control->path, strerror(errno));
	return 0;
}

int control_new(struct control **ret, struct ring *ring, const char *name,
    json_t *(*answer)(void *data, const json_t *request), void *data, struct error *error)
{
	struct control *control = calloc(1, sizeof(*control));
	int res;

	if (!control)
		return error_set(error, -ENOMEM, "out of memory");
	control->ring = ring;
	control->answer = answer;
	control->data = data;
	control->fd = -1;
	res = make_socket(control, name, error);
	if (res < 0) {
		cleanup_close(&control->fd);
		free(control);
		return res;
	}
	wait_for_client(control);
	*ret = control;
	return 0;
}

const char *control_path(const struct control *control)
{
	return control->path;
}

static bool is_busy(const struct control *control)
{
	bool busy = control->accept_op.active;

	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		busy |= control->clients[i].control != NULL;
	return busy;
}

struct control *control_free(struct control *control)
{
	if (!control)
		return NULL;
	control->closing = true;
	unlink(control->path);
	ring_cancel(control->ring, &control->accept_op);
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		if (control->clients[i].control)
			ring_cancel(control->ring, &control->clients[i].op);
	while (is_busy(control) && ring_step(control->ring) == 0)
		;
	cleanup_close(&control->fd);
	free(control);
	return NULL;
}
