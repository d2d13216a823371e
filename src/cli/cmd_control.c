/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blkmove status, pause, resume, throttle: speak to running jobs over their control sockets. */
#include "base/cleanup.h"
#include "base/parse_size.h"
#include "base/run_dir.h"
#include "cli/cli.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#define REPLY_MAX 8192u
#define PATIENCE  5 /* seconds */

static int dial(const char *pid, struct error *error)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval patience = {.tv_sec = PATIENCE};
	_cleanup_(cleanup_close) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char dir[4096];
	int res = run_dir_check(run_dir_path(dir, sizeof(dir)), error);

	if (res < 0 && res != -ENOENT)
		return res;
	res = snprintf(address.sun_path, sizeof(address.sun_path), "%s/%.20s.sock", dir, pid);
	if ((size_t)res >= sizeof(address.sun_path))
		return error_set(error, -ENAMETOOLONG, "%s is too long for a socket", dir);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return error_set(error, -errno,
		    "no job %s answers at %s: %s; `blkmove status` lists those that run", pid,
		    address.sun_path, strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return take_fd(&fd);
}

/* Sends one request and returns the reply, or NULL with words. Takes the request. */
static json_t *ask(const char *pid, json_t *take_request, struct error *error)
{
	_cleanup_(cleanup_close) int fd = dial(pid, error);
	char *text = json_dumps(take_request, JSON_COMPACT);
	char reply[REPLY_MAX];
	size_t length = 0;
	ssize_t got = 1;

	json_decref(take_request);
	if (fd >= 0 && text && dprintf(fd, "%s\n", text) > 0)
		while (length < sizeof(reply) && !memchr(reply, '\n', length) && got > 0) {
			got = read(fd, reply + length, sizeof(reply) - length);
			length += got > 0 ? (size_t)got : 0;
		}
	free(text);
	if (fd < 0)
		return NULL;
	json_t *json = json_loadb(reply, length, JSON_DISABLE_EOF_CHECK, NULL);

	if (!json)
		error_set(error, -EPROTO, "job %s gives no answer", pid);
	return json;
}

static int refused(const json_t *reply, struct error *error)
{
	const char *words = json_string_value(json_object_get(reply, "error"));

	if (json_is_true(json_object_get(reply, "ok")))
		return 0;
	return error_set(error, -EPROTO, "the job says: %s", words ? words : "no");
}

static uint64_t number(const json_t *reply, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(reply, key));
}

static const char *string(const json_t *reply, const char *key)
{
	const char *text = json_string_value(json_object_get(reply, key));

	return text ? text : "?";
}

static void print_status(const json_t *reply)
{
	char at[16], total[16], rate[16], limit[32] = "";
	uint64_t position = number(reply, "position"), all = number(reply, "total");

	if (number(reply, "rate_limit"))
		snprintf(limit, sizeof(limit), ", at most %s/s",
		    format_size(number(reply, "rate_limit"), rate, sizeof(rate)));
	printf("%d  %s -> %s  %s%s  %d%%  %s of %s%s\n", (int)number(reply, "pid"), string(reply, "source"),
	    string(reply, "target"), string(reply, "state"),
	    json_is_true(json_object_get(reply, "paused")) ? ", paused" : "",
	    all ? (int)((double)position * 100 / (double)all) : 0, format_size(position, at, sizeof(at)),
	    format_size(all, total, sizeof(total)), limit);
}

static int status_one(const char *pid, bool json, struct error *error)
{
	json_t *reply = ask(pid, json_pack("{s:s}", "command", "status"), error);
	int res = reply ? refused(reply, error) : error->code;

	if (res == 0 && json) {
		json_dumpf(reply, stdout, JSON_COMPACT);
		putchar('\n');
	} else if (res == 0) {
		print_status(reply);
	}
	json_decref(reply);
	return res;
}

/* Every job that answers; a socket whose process is gone is removed. */
static int status_all(bool json, struct error *error)
{
	char dir[4096], path[4400];
	struct dirent *entry;
	int res = run_dir_check(run_dir_path(dir, sizeof(dir)), error);
	DIR *list = res < 0 ? NULL : opendir(dir);

	if (res < 0)
		return res == -ENOENT ? 0 : res;
	while (list && (entry = readdir(list))) {
		char *dot = strstr(entry->d_name, ".sock");

		if (!dot || dot[5])
			continue;
		*dot = '\0';
		if (status_one(entry->d_name, json, error) == -ECONNREFUSED) {
			snprintf(path, sizeof(path), "%s/%s.sock", dir, entry->d_name);
			unlink(path);
		}
	}
	if (list)
		closedir(list);
	return 0;
}

struct words {
	bool json;
	char *pid, *rate;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct words *words = state->input;

	if (key == 'j')
		words->json = true;
	else if (key == ARGP_KEY_ARG && !words->pid)
		words->pid = arg;
	else if (key == ARGP_KEY_ARG && !words->rate)
		words->rate = arg;
	else
		return ARGP_ERR_UNKNOWN;
	return 0;
}

static int order(const char *command, const struct words *words, struct error *error)
{
	json_t *request, *reply;
	uint64_t rate = 0;
	int res;

	if (!words->pid || (!strcmp(command, "throttle") && !words->rate))
		return error_set(error, -EINVAL,
		    "usage: blkmove %s PID%s; `blkmove status` lists the jobs that run", command,
		    strcmp(command, "throttle") ? "" : " RATE");
	if (words->rate && strcmp(words->rate, "none") && parse_size(words->rate, &rate, error) < 0)
		return error->code;
	request = json_pack("{s:s, s:I}", "command", command, "rate", (json_int_t)rate);
	reply = ask(words->pid, request, error);
	res = reply ? refused(reply, error) : error->code;
	json_decref(reply);
	return res;
}

int command_control(int argc, char **argv)
{
	static const struct argp_option json_option[] = {
	    {"json", 'j', NULL, 0, "one JSON object a job", 0}, {0}};
	static const struct argp_option none[] = {{0}};
	const char *command = argv[0];
	bool is_status = !strcmp(command, "status");
	struct argp argp = {.options = is_status ? json_option : none,
	    .parser = parse,
	    .args_doc = is_status                      ? "[PID]"
	                : !strcmp(command, "throttle") ? "PID RATE"
	                                               : "PID",
	    .doc = "Asks or tells a running copy, sync or verify of this machine. RATE is bytes a second, "
	           "such as 50M, or none."};
	char name[64] = "blkmove ";
	struct words words = {0};
	struct error error;
	int res;

	strncat(name, command, sizeof(name) - strlen(name) - 1);
	argv[0] = name;
	argp_err_exit_status = JOB_TROUBLE;
	if (argp_parse(&argp, argc, argv, 0, NULL, &words))
		return JOB_TROUBLE;
	command = name + strlen("blkmove ");
	if (is_status)
		res = words.pid ? status_one(words.pid, words.json, &error) : status_all(words.json, &error);
	else
		res = order(command, &words, &error);
	return res < 0 ? cli_fail(JOB_TROUBLE, &error) : JOB_OK;
}
