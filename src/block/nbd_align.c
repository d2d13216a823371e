/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Servers with a smallest block: requests of any alignment become such of whole blocks, piece by piece.
 * Of a block that is not written as a whole the rest is read first, so that no two writes may touch the same
 * block at a time: a write waits for all earlier ones that do.
 */
#include "base/bytes.h"
#include "block/nbd_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct shaped {
	struct list_node node; /* in volume->writes, in order of arrival; reads stand nowhere */
	struct nbd_volume *volume;
	struct block_io *io;  /* the caller's */
	struct block_io part; /* the request under way for it */
	uint64_t done;        /* bytes of io */
	uint64_t length;      /* of io that `part` is for */
	bool started;
	char block[]; /* one */
};

static void step(struct shaped *shaped);

static uint64_t block_begin(const struct shaped *shaped)
{
	return align_down(shaped->io->offset, shaped->volume->least);
}

static uint64_t block_end(const struct shaped *shaped)
{
	return align_up(shaped->io->offset + shaped->io->length, shaped->volume->least);
}

static bool must_wait(struct nbd_volume *volume, const struct shaped *shaped)
{
	list_for_each (node, &volume->writes) {
		const struct shaped *earlier = container_of(node, struct shaped, node);

		if (earlier == shaped)
			return false;
		if (block_begin(earlier) < block_end(shaped) && block_begin(shaped) < block_end(earlier))
			return true;
	}
	return false;
}

static void start_waiting(struct nbd_volume *volume)
{
	list_for_each (node, &volume->writes) {
		struct shaped *shaped = container_of(node, struct shaped, node);

		if (shaped->started || must_wait(volume, shaped))
			continue;
		shaped->started = true;
		step(shaped);
	}
}

static void finish(struct shaped *shaped, int res)
{
	struct nbd_volume *volume = shaped->volume;
	struct block_io *io = shaped->io;

	list_remove(&shaped->node);
	free(shaped);
	start_waiting(volume);
	block_complete(io, res);
}

static void submit_part(struct shaped *shaped, enum block_op op, uint64_t offset, uint64_t length, void *buf)
{
	shaped->part.op = op;
	shaped->part.flags = op == BLOCK_READ ? 0 : shaped->io->flags;
	shaped->part.offset = offset;
	shaped->part.length = length;
	shaped->part.buf = buf;
	nbd_enqueue(shaped->volume, &shaped->part);
}

static void part_done(struct block_io *part, int res)
{
	struct shaped *shaped = part->user;

	if (res == 0) {
		shaped->done += shaped->length;
		if (shaped->done < shaped->io->length) {
			step(shaped);
			return;
		}
	}
	finish(shaped, res);
}

/* The block around a piece was read: it is what was asked for, or gets what is to be written. */
static void block_came(struct block_io *part, int res)
{
	struct shaped *shaped = part->user;
	struct block_io *io = shaped->io;
	char *inside = shaped->block + (io->offset + shaped->done - part->offset);
	char *data = io->op == BLOCK_ZERO ? NULL : (char *)io->buf + shaped->done;

	if (res < 0) {
		finish(shaped, res);
		return;
	}
	part->done = part_done;
	if (io->op == BLOCK_READ) {
		memcpy(data, inside, shaped->length);
		part_done(part, 0);
		return;
	}
	if (data)
		memcpy(inside, data, shaped->length);
	else
		memset(inside, 0, shaped->length);
	submit_part(shaped, BLOCK_WRITE, part->offset, part->length, shaped->block);
}

static void skipped(struct ring_op *op, int res)
{
	finish(container_of(container_of(op, struct block_io, ring_op), struct shaped, part), 0);
}

static void skip_rest(struct shaped *shaped)
{
	shaped->part.ring_op.done = skipped;
	ring_defer(shaped->volume->block.ring, &shaped->part.ring_op, 0);
}

/* The next piece: what lies in one block but is not all of it, or as many whole blocks as there are. */
static void step(struct shaped *shaped)
{
	struct block_io *io = shaped->io;
	uint64_t size = shaped->volume->block.info.size, least = shaped->volume->least;
	uint64_t at = io->offset + shaped->done, end = io->offset + io->length;
	uint64_t begin = align_down(at, least), whole_end = end == size ? end : align_down(end, least);

	if (at == begin && whole_end > at) {
		shaped->length = whole_end - at;
		shaped->part.done = part_done;
		submit_part(
		    shaped, io->op, at, shaped->length, io->buf ? (char *)io->buf + shaped->done : NULL);
		return;
	}
	shaped->length = min_u64(end, begin + least) - at;
	if (io->op == BLOCK_TRIM) {
		/* Advice about less than a block is dropped. The answer must not come from within submit. */
		shaped->done += shaped->length;
		if (shaped->done < io->length)
			step(shaped);
		else
			skip_rest(shaped);
		return;
	}
	shaped->part.done = block_came;
	submit_part(shaped, BLOCK_READ, begin, min_u64(least, size - begin), shaped->block);
}

bool nbd_align_submit(struct nbd_volume *volume, struct block_io *io)
{
	uint64_t least = volume->least, end = io->offset + io->length;
	bool whole = io->offset % least == 0 && (end % least == 0 || end == volume->block.info.size);
	struct shaped *shaped;

	if (least == 1 || (whole && io->op == BLOCK_READ))
		return false;
	shaped = malloc(sizeof(*shaped) + least);
	if (!shaped) {
		block_complete_later(&volume->block, io, -ENOMEM);
		return true;
	}
	*shaped = (struct shaped){.volume = volume, .io = io, .part.user = shaped};
	list_init(&shaped->node);
	if (io->op != BLOCK_READ)
		list_append(&volume->writes, &shaped->node);
	shaped->started = io->op == BLOCK_READ || !must_wait(volume, shaped);
	if (shaped->started)
		step(shaped);
	return true;
}
