/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Volumes behind NBD, by libnbd on the ring. A request becomes one command or several: as the server's
 * largest request, its block size and, for FLUSH, its connections demand. io->driver_u64[0] is how far
 * commands are issued, [1] how many are under way, driver_pointer the first error or the count of extents.
 */
#include "base/bytes.h"
#include "block/nbd_private.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ZERO_MAX   (UINT64_C(128) << 20) /* one WRITE_ZEROES: a server that must write them answers in time */
#define EXTENT_MAX (UINT64_C(4) << 30)   /* one BLOCK_STATUS: lengths have 32 bits */
#define SLOW_TIMES 10                    /* flushing and zeroing may be silent for so many timeouts */

static void io_result(struct block_io *io, int res)
{
	if ((intptr_t)io->driver_pointer >= 0)
		io->driver_pointer = (void *)(intptr_t)res;
}

static struct nbd_connection *least_busy(struct nbd_volume *volume)
{
	struct nbd_connection *best = &volume->connections[0];

	for (unsigned i = 1; i < volume->connections_count; i++)
		if (volume->connections[i].count < best->count)
			best = &volume->connections[i];
	return best;
}

/* libnbd's callbacks run with its lock held: they only note what came. */
static int part_completed(void *data, int *error)
{
	struct nbd_part *part = data;

	part->result = *error > 0 ? -*error : *error;
	part->finished = true;
	part->connection->count--;
	list_remove(&part->node);
	list_append(&part->volume->finished, &part->node);
	return 1;
}

/* A hole that does not read as zero is data. A bitmap has one flag, "dirty" (QEMU's docs/interop/nbd.txt): no other is passed over. */
static enum extent_kind extent_kind(uint32_t flags, bool changes)
{
	return (changes ? flags == 0 : (flags & LIBNBD_STATE_ZERO) != 0) ? EXTENT_ZERO : EXTENT_DATA;
}

/* Adjacent pieces of a kind become one. */
static int extents_came(
    void *data, const char *context, uint64_t offset, uint32_t *entries, size_t count, int *error)
{
	struct nbd_part *part = data;
	struct block_io *io = part->io;
	uint64_t end = part->offset + part->length, next = offset;
	bool changes = io->flags & BLOCK_CHANGED;

	if (strcmp(context, changes ? part->volume->changes : LIBNBD_CONTEXT_BASE_ALLOCATION) != 0 ||
	    part->extents > 0 || offset != align_down(part->offset, part->volume->least))
		return 0;
	for (size_t i = 0; i + 1 < count && offset < end; i += 2) {
		uint64_t length;

		next += entries[i];
		if (entries[i] > 0 && next <= part->offset)
			continue; /* asked for only to begin with a whole block */
		offset = max_u64(offset, part->offset);
		length = min_u64(next, end) - offset;
		enum extent_kind kind = extent_kind(entries[i + 1], changes);
		struct extent *last = part->extents > 0 ? &io->extents[part->extents - 1] : NULL;

		if (entries[i] == 0)
			break;
		if (last && last->kind == kind)
			last->length += length;
		else if (part->extents == io->extents_max)
			break;
		else
			io->extents[part->extents++] =
			    (struct extent){.offset = offset, .length = length, .kind = kind};
		offset += length;
	}
	return 0;
}

/* How much of what remains goes into the next command. */
static uint64_t part_length(const struct nbd_volume *volume, const struct block_io *io)
{
	uint64_t left = io->length - io->driver_u64[0];

	switch (io->op) {
	case BLOCK_READ:
		return min_u64(left, volume->read_max);
	case BLOCK_WRITE:
		return min_u64(left, volume->write_max);
	case BLOCK_ZERO:
		return min_u64(left, volume->can_zero ? ZERO_MAX : volume->zeroes_bytes);
	case BLOCK_TRIM:
		return min_u64(left, ZERO_MAX);
	case BLOCK_EXTENTS:
		return min_u64(left, EXTENT_MAX - 65536);
	default:
		return 1; /* FLUSH: one connection */
	}
}

static uint32_t zero_flags(const struct block_io *io)
{
	return (io->flags & BLOCK_NO_HOLE ? LIBNBD_CMD_FLAG_NO_HOLE : 0) |
	       (io->flags & BLOCK_FAST ? LIBNBD_CMD_FLAG_FAST_ZERO : 0);
}

static int64_t part_issue(struct nbd_connection *connection, struct nbd_part *part)
{
	struct nbd_volume *volume = connection->volume;
	struct block_io *io = part->io;
	nbd_completion_callback done = {.callback = part_completed, .user_data = part};
	nbd_extent_callback extents = {.callback = extents_came, .user_data = part};
	char *data = io->buf ? (char *)io->buf + (part->offset - io->offset) : NULL;
	uint32_t flags = volume->use_fua || io->flags & BLOCK_FUA ? LIBNBD_CMD_FLAG_FUA : 0;
	uint64_t begin = align_down(part->offset, volume->least),
	         end = min_u64(align_up(part->offset + part->length, volume->least), volume->block.info.size);

	switch (io->op) {
	case BLOCK_READ:
		return nbd_aio_pread(connection->handle, data, part->length, part->offset, done, 0);
	case BLOCK_WRITE:
		return nbd_aio_pwrite(connection->handle, data, part->length, part->offset, done, flags);
	case BLOCK_ZERO:
		if (volume->can_zero)
			return nbd_aio_zero(
			    connection->handle, part->length, part->offset, done, flags | zero_flags(io));
		return nbd_aio_pwrite(
		    connection->handle, volume->zeroes, part->length, part->offset, done, flags);
	case BLOCK_TRIM:
		return nbd_aio_trim(connection->handle, part->length, part->offset, done, flags);
	case BLOCK_FLUSH:
		return nbd_aio_flush(connection->handle, done, 0);
	case BLOCK_EXTENTS:
		return nbd_aio_block_status(connection->handle, end - begin, begin, extents, done, 0);
	default:
		assert(!"only what submit lets through");
		return -1;
	}
}

static void issue_next(struct nbd_volume *volume, struct block_io *io)
{
	struct nbd_connection *connection = least_busy(volume);
	struct nbd_part *part = container_of(list_pop(&volume->parts_free), struct nbd_part, node);
	uint64_t length = part_length(volume, io);

	if (io->op == BLOCK_FLUSH)
		connection = &volume->connections[io->driver_u64[0]];
	*part = (struct nbd_part){.volume = volume,
	    .connection = connection,
	    .io = io,
	    .offset = io->offset + io->driver_u64[0],
	    .length = length};
	list_append(&connection->in_flight, &part->node);
	io->driver_u64[0] += length;
	io->driver_u64[1]++;
	if (connection->count++ == 0)
		connection->heard_ns = ring_now_ns(volume->block.ring);
	/* The completion may have run within the call, or, when the call is refused, not at all. */
	if (part_issue(connection, part) < 0 && !part->finished) {
		int error = nbd_get_errno() ? nbd_get_errno() : EIO;

		part_completed(part, &error);
	}
	if (nbd_aio_is_dead(connection->handle))
		nbd_break(volume, nbd_get_error() ? nbd_get_error() : "the server closed the connection");
}

static uint64_t io_goal(const struct nbd_volume *volume, const struct block_io *io)
{
	return io->op == BLOCK_FLUSH ? volume->connections_count : io->length;
}

static bool io_is_issued(const struct nbd_volume *volume, const struct block_io *io)
{
	/* A failed request sends no more; one answer about extents is enough. */
	return io->driver_u64[0] >= io_goal(volume, io) || (intptr_t)io->driver_pointer < 0 ||
	       (io->op == BLOCK_EXTENTS && io->driver_u64[0] > 0);
}

static bool is_refused(int res)
{
	return res == -EOPNOTSUPP || res == -ENOTSUP || res == -ENOSYS;
}

/* The server said that it can zero, and cannot: from now on zeroes are written. The request begins anew. */
static bool fall_back_to_writing(struct nbd_volume *volume, struct block_io *io)
{
	int res = (int)(intptr_t)io->driver_pointer;

	if (io->op != BLOCK_ZERO || io->flags & BLOCK_FAST || !is_refused(res) || volume->broken)
		return false;
	if (!volume->zeroes)
		volume->zeroes = calloc(1, volume->zeroes_bytes);
	if (!volume->zeroes)
		return false;
	volume->can_zero = false;
	io->driver_u64[0] = 0;
	io->driver_pointer = NULL;
	list_append(&volume->queue, &io->node);
	return true;
}

static void io_finish(struct nbd_volume *volume, struct block_io *io)
{
	int res = (int)(intptr_t)io->driver_pointer;

	if (fall_back_to_writing(volume, io))
		return;
	if (io->op == BLOCK_EXTENTS && io->flags & BLOCK_CHANGED) {
		res = res == 0 ? -EPROTO : res;
	} else if (io->op == BLOCK_EXTENTS && !volume->broken && res <= 0) {
		/* What the server will not tell may be anything. */
		io->extents[0] =
		    (struct extent){.offset = io->offset, .length = io->length, .kind = EXTENT_DATA};
		res = 1;
	}
	if (io->op == BLOCK_TRIM && is_refused(res))
		res = 0;
	if (block_op_writes(io->op))
		digest_reader_forget(volume->digests, io->offset, io->length);
	block_complete(io, res);
}

static void part_finish(struct nbd_volume *volume, struct nbd_part *part)
{
	struct block_io *io = part->io;
	int res = part->result;

	/* "The server is about to end" is the end of the link, too. */
	if (res == -ESHUTDOWN)
		nbd_break(volume, "the server is shutting down");
	if (res < 0)
		io_result(io, volume->broken ? -ENOTCONN : res);
	else if (io->op == BLOCK_EXTENTS)
		io_result(io, (int)part->extents);
	list_append(&volume->parts_free, &part->node);
	if (--io->driver_u64[1] > 0 || !io_is_issued(volume, io))
		return;
	/* It may still stand in the queue: failed, with the rest not issued. */
	list_remove(&io->node);
	io_finish(volume, io);
}

static void deliver(struct nbd_volume *volume)
{
	struct list_node *node;

	while ((node = list_pop(&volume->finished)))
		part_finish(volume, container_of(node, struct nbd_part, node));
}

static void fail_queue(struct nbd_volume *volume)
{
	struct list_node *node;

	while ((node = list_pop(&volume->queue))) {
		struct block_io *io = container_of(node, struct block_io, node);

		io_result(io, -ENOTCONN);
		if (io->driver_u64[1] == 0)
			io_finish(volume, io);
	}
}

static void issue(struct nbd_volume *volume)
{
	while (!list_empty(&volume->queue) && !list_empty(&volume->parts_free) && !volume->broken) {
		struct block_io *io = container_of(volume->queue.next, struct block_io, node);

		if (!io_is_issued(volume, io))
			issue_next(volume, io);
		if (io_is_issued(volume, io))
			list_remove(&io->node);
	}
}

void nbd_turn(struct nbd_volume *volume)
{
	do {
		deliver(volume);
		issue(volume);
		if (volume->broken)
			fail_queue(volume);
	} while (!list_empty(&volume->finished));
	for (unsigned i = 0; i < volume->connections_count; i++)
		nbd_connection_arm(&volume->connections[i]);
	nbd_watch(volume);
}

void nbd_break(struct nbd_volume *volume, const char *why)
{
	if (volume->broken)
		return;
	volume->broken = true;
	error_set(
	    &volume->link_error, -ENOTCONN, "the connection to %s is lost: %s", volume->block.info.name, why);
	for (unsigned i = 0; i < volume->connections_count; i++) {
		struct nbd_connection *connection = &volume->connections[i];
		struct list_node *node;

		nbd_connection_close(connection, false);
		connection->count = 0;
		while ((node = list_pop(&connection->in_flight))) {
			struct nbd_part *part = container_of(node, struct nbd_part, node);

			part->result = -ENOTCONN;
			list_append(&volume->finished, node);
		}
	}
}

static bool is_slow(const struct nbd_connection *connection)
{
	list_for_each (node, &connection->in_flight) {
		enum block_op op = container_of(node, struct nbd_part, node)->io->op;

		if (op == BLOCK_FLUSH || op == BLOCK_ZERO)
			return true;
	}
	return false;
}

static void watch_done(struct ring_op *op, int res)
{
	struct nbd_volume *volume = container_of(op, struct nbd_volume, timer);
	uint64_t now = ring_now_ns(volume->block.ring);

	for (unsigned i = 0; i < volume->connections_count && !volume->closing && !volume->broken; i++) {
		struct nbd_connection *connection = &volume->connections[i];
		uint64_t limit = volume->timeout_ms * UINT64_C(1000000);
		char words[64];

		if (is_slow(connection))
			limit *= SLOW_TIMES;
		if (list_empty(&connection->in_flight) || now - connection->heard_ns < limit)
			continue;
		snprintf(words, sizeof(words), "the server was silent for %.1f s", (double)limit / 1e9);
		nbd_break(volume, words);
	}
	if (!volume->closing)
		nbd_turn(volume);
	nbd_check_settled(volume);
}

void nbd_watch(struct nbd_volume *volume)
{
	bool busy = false;

	for (unsigned i = 0; i < volume->connections_count; i++)
		busy = busy || !list_empty(&volume->connections[i].in_flight);
	if (!busy || volume->timer.active || volume->closing)
		return;
	volume->timer = (struct ring_op){.opcode = RING_TIMER,
	    .deadline_ns = ring_now_ns(volume->block.ring) + volume->timeout_ms * UINT64_C(250000),
	    .done = watch_done};
	ring_submit(volume->block.ring, &volume->timer);
}

static void kick_done(struct ring_op *op, int res)
{
	struct nbd_volume *volume = container_of(op, struct nbd_volume, kick);

	if (!volume->closing)
		nbd_turn(volume);
	nbd_check_settled(volume);
}

void nbd_enqueue(struct nbd_volume *volume, struct block_io *io)
{
	io->driver_u64[0] = io->driver_u64[1] = 0;
	io->driver_pointer = NULL;
	list_append(&volume->queue, &io->node);
	if (volume->kick.active)
		return;
	volume->kick.done = kick_done;
	ring_defer(volume->block.ring, &volume->kick, 0);
}

void nbd_submit(struct block *block, struct block_io *io)
{
	struct nbd_volume *volume = to_nbd(block);

	if ((io->op == BLOCK_TRIM && !volume->can_trim) ||
	    (io->op == BLOCK_ZERO && io->flags & BLOCK_FAST && !(volume->can_zero && volume->can_fast))) {
		block_complete_later(block, io, io->op == BLOCK_TRIM ? 0 : -EOPNOTSUPP);
		return;
	}
	switch (io->op) {
	case BLOCK_WRITE:
	case BLOCK_ZERO:
	case BLOCK_TRIM:
		digest_reader_forget(volume->digests, io->offset, io->length);
		if (!nbd_align_submit(volume, io))
			nbd_enqueue(volume, io);
		break;
	case BLOCK_READ:
		if (!nbd_align_submit(volume, io))
			nbd_enqueue(volume, io);
		break;
	case BLOCK_FLUSH:
		/* A server without FLUSH does what FUA asks for, or cannot be asked: info.no_flush. */
		if (volume->can_flush || volume->broken)
			nbd_enqueue(volume, io);
		else
			block_complete_later(block, io, 0);
		break;
	case BLOCK_EXTENTS:
		if (volume->can_extents || io->flags & BLOCK_CHANGED)
			nbd_enqueue(volume, io);
		else
			block_extents_all_data(block, io);
		break;
	case BLOCK_DIGEST:
	case BLOCK_SHA256:
		digest_reader_submit(volume->digests, io);
		break;
	case BLOCK_RESIZE:
		block_complete_later(block, io, io->length == block->info.size ? 0 : -EOPNOTSUPP);
		break;
	}
}
