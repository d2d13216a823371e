/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Child processes by fork, exec and pidfd: see child.h. */
#include "wire/child.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define TERM_MS 500u
#define LOOK_MS 10u

/* In the child: only what is safe after fork(2). */
static _Noreturn void run(char *const *argv, const int fds[3], bool group, int report)
{
	sigset_t none;
	int copies[3], res;

	/* Out of the way first: one of fds may be 0, 1 or 2. */
	for (int i = 0; i < 3; i++)
		copies[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
	for (int i = 0; i < 3; i++)
		if (copies[i] < 0 || dup2(copies[i], i) < 0)
			goto failed;
	/* The terminal's signals do not reach another group than its own. */
	if (group && setpgid(0, 0) < 0)
		goto failed;
	signal(SIGINT, group ? SIG_DFL : SIG_IGN);
	signal(SIGQUIT, group ? SIG_DFL : SIG_IGN);
	signal(SIGPIPE, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execvp(argv[0], argv);
failed:
	res = errno;
	(void)!write(report, &res, sizeof(res));
	_exit(127);
}

/* Waits until exec has happened (nothing comes) or failed (its errno comes). */
static int exec_result(int report)
{
	int code = 0;
	ssize_t got;

	do
		got = read(report, &code, sizeof(code));
	while (got < 0 && errno == EINTR);
	return got == sizeof(code) ? -code : 0;
}

static int start(struct child *ret, char *const *argv, const int fds[3], bool group, struct error *error)
{
	_cleanup_(cleanup_close) int report_in = -1;
	int report[2], res;
	pid_t pid;

	*ret = (struct child){.pidfd = -1, .group = group};
	if (pipe2(report, O_CLOEXEC) < 0)
		return error_set(error, -errno, "cannot start %s: %s", argv[0], strerror(errno));
	report_in = report[0];
	/* Away from 0, 1 and 2, which the child overwrites. */
	res = report[1] < 3 ? fcntl(report[1], F_DUPFD_CLOEXEC, 3) : report[1];
	if (res != report[1])
		close(report[1]);
	report[1] = res;
	pid = res < 0 ? -1 : fork();
	if (pid == 0)
		run(argv, fds, group, report[1]);
	res = pid < 0 ? -errno : 0;
	if (report[1] >= 0)
		close(report[1]);
	if (pid > 0)
		res = exec_result(report_in);
	if (res < 0) {
		if (pid > 0)
			waitpid(pid, NULL, 0);
		return error_set(error, res, "cannot start %s: %s", argv[0], strerror(-res));
	}
	ret->pid = pid;
	ret->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	return 0;
}

int child_start(struct child *ret, char *const *argv, const int fds[3], struct error *error)
{
	return start(ret, argv, fds, false, error);
}

int child_start_group(struct child *ret, char *const *argv, const int fds[3], struct error *error)
{
	return start(ret, argv, fds, true, error);
}

int child_start_shell(struct child *ret, const char *text, const int fds[3], struct error *error)
{
	char shell[] = "/bin/sh", option[] = "-c";
	char *const argv[] = {shell, option, (char *)text, NULL};

	return child_start_group(ret, argv, fds, error);
}

static bool reap(struct child *child, int flags)
{
	pid_t pid;

	do
		pid = waitpid(child->pid, &child->status, flags);
	while (pid < 0 && errno == EINTR);
	if (pid == 0)
		return false;
	cleanup_close(&child->pidfd);
	child->pidfd = -1;
	child->pid = 0;
	return true;
}

bool child_wait(struct child *child, struct ring *ring, unsigned timeout_ms)
{
	uint64_t end_ns = ring_now_ns(ring) + timeout_ms * UINT64_C(1000000);

	if (child->pid == 0)
		return true;
	while (!reap(child, WNOHANG)) {
		uint64_t at_ns = ring_now_ns(ring);

		/* Without a pidfd: look every 10 ms. */
		if (at_ns >= end_ns || ring_wait_fd(ring, child->pidfd, POLLIN,
		                           child->pidfd < 0 ? 10 : (end_ns - at_ns) / 1000000 + 1) < 0)
			return false;
	}
	return true;
}

/* The leader is reaped; what it has started may go on. Its number is not given anew while there is a group of that name. */
static void end_group(pid_t group, struct ring *ring, uint64_t end_ns)
{
	while (kill(-group, 0) == 0) {
		if (ring_now_ns(ring) >= end_ns) {
			kill(-group, SIGKILL);
			return;
		}
		ring_wait_fd(ring, -1, 0, LOOK_MS);
	}
}

void child_end(struct child *child, struct ring *ring)
{
	pid_t pid = child->pid, whom = child->group ? -pid : pid;
	uint64_t end_ns = ring_now_ns(ring) + TERM_MS * UINT64_C(1000000);

	if (pid == 0)
		return;
	kill(whom, SIGTERM);
	kill(whom, SIGCONT);
	if (!child_wait(child, ring, TERM_MS)) {
		kill(whom, SIGKILL);
		reap(child, 0);
	} else if (child->group) {
		end_group(pid, ring, end_ns);
	}
}

/* Where output goes. */
struct collected {
	char *text;
	size_t size, used;
	bool cut; /* what has no room is left out */
};

static int take(struct collected *to, int fd)
{
	char spare[256];
	size_t room = to->size - 1 - to->used;
	bool full = to->cut && room == 0;
	ssize_t got = full ? read(fd, spare, sizeof(spare)) : read(fd, to->text + to->used, room);

	if (got < 0)
		return errno == EINTR ? 1 : -errno;
	if (got == 0)
		return 0;
	to->used += full ? 0 : (size_t)got;
	return !to->cut && to->used == to->size - 1 ? -EMSGSIZE : 1;
}

/* Reads to the end or the deadline. */
static int collect(int fd, struct ring *ring, struct collected *to, uint64_t end_ns)
{
	int res = 1;

	while (res > 0) {
		uint64_t at_ns = ring_now_ns(ring);

		if (at_ns >= end_ns)
			return -ETIMEDOUT;
		res = ring_wait_fd(ring, fd, POLLIN, (end_ns - at_ns) / 1000000 + 1);
		if (res < 0)
			return res;
		res = res == 0 ? 1 : take(to, fd);
	}
	to->text[to->used] = '\0';
	return res;
}

/* Without a deadline: to the child's end, whoever else may have the pipe by then. */
static void collect_to_end(struct child *child, int fd, struct collected *to)
{
	struct pollfd polls[] = {{.fd = fd, .events = POLLIN}, {.fd = child->pidfd, .events = POLLIN}};

	while (child->pid != 0) {
		/* Without a pidfd: look every 10 ms. */
		if (poll(polls, 2, child->pidfd < 0 ? 10 : -1) < 0)
			continue;
		if (polls[0].revents == 0)
			reap(child, WNOHANG);
		else if (take(to, fd) <= 0)
			polls[0].fd = -1;
	}
	to->text[to->used] = '\0';
}

/* `ring` NULL: no deadline. */
static int capture(char *const *argv, struct ring *ring, struct collected *to, bool errors_too,
    unsigned timeout_ms, struct error *error)
{
	_cleanup_(cleanup_close) int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	_cleanup_(cleanup_close) int in = -1;
	struct child child;
	int fds[2], res;

	if (null < 0 || pipe2(fds, O_CLOEXEC) < 0)
		return error_set(error, -errno, "cannot start %s: %s", argv[0], strerror(errno));
	in = fds[0];
	res = child_start(&child, argv, (const int[3]){null, fds[1], errors_too ? fds[1] : null}, error);
	close(fds[1]);
	if (res < 0)
		return res;
	if (ring)
		res = collect(in, ring, to, ring_now_ns(ring) + timeout_ms * UINT64_C(1000000));
	else
		collect_to_end(&child, in, to);
	if (res == 0 && ring && !child_wait(&child, ring, timeout_ms))
		res = -ETIMEDOUT;
	if (ring)
		child_end(&child, ring);
	if (res == 0 && child.status != 0)
		res = -EIO;
	return res < 0 ? error_set(error, res, "`%s` failed: %s", argv[0], strerror(-res)) : 0;
}

int child_capture(char *const *argv, struct ring *ring, char *ret, size_t size, unsigned timeout_ms)
{
	struct collected to = {.text = ret, .size = size};

	return capture(argv, ring, &to, false, timeout_ms, NULL);
}

/* Lines become one, blanks at their ends go. */
static void join_lines(char *text)
{
	char *to = text, *from = text + strspn(text, " \n");

	while (*from) {
		if (*from != '\n') {
			*to++ = *from++;
			continue;
		}
		from += strspn(from, " \n");
		if (*from) {
			*to++ = ';';
			*to++ = ' ';
		}
	}
	*to = '\0';
}

int child_run(char *const *argv, struct ring *ring, unsigned timeout_ms, struct error *error)
{
	char said[400] = "";
	struct collected to = {.text = said, .size = sizeof(said) / 2, .cut = true};
	int res = capture(argv, ring, &to, true, timeout_ms, error);

	join_lines(said);
	if (res == -EIO && *said)
		error_set(error, res, "`%s` failed: %s", argv[0], said);
	return res;
}
