/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The checks that every request passes before a driver sees it, and the waits of control paths. */
#include "block/driver.h"

#include "base/bytes.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>

static void later_done(struct ring_op *op, int res)
{
	block_complete(container_of(op, struct block_io, ring_op), res);
}

void block_complete_later(struct block *block, struct block_io *io, int res)
{
	io->ring_op.done = later_done;
	ring_defer(block->ring, &io->ring_op, res);
}

void block_extents_all_data(struct block *block, struct block_io *io)
{
	io->extents[0] = (struct extent){.offset = io->offset, .length = io->length, .kind = EXTENT_DATA};
	block_complete_later(block, io, 1);
}

bool block_takes_range(const struct block_info *info, enum block_op op, uint64_t offset, uint64_t length)
{
	/* A stream has no end, and an image file grows: what comes from a stream is written before its size
	 * is known. */
	if (info->stream || (info->resizable && (op == BLOCK_WRITE || op == BLOCK_ZERO)))
		return offset <= INT64_MAX && length <= INT64_MAX - offset;
	return offset <= info->size && length <= info->size - offset;
}

static bool digest_shape_ok(const struct block_io *io)
{
	return digest_granularity_ok(io->granularity) && io->offset % io->granularity == 0 && io->key &&
	       io->offset / DIGEST_CHUNK == (io->offset + io->length - 1) / DIGEST_CHUNK;
}

/* What a driver cannot do by itself: zeros that must not become a hole are written, FUA is a flush afterwards. */

static _Alignas(4096) const uint8_t zeroes[65536];

static bool must_emulate(const struct block_info *info, const struct block_io *io)
{
	if (io->flags & BLOCK_FUA && !info->fua && block_op_writes(io->op))
		return true;
	return io->op == BLOCK_ZERO && io->flags & (BLOCK_NO_HOLE | BLOCK_FAST) && !info->no_hole;
}

static void emulate_done(struct block_io *io, int res)
{
	struct block_kept kept = io->kept;
	struct block *block = kept.block;
	uint64_t end = kept.offset + kept.length;
	bool more = io->op == BLOCK_WRITE && kept.op == BLOCK_ZERO && io->offset + io->length < end;

	io->block = block;
	if (res == 0 && more) {
		io->offset += io->length;
		io->length = min_u64(end - io->offset, sizeof(zeroes));
		block->driver->submit(block, io);
		return;
	}
	if (res == 0 && io->op != BLOCK_FLUSH && kept.flags & BLOCK_FUA && !block->info.fua) {
		io->op = BLOCK_FLUSH;
		block->driver->submit(block, io);
		return;
	}
	io->op = kept.op;
	io->flags = kept.flags;
	io->offset = kept.offset;
	io->length = kept.length;
	io->buf = kept.buf;
	io->done = kept.done;
	io->done(io, res);
}

static void emulate(struct block *block, struct block_io *io)
{
	io->kept = (struct block_kept){block, io->op, io->flags, io->offset, io->length, io->buf, io->done};
	if (io->op == BLOCK_ZERO && io->flags & BLOCK_FAST && !block->info.no_hole) {
		block_complete_later(block, io, -EOPNOTSUPP);
		return;
	}
	if (io->op == BLOCK_ZERO && io->flags & BLOCK_NO_HOLE && !block->info.no_hole) {
		io->op = BLOCK_WRITE;
		io->flags &= ~(uint32_t)BLOCK_NO_HOLE;
		io->buf = (void *)zeroes;
		io->length = min_u64(io->length, sizeof(zeroes));
	}
	if (!block->info.fua)
		io->flags &= ~(uint32_t)BLOCK_FUA;
	io->done = emulate_done;
	block->driver->submit(block, io);
}

/* 0 to go on to the driver, or the answer. */
static int check(const struct block *block, const struct block_io *io)
{
	bool writes = block_op_writes(io->op) || io->op == BLOCK_RESIZE;

	if (writes && !block->info.writable)
		return -EROFS;
	if (io->op == BLOCK_FLUSH && io->flags & BLOCK_COMMIT && !block->info.staged)
		return -EOPNOTSUPP;
	if (io->op == BLOCK_FLUSH || io->op == BLOCK_RESIZE)
		return 0;
	if (!block_takes_range(&block->info, io->op, io->offset, io->length))
		return -EINVAL;
	if ((io->op == BLOCK_READ || io->op == BLOCK_WRITE) && io->length > BLOCK_IO_MAX)
		return -EINVAL;
	if ((io->op == BLOCK_READ || io->op == BLOCK_WRITE) && io->flags & BLOCK_PIPE &&
	    (io->flags & BLOCK_FUA || !block_takes_pipe(block, io->op)))
		return -EOPNOTSUPP;
	if (io->op == BLOCK_EXTENTS && (io->extents_max == 0 || io->length == 0))
		return -EINVAL;
	if (io->op == BLOCK_EXTENTS && io->flags & BLOCK_CHANGED && !block->info.tells_changes)
		return -EOPNOTSUPP;
	if (io->op == BLOCK_DIGEST && io->length > 0 && !digest_shape_ok(io))
		return -EINVAL;
	return 0;
}

void block_submit(struct block *block, struct block_io *io)
{
	int res = check(block, io);

	io->block = block;
	list_init(&io->node);
	if (res == 0 && io->op == BLOCK_WRITE && io->offset + io->length > block->info.size &&
	    !block->info.stream)
		block->info.size = io->offset + io->length;
	if (res < 0)
		block_complete_later(block, io, res);
	else if (io->length == 0 && io->op != BLOCK_FLUSH && io->op != BLOCK_RESIZE && io->op != BLOCK_SHA256)
		block_complete_later(block, io, 0);
	else if (must_emulate(&block->info, io))
		emulate(block, io);
	else
		block->driver->submit(block, io);
}

struct wait {
	bool done;
	int res;
};

static void wait_done(struct block_io *io, int res)
{
	struct wait *wait = io->user;

	wait->done = true;
	wait->res = res;
}

int block_wait(struct block *block, struct block_io *io)
{
	struct wait wait = {0};
	int res;

	io->done = wait_done;
	io->user = &wait;
	block_submit(block, io);
	res = ring_run_until(block->ring, &wait.done);
	return res < 0 ? res : wait.res;
}

bool block_takes_pipe(const struct block *block, enum block_op op)
{
	return block->driver->takes_pipe && block->driver->takes_pipe(block, op);
}

const struct block_info *block_info(const struct block *block)
{
	return &block->info;
}

struct ring *block_ring(const struct block *block)
{
	return block->ring;
}

int block_facts(struct block *block, struct block_facts *ret, struct error *error)
{
	struct block_facts facts = {.allocated = block->info.size};

	if (block->driver->facts) {
		int res = block->driver->facts(block, &facts, error);

		if (res < 0)
			return res;
	}
	*ret = facts;
	return 0;
}

int block_measure(struct block *block, struct error *error)
{
	return block->driver->measure ? block->driver->measure(block, error) : 0;
}

int block_link_error(struct block *block, struct error *error)
{
	return block->driver->link_error ? block->driver->link_error(block, error) : 0;
}

bool block_medium_failed(struct block *block, int res)
{
	bool medium = res == -EIO || res == -ENODATA || res == -EILSEQ || res == -EREMOTEIO;
	struct error ignored;

	return medium && block_link_error(block, &ignored) == 0;
}

struct block *block_free(struct block *block)
{
	if (block)
		block->driver->free(block);
	return NULL;
}
