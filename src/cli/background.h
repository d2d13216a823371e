/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A command that goes on in a process of its own when who gave it has seen it begin. */
#pragma once

#include "base/error.h"

/*
 * Calls `run` in a new process, where its exit code is returned; this one waits for background_leave() or the end. Returns the exit code
 * that came of it, after printing what is wrong, or -errno with words when there is no new process. `what` it is: "the server".
 */
int background_run(int (*run)(void *data, int ready_fd), void *data, const char *what, struct error *error);
/*
 * In the new process: nobody need look any more. `code` is for who waits; from now on standard input is empty, and the log takes standard
 * output and error. Takes ready_fd. 0 or -errno.
 */
int background_leave(int take_ready_fd, int log_fd, int code);
