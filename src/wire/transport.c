/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An ssh child: its pipes, its last words, its end. See transport.h. */
#include "wire/transport.h"

#include "base/cleanup.h"
#include "wire/child.h"
#include "wire/control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#define PIPE_BYTES (1 << 20)
#define EXPLAIN_MS 1000u
#define GENTLE_MS  2000u
#define LINE_BYTES 256u
#define READS_MAX  256 /* pieces of what it says, at a time */

struct transport {
	struct ring *ring;
	struct ssh_options options;
	struct child child;
	int words_fd; /* its standard error, not blocking */
	struct ring_op poll;
	bool closing, words_ended, poll_ended;
	char line[LINE_BYTES], last[LINE_BYTES];
	size_t line_used;
};

/* Keeps a whole line, but for what ssh says although all is well. */
static void keep_line(struct transport *transport)
{
	static const char added[] = "Warning: Permanently added";

	transport->line[transport->line_used] = '\0';
	if (transport->line_used > 0 && strncmp(transport->line, added, sizeof(added) - 1) != 0)
		memcpy(transport->last, transport->line, transport->line_used + 1);
	transport->line_used = 0;
}

static void take_words(struct transport *transport, const char *words, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		if (words[i] == '\n' || words[i] == '\r') {
			keep_line(transport);
		} else if (transport->line_used < LINE_BYTES - 1) {
			transport->line[transport->line_used++] = words[i] ? words[i] : '?';
		}
	}
}

static void read_words(struct transport *transport)
{
	char words[4096];

	for (int i = 0; i < READS_MAX; i++) {
		ssize_t got = read(transport->words_fd, words, sizeof(words));

		if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
			transport->words_ended = true;
		if (got <= 0)
			return;
		take_words(transport, words, (size_t)got);
	}
}

static void poll_words(struct transport *transport)
{
	transport->poll.opcode = RING_POLL;
	transport->poll.fd = transport->words_fd;
	transport->poll.events = POLLIN;
	ring_submit(transport->ring, &transport->poll);
}

static void poll_done(struct ring_op *op, int res)
{
	struct transport *transport = container_of(op, struct transport, poll);

	if (res >= 0)
		read_words(transport);
	if (transport->closing || transport->words_ended || res < 0)
		transport->poll_ended = true;
	else
		poll_words(transport);
}

/* "0, 1, 2" of the child: [0] reads, [1] writes. */
static int make_pipes(int in[2], int out[2], int words[2])
{
	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(words, O_CLOEXEC) < 0)
		return -errno;
	/* Larger pipes save switches between the processes; a refusal does no harm. */
	fcntl(in[1], F_SETPIPE_SZ, PIPE_BYTES);
	fcntl(out[1], F_SETPIPE_SZ, PIPE_BYTES);
	fcntl(words[0], F_SETFL, O_NONBLOCK);
	return 0;
}

static int start(struct transport *transport, int *ret_in, int *ret_out, struct error *error)
{
	int in[2] = {-1, -1}, out[2] = {-1, -1}, words[2] = {-1, -1};
	struct ssh_command command;
	int res;

	res = ssh_command_make(&command, &transport->options,
	    ssh_command_ciphers_are_default(&transport->options, transport->ring), error);
	if (res < 0)
		return res;
	res = make_pipes(in, out, words);
	if (res < 0)
		error_set(error, res, "cannot start ssh: %s", strerror(-res));
	else
		res = child_start(
		    &transport->child, command.argv, (const int[3]){in[0], out[1], words[1]}, error);
	ssh_command_done(&command);
	cleanup_close(&in[0]);
	cleanup_close(&out[1]);
	cleanup_close(&words[1]);
	if (res == 0) {
		*ret_in = take_fd(&out[0]);
		*ret_out = take_fd(&in[1]);
		transport->words_fd = take_fd(&words[0]);
	}
	cleanup_close(&in[1]);
	cleanup_close(&out[0]);
	cleanup_close(&words[0]);
	return res;
}

int transport_ssh(struct transport **ret, struct ring *ring, const struct ssh_options *options, int *ret_in,
    int *ret_out, struct error *error)
{
	struct transport *transport = calloc(1, sizeof(*transport));
	int res;

	if (!transport)
		return error_set(error, -ENOMEM, "cannot start ssh: out of memory");
	transport->ring = ring;
	transport->options = *options;
	transport->words_fd = -1;
	res = start(transport, ret_in, ret_out, error);
	if (res < 0) {
		free(transport);
		return res;
	}
	transport->poll.done = poll_done;
	poll_words(transport);
	*ret = transport;
	return 0;
}

pid_t transport_pid(const struct transport *transport)
{
	return transport->child.pid;
}

/* The last line that says something; ssh's own may lack the line's end. */
static const char *last_words(struct transport *transport)
{
	if (!transport->words_ended)
		read_words(transport);
	take_words(transport, "\n", 1);
	control_clean(transport->last);
	return transport->last;
}

void transport_explain(struct transport *transport, struct error *error)
{
	const struct ssh_options *options = &transport->options;
	const char *path = options->agent_path ? options->agent_path : "blkmove";
	bool ended = child_wait(&transport->child, transport->ring, EXPLAIN_MS);
	const char *words = last_words(transport);
	int status = transport->child.status;
	char before[256];

	snprintf(before, sizeof(before), "%.255s", error->text);
	if (ended && WIFEXITED(status) && (WEXITSTATUS(status) == 127 || WEXITSTATUS(status) == 126))
		error_set(error, -ENOPKG,
		    "there is no agent on %s: '%s' %s there%s%s%s; install blkmove on %s, or give its path "
		    "with "
		    "--agent-path",
		    options->host, path, WEXITSTATUS(status) == 127 ? "was not found" : "cannot be run",
		    words[0] ? " (" : "", words, words[0] ? ")" : "", options->host);
	else if (ended && WIFEXITED(status) && WEXITSTATUS(status) == 255)
		error_set(error, error->code, "the connection to %s failed: %s", options->host,
		    words[0] ? words : "ssh ended without a word; try it by hand");
	else if (ended && WIFEXITED(status) && WEXITSTATUS(status) != 0)
		error_set(error, error->code, "the agent on %s ended with status %d: %s", options->host,
		    WEXITSTATUS(status), words[0] ? words : before);
	else if (ended && WIFSIGNALED(status))
		error_set(error, error->code, "ssh to %s was ended by signal %d%s%s", options->host,
		    WTERMSIG(status), words[0] ? ": " : "", words);
	else if (words[0])
		error_set(error, error->code, "%s; its last words: %s", before, words);
}

struct transport *transport_free(struct transport *transport, bool gently)
{
	if (!transport)
		return NULL;
	if (gently)
		child_wait(&transport->child, transport->ring, GENTLE_MS);
	child_end(&transport->child, transport->ring);
	transport->closing = true;
	ring_cancel(transport->ring, &transport->poll);
	if (ring_run_until(transport->ring, &transport->poll_ended) < 0)
		return NULL; /* the loop broke: the memory may still be in use */
	cleanup_close(&transport->words_fd);
	free(transport);
	return NULL;
}
