/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A letter is an order, an int the answer, over a pair of sockets: see snapshot_guard.h. */
#include "snapshot/snapshot_guard.h"

#include "attach/dm.h"
#include "base/cleanup.h"

#include <errno.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TRIES_MAX 30u /* seconds */

enum order {
	FREEZE = 'f',
	THAW = 't',
	SUSPENDING = 's',
	RESUMED = 'r',
	OWES_HOOK = 'h',
	OWES_NOTHING = 'n',
	END = 'e'
};

/* In the child. */

struct duty {
	const struct snapshot_guard *guard;
	unsigned frozen; /* of the mounts, the first so many */
	bool suspended, owes_hook, late;
	time_t deadline; /* 0: none */
};

static time_t now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return now.tv_sec;
}

/* By what is seen, not by what is said. 1: it was suspended. */
static int make_run(const char *device)
{
	struct dm_facts facts;
	struct error ignored;
	int res = dm_look(device, &facts, &ignored);

	/* What is gone is not suspended. */
	if (res < 0 || !facts.suspended)
		return res == -ENXIO ? 0 : res;
	res = dm_resume(device, &ignored);
	return res < 0 ? res : 1;
}

static void undo(struct duty *duty)
{
	/* The one who suspends may be about to: then it is looked at again soon. */
	if (duty->suspended && make_run(duty->guard->device) > 0)
		duty->suspended = false;
	while (duty->frozen > 0)
		(void)ioctl(duty->guard->mounts[--duty->frozen], FITHAW, 0);
	duty->deadline = duty->suspended ? now_s() + 1 : 0;
}

static int freeze(struct duty *duty)
{
	duty->late = false;
	for (; duty->frozen < duty->guard->mounts_count; duty->frozen++) {
		int res = ioctl(duty->guard->mounts[duty->frozen], FIFREEZE, 0) < 0 ? -errno : 0;

		if (res < 0) {
			undo(duty);
			return res;
		}
	}
	duty->deadline = now_s() + SNAPSHOT_GUARD_PATIENCE_S;
	return 0;
}

/* Its answer. */
static int obey(struct duty *duty, char order)
{
	int res;

	switch (order) {
	case FREEZE:
		return freeze(duty);
	case THAW:
		undo(duty);
		return duty->late ? -ETIMEDOUT : 0;
	case SUSPENDING:
		duty->suspended = true;
		if (!duty->deadline)
			duty->deadline = now_s() + SNAPSHOT_GUARD_PATIENCE_S;
		return 0;
	case RESUMED:
		res = duty->suspended ? make_run(duty->guard->device) : 0;
		if (res < 0)
			return res;
		duty->suspended = false;
		if (!duty->frozen)
			duty->deadline = 0;
		return duty->late ? -ETIMEDOUT : 0;
	case OWES_HOOK:
	case OWES_NOTHING:
		duty->owes_hook = order == OWES_HOOK;
		return 0;
	default:
		return -EINVAL;
	}
}

/* False when there is nobody to obey any more. */
static bool next_order(struct duty *duty, int fd)
{
	int patience_ms = duty->deadline ? (int)(duty->deadline - now_s()) * 1000 : -1;
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	int got = duty->deadline && patience_ms <= 0 ? 0 : poll(&poll_fd, 1, patience_ms), answer;
	char order;

	if (got < 0)
		return errno == EINTR;
	if (got == 0) {
		undo(duty);
		duty->late = true;
		return true;
	}
	if (read(fd, &order, 1) != 1)
		return false;
	if (order == END) {
		duty->owes_hook = false;
		return false;
	}
	answer = obey(duty, order);
	return send(fd, &answer, sizeof(answer), MSG_NOSIGNAL) == sizeof(answer);
}

static const int deaf_to[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGUSR1, SIGUSR2, SIGTSTP};

static void set_signals(void (*handler)(int))
{
	sigset_t none;

	for (size_t i = 0; i < sizeof(deaf_to) / sizeof(deaf_to[0]); i++)
		signal(deaf_to[i], handler);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void keep_guard(const struct snapshot_guard *guard, int fd)
{
	struct duty duty = {.guard = guard};

	/* Nothing of ours may have to be read from what is frozen. */
	(void)mlockall(MCL_CURRENT | MCL_FUTURE);
	while (next_order(&duty, fd))
		;
	undo(&duty);
	/* Nobody else is there to do it. */
	for (unsigned tries = 0; duty.suspended && make_run(guard->device) < 0 && tries < TRIES_MAX; tries++)
		sleep(1);
	if (duty.owes_hook && guard->hook) {
		set_signals(SIG_DFL);
		dup2(STDERR_FILENO, STDOUT_FILENO);
		execvp(guard->hook[0], guard->hook);
	}
	_exit(0);
}

/* In the parent. */

static int start_child(struct snapshot_guard *guard, const int fds[2])
{
	sigset_t all, before;
	pid_t pid;

	/* No signal meets the child before it is deaf to it. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	pid = fork();
	if (pid == 0) {
		setsid();
		set_signals(SIG_IGN);
		close(fds[0]);
		keep_guard(guard, fds[1]);
	}
	guard->pid = pid;
	pid = pid < 0 ? -errno : 0;
	sigprocmask(SIG_SETMASK, &before, NULL);
	return pid;
}

int snapshot_guard_start(struct snapshot_guard *guard, struct error *error)
{
	int fds[2], res;

	guard->pid = 0;
	guard->fd = -1;
	guard->frozen = false;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return error_set(error, -errno, "cannot start the process that thaws: %s", strerror(errno));
	res = start_child(guard, fds);
	close(fds[1]);
	if (res < 0) {
		guard->pid = 0;
		close(fds[0]);
		return error_set(error, res, "cannot start the process that thaws: %s", strerror(-res));
	}
	guard->fd = fds[0];
	return 0;
}

static int order(struct snapshot_guard *guard, enum order what, struct error *error)
{
	const char letter = (char)what;
	int answer = 0;
	ssize_t got;

	if (send(guard->fd, &letter, 1, MSG_NOSIGNAL) != 1)
		return error_set(error, -ECHILD, "the process that thaws was killed");
	do
		got = recv(guard->fd, &answer, sizeof(answer), MSG_WAITALL);
	while (got < 0 && errno == EINTR);
	if (got != sizeof(answer))
		return error_set(error, -ECHILD, "the process that thaws was killed");
	return answer;
}

int snapshot_guard_freeze(struct snapshot_guard *guard, struct error *error)
{
	int res;

	/* Most is written out while nobody waits. */
	for (unsigned i = 0; i < guard->mounts_count; i++)
		(void)syncfs(guard->mounts[i]);
	guard->frozen = true;
	res = order(guard, FREEZE, error);
	if (res < 0 && res != -ECHILD)
		error_set(error, res, "cannot freeze a file system: %s%s", strerror(-res),
		    res == -EBUSY ? " (somebody else has frozen it)" : "");
	/* Of what was killed it cannot be known what it froze. */
	guard->frozen = res == 0 || res == -ECHILD;
	return res;
}

int snapshot_guard_thaw(struct snapshot_guard *guard, struct error *error)
{
	int res;

	if (!guard->frozen)
		return 0;
	guard->frozen = false;
	res = order(guard, THAW, error);
	if (res == -ETIMEDOUT)
		return error_set(error, res,
		    "the snapshot took longer than %u s, and file systems were thawed before it was there",
		    SNAPSHOT_GUARD_PATIENCE_S);
	for (unsigned i = 0; res == -ECHILD && i < guard->mounts_count; i++)
		(void)ioctl(guard->mounts[i], FITHAW, 0);
	return res;
}

int snapshot_guard_suspending(struct snapshot_guard *guard, bool suspending, struct error *error)
{
	int res = order(guard, suspending ? SUSPENDING : RESUMED, error);

	if (res == -ECHILD && !suspending)
		(void)make_run(guard->device);

	if (res == -ETIMEDOUT)
		return error_set(error, res,
		    "%s was suspended for more than %u s, and was resumed before the snapshot was there",
		    guard->device, SNAPSHOT_GUARD_PATIENCE_S);
	if (res < 0 && res != -ECHILD)
		error_set(error, res,
		    "cannot see to it that %s is not suspended (%s); run `dmsetup resume %s`", guard->device,
		    strerror(-res), guard->device);
	return res;
}

int snapshot_guard_owes_hook(struct snapshot_guard *guard, bool owes, struct error *error)
{
	return order(guard, owes ? OWES_HOOK : OWES_NOTHING, error);
}

void snapshot_guard_end(struct snapshot_guard *guard)
{
	const char letter = END;
	struct error ignored;

	if (guard->pid == 0)
		return;
	(void)snapshot_guard_thaw(guard, &ignored);
	(void)send(guard->fd, &letter, 1, MSG_NOSIGNAL);
	cleanup_close(&guard->fd);
	guard->fd = -1;
	while (waitpid(guard->pid, NULL, 0) < 0 && errno == EINTR)
		;
	guard->pid = 0;
}
