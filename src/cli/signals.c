/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Signals through a pipe: see signals.h. */
#include "cli/signals.h"

#include "base/cleanup.h"
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static const int watched[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1};

/* A handler can reach nothing else. */
static int handler_fd = -1;
static const char *last_resort;
static volatile sig_atomic_t unheard; /* signals to end that the loop has not taken */

struct signals {
	struct ring *ring;
	int fds[2];
	struct ring_op op;
	unsigned char number;
	void (*got)(void *data, int signal);
	void *data;
};

/* In a handler: only what is safe there. */
static _Noreturn void end_at_once(void)
{
	static const char words[] = "blkmove: interrupted\n";

	if (last_resort)
		unlink(last_resort);
	(void)!write(STDERR_FILENO, words, sizeof(words) - 1);
	_exit(JOB_INTERRUPTED);
}

static void handler(int number)
{
	unsigned char byte = (unsigned char)number;
	int saved = errno;

	if (number != SIGUSR1 && unheard++)
		end_at_once();
	if (write(handler_fd, &byte, 1) < 0) {
		/* The pipe is full of earlier signals: they suffice. */
	}
	errno = saved;
}

static void listen_again(struct signals *signals)
{
	signals->op.opcode = RING_READ;
	signals->op.fd = signals->fds[0];
	signals->op.offset = RING_STREAM;
	signals->op.buf = &signals->number;
	signals->op.length = 1;
	ring_submit(signals->ring, &signals->op);
}

static void arrived(struct ring_op *op, int res)
{
	struct signals *signals = container_of(op, struct signals, op);

	if (res == -ECANCELED)
		return;
	unheard = 0;
	if (res == 1)
		signals->got(signals->data, signals->number);
	listen_again(signals);
}

int signals_new(struct signals **ret, struct ring *ring, void (*got)(void *data, int signal), void *data,
    struct error *error)
{
	struct signals *signals = calloc(1, sizeof(*signals));
	struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};

	if (!signals || pipe2(signals->fds, O_CLOEXEC) < 0) {
		free(signals);
		return error_set(error, -ENOMEM, "cannot watch signals: out of memory");
	}
	/* Only the writing end: the handler must not wait. */
	fcntl(signals->fds[1], F_SETFL, O_NONBLOCK);
	signals->ring = ring;
	signals->got = got;
	signals->data = data;
	signals->op.done = arrived;
	handler_fd = signals->fds[1];
	for (size_t i = 0; i < sizeof(watched) / sizeof(watched[0]); i++)
		sigaction(watched[i], &action, NULL);
	listen_again(signals);
	*ret = signals;
	return 0;
}

struct signals *signals_free(struct signals *signals)
{
	if (!signals)
		return NULL;
	for (size_t i = 0; i < sizeof(watched) / sizeof(watched[0]); i++)
		signal(watched[i], SIG_DFL);
	handler_fd = -1;
	last_resort = NULL;
	ring_cancel(signals->ring, &signals->op);
	while (signals->op.active && ring_step(signals->ring) == 0)
		;
	cleanup_close(&signals->fds[0]);
	cleanup_close(&signals->fds[1]);
	free(signals);
	return NULL;
}

void signals_last_resort(const char *path)
{
	last_resort = path;
}

void signals_end_children(void)
{
	char path[64];
	FILE *children;
	int pid;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
	children = fopen(path, "re");
	while (children && fscanf(children, "%d", &pid) == 1)
		kill(getpgid(pid) == pid ? -pid : pid, SIGTERM);
	if (children)
		fclose(children);
}
