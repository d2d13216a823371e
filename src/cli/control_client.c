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

#define REPLY_MAX 16384u
#define PATIENCE  5 /* seconds */

static int dial(const char *name, struct error *error)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval patience = {.tv_sec = PATIENCE};
	_cleanup_(cleanup_close) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char dir[4096];
	int res = run_dir_check(run_dir_path(dir, sizeof(dir)), error);

	if (res < 0 && res != -ENOENT)
		return res;
	res = snprintf(address.sun_path, sizeof(address.sun_path), "%s/%.80s.sock", dir, name);
	if ((size_t)res >= sizeof(address.sun_path))
		return error_set(error, -ENAMETOOLONG, "%s is too long for a socket", dir);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return error_set(error, -errno,
		    "nothing called %s answers at %s: %s; `blkmove status` lists what runs", name,
		    address.sun_path, strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return take_fd(&fd);
}

static json_t *read_reply(int fd)
{
	char reply[REPLY_MAX];
	size_t length = 0;
	ssize_t got = 1;

	while (length < sizeof(reply) && !memchr(reply, '\n', length) && got > 0) {
		got = read(fd, reply + length, sizeof(reply) - length);
		length += got > 0 ? (size_t)got : 0;
	}
	return json_loadb(reply, length, JSON_DISABLE_EOF_CHECK, NULL);
}

/* NULL with words; without, where the connection was made and then ended without a word. */
static json_t *ask_once(const char *name, const char *text, struct error *error)
{
	_cleanup_(cleanup_close) int fd = dial(name, error);

	return fd >= 0 && dprintf(fd, "%s\n", text) > 0 ? read_reply(fd) : NULL;
}

json_t *control_ask(const char *name, json_t *take_request, struct error *error)
{
	char *text = json_dumps(take_request, JSON_COMPACT);
	json_t *reply = NULL;

	json_decref(take_request);
	*error = (struct error){0};
	/* What was just killed still listens, for the milliseconds that its ring takes to go: asked again, it is gone. */
	for (int tries = 0; text && !reply && error->code == 0 && tries < 2; tries++)
		reply = ask_once(name, text, error);
	free(text);
	if (!reply && error->code == 0) {
		error_set(error, -EPROTO, "%s gives no answer", name);
	} else if (reply && !json_is_true(json_object_get(reply, "ok"))) {
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
	fd = dial(name, error);
	if (fd < 0)
		return error->code;
	if (dprintf(fd, "%s\n", text) < 0)
		return error_set(error, -EPROTO, "%s gives no answer", name);
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
