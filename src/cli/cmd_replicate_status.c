/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blkmove replicate status: resources of this machine, those that run and those that do not; once, again and again, or as events. */
#include "cli/cmd_replicate.h"
#include "cli/control_client.h"
#include "cli/replica_config.h"
#include "cli/replicate_words.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES 16384u
#define RETRY_MS       1000

/* Names: those that were given, or all that have a file here or run. */

static json_t *find_names(struct replicate_command *command)
{
	json_t *names = json_array();
	char **all = NULL;
	int res = 0;

	for (unsigned i = 0; i < command->names_count; i++)
		json_array_append_new(names, json_string(command->names[i]));
	if (command->names_count > 0)
		return names;
	res = replica_config_names(&all, &command->error);
	for (char **at = all; at && *at; at++)
		json_array_append_new(names, json_string(*at));
	replica_config_names_free(all);
	if (res == 0)
		res = control_each(replicate_add_name, names, &command->error);
	if (res == 0)
		return names;
	json_decref(names);
	return NULL;
}

/* One resource */

/* Of one that does not run: its map, which is all that is known of it. */
static json_t *status_of_absent(struct replicate_command *command, const char *name)
{
	struct replica_config *config = NULL;
	char state_dir[PATH_MAX], path[PATH_MAX];
	json_t *status, *map;

	if (replica_config_load(&config, name, command->host, &command->error) < 0)
		return json_pack("{s:s, s:s, s:s, s:s}", "kind", "replica", "name", name, "state", "broken",
		    "error", command->error.text);
	replicate_state_dir(command, state_dir, sizeof(state_dir));
	map = replicate_map_json(replica_config_map(config, state_dir, path, sizeof(path)));
	status = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:o}", "kind", "replica", "name",
	    config->name, "state", "down", "config", config->path, "host", replica_config_self(config)->name,
	    "peer", replica_config_other(config)->name, "volume", replica_config_self(config)->device, "map",
	    map);
	replica_config_free(config);
	return status;
}

/* NULL with words only where the process is there and gives no answer. */
static json_t *status_of(struct replicate_command *command, const char *name)
{
	json_t *status = replicate_ask_status(name, &command->error);

	return status || command->error.code != -ENOENT ? status : status_of_absent(command, name);
}

static void print(const struct replicate_command *command, const json_t *status)
{
	if (command->json)
		cli_print_json(stdout, status);
	else
		replicate_words_print(stdout, status);
	fflush(stdout);
}

/* An exit code. One that was asked for by its name must be there, if not up. */
static int print_all(struct replicate_command *command, const json_t *names)
{
	const json_t *name;
	int code = JOB_OK;
	size_t i;

	json_array_foreach((json_t *)names, i, name)
	{
		json_t *status = status_of(command, json_string_value(name));

		if (!status)
			code = cli_fail(JOB_TROUBLE, &command->error);
		else if (command->names_count && !strcmp(control_string(status, "state"), "broken"))
			code = cli_fail(JOB_TROUBLE, &command->error);
		else
			print(command, status);
		json_decref(status);
	}
	return code;
}

/* Again and again */

static int watch(struct replicate_command *command)
{
	bool redraw = isatty(STDOUT_FILENO), begun = false;
	int code = JOB_OK;

	/* Who was there once may be busy, or away for a while. */
	while ((code == JOB_OK || begun) && !ferror(stdout)) {
		json_t *names = find_names(command);

		if (redraw)
			fputs("\033[H\033[2J", stdout);
		code = names ? print_all(command, names) : cli_fail(JOB_TROUBLE, &command->error);
		json_decref(names);
		begun |= code == JOB_OK;
		if (begun)
			usleep((useconds_t)(command->watch_s * 1e6));
	}
	return code;
}

/* Events: each process tells of itself when something has changed. */

struct follower {
	const char *name;
	int fd; /* -1: it does not run */
	bool told;
	char line[LINE_MAX_BYTES];
	size_t length;
};

static void lose(struct replicate_command *command, struct follower *follower)
{
	json_t *status = follower->told ? NULL : status_of(command, follower->name);

	if (status)
		print(command, status);
	json_decref(status);
	follower->told = true;
	if (follower->fd >= 0)
		close(follower->fd);
	follower->fd = -1;
	follower->length = 0;
}

static void take_lines(struct follower *follower)
{
	char *end;

	while ((end = memchr(follower->line, '\n', follower->length))) {
		size_t taken = (size_t)(end - follower->line) + 1;

		fwrite(follower->line, 1, taken, stdout);
		follower->length -= taken;
		memmove(follower->line, follower->line + taken, follower->length);
	}
	fflush(stdout);
}

static void read_some(struct replicate_command *command, struct follower *follower)
{
	size_t room = sizeof(follower->line) - follower->length;
	ssize_t got = read(follower->fd, follower->line + follower->length, room);

	if (got <= 0) {
		follower->told = false;
		lose(command, follower);
		return;
	}
	follower->length += (size_t)got;
	take_lines(follower);
	if (follower->length == sizeof(follower->line))
		lose(command, follower);
}

static void seek(struct replicate_command *command, struct follower *follower)
{
	struct error error;

	if (follower->fd >= 0)
		return;
	follower->fd = replicate_follow(follower->name, &error);
	if (follower->fd < 0)
		lose(command, follower);
}

static int follow(struct replicate_command *command)
{
	json_t *names = find_names(command), *name;
	size_t count = json_array_size(names), i;
	struct follower *followers = calloc(count + 1, sizeof(*followers));
	struct pollfd *fds = calloc(count + 1, sizeof(*fds));
	bool had_all = names && followers && fds, gone = false;

	json_array_foreach(names, i, name) followers[i] =
	    (struct follower){.name = json_string_value(name), .fd = -1};
	while (had_all && !ferror(stdout) && !gone) {
		for (i = 0; i < count; i++) {
			seek(command, &followers[i]);
			fds[i] = (struct pollfd){.fd = followers[i].fd, .events = POLLIN};
		}
		/* Where nothing changes, nothing else tells that nobody reads any more. */
		fds[count] = (struct pollfd){.fd = STDOUT_FILENO};
		(void)poll(fds, count + 1, RETRY_MS);
		gone = fds[count].revents & POLLERR;
		for (i = 0; i < count; i++)
			if (followers[i].fd >= 0 && fds[i].revents)
				read_some(command, &followers[i]);
	}
	free(followers);
	free(fds);
	json_decref(names);
	return had_all ? JOB_OK : cli_fail(JOB_TROUBLE, &command->error);
}

int replicate_status(struct replicate_command *command)
{
	json_t *names;
	int code;

	if (command->watch)
		return command->json ? follow(command) : watch(command);
	names = find_names(command);
	if (!names)
		return cli_fail(JOB_TROUBLE, &command->error);
	code = print_all(command, names);
	json_decref(names);
	return code;
}
