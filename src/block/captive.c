/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Captive NBD servers. The server gets a process group of its own, so that the terminal's ^C reaches only us
 * and we can end in order; it dies with the thread that started it. Its standard output goes where its
 * standard error goes: ours may carry data.
 */
#include "block/captive.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define LISTEN_FD 3 /* where sd_listen_fds(3) looks */

extern char **environ;

struct captive {
	char folder[32];
	struct sockaddr_un address;
	pid_t pid; /* 0: none */
	int pidfd;
	bool reaped;
	int status; /* once reaped */
};

/* What the child needs, made ready before fork(): between fork and exec nothing may be allocated. */
struct launch {
	char *const *argv;
	char **environment;
	char *pid_text; /* behind "LISTEN_PID=" in `environment` */
	int listener;
	int words;
	int report; /* gets errno when exec fails */
};

static int make_socket(struct captive *captive, struct error *error)
{
	_cleanup_(cleanup_close) int fd = -1;

	snprintf(captive->folder, sizeof(captive->folder), "/tmp/blkmove-XXXXXX");
	if (!mkdtemp(captive->folder)) {
		captive->folder[0] = '\0';
		return error_set(
		    error, -errno, "cannot make a folder for a socket in /tmp: %s", strerror(errno));
	}
	captive->address.sun_family = AF_UNIX;
	snprintf(captive->address.sun_path, sizeof(captive->address.sun_path), "%s/nbd", captive->folder);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&captive->address, sizeof(captive->address)) < 0 ||
	    listen(fd, 64) < 0)
		return error_set(error, -errno, "cannot make the socket %s: %s", captive->address.sun_path,
		    strerror(errno));
	return take_fd(&fd);
}

/* The environment with LISTEN_FDS and room for LISTEN_PID. One block of memory. */
static int make_environment(struct launch *launch)
{
	size_t count = 0, kept = 0;

	while (environ[count])
		count++;
	launch->environment = calloc(1, (count + 3) * sizeof(char *) + 64);
	if (!launch->environment)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		if (strncmp(environ[i], "LISTEN_", 7) != 0)
			launch->environment[kept++] = environ[i];
	char *text = (char *)(launch->environment + count + 3);

	strcpy(text, "LISTEN_PID=");
	launch->environment[kept++] = text;
	launch->pid_text = text + strlen(text);
	launch->environment[kept++] = strcpy(text + 32, "LISTEN_FDS=1");
	return 0;
}

/* Digits by hand: printf is not safe between fork and exec. */
static void put_pid(char *to, pid_t pid)
{
	char digits[16];
	int count = 0;

	for (; pid > 0; pid /= 10)
		digits[count++] = (char)('0' + pid % 10);
	while (count > 0)
		*to++ = digits[--count];
	*to = '\0';
}

static void child_signals(void)
{
	struct sigaction standard = {.sa_handler = SIG_DFL};
	sigset_t none;

	for (int number = 1; number < NSIG; number++)
		sigaction(number, &standard, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static void __attribute__((noreturn)) child_run(const struct launch *launch, pid_t parent)
{
	int nothing = fcntl(open("/dev/null", O_RDONLY), F_DUPFD_CLOEXEC, 10), report, words, error = 0;

	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(127);
	child_signals();
	/* Above all that is put in place, then 0, 1 and 3, then nothing else is left open. */
	report = fcntl(launch->report, F_DUPFD_CLOEXEC, 10);
	words = fcntl(launch->words, F_DUPFD_CLOEXEC, 10);
	put_pid(launch->pid_text, getpid());
	if (report < 0 || words < 0 || dup2(launch->listener, 9) < 0 || dup2(nothing, STDIN_FILENO) < 0 ||
	    dup2(words, STDOUT_FILENO) < 0 || dup2(words, STDERR_FILENO) < 0 || dup2(9, LISTEN_FD) < 0)
		error = errno;
	close_range(LISTEN_FD + 1, (unsigned)report - 1, 0);
	close_range((unsigned)report + 1, ~0u, 0);
	if (!error) {
		environ = launch->environment;
		execvp(launch->argv[0], launch->argv);
		error = errno;
	}
	if (write(report, &error, sizeof(error)) != sizeof(error))
		_exit(126);
	_exit(127);
}

static int launch_server(struct captive *captive, struct launch *launch, struct error *error)
{
	_cleanup_(cleanup_close) int result = -1;
	int report[2], failed = 0;
	pid_t parent = getpid();
	ssize_t res;

	if (pipe2(report, O_CLOEXEC) < 0)
		return error_set(error, -errno, "cannot make a pipe: %s", strerror(errno));
	result = report[0];
	launch->report = report[1];
	captive->pid = fork();
	if (captive->pid == 0)
		child_run(launch, parent);
	close(report[1]);
	if (captive->pid < 0) {
		captive->pid = 0;
		return error_set(error, -errno, "cannot start %s: %s", launch->argv[0], strerror(errno));
	}
	captive->pidfd = pidfd_open(captive->pid, 0);
	do
		res = read(result, &failed, sizeof(failed));
	while (res < 0 && errno == EINTR);
	if (res == sizeof(failed))
		return error_set(error, -failed, "cannot start %s: %s; is it installed, and in PATH?",
		    launch->argv[0], strerror(failed));
	return 0;
}

int captive_start(struct captive **ret, char *const *argv, int words, struct error *error)
{
	struct captive *captive = calloc(1, sizeof(*captive));
	struct launch launch = {.argv = argv, .listener = -1, .words = words};
	int res;

	if (!captive)
		return error_set(error, -ENOMEM, "cannot start %s: out of memory", argv[0]);
	captive->pidfd = -1;
	res = make_environment(&launch);
	if (res < 0) {
		error_set(error, res, "cannot start %s: out of memory", argv[0]);
	} else {
		res = launch.listener = make_socket(captive, error);
		if (res >= 0)
			res = launch_server(captive, &launch, error);
	}
	cleanup_close(&launch.listener);
	free(launch.environment);
	if (res < 0) {
		captive_free(captive, NULL, 0);
		return res;
	}
	*ret = captive;
	return 0;
}

int captive_connect(const struct captive *captive)
{
	_cleanup_(cleanup_close) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0 || connect(fd, (const struct sockaddr *)&captive->address, sizeof(captive->address)) < 0)
		return -errno;
	return take_fd(&fd);
}

void captive_hide(struct captive *captive)
{
	if (!captive->folder[0])
		return;
	unlink(captive->address.sun_path);
	rmdir(captive->folder);
	captive->folder[0] = '\0';
}

static bool reap(struct captive *captive)
{
	if (!captive->reaped && captive->pid > 0)
		captive->reaped = waitpid(captive->pid, &captive->status, WNOHANG) != 0;
	return captive->reaped || captive->pid == 0;
}

bool captive_ended(struct captive *captive, struct ring *ring, unsigned wait_ms, char *ret, size_t length)
{
	if (wait_ms > 0 && !reap(captive))
		ring_wait_fd(ring, captive->pidfd, POLLIN, wait_ms);
	if (!reap(captive))
		return false;
	if (WIFSIGNALED(captive->status))
		snprintf(ret, length, "was ended by signal %d (%s)", WTERMSIG(captive->status),
		    strsignal(WTERMSIG(captive->status)));
	else
		snprintf(ret, length, "ended with exit status %d", WEXITSTATUS(captive->status));
	return true;
}

struct captive *captive_free(struct captive *captive, struct ring *ring, unsigned grace_ms)
{
	if (!captive)
		return NULL;
	captive_hide(captive);
	if (!reap(captive)) {
		kill(-captive->pid, SIGTERM);
		if (ring)
			ring_wait_fd(ring, captive->pidfd, POLLIN, grace_ms);
		if (!reap(captive)) {
			kill(-captive->pid, SIGKILL);
			kill(captive->pid, SIGKILL);
			waitpid(captive->pid, &captive->status, 0);
		}
	}
	cleanup_close(&captive->pidfd);
	free(captive);
	return NULL;
}
