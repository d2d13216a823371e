/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An overlay whose bits are kept in the stage, too. Flushes and commits wait in a list; a fiber carries them out one after the
 * other, while other requests go on.
 */
#include "filter/stage_view_private.h"

#include "base/bytes.h"
#include "base/plant.h"
#include "filter/overlay.h"
#include "ring/fiber.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define LEAVES_AT_ONCE 64u

static struct stage_view *view_of(struct block *block)
{
	return container_of(block, struct stage_view, filter.block);
}

/* Flushing */

int stage_view_flush_file(struct stage_view *view)
{
	struct block_io io = {.op = BLOCK_FLUSH};

	return block_wait(view->file, &io);
}

static int write_leaf(struct stage_view *view, uint64_t leaf, void *bits)
{
	struct block_io io = {.op = BLOCK_WRITE,
	    .offset = view->stage.layout.map_at + leaf * OVERLAY_LEAF_BYTES,
	    .length = OVERLAY_LEAF_BYTES,
	    .buf = bits};

	return block_wait(view->file, &io);
}

/* A copy of the bits is taken first, then the data are flushed, then the copy is written: a bit never tells of data that may be lost. */
static int flush_leaves(struct stage_view *view, uint8_t *bits, uint64_t *from)
{
	uint64_t leaves[LEAVES_AT_ONCE];
	unsigned count = 0, written = 0;
	int res;

	while (count < LEAVES_AT_ONCE) {
		leaves[count] = overlay_map_take_touched(view->map, *from, bits + count * OVERLAY_LEAF_BYTES);
		if (leaves[count] == UINT64_MAX)
			break;
		*from = leaves[count++] + 1;
	}
	res = PLANTED(PLANTED_STAGE_BITS_FIRST) && count ? 0 : stage_view_flush_file(view);
	for (; res == 0 && written < count; written++)
		res = write_leaf(view, leaves[written], bits + written * OVERLAY_LEAF_BYTES);
	for (unsigned i = 0; res < 0 && i < count; i++)
		overlay_map_touch(view->map, leaves[i]);
	return res < 0 ? res : (int)count;
}

int stage_view_flush(struct stage_view *view)
{
	uint64_t from = 0;
	void *bits = NULL;
	int count;

	if (posix_memalign(&bits, STAGE_BLOCK, LEAVES_AT_ONCE * OVERLAY_LEAF_BYTES))
		return -ENOMEM;
	do
		count = flush_leaves(view, bits, &from);
	while (count > 0);
	free(bits);
	return count;
}

/* The fiber */

static int carry_out(struct stage_view *view, struct block_io *io)
{
	bool commit = io->flags & BLOCK_COMMIT;
	struct error error = {0};
	int res;

	if (!commit)
		res = view->over ? 0 : stage_view_flush(view);
	else if (view->undecided)
		res = error_set(&error, -EROFS, "it was committed already");
	else
		res = stage_view_commit(view, &error);
	if (res == -ENOSPC && !view->undecided)
		view->full = true;
	if (commit)
		view->closing = false;
	if (commit && res < 0 && io->error)
		error_set(io->error, res, "%s", error.text[0] ? error.text : strerror(-res));
	return res;
}

static void work(void *data)
{
	struct stage_view *view = data;
	struct list_node *node;

	while ((node = list_pop(&view->waiting))) {
		struct block_io *io = container_of(node, struct block_io, node);

		block_complete_later(&view->filter.block, io, carry_out(view, io));
	}
	view->working = false;
}

static void begin_work(struct ring_op *op, int res)
{
	struct stage_view *view = container_of(op, struct stage_view, begin);
	struct list_node *node;

	view->fiber = fiber_free(view->fiber);
	res = fiber_start(&view->fiber, view->filter.block.ring, work, view, NULL);
	if (res == 0)
		return;
	while ((node = list_pop(&view->waiting)))
		block_complete_later(&view->filter.block, container_of(node, struct block_io, node), res);
	view->working = view->closing = false;
}

/* The driver */

static void answered(struct filter *filter, struct block_io *io, int res)
{
	struct stage_view *view = container_of(filter, struct stage_view, filter);

	view->full |= res == -ENOSPC;
	view->writing--;
	block_complete(io, res);
}

static void view_submit(struct block *block, struct block_io *io)
{
	struct stage_view *view = view_of(block);

	switch (io->op) {
	case BLOCK_FLUSH:
		/* What is written from here on, or may be, is in no table. */
		if (io->flags & BLOCK_COMMIT && (view->writing || view->closing)) {
			block_complete_later(block, io, -EBUSY);
			return;
		}
		view->closing |= (io->flags & BLOCK_COMMIT) != 0;
		list_append(&view->waiting, &io->node);
		if (!view->working)
			ring_defer(block->ring, &view->begin, 0);
		view->working = true;
		return;
	case BLOCK_WRITE:
	case BLOCK_ZERO:
	case BLOCK_TRIM:
		if (view->undecided || view->closing) {
			block_complete_later(block, io, -EROFS);
			return;
		}
		view->writing++;
		filter_child(&view->filter, io, answered);
		return;
	default:
		filter_forward(&view->filter, io);
	}
}

static bool is_empty(const struct stage_view *view)
{
	uint64_t size = view->stage.layout.size;
	bool set;

	return overlay_map_run(view->map, 0, size, &set) == size && !set;
}

static void view_free(struct block *block)
{
	struct stage_view *view = view_of(block);
	bool useless = !view->undecided && (view->full || is_empty(view));

	assert(list_empty(&view->waiting) && !view->working);
	fiber_free(view->fiber);
	if (useless && view->options.remove)
		view->options.remove(view->options.data);
	filter_done(&view->filter);
	if (view->options.free)
		view->options.free(view->options.data);
	free(view);
}

static const struct block_driver view_driver = {
    .name = "stage",
    .submit = view_submit,
    .facts = filter_facts,
    .link_error = filter_link_error,
    .free = view_free,
};

/* Opening */

static int begin(struct stage_view *view, struct error *error)
{
	struct stage_header *header = &view->stage.header;
	/* With the two marks before it, still zero: a disk that gets full later has room for them. */
	struct block_io io = {
	    .op = BLOCK_WRITE, .offset = view->stage.layout.applied_at, .length = 3 * STAGE_BLOCK};
	int res;

	header->size = view->stage.layout.size;
	header->created = (uint64_t)time(NULL);
	snprintf(header->target_id, sizeof(header->target_id), "%s", view->options.target_id);
	snprintf(header->name, sizeof(header->name), "%s", view->options.name);
	if (getrandom(header->id, sizeof(header->id), 0) != sizeof(header->id))
		return error_set(error, -EIO, "cannot draw a random number");
	if (posix_memalign(&io.buf, STAGE_BLOCK, io.length))
		return error_set(error, -ENOMEM, "out of memory");
	memset(io.buf, 0, io.length);
	stage_encode_header((uint8_t *)io.buf + 2 * STAGE_BLOCK, header);
	res = block_wait(view->file, &io);
	free(io.buf);
	if (res == 0)
		res = stage_view_flush_file(view);
	return res < 0 ? error_set(
	                     error, res, "cannot write %s: %s", block_info(view->file)->name, strerror(-res))
	               : 0;
}

int stage_view_extent(struct stage_view *view, uint64_t at, uint64_t end, struct extent *ret)
{
	struct block_io io = {
	    .op = BLOCK_EXTENTS, .offset = at, .length = end - at, .extents = ret, .extents_max = 1};
	int res = block_wait(view->file, &io);

	return res < 0 ? res : 0;
}

static int load_leaves(struct stage_view *view, uint64_t at, uint64_t end, uint8_t *buf)
{
	uint64_t map_at = view->stage.layout.map_at;
	int res = 0;

	for (; res == 0 && at < end; at += OVERLAY_LEAF_BYTES) {
		struct block_io io = {
		    .op = BLOCK_READ, .offset = at, .length = OVERLAY_LEAF_BYTES, .buf = buf};

		res = block_wait(view->file, &io);
		if (res == 0)
			res = overlay_map_add(view->map, (at - map_at) / OVERLAY_LEAF_BYTES, buf);
	}
	return res;
}

/* Which blocks an interrupted round has staged; only what is no hole of the file is read. */
static int load(struct stage_view *view, struct error *error)
{
	uint64_t at = view->stage.layout.map_at, end = at + view->stage.layout.map_length;
	void *buf = NULL;
	int res = posix_memalign(&buf, STAGE_BLOCK, OVERLAY_LEAF_BYTES) ? -ENOMEM : 0;

	while (res == 0 && at < end) {
		struct extent extent;
		uint64_t next;

		res = stage_view_extent(view, at, end, &extent);
		if (res < 0)
			break;
		next = min_u64(end, align_up(extent.offset + extent.length, OVERLAY_LEAF_BYTES));
		if (extent.kind == EXTENT_DATA)
			res = load_leaves(view, align_down(extent.offset, OVERLAY_LEAF_BYTES), next, buf);
		at = next;
	}
	free(buf);
	return res < 0
	           ? error_set(error, res, "cannot read %s: %s", block_info(view->file)->name, strerror(-res))
	           : 0;
}

/*
 * What is compared with, and what the commit's sums are of, stays so if the power is cut. Who wrote it last may not have flushed. Before the mark is taken:
 * what is written out later would pass for somebody else's writes.
 */
static int look_at_volume(struct stage_view *view, struct error *error)
{
	struct block_io io = {.op = BLOCK_FLUSH};
	struct block_facts facts = {0};
	int res = PLANTED(PLANTED_STAGE_OLD_UNFLUSHED) ? 0 : block_wait(view->volume, &io);

	if (res < 0)
		return error_set(
		    error, res, "cannot flush %s: %s", block_info(view->volume)->name, strerror(-res));
	res = block_facts(view->volume, &facts, error);
	memcpy(view->mark, facts.mark, sizeof(view->mark));
	return res;
}

static int open_stage(struct stage_view *view, struct error *error)
{
	int res;

	if (!view->options.resume)
		return begin(view, error);
	res = stage_look(view->file, &view->stage, error);
	return res < 0 ? res : load(view, error);
}

int stage_view_new(struct block **ret, struct block *take_volume, struct block *take_file,
    const struct stage_view_options *options, struct error *error)
{
	struct stage_view *view = calloc(1, sizeof(*view));
	const struct block_info below = *block_info(take_volume);
	struct block *overlay = NULL;
	int res;

	res = view ? overlay_new(&overlay, take_volume, take_file, error) : -ENOMEM;
	if (res < 0) {
		if (!view) {
			block_free(take_volume);
			block_free(take_file);
		}
		if (options->free)
			options->free(options->data);
		free(view);
		return error_set(error, res, "cannot stage a round: out of memory");
	}
	filter_init(&view->filter, &view_driver, overlay);
	view->volume = take_volume;
	view->file = take_file;
	view->map = overlay_map_of(overlay);
	view->options = *options;
	view->begin.done = begin_work;
	view->filter.block.info.staged = true;
	view->filter.block.info.created = below.created;
	view->filter.block.info.recovered = below.recovered;
	view->filter.block.info.fua = false; /* block_submit() flushes instead */
	list_init(&view->waiting);
	res = stage_layout(below.size, &view->stage.layout) ? look_at_volume(view, error) : -EFBIG;
	if (res == 0)
		res = open_stage(view, error);
	if (res < 0) {
		view->full = true;
		view_free(&view->filter.block);
		return res;
	}
	*ret = &view->filter.block;
	return 0;
}
