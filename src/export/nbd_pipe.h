/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pipes that carry long reads from the page cache to sockets, so that nobody copies them, and the data of long writes from sockets
 * to the page cache, so that they are copied but once. Made when first needed and kept for the next request; a user without
 * privileges may have few (pipe(7), "pipe-user-pages-soft"), and none at all is no error.
 */
#pragma once

#include "base/list.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NBD_PIPE_BYTES (1u << 20) /* what anybody may ask for (/proc/sys/fs/pipe-max-size) */
#define NBD_PIPES_MAX  32u

struct nbd_pipe {
	struct list_node node;
	int read_fd, write_fd;
	bool empty; /* its user's to set before it comes back; one that is not is closed */
};

struct nbd_pipes {
	struct list_node free;
	unsigned count; /* all there are */
	unsigned most;  /* what the system gave at last; 0 when the owner has found that they are of no use */
};

void nbd_pipes_init(struct nbd_pipes *pipes);
/* All must have been given back. */
void nbd_pipes_done(struct nbd_pipes *pipes);
/* Whether a range of a volume fits: a page of it, or a part of one, takes a page of the pipe. */
bool nbd_pipe_fits(uint64_t offset, uint64_t length);
/* An empty one, or NULL when there is none to be had now. */
struct nbd_pipe *nbd_pipes_get(struct nbd_pipes *pipes);
void nbd_pipes_put(struct nbd_pipes *pipes, struct nbd_pipe *pipe);
