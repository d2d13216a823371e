/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Going to the background: see background.h. */
#include "cli/background.h"

#include "base/cleanup.h"
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int background_run(int (*run)(void *data, int ready_fd), void *data, const char *what, struct error *error)
{
	int ready[2], status = 0;
	unsigned char code;
	pid_t pid;

	/* What was printed so far is not printed twice. */
	fflush(stdout);
	pid = pipe2(ready, O_CLOEXEC) < 0 ? -1 : fork();
	if (pid < 0)
		return error_set(error, -errno, "cannot go to the background: %s", strerror(errno));
	if (pid == 0) {
		close(ready[0]);
		setsid();
		return run(data, ready[1]);
	}
	close(ready[1]);
	if (read(ready[0], &code, 1) == 1)
		return code;
	if (waitpid(pid, &status, 0) == pid && WIFEXITED(status))
		return WEXITSTATUS(status);
	error_set(error, -ECHILD, "%s's process ended before it began", what);
	return cli_fail(JOB_TROUBLE, error);
}

int background_leave(int take_ready_fd, int log_fd, int code)
{
	_cleanup_(cleanup_close) int null = open("/dev/null", O_RDONLY | O_CLOEXEC), ready = take_ready_fd;
	unsigned char byte = (unsigned char)code;

	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(log_fd, STDOUT_FILENO) < 0 ||
	    dup2(log_fd, STDERR_FILENO) < 0)
		return -errno;
	/* Who started it may be gone: no matter. */
	(void)!write(ready, &byte, 1);
	return 0;
}
