/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Standard input or output as a volume of unknown size. Requests are served one at a time in order of their
 * offset, in whatever order they were submitted: READs from the input until it ends, WRITE and ZERO to the
 * output, each beginning where the one before it ended. The descriptor is borrowed. Whoever runs the process
 * ignores SIGPIPE, so that a closed output is an error with words.
 */
#include "block/stream.h"
#include "base/bytes.h"
#include "block/driver.h"
#include "block/open.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ZEROES_BYTES (256u << 10)

struct stream {
	struct block block;
	int fd;
	uint64_t position;        /* bytes that went through; where the next request begins */
	bool ended;               /* input only: the end was seen */
	int broken;               /* -errno: the stream failed, and so does all that follows */
	struct list_node waiting; /* requests sorted by offset */
	struct block_io *current; /* the one under way, no longer in `waiting` */
	uint64_t current_bytes;   /* of it, done */
	struct ring_op op;
	bool kicked; /* `kick` is under way */
	struct ring_op kick;
	char *zeroes;
};

static void stream_step(struct stream *stream);

static void stream_broke(struct stream *stream, int res)
{
	if (!stream->broken)
		stream->broken = res;
}

/* The waiting request whose turn it is, or that can never be served; NULL for none. */
static struct block_io *stream_next(struct stream *stream)
{
	struct block_io *io;

	if (list_empty(&stream->waiting))
		return NULL;
	io = container_of(stream->waiting.next, struct block_io, node);
	return stream->broken || stream->ended || io->offset <= stream->position ? io : NULL;
}

static void stream_finish(struct stream *stream, int res)
{
	struct block_io *io = stream->current;

	stream->current = NULL;
	block_complete(io, res);
	stream_step(stream);
}

static void poll_done(struct ring_op *op, int res)
{
	struct stream *stream = container_of(op, struct stream, op);

	if (res < 0) {
		stream_broke(stream, res);
		stream_finish(stream, res);
		return;
	}
	stream_step(stream);
}

static void transfer_done(struct ring_op *op, int res)
{
	struct stream *stream = container_of(op, struct stream, op);
	struct block_io *io = stream->current;

	if (res == -EAGAIN || res == -EINTR) {
		/* Somebody made it non-blocking: wait until it can be used. */
		op->opcode = RING_POLL;
		op->events = io->op == BLOCK_READ ? POLLIN : POLLOUT;
		op->done = poll_done;
		ring_submit(stream->block.ring, op);
		return;
	}
	if (res == 0 && io->op != BLOCK_READ)
		res = -EIO;
	if (res < 0) {
		stream_broke(stream, res);
		stream_finish(stream, res);
		return;
	}
	stream->ended = res == 0;
	stream->position += (uint64_t)res;
	stream->current_bytes += (uint64_t)res;
	if (stream->ended || (io->op == BLOCK_READ && stream->current_bytes == io->length))
		stream_finish(stream, (int)stream->current_bytes);
	else if (stream->current_bytes == io->length)
		stream_finish(stream, 0);
	else
		stream_step(stream);
}

/* Moves the next piece of the request under way. */
static void stream_transfer(struct stream *stream)
{
	struct block_io *io = stream->current;
	struct ring_op *op = &stream->op;
	uint64_t left = io->length - stream->current_bytes;

	*op = (struct ring_op){.fd = stream->fd, .offset = RING_STREAM, .done = transfer_done};
	op->opcode = io->op == BLOCK_READ ? RING_READ : RING_WRITE;
	op->length = io->op == BLOCK_ZERO ? min_u64(left, ZEROES_BYTES) : left;
	op->buf = io->op == BLOCK_ZERO ? stream->zeroes : (char *)io->buf + stream->current_bytes;
	ring_submit(stream->block.ring, op);
}

/* What a request gets that is not begun: -errno, 0 at the end of the input, or 1 to begin it. */
static int stream_verdict(const struct stream *stream, const struct block_io *io)
{
	if (stream->broken)
		return stream->broken;
	if (io->offset < stream->position)
		return -EINVAL;
	return stream->ended ? 0 : 1;
}

/* Goes on as far as that can be now; never from within a submit. */
static void stream_step(struct stream *stream)
{
	struct block_io *io;
	int verdict;

	if (stream->op.active || stream->kicked)
		return;
	while (!stream->current && (io = stream_next(stream))) {
		list_remove(&io->node);
		verdict = stream_verdict(stream, io);
		if (verdict <= 0) {
			block_complete(io, verdict);
			continue;
		}
		stream->current = io;
		stream->current_bytes = 0;
	}
	if (stream->current)
		stream_transfer(stream);
}

static void kick_done(struct ring_op *op, int res)
{
	struct stream *stream = container_of(op, struct stream, kick);

	stream->kicked = false;
	stream_step(stream);
}

static void stream_enqueue(struct stream *stream, struct block_io *io)
{
	struct list_node *after = stream->waiting.previous;

	/* Nearly always it goes to the end. */
	while (after != &stream->waiting && container_of(after, struct block_io, node)->offset > io->offset)
		after = after->previous;
	list_prepend(after, &io->node);
	if (stream->kicked)
		return;
	stream->kicked = true;
	stream->kick.done = kick_done;
	ring_defer(stream->block.ring, &stream->kick, 0);
}

static void flush_done(struct ring_op *op, int res)
{
	struct block_io *io = container_of(op, struct block_io, ring_op);

	/* A pipe or a terminal has nothing to flush. */
	block_complete(io, res == -EINVAL || res == -EROFS || res == -ENOTSUP ? 0 : res);
}

static void stream_flush(struct stream *stream, struct block_io *io)
{
	io->ring_op = (struct ring_op){.opcode = RING_FSYNC, .fd = stream->fd, .done = flush_done};
	ring_submit(stream->block.ring, &io->ring_op);
}

static void stream_submit(struct block *block, struct block_io *io)
{
	struct stream *stream = container_of(block, struct stream, block);
	bool writes = io->op == BLOCK_WRITE || io->op == BLOCK_ZERO;

	if (writes || (io->op == BLOCK_READ && !block->info.writable))
		stream_enqueue(stream, io);
	else if (io->op == BLOCK_EXTENTS)
		block_extents_all_data(block, io);
	else if (io->op == BLOCK_FLUSH && stream->broken)
		block_complete_later(block, io, stream->broken);
	else if (io->op == BLOCK_FLUSH && block->info.writable)
		stream_flush(stream, io);
	else
		block_complete_later(
		    block, io, io->op == BLOCK_FLUSH || io->op == BLOCK_TRIM ? 0 : -EOPNOTSUPP);
}

static void stream_free(struct block *block)
{
	struct stream *stream = container_of(block, struct stream, block);

	assert(!stream->current && list_empty(&stream->waiting) && !stream->kicked);
	free(stream->zeroes);
	free(stream);
}

static const struct block_driver stream_driver = {
    .name = "stream",
    .submit = stream_submit,
    .free = stream_free,
};

int stream_new(
    struct block **ret, struct ring *ring, int fd, bool write, const char *name, struct error *error)
{
	struct stream *stream = calloc(1, sizeof(*stream));
	char *zeroes = write ? calloc(1, ZEROES_BYTES) : NULL;

	if (!stream || (write && !zeroes)) {
		free(stream);
		free(zeroes);
		return error_set(error, -ENOMEM, "cannot open %s: out of memory", name);
	}
	stream->block = (struct block){.driver = &stream_driver, .ring = ring};
	stream->block.info =
	    (struct block_info){.sector_size = 1, .request_align = 1, .writable = write, .stream = true};
	snprintf(stream->block.info.name, sizeof(stream->block.info.name), "%s", name);
	stream->fd = fd;
	stream->zeroes = zeroes;
	list_init(&stream->waiting);
	*ret = &stream->block;
	return 0;
}

int stream_open(
    struct block **ret, struct ring *ring, const struct block_open_options *options, struct error *error)
{
	int fd = options->write ? STDOUT_FILENO : STDIN_FILENO;
	const char *name = options->write ? "standard output" : "standard input";

	if (isatty(fd))
		return error_set(
		    error, -EINVAL, "cannot use %s: it is a terminal; connect it to a pipe or a file", name);
	if (fcntl(fd, F_GETFD) < 0)
		return error_set(error, -errno, "cannot use %s: %s", name, strerror(errno));
	return stream_new(ret, ring, fd, options->write, name, error);
}
