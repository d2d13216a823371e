/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The copy engine: see copy.h. A slot carries one extent from its read to its last write. Large slots hold 1
 * MiB, small ones 64 KiB, so that many scattered blocks are in flight without much memory. Owns slots and
 * buffers; ring thread only.
 */
#include "sync/copy.h"

#include "base/bytes.h"
#include "ring/buffer_pool.h"
#include "sync/all_extents.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define LARGE       (1u << 20)
#define LARGE_COUNT 24u
#define SMALL       (64u << 10)
#define SMALL_COUNT 64u
#define ZEROES_MAX \
	(1ull << 30) /* bytes in flight at once, beyond one request; so that a stop is soon heeded */
#define PROBE 4096u  /* unreadable data is listed in pieces of this, bytes */

struct slot {
	struct copy *copy;
	bool large;
	struct list_node node;
	char *buf;
	struct extent extent;
	struct block_io io;
	uint64_t filled; /* bytes of the extent that were read */
	uint64_t at;     /* of those, bytes that are on the target, or need not be */
	uint64_t length; /* bytes of the request under way */
	bool probing;    /* reading and writing in small pieces after a read error */
	bool unread; /* the write under way is of zeros for what could not be read: counted as bad already */
};

struct copy {
	/* set at the start */
	struct block *source, *target;
	struct extents *extents;
	struct copy_options options;
	uint64_t read_max; /* bytes; 0: no limit */
	struct buffer_pool *large_buffers, *small_buffers;
	struct slot slots[LARGE_COUNT + SMALL_COUNT];
	void (*done)(void *data, int res);
	void *done_data;

	/* ring thread only */
	struct list_node large_free, small_free;
	unsigned in_flight;
	uint64_t zeroes_in_flight; /* bytes of ZERO extents */
	struct extent pending;     /* taken from the source, waiting for a slot; length 0: none */
	bool running, stopping, at_end, pumping;
	int res;
	struct ring_op end_op; /* done() runs from the loop */
	struct copy_counts counts;
	struct error error;
};

static void pump(struct copy *copy);
static void slot_step(struct slot *slot);
static void slot_read(struct slot *slot);

static void fail(
    struct copy *copy, const struct block *block, const char *verb, const struct block_io *io, int res)
{
	const char *next = copy->options.resumable ? "; make room there, then go on with --resume"
	                                           : "; make room there, then run it again";

	if (copy->res)
		return;
	copy->res = res;
	error_set(&copy->error, res, "cannot %s %s at byte %llu: %s%s", verb, block_info(block)->name,
	    (unsigned long long)io->offset, strerror(-res), res == -ENOSPC ? next : "");
	block_link_error((struct block *)block, &copy->error);
}

static void end_if_idle(struct copy *copy)
{
	bool over = copy->res || copy->stopping || (copy->at_end && copy->pending.length == 0);

	if (!copy->running || copy->in_flight || !over || copy->end_op.active)
		return;
	ring_defer(block_ring(copy->source), &copy->end_op, 0);
}

static void ended(struct ring_op *op, int res)
{
	struct copy *copy = container_of(op, struct copy, end_op);
	bool unfinished = copy->stopping && !(copy->at_end && copy->pending.length == 0);

	copy->running = false;
	if (copy->pending.length) {
		extents_finish(copy->extents, &copy->pending, -ECANCELED);
		copy->pending.length = 0;
	}
	copy->done(copy->done_data, copy->res ? copy->res : unfinished ? -ECANCELED : 0);
}

static void slot_finish(struct slot *slot, int res)
{
	struct copy *copy = slot->copy;

	extents_finish(copy->extents, &slot->extent, res);
	if (slot->extent.kind == EXTENT_ZERO)
		copy->zeroes_in_flight -= slot->extent.length;
	if (slot->large)
		list_prepend(&copy->large_free, &slot->node);
	else
		list_prepend(&copy->small_free, &slot->node);
	copy->in_flight--;
	pump(copy);
}

/* The first run of equal kind in data: its length, and whether it is zeros. */
static uint64_t next_run(
    const struct copy *copy, const char *data, uint64_t offset, uint64_t length, bool *ret_zero)
{
	uint64_t granularity = copy->options.zero_granularity, at = 0;

	*ret_zero = false;
	if (!copy->options.detect_zeroes)
		return length;
	while (at < length) {
		uint64_t piece = min_u64(length - at, granularity - (offset + at) % granularity);
		bool zero = bytes_are_zero(data + at, piece);

		if (at == 0)
			*ret_zero = zero;
		else if (zero != *ret_zero)
			break;
		at += piece;
	}
	return at;
}

static void write_done(struct block_io *io, int res)
{
	struct slot *slot = io->user;
	struct copy *copy = slot->copy;

	if (res < 0) {
		fail(copy, copy->target, "write to", io, res);
		slot_finish(slot, res);
		return;
	}
	if (slot->unread)
		slot->unread = false;
	else if (io->op == BLOCK_ZERO)
		copy->counts.zeroed += slot->length;
	else
		copy->counts.data += slot->length;
	slot->at += slot->length;
	slot_step(slot);
}

static void slot_write(struct slot *slot, enum block_op op, uint64_t length)
{
	slot->length = length;
	slot->io.op = op;
	slot->io.offset = slot->extent.offset + slot->at;
	slot->io.length = length;
	slot->io.buf = op == BLOCK_WRITE ? slot->buf + slot->at : NULL;
	slot->io.done = write_done;
	block_submit(slot->copy->target, &slot->io);
}

/* Writes what comes next of the extent, once it was read; what need not be written is passed over. */
static void slot_step(struct slot *slot)
{
	struct copy *copy = slot->copy;

	while (slot->at < slot->extent.length) {
		bool zero = slot->extent.kind == EXTENT_ZERO;
		uint64_t left = (zero ? slot->extent.length : slot->filled) - slot->at;

		if (left == 0) {
			slot_read(slot);
			return;
		}
		if (!zero)
			left =
			    next_run(copy, slot->buf + slot->at, slot->extent.offset + slot->at, left, &zero);
		if (!zero || !copy->options.skip_zeroes) {
			slot_write(slot, zero ? BLOCK_ZERO : BLOCK_WRITE, left);
			return;
		}
		copy->counts.zeroed += left;
		slot->at += left;
	}
	slot_finish(slot, 0);
}

static void read_failed(struct slot *slot, int res)
{
	struct copy *copy = slot->copy;

	if (!copy->options.bad_range || !block_medium_failed(copy->source, res)) {
		fail(copy, copy->source, "read", &slot->io, res);
		slot_finish(slot, res);
	} else if (!slot->probing && !(copy->options.keep_bad && slot->extent.length > SMALL)) {
		slot->probing = true;
		slot_step(slot);
	} else {
		copy->options.bad_range(copy->options.bad_range_data, slot->io.offset, slot->io.length, res);
		if (copy->options.keep_bad) {
			slot_finish(slot, res);
			return;
		}
		copy->counts.bad += slot->io.length;
		slot->unread = true;
		slot->filled += slot->io.length;
		slot_write(slot, BLOCK_ZERO, slot->io.length);
	}
}

static void read_done(struct block_io *io, int res)
{
	struct slot *slot = io->user;

	if (res < 0) {
		read_failed(slot, res);
		return;
	}
	if (block_info(slot->copy->source)->stream && (uint64_t)res < io->length) {
		slot->extent.length = slot->filled + (uint64_t)res;
		stream_extents_end(slot->copy->extents);
	}
	if (slot->copy->options.sending)
		slot->copy->options.sending(
		    slot->copy->options.sending_data, io->offset, io->length, slot->buf + slot->filled);
	slot->filled = min_u64(slot->filled + io->length, slot->extent.length);
	if (slot->filled < slot->extent.length && !slot->probing)
		slot_read(slot);
	else
		slot_step(slot);
}

static void slot_read(struct slot *slot)
{
	uint64_t most = slot->probing ? PROBE : slot->copy->read_max;
	uint64_t left = slot->extent.length - slot->filled;

	slot->io.op = BLOCK_READ;
	slot->io.offset = slot->extent.offset + slot->filled;
	slot->io.length = most ? min_u64(left, most) : left;
	slot->io.buf = slot->buf + slot->filled;
	slot->io.done = read_done;
	block_submit(slot->copy->source, &slot->io);
}

/* Counts an extent that needs no request: a dry run, or zeros for a blank target. */
static void count_only(struct copy *copy, const struct extent *extent)
{
	if (extent->kind == EXTENT_ZERO)
		copy->counts.zeroed += extent->length;
	else
		copy->counts.data += extent->length;
	extents_finish(copy->extents, extent, 0);
}

static struct slot *free_slot(struct copy *copy, const struct extent *extent)
{
	struct list_node *node = NULL;

	if (extent->kind == EXTENT_ZERO && copy->zeroes_in_flight > 0 &&
	    copy->zeroes_in_flight + extent->length > ZEROES_MAX)
		return NULL;
	if (extent->kind == EXTENT_ZERO || extent->length <= SMALL)
		node = list_pop(&copy->small_free);
	if (!node)
		node = list_pop(&copy->large_free);
	return node ? container_of(node, struct slot, node) : NULL;
}

static void slot_start(struct slot *slot, const struct extent *extent)
{
	slot->extent = *extent;
	slot->filled = slot->at = 0;
	slot->probing = slot->unread = false;
	slot->copy->in_flight++;
	if (extent->kind == EXTENT_ZERO)
		slot->copy->zeroes_in_flight += extent->length;
	slot_step(slot);
}

/* Makes sure that `pending` holds an extent. False when there is none now. */
static bool take_extent(struct copy *copy)
{
	int res;

	if (copy->pending.length)
		return true;
	res = extents_next(copy->extents, LARGE, &copy->pending);
	if (res == 1)
		return true;
	copy->pending.length = 0;
	copy->at_end = res == 2;
	if (res < 0 && !copy->res) {
		copy->res = res;
		error_set(&copy->error, res, "cannot learn what to copy from %s: %s",
		    block_info(copy->source)->name, strerror(-res));
		block_link_error(copy->source, &copy->error);
	}
	return false;
}

static void pump(struct copy *copy)
{
	if (copy->pumping || !copy->running)
		return;
	copy->pumping = true;
	while (!copy->stopping && !copy->res && take_extent(copy)) {
		struct extent extent = copy->pending;
		bool nothing_to_do =
		    copy->options.dry_run || (extent.kind == EXTENT_ZERO && copy->options.skip_zeroes);
		struct slot *slot;

		/* Zeros may come in extents of terabytes: they are taken in parts. */
		if (extent.kind == EXTENT_ZERO && !nothing_to_do)
			extent.length = min_u64(extent.length, COPY_ZERO_MAX);
		slot = nothing_to_do ? NULL : free_slot(copy, &extent);
		if (!slot && !nothing_to_do)
			break;
		copy->pending.offset += extent.length;
		copy->pending.length -= extent.length;
		if (nothing_to_do)
			count_only(copy, &extent);
		else
			slot_start(slot, &extent);
	}
	copy->pumping = false;
	end_if_idle(copy);
}

static void woken(void *data)
{
	pump(data);
}

static int make_slots(struct copy *copy, struct error *error)
{
	unsigned large = copy->options.large_max ? copy->options.large_max : LARGE_COUNT;
	int res;

	assert(large <= LARGE_COUNT);
	res = buffer_pool_new(&copy->large_buffers, LARGE, large, error);

	if (res == 0)
		res = buffer_pool_new(&copy->small_buffers, SMALL, SMALL_COUNT, error);
	if (res < 0)
		return res;
	for (unsigned i = 0; i < large + SMALL_COUNT; i++) {
		struct slot *slot = &copy->slots[i];

		slot->copy = copy;
		slot->large = i < large;
		slot->io.user = slot;
		slot->buf = buffer_pool_get(slot->large ? copy->large_buffers : copy->small_buffers);
		list_append(slot->large ? &copy->large_free : &copy->small_free, &slot->node);
	}
	return 0;
}

int copy_new(struct copy **ret, struct block *source, struct block *target, struct extents *extents,
    const struct copy_options *options, struct error *error)
{
	struct copy *copy = calloc(1, sizeof(*copy));
	int res;

	if (!copy)
		return error_set(error, -ENOMEM, "cannot begin to copy: out of memory");
	assert(target || options->dry_run);
	copy->source = source;
	copy->target = target;
	copy->extents = extents;
	copy->options = *options;
	if (!copy->options.zero_granularity)
		copy->options.zero_granularity = target && block_info(target)->resizable ? 4096 : SMALL;
	copy->end_op.done = ended;
	list_init(&copy->large_free);
	list_init(&copy->small_free);
	res = make_slots(copy, error);
	if (res < 0) {
		copy_free(copy);
		return res;
	}
	extents->wake = woken;
	extents->wake_data = copy;
	*ret = copy;
	return 0;
}

struct copy *copy_free(struct copy *copy)
{
	if (!copy)
		return NULL;
	assert(!copy->running);
	for (unsigned i = 0; i < LARGE_COUNT + SMALL_COUNT; i++)
		if (copy->slots[i].buf)
			buffer_pool_put(copy->slots[i].large ? copy->large_buffers : copy->small_buffers,
			    copy->slots[i].buf);
	buffer_pool_free(copy->large_buffers);
	buffer_pool_free(copy->small_buffers);
	free(copy);
	return NULL;
}

void copy_start(struct copy *copy, void (*done)(void *data, int res), void *data)
{
	assert(!copy->running);
	copy->done = done;
	copy->done_data = data;
	copy->running = true;
	copy->stopping = copy->at_end = false;
	copy->res = 0;
	pump(copy);
}

void copy_stop(struct copy *copy)
{
	copy->stopping = true;
	end_if_idle(copy);
}

void copy_set_read_max(struct copy *copy, uint64_t bytes)
{
	copy->read_max = bytes;
}

const struct copy_counts *copy_counts(const struct copy *copy)
{
	return &copy->counts;
}

const struct error *copy_error(const struct copy *copy)
{
	return &copy->error;
}
