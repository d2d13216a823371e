/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Page-aligned buffers of 4 KiB to 4 MiB, kept for the next request. How many are out is the caller's to
 * bound. */
#pragma once

#include <stddef.h>

#define AGENT_BUFFER_CLASSES 11u /* 4 KiB << 0..10 */

struct agent_buffers {
	void *free[AGENT_BUFFER_CLASSES]; /* each begins with a pointer to the next */
	size_t kept_bytes, kept_bytes_max;
};

/* At least `size` bytes, at most BLOCK_IO_MAX; NULL when out of memory. */
void *agent_buffers_get(struct agent_buffers *buffers, size_t size);
/* `size` as it was asked. */
void agent_buffers_put(struct agent_buffers *buffers, void *buffer, size_t size);
void agent_buffers_done(struct agent_buffers *buffers);
