/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The asking side of control sockets: see control_client.h. A connection for each question. */
#include "cli/control_client.h"

#include "base/cleanup.h"
#include "base/run_dir.h"
#include "cli/cli.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#define REPLY_MAX  16384u
#define QUESTION_S 10 /* patience; a question may be asked again by who wants to wait longer */
#define ORDER_S    60 /* an order not: it may be under way */
#define TRIES      10u

static int dial(const char *name, time_t patience_s, struct error *error)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval patience = {.tv_sec = patience_s};
	_cleanup_(cleanup_close) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char dir[4096];
	int res = run_dir_check(run_dir_path(dir, sizeof(dir)), error);

	if (res < 0 && res != -ENOENT)
		return res;
	res = snprintf(address.sun_path, sizeof(address.sun_path), "%s/%.80s.sock", dir, name);
	if ((size_t)res >= sizeof(address.sun_path))
		return error_set(error, -ENAMETOOLONG, "%s is too long for a socket", dir);
	/* connect() waits, too, when many are before it. */
	if (fd >= 0) {
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	}
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return error_set(error, errno == EAGAIN ? -ETIMEDOUT : -errno,
		    "nothing called %s answers at %s: %s; `blkmove status` lists what runs", name,
		    address.sun_path, strerror(errno));
	return take_fd(&fd);
}

static int send_request(int fd, const char *text)
{
	struct iovec iov[2] = {{(char *)text, strlen(text)}, {"\n", 1}};
	struct msghdr message = {.msg_iov = iov, .msg_iovlen = 2};

	return sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)strlen(text) + 1 ? 0 : -ECONNRESET;
}

/* -ECONNRESET: the request was not read, or not to its end, so nothing has come of it. -EPIPE: it was. -EAGAIN: it may be yet. */
static int read_reply(int fd, json_t **ret)
{
	char reply[REPLY_MAX];
	size_t length = 0;

	while (length < sizeof(reply) && !memchr(reply, '\n', length)) {
		ssize_t got = read(fd, reply + length, sizeof(reply) - length);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			return -EPIPE;
		length += (size_t)got;
	}
	*ret = json_loadb(reply, length, JSON_DISABLE_EOF_CHECK, NULL);
	return *ret ? 0 : -EPIPE;
}

/* As read_reply(); with words where no connection was made. */
static int ask_once(const char *name, const char *text, time_t patience_s, json_t **ret, struct error *error)
{
	_cleanup_(cleanup_close) int fd = dial(name, patience_s, error);
	int res = fd < 0 ? fd : send_request(fd, text);

	return res < 0 ? res : read_reply(fd, ret);
}

/* What changes nothing may be asked twice. */
static bool is_question(const json_t *request)
{
	const char *command = control_string(request, "command");

	return !strcmp(command, "status") || !strcmp(command, "order");
}

json_t *control_ask(const char *name, json_t *take_request, struct error *error)
{
	_cleanup_(cleanup_free) char *text = json_dumps(take_request, JSON_COMPACT);
	bool question = is_question(take_request);
	json_t *reply = NULL;
	int res = -ECONNRESET;

	json_decref(take_request);
	*error = (struct error){0};
	if (!text) {
		error_set(error, -ENOMEM, "out of memory");
		return NULL;
	}
	/* What was just killed still listens, for the milliseconds that its ring takes to go: asked again, it is gone. */
	for (unsigned tries = 0; tries < TRIES && (res == -ECONNRESET || (question && res == -EPIPE));
	     tries++)
		res = ask_once(name, text, question ? QUESTION_S : ORDER_S, &reply, error);
	if (res < 0 && error->code == 0 && (question || res == -ECONNRESET))
		error_set(error, -ETIMEDOUT, "%s gives no answer", name);
	else if (res < 0 && error->code == 0)
		error_set(error, -ETIMEDOUT,
		    "%s gives no answer; it may have done it all the same: see `blkmove status --json %s` "
		    "before "
		    "you tell it again",
		    name, name);
	if (reply && !json_is_true(json_object_get(reply, "ok"))) {
		error_set(error, -EPROTO, "%s says: %s", name, control_string(reply, "error"));
		json_decref(reply);
		reply = NULL;
	}
	return reply;
}

int control_follow(const char *name, json_t *take_request, struct error *error)
{
	_cleanup_(cleanup_free) char *text = json_dumps(take_request, JSON_COMPACT);
	const struct timeval forever = {0};
	_cleanup_(cleanup_close) int fd = -1;

	json_decref(take_request);
	if (!text)
		return error_set(error, -ENOMEM, "out of memory");
	fd = dial(name, QUESTION_S, error);
	if (fd < 0)
		return error->code;
	if (send_request(fd, text) < 0)
		return error_set(error, -ETIMEDOUT, "%s gives no answer", name);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &forever, sizeof(forever));
	return take_fd(&fd);
}

static int is_socket(const struct dirent *entry)
{
	const char *dot = strstr(entry->d_name, ".sock");

	return dot && !dot[5];
}

int control_each(void (*one)(void *data, const json_t *status), void *data, struct error *error)
{
	struct dirent **entries = NULL;
	char dir[4096], path[4400];
	int res = run_dir_check(run_dir_path(dir, sizeof(dir)), error);
	int count = res < 0 ? 0 : scandir(dir, &entries, is_socket, versionsort);

	for (int i = 0; i < count; i++) {
		char *name = entries[i]->d_name;
		json_t *status;

		*strstr(name, ".sock") = '\0';
		status = control_ask(name, json_pack("{s:s}", "command", "status"), error);
		if (status)
			one(data, status);
		json_decref(status);
		if (!status && error->code == -ECONNREFUSED) {
			snprintf(path, sizeof(path), "%s/%s.sock", dir, name);
			unlink(path);
		}
		free(entries[i]);
	}
	free(entries);
	return res < 0 && res != -ENOENT ? res : 0;
}

int control_order(const json_t *order, json_int_t number)
{
	const char *state = control_string(order, "state");

	if (json_integer_value(json_object_get(order, "number")) != number)
		return -EBUSY;
	if (!strcmp(state, "failed"))
		return -EIO;
	return strcmp(state, "done") ? -EAGAIN : 0;
}

uint64_t control_number(const json_t *reply, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(reply, key));
}

const char *control_string(const json_t *reply, const char *key)
{
	const char *text = json_string_value(json_object_get(reply, key));

	return text ? text : "?";
}

double control_real(const json_t *reply, const char *key)
{
	return json_number_value(json_object_get(reply, key));
}

int control_percent(uint64_t part, uint64_t all)
{
	return all ? (int)((double)part * 100 / (double)all) : 100;
}
