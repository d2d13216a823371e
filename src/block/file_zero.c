/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * BLOCK_ZERO for files and devices: see file_zero.h. Ring thread only. A request goes step by step:
 * driver_u64[0] bytes are done, the step under way ends at [1]. Steps done by hand take turns: of one step
 * several pieces are under way.
 */
#include "block/file_zero.h"

#include "base/bytes.h"
#include "block/driver.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>

#define PIECES 4u
#define PIECE  (1u << 20)
/* One call to the kernel is kept to this, so that zeroing a device of terabytes can be interrupted. */
#define PUNCH_MAX (1ull << 30)

/* The kernel says that it cannot, rather than that it failed. */
static bool is_unsupported(int res)
{
	return res == -EOPNOTSUPP || res == -EINVAL || res == -ENOSYS || res == -ENOTTY;
}

/* A part of a step that is done by hand. */
struct piece {
	struct file_zero *zero;
	struct block_io io;
	void *buf;
	bool busy;
};

struct file_zero {
	/* set at open */
	struct block *block;
	struct digest_reader *digests;
	int fd;
	uint32_t align; /* of what can be punched */
	bool device;
	unsigned *under_way; /* the owner's count of requests */

	/* ring thread only */
	bool cannot_punch, cannot_fill;
	struct list_node waiting; /* requests with a step by hand; the first is under way */
	bool running;
	uint64_t at, end; /* of that step: the next byte, in the volume */
	unsigned busy;    /* pieces under way */
	int res;
	struct piece pieces[PIECES];
};

static void hand_next(struct file_zero *zero);
static void step(struct file_zero *zero, struct block_io *io);

static void end(struct file_zero *zero, struct block_io *io, int res)
{
	/* What was read between the submit and now may have been digested, and kept, as it was before. */
	digest_reader_forget(zero->digests, io->offset, io->length);
	(*zero->under_way)--;
	block_complete(io, res);
}

static void flushed(struct ring_op *op, int res)
{
	struct block_io *io = container_of(op, struct block_io, ring_op);

	end(io->driver_pointer, io, res < 0 ? res : 0);
}

static void finish(struct file_zero *zero, struct block_io *io, int res)
{
	if (res < 0 || !(io->flags & BLOCK_FUA)) {
		end(zero, io, res);
		return;
	}
	io->ring_op.opcode = RING_FSYNC;
	io->ring_op.fd = zero->fd;
	io->ring_op.done = flushed;
	ring_submit(zero->block->ring, &io->ring_op);
}

static void step_done(struct file_zero *zero, struct block_io *io, int res)
{
	io->driver_u64[0] = io->driver_u64[1];
	if (res < 0 || io->driver_u64[0] == io->length)
		finish(zero, io, res);
	else
		step(zero, io);
}

/* By hand */

static struct block_io *first_of(struct file_zero *zero)
{
	return container_of(zero->waiting.next, struct block_io, node);
}

static void hand_piece(struct file_zero *zero, struct piece *piece)
{
	piece->busy = true;
	piece->io.op = first_of(zero)->flags & BLOCK_NO_HOLE ? BLOCK_WRITE : BLOCK_READ;
	piece->io.offset = zero->at;
	piece->io.length = min_u64(zero->end - zero->at, PIECE);
	piece->io.buf = piece->buf;
	if (piece->io.op == BLOCK_WRITE)
		memset(piece->buf, 0, piece->io.length);
	zero->at += piece->io.length;
	zero->busy++;
	block_submit(zero->block, &piece->io);
}

/* Submits as many pieces as can be; ends the step when none is left. */
static void hand_pump(struct file_zero *zero)
{
	struct block_io *io;
	int res = zero->res;

	for (unsigned i = 0; i < PIECES && res == 0 && zero->at < zero->end; i++)
		if (!zero->pieces[i].busy)
			hand_piece(zero, &zero->pieces[i]);
	if (zero->busy > 0)
		return;
	io = container_of(list_pop(&zero->waiting), struct block_io, node);
	zero->running = false;
	hand_next(zero);
	step_done(zero, io, res);
}

static void hand_piece_done(struct block_io *io, int res)
{
	struct piece *piece = io->user;
	struct file_zero *zero = piece->zero;

	if (io->op == BLOCK_READ && (res < 0 || !bytes_are_zero(piece->buf, io->length))) {
		/* What cannot be read is overwritten, too: that may well heal it. */
		memset(piece->buf, 0, io->length);
		io->op = BLOCK_WRITE;
		block_submit(zero->block, io);
		return;
	}
	if (res < 0 && zero->res == 0)
		zero->res = res;
	piece->busy = false;
	zero->busy--;
	hand_pump(zero);
}

/* Begins the first waiting request's step, if none is under way. */
static void hand_next(struct file_zero *zero)
{
	struct block_io *io;

	if (zero->running || list_empty(&zero->waiting))
		return;
	io = container_of(zero->waiting.next, struct block_io, node);
	zero->running = true;
	zero->res = 0;
	zero->at = io->offset + io->driver_u64[0];
	zero->end = io->offset + io->driver_u64[1];
	/* Behind a file's end there is nothing: when it grows, there will be zeros. */
	if (!zero->device) {
		zero->end = min_u64(zero->end, zero->block->info.size);
		zero->at = min_u64(zero->at, zero->end);
	}
	hand_piece(zero, &zero->pieces[0]); /* also when it is empty: the answer must come from the loop */
	hand_pump(zero);
}

static int make_pieces(struct file_zero *zero)
{
	for (unsigned i = 0; i < PIECES; i++) {
		struct piece *piece = &zero->pieces[i];

		if (piece->buf)
			continue;
		piece->zero = zero;
		piece->io.done = hand_piece_done;
		piece->io.user = piece;
		if (posix_memalign(&piece->buf, 4096, PIECE) != 0) {
			piece->buf = NULL;
			return -ENOMEM;
		}
	}
	return 0;
}

/* May be called from within submit. */
static void by_hand(struct file_zero *zero, struct block_io *io)
{
	if (make_pieces(zero) < 0) {
		(*zero->under_way)--;
		block_complete_later(zero->block, io, -ENOMEM);
		return;
	}
	list_append(&zero->waiting, &io->node);
	hand_next(zero);
}

/* By the kernel */

static void punch_done(struct ring_op *op, int res)
{
	struct block_io *io = container_of(op, struct block_io, ring_op);
	struct file_zero *zero = io->driver_pointer;

	if (res == -EINTR || res == -EAGAIN) {
		step(zero, io);
	} else if (is_unsupported(res)) {
		/* EINVAL is about this range alone. */
		if (io->flags & BLOCK_NO_HOLE)
			zero->cannot_fill |= res != -EINVAL;
		else
			zero->cannot_punch |= res != -EINVAL;
		if (io->flags & BLOCK_FAST)
			finish(zero, io, -EOPNOTSUPP);
		else
			by_hand(zero, io);
	} else {
		step_done(zero, io, res < 0 ? res : 0);
	}
}

static void punch(struct file_zero *zero, struct block_io *io)
{
	struct ring_op *op = &io->ring_op;

	op->opcode = RING_FALLOCATE;
	op->fd = zero->fd;
	op->mode = io->flags & BLOCK_NO_HOLE ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE;
	op->mode |= FALLOC_FL_KEEP_SIZE;
	op->offset = io->offset + io->driver_u64[0];
	op->length = io->driver_u64[1] - io->driver_u64[0];
	op->done = punch_done;
	ring_submit(zero->block->ring, op);
}

/* Begins what comes next: a device punches whole sectors only, so that what sticks out is done by hand. */
static void step(struct file_zero *zero, struct block_io *io)
{
	uint64_t done = io->driver_u64[0], at = io->offset + done, left = io->length - done;
	bool cannot = io->flags & BLOCK_NO_HOLE ? zero->cannot_fill : zero->cannot_punch;
	bool hand = cannot || at % zero->align || left < zero->align;

	if (at % zero->align && !cannot)
		left = min_u64(left, align_up(at, zero->align) - at);
	else if (!hand)
		left = min_u64(align_down(left, zero->align), zero->device ? PUNCH_MAX : UINT64_MAX);
	io->driver_u64[1] = done + left;
	if (hand)
		by_hand(zero, io);
	else
		punch(zero, io);
}

/* Whether it is known that zeros would have to be written. A device may write them behind our back when it must not unmap. */
static bool would_be_slow(const struct file_zero *zero, const struct block_io *io)
{
	return io->flags & BLOCK_NO_HOLE ? zero->device || zero->cannot_fill : zero->cannot_punch;
}

void file_zero_submit(struct file_zero *zero, struct block_io *io)
{
	io->driver_pointer = zero;
	io->driver_u64[0] = 0;
	if (io->flags & BLOCK_FAST && would_be_slow(zero, io)) {
		block_complete_later(zero->block, io, -EOPNOTSUPP);
		return;
	}
	(*zero->under_way)++;
	step(zero, io);
}

/* Advice: whole sectors of a device; a discard, or if that cannot be what BLOCK_ZERO would do in a moment. */

static void trim_done(struct ring_op *op, int res)
{
	struct block_io *io = container_of(op, struct block_io, ring_op);
	struct file_zero *zero = io->driver_pointer;

	if (op->opcode == RING_DISCARD && is_unsupported(res)) {
		op->opcode = RING_FALLOCATE;
		ring_submit(zero->block->ring, op);
		return;
	}
	finish(zero, io, is_unsupported(res) ? 0 : res);
}

void file_trim_submit(struct file_zero *zero, struct block_io *io)
{
	uint64_t begin = align_up(io->offset, zero->align);
	uint64_t end_of_it = align_down(io->offset + io->length, zero->align);
	struct ring_op *op = &io->ring_op;

	if (begin >= end_of_it) {
		block_complete_later(zero->block, io, 0);
		return;
	}
	(*zero->under_way)++;
	io->driver_pointer = zero;
	op->opcode = zero->device ? RING_DISCARD : RING_FALLOCATE;
	op->fd = zero->fd;
	op->mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	op->offset = begin;
	op->length = end_of_it - begin;
	op->done = trim_done;
	ring_submit(zero->block->ring, op);
}

int file_zero_new(struct file_zero **ret, struct block *block, int fd, bool device,
    struct digest_reader *digests, unsigned *under_way, struct error *error)
{
	struct file_zero *zero = calloc(1, sizeof(*zero));

	if (!zero)
		return error_set(error, -ENOMEM, "out of memory");
	zero->block = block;
	zero->digests = digests;
	zero->under_way = under_way;
	zero->fd = fd;
	zero->align = device && block->info.sector_size > 1 ? block->info.sector_size : 1;
	zero->device = device;
	list_init(&zero->waiting);
	*ret = zero;
	return 0;
}

struct file_zero *file_zero_free(struct file_zero *zero)
{
	for (unsigned i = 0; zero && i < PIECES; i++)
		free(zero->pieces[i].buf);
	free(zero);
	return NULL;
}
