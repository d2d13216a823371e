/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent's program: reads its options, confines itself, serves until the client is gone. What ssh would
 * have run (SSH_ORIGINAL_COMMAND) is not looked at, so that it serves as a forced command in authorized_keys.
 */
#include "agent/agent.h"
#include "agent/notes.h"

#include "attach/lvm_points.h"
#include "base/cleanup.h"
#include "export/agent_server.h"
#include "filter/stage_view.h"

#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define RING_ENTRIES  512u
#define TIMEOUT_S_MAX 86400
#define PIPE_BYTES    (1 << 20)
#define EXIT_USAGE    64

struct arguments {
	const char **allow; /* NULL at the end */
	unsigned allow_count;
	bool read_only;
	unsigned timeout_s;
};

static const struct argp_option options[] = {
    {"allow", 'a', "PATH", 0,
        "Open nothing but PATH, or what lies below it if it is a folder; may be repeated", 0},
    {"read-only", 'r', NULL, 0, "Refuse to open anything for writing", 0},
    {"timeout", 't', "SECONDS", 0, "End when the client is silent for so long (default: 30)", 0},
    {0},
};

static error_t parse_timeout(const char *text, struct arguments *arguments, struct argp_state *state)
{
	char *end;
	long value = strtol(text, &end, 10);

	if (end == text || *end || value < 1 || value > TIMEOUT_S_MAX)
		argp_error(
		    state, "--timeout %s is not a number of seconds from 1 to %d", text, TIMEOUT_S_MAX);
	arguments->timeout_s = (unsigned)value;
	return 0;
}

static error_t parse(int key, char *text, struct argp_state *state)
{
	struct arguments *arguments = state->input;

	switch (key) {
	case 'a':
		if (text[0] != '/')
			argp_error(state, "--allow %s: name it from the root, as in /dev/vg0/data", text);
		arguments->allow[arguments->allow_count++] = text;
		return 0;
	case 'r':
		arguments->read_only = true;
		return 0;
	case 't':
		return parse_timeout(text, arguments, state);
	case ARGP_KEY_ARG:
		argp_error(state, "the agent takes no '%s'; what it opens, its client says", text);
		return EINVAL;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp parser = {
    .options = options,
    .parser = parse,
    .doc = "Serves one volume of this machine to a blkmove on another, over standard input and output. "
           "'blkmove copy' and its sisters start it through ssh; with --allow and --read-only it suits as a "
           "forced "
           "command in authorized_keys.",
};

/* What prints by mistake must not get among the frames. */
static int take_standard(int fd)
{
	_cleanup_(cleanup_close) int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int taken = fcntl(fd, F_DUPFD_CLOEXEC, 3);

	if (taken < 0 || null < 0 || dup2(null, fd) < 0) {
		int res = -errno;

		cleanup_close(&taken);
		return res;
	}
	/* sshd's pipes hold 64 KiB: larger ones save switches; a refusal does no harm. */
	fcntl(taken, F_SETPIPE_SZ, PIPE_BYTES);
	return taken;
}

static int open_volume(void *data, struct block **ret, struct ring *ring, const char *path,
    const struct block_open_options *open, struct error *error)
{
	return stage_view_open(ret, ring, path, data, open, lvm_points, error);
}

struct serving {
	bool done, loop_broke;
	int res;
};

static void served(void *data, int res)
{
	struct serving *serving = data;

	serving->res = res;
	serving->done = true;
}

static int serve(
    struct ring *ring, const struct arguments *arguments, struct serving *serving, struct error *error)
{
	const struct path_policy policy = {
	    .allow = arguments->allow_count ? arguments->allow : NULL,
	    .read_only = arguments->read_only,
	};
	struct agent_server_options server_options = {
	    .fd_in = take_standard(STDIN_FILENO),
	    .fd_out = take_standard(STDOUT_FILENO),
	    .policy = &policy,
	    .notes = &agent_file_notes,
	    .open = open_volume,
	    .open_data = (void *)&policy,
	    .timeout_ms = arguments->timeout_s * 1000,
	};
	struct agent_server *server;
	int res;

	if (server_options.fd_in < 0 || server_options.fd_out < 0)
		return error_set(
		    error, -EBADF, "standard input and output must be open: this is started by ssh");
	res = agent_server_new(&server, ring, &server_options, error);
	if (res < 0)
		return res;
	agent_server_start(server, served, serving);
	res = ring_run_until(ring, &serving->done);
	serving->loop_broke = res < 0;
	if (res < 0)
		return error_set(error, res, "the event loop failed: %s", strerror(-res));
	if (serving->res < 0)
		*error = *agent_server_error(server);
	agent_server_free(server);
	return serving->res;
}

int agent_main(int argc, char **argv)
{
	_cleanup_(cleanup_free) const char **allow = calloc((size_t)argc + 1, sizeof(*allow));
	struct arguments arguments = {.allow = allow, .timeout_s = 30};
	struct serving serving = {0};
	struct error error = {0};
	struct ring *ring;
	int res;

	if (!allow)
		return 1;
	argp_err_exit_status = EXIT_USAGE;
	if (argp_parse(&parser, argc, argv, 0, NULL, &arguments))
		return EXIT_USAGE;
	signal(SIGPIPE, SIG_IGN);
	res = ring_new(&ring, RING_ENTRIES, &error);
	if (res == 0) {
		res = serve(ring, &arguments, &serving, &error);
		/* Work of a broken loop cannot be waited for: the process' end must do. */
		if (!serving.loop_broke)
			ring = ring_free(ring);
	}
	if (res < 0) {
		fprintf(stderr, "blkmove agent: %s\n", error.text);
		return 1;
	}
	return 0;
}
