/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pipes for long reads and writes: see nbd_pipe.h. */
#include "export/nbd_pipe.h"

#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

void nbd_pipes_init(struct nbd_pipes *pipes)
{
	*pipes = (struct nbd_pipes){.most = NBD_PIPES_MAX};
	list_init(&pipes->free);
}

static void pipe_free(struct nbd_pipes *pipes, struct nbd_pipe *pipe)
{
	close(pipe->read_fd);
	close(pipe->write_fd);
	free(pipe);
	pipes->count--;
}

void nbd_pipes_done(struct nbd_pipes *pipes)
{
	struct list_node *node;

	while ((node = list_pop(&pipes->free)))
		pipe_free(pipes, container_of(node, struct nbd_pipe, node));
	assert(pipes->count == 0);
}

bool nbd_pipe_fits(uint64_t offset, uint64_t length)
{
	const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	return length <= NBD_PIPE_BYTES && offset % page + length <= NBD_PIPE_BYTES;
}

static struct nbd_pipe *pipe_new(struct nbd_pipes *pipes)
{
	struct nbd_pipe *pipe = calloc(1, sizeof(*pipe));
	int fds[2];

	if (!pipe || pipe2(fds, O_CLOEXEC) < 0) {
		free(pipe);
		return NULL;
	}
	pipe->read_fd = fds[0];
	pipe->write_fd = fds[1];
	pipes->count++;
	if (fcntl(fds[1], F_SETPIPE_SZ, NBD_PIPE_BYTES) >= (int)NBD_PIPE_BYTES)
		return pipe;
	pipe_free(pipes, pipe);
	return NULL;
}

struct nbd_pipe *nbd_pipes_get(struct nbd_pipes *pipes)
{
	struct list_node *node = list_pop(&pipes->free);
	struct nbd_pipe *pipe = node ? container_of(node, struct nbd_pipe, node) : NULL;

	if (!pipe && pipes->count < pipes->most) {
		pipe = pipe_new(pipes);
		if (!pipe)
			pipes->most = pipes->count;
	}
	if (pipe)
		pipe->empty = false;
	return pipe;
}

void nbd_pipes_put(struct nbd_pipes *pipes, struct nbd_pipe *pipe)
{
	if (pipe->empty && pipes->count <= pipes->most)
		list_prepend(&pipes->free, &pipe->node);
	else
		pipe_free(pipes, pipe);
}
