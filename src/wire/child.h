/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A child process: started, waited for with a deadline, ended. Waits run the ring. Control paths only. */
#pragma once

#include "base/error.h"
#include "ring/ring.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct child {
	pid_t pid; /* 0: none, or reaped */
	int pidfd;
	int status; /* as waitpid(2), once reaped */
	bool group; /* it leads a process group of its own, and all of that ends with it */
};

/*
 * Starts argv[0] (found by PATH) with fds[0..2] as its standard descriptors; the caller keeps his own. It
 * does not get the terminal's SIGINT: who started it decides what ends. Returns 0 or -errno with words.
 */
int child_start(struct child *ret, char *const *argv, const int fds[3], struct error *error);
/* The same in a process group of its own. */
int child_start_group(struct child *ret, char *const *argv, const int fds[3], struct error *error);
/* The same for a shell's command line. */
int child_start_shell(struct child *ret, const char *text, const int fds[3], struct error *error);
/* Waits for its end, at most so long. True when it has ended and is reaped. */
bool child_wait(struct child *child, struct ring *ring, unsigned timeout_ms);
/* Has it end, with all of its group: SIGTERM, and SIGKILL if that does not help soon. Reaps it. Does nothing once it is reaped. */
void child_end(struct child *child, struct ring *ring);
/* Runs argv and takes what it prints, at most size - 1 bytes. Returns 0 if it exited with 0 in time, else
 * -errno. */
int child_capture(char *const *argv, struct ring *ring, char *ret, size_t size, unsigned timeout_ms);
/*
 * Runs a tool, for its effect. Returns 0 if it exited with 0 in time, else -errno with words, among them what it said. `ring` NULL: it must not be
 * killed in the middle, so there is no deadline, and the call blocks.
 */
int child_run(char *const *argv, struct ring *ring, unsigned timeout_ms, struct error *error);
