/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* BLOCK_ZERO for files and devices: see file_zero.h. Ring thread only. */
#include "block/file_zero.h"

#include "base/bytes.h"
#include "block/driver.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>

#define PIECE (1u << 20)
/* One call to the kernel is kept to this, so that zeroing a device of terabytes can be interrupted. */
#define PUNCH_MAX (1ull << 30)

struct file_zero {
	/* set at open */
	struct block *block;
	int fd;
	bool device;

	/* ring thread only */
	bool cannot_punch;
	struct list_node waiting; /* requests that must be zeroed by hand; the first is under way */
	bool busy;
	uint64_t at;     /* next byte of that request */
	uint64_t length; /* of the piece under way */
	struct block_io piece;
	void *buf;
};

static void hand_next(struct file_zero *zero);

static void hand_finish(struct file_zero *zero, int res)
{
	struct block_io *io = container_of(list_pop(&zero->waiting), struct block_io, node);

	zero->busy = false;
	hand_next(zero);
	block_complete(io, res);
}

static void hand_piece(struct file_zero *zero)
{
	struct block_io *io = container_of(zero->waiting.next, struct block_io, node);
	uint64_t left = io->offset + io->length - zero->at;

	if (left == 0) {
		hand_finish(zero, 0);
		return;
	}
	zero->length = min_u64(left, PIECE);
	zero->piece.op = BLOCK_READ;
	zero->piece.offset = zero->at;
	zero->piece.length = zero->length;
	zero->piece.buf = zero->buf;
	block_submit(zero->block, &zero->piece);
}

static void hand_piece_done(struct block_io *piece, int res)
{
	struct file_zero *zero = piece->user;

	if (piece->op == BLOCK_READ && (res < 0 || !bytes_are_zero(zero->buf, zero->length))) {
		/* What cannot be read is overwritten, too: that may well heal it. */
		memset(zero->buf, 0, zero->length);
		piece->op = BLOCK_WRITE;
		block_submit(zero->block, piece);
	} else if (res < 0) {
		hand_finish(zero, res);
	} else {
		zero->at += zero->length;
		hand_piece(zero);
	}
}

/* Begins the first waiting request, if none is under way. */
static void hand_next(struct file_zero *zero)
{
	struct block_io *io;

	if (zero->busy || list_empty(&zero->waiting))
		return;
	io = container_of(zero->waiting.next, struct block_io, node);
	zero->busy = true;
	zero->at = io->offset;
	zero->piece.done = hand_piece_done;
	zero->piece.user = zero;
	hand_piece(zero);
}

static void by_hand(struct file_zero *zero, struct block_io *io)
{
	if (!zero->buf && posix_memalign(&zero->buf, 4096, PIECE)) {
		zero->buf = NULL;
		block_complete_later(zero->block, io, -ENOMEM);
		return;
	}
	list_append(&zero->waiting, &io->node);
	hand_next(zero);
}

static void punch_piece(struct file_zero *zero, struct block_io *io)
{
	uint64_t done = io->driver_u64[0];
	struct ring_op *op = &io->ring_op;

	op->opcode = RING_FALLOCATE;
	op->fd = zero->fd;
	op->mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	op->offset = io->offset + done;
	op->length = zero->device ? min_u64(io->length - done, PUNCH_MAX) : io->length - done;
	io->driver_u64[1] = op->length;
	ring_submit(zero->block->ring, op);
}

static void punch_done(struct ring_op *op, int res)
{
	struct block_io *io = container_of(op, struct block_io, ring_op);
	struct file_zero *zero = io->driver_pointer;

	if (res == -EINTR || res == -EAGAIN) {
		punch_piece(zero, io);
	} else if (res == -EOPNOTSUPP || res == -EINVAL || res == -ENOSYS) {
		/* EINVAL: the range is no multiple of the device's sectors; only that request is done by
		 * hand. */
		zero->cannot_punch |= res != -EINVAL;
		by_hand(zero, io);
	} else if (res < 0) {
		block_complete(io, res);
	} else {
		io->driver_u64[0] += io->driver_u64[1];
		if (io->driver_u64[0] < io->length)
			punch_piece(zero, io);
		else
			block_complete(io, 0);
	}
}

void file_zero_submit(struct file_zero *zero, struct block_io *io)
{
	io->driver_pointer = zero;
	io->driver_u64[0] = 0;
	if (zero->cannot_punch) {
		by_hand(zero, io);
		return;
	}
	io->ring_op.done = punch_done;
	punch_piece(zero, io);
}

int file_zero_new(struct file_zero **ret, struct block *block, int fd, bool device, struct error *error)
{
	struct file_zero *zero = calloc(1, sizeof(*zero));

	if (!zero)
		return error_set(error, -ENOMEM, "out of memory");
	zero->block = block;
	zero->fd = fd;
	zero->device = device;
	list_init(&zero->waiting);
	*ret = zero;
	return 0;
}

struct file_zero *file_zero_free(struct file_zero *zero)
{
	if (zero)
		free(zero->buf);
	free(zero);
	return NULL;
}
