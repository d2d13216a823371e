/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Scope-bound release of locals: `_cleanup_(close_fd) int fd = -1;`. Release functions take NULL or -1 too. */
#pragma once

#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(function) __attribute__((cleanup(function)))

static inline void cleanup_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void cleanup_free(void *pointer)
{
	free(*(void **)pointer);
}

/* Hands the descriptor over: returns it and leaves -1, so that cleanup_close() passes it by. */
static inline int take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}
