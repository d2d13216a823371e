/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Unflushed writes are records in the order in which they came; a read is patched with those it touches, a
 * flush writes those that were there when it came, one after the other, then flushes below. Flushes queue up
 * behind each other.
 */
#include "filter/powercut.h"

#include "base/bytes.h"
#include "base/rand.h"
#include "block/digest_reader.h"
#include "filter/filter.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct record {
	struct list_node node;
	uint64_t sequence, offset, length;
	bool zero;
	uint32_t flags; /* of a zero */
	uint8_t data[];
};

struct powercut {
	struct filter filter;
	struct digest_reader *digests;
	struct rand rand;
	struct list_node records, flushes; /* the first of `flushes` is being worked on */
	uint64_t sequence, unflushed;
	struct block_io work; /* its writes and flush below */
	bool off;
};

static const struct block_driver powercut_driver;

static struct powercut *powercut_of(struct block *block)
{
	assert(block->driver == &powercut_driver);
	return container_of(block, struct powercut, filter.block);
}

static void record_free(struct powercut *powercut, struct record *record)
{
	list_remove(&record->node);
	powercut->unflushed -= record->length;
	free(record);
}

static void keep_write(struct powercut *powercut, struct block_io *io)
{
	uint64_t data_length = io->op == BLOCK_WRITE ? io->length : 0;
	struct record *record = malloc(sizeof(*record) + data_length);

	if (!record) {
		block_complete_later(&powercut->filter.block, io, -ENOMEM);
		return;
	}
	record->sequence = ++powercut->sequence;
	record->offset = io->offset;
	record->length = io->length;
	record->zero = io->op == BLOCK_ZERO;
	record->flags = io->flags & BLOCK_NO_HOLE;
	if (data_length)
		memcpy(record->data, io->buf, data_length);
	list_append(&powercut->records, &record->node);
	powercut->unflushed += record->length;
	digest_reader_forget(powercut->digests, io->offset, io->length);
	block_complete_later(&powercut->filter.block, io, 0);
}

static void answered_read(struct filter *filter, struct block_io *io, int res)
{
	struct powercut *powercut = container_of(filter, struct powercut, filter);

	list_for_each (node, &powercut->records) {
		const struct record *record = container_of(node, struct record, node);
		uint64_t start = max_u64(record->offset, io->offset);
		uint64_t end = min_u64(record->offset + record->length, io->offset + io->length);

		if (res < 0 || start >= end)
			continue;
		if (record->zero)
			memset((uint8_t *)io->buf + (start - io->offset), 0, end - start);
		else
			memcpy((uint8_t *)io->buf + (start - io->offset),
			    record->data + (start - record->offset), end - start);
	}
	block_complete(io, powercut->off ? -EIO : res);
}

/* Flushing */

static void flush_step(struct powercut *powercut);

static void record_to_io(const struct record *record, struct block_io *io)
{
	io->op = record->zero ? BLOCK_ZERO : BLOCK_WRITE;
	io->flags = record->flags;
	io->offset = record->offset;
	io->length = record->length;
	io->buf = (void *)record->data;
}

static void flush_end(struct powercut *powercut, int res)
{
	struct block_io *io = container_of(list_pop(&powercut->flushes), struct block_io, node);

	if (!list_empty(&powercut->flushes))
		flush_step(powercut);
	block_complete(io, res);
}

static void work_done(struct block_io *work, int res)
{
	struct powercut *powercut = work->user;

	if (res < 0 || work->op == BLOCK_FLUSH) {
		flush_end(powercut, res);
		return;
	}
	record_free(powercut, container_of(powercut->records.next, struct record, node));
	flush_step(powercut);
}

/* Writes the first record that the first flush covers; when there is none any more, flushes below. */
static void flush_step(struct powercut *powercut)
{
	struct block_io *flush = container_of(powercut->flushes.next, struct block_io, node);
	struct record *record = container_of(powercut->records.next, struct record, node);

	powercut->work = (struct block_io){.op = BLOCK_FLUSH, .done = work_done, .user = powercut};
	if (!list_empty(&powercut->records) && record->sequence <= flush->driver_u64[0])
		record_to_io(record, &powercut->work);
	block_submit(powercut->filter.below, &powercut->work);
}

static void flush_begin(struct powercut *powercut, struct block_io *io)
{
	bool first = list_empty(&powercut->flushes);

	io->driver_u64[0] = powercut->sequence;
	list_append(&powercut->flushes, &io->node);
	if (first)
		flush_step(powercut);
}

/* The driver */

static void powercut_submit(struct block *block, struct block_io *io)
{
	struct powercut *powercut = powercut_of(block);

	if (powercut->off) {
		block_complete_later(block, io, -EIO);
		return;
	}
	switch (io->op) {
	case BLOCK_READ:
		filter_child(&powercut->filter, io, answered_read);
		return;
	case BLOCK_WRITE:
	case BLOCK_ZERO:
		keep_write(powercut, io);
		return;
	case BLOCK_TRIM:
		block_complete_later(block, io, 0);
		return;
	case BLOCK_FLUSH:
		flush_begin(powercut, io);
		return;
	case BLOCK_EXTENTS:
		block_extents_all_data(block, io);
		return;
	case BLOCK_DIGEST:
	case BLOCK_SHA256:
		digest_reader_submit(powercut->digests, io);
		return;
	case BLOCK_RESIZE:
		block_complete_later(block, io, io->length == block->info.size ? 0 : -EOPNOTSUPP);
		return;
	}
	assert(!"a known operation");
}

static void powercut_free(struct block *block)
{
	struct powercut *powercut = powercut_of(block);

	assert(list_empty(&powercut->flushes));
	while (!list_empty(&powercut->records))
		record_free(powercut, container_of(powercut->records.next, struct record, node));
	digest_reader_free(powercut->digests);
	filter_done(&powercut->filter);
	free(powercut);
}

static const struct block_driver powercut_driver = {
    .name = "powercut",
    .submit = powercut_submit,
    .facts = filter_facts,
    .link_error = filter_link_error,
    .free = powercut_free,
};

int powercut_new(struct block **ret, struct block *take_below, uint64_t seed, struct error *error)
{
	struct powercut *powercut = calloc(1, sizeof(*powercut));
	int res;

	if (!powercut) {
		block_free(take_below);
		return error_set(error, -ENOMEM, "cannot make a power-cut filter: out of memory");
	}
	filter_init(&powercut->filter, &powercut_driver, take_below);
	powercut->filter.block.info.fua = false;
	powercut->filter.block.info.no_hole = true;
	list_init(&powercut->records);
	list_init(&powercut->flushes);
	rand_init(&powercut->rand, seed);
	res = digest_reader_new(&powercut->digests, &powercut->filter.block, error);
	if (res < 0) {
		block_free(&powercut->filter.block);
		return error_prefix(error, "cannot make a power-cut filter");
	}
	*ret = &powercut->filter.block;
	return 0;
}

static int write_below(struct powercut *powercut, const struct record *record, uint64_t skip, uint64_t length)
{
	struct block_io io = {0};

	record_to_io(record, &io);
	io.offset += skip;
	io.length = length;
	io.buf = (uint8_t *)io.buf + skip;
	return block_wait(powercut->filter.below, &io);
}

static int settle(struct powercut *powercut, const struct record *record)
{
	uint64_t sector = max_u64(powercut->filter.block.info.sector_size, 1);
	uint64_t fate = rand_below(&powercut->rand, 4);
	int res = 0;

	if (fate == 0)
		return 0;
	if (fate == 1)
		return write_below(powercut, record, 0, record->length);
	for (uint64_t at = 0, next; at < record->length && res == 0; at = next) {
		next = min_u64(
		    align_down(record->offset + at, sector) + sector - record->offset, record->length);
		if (rand_below(&powercut->rand, 2))
			res = write_below(powercut, record, at, next - at);
	}
	return res;
}

int powercut_cut(struct block *block)
{
	struct powercut *powercut = powercut_of(block);
	struct block_io flush = {.op = BLOCK_FLUSH};
	int res = 0;

	assert(list_empty(&powercut->flushes));
	powercut->off = true;
	while (!list_empty(&powercut->records)) {
		struct record *record = container_of(powercut->records.next, struct record, node);

		if (res == 0)
			res = settle(powercut, record);
		record_free(powercut, record);
	}
	digest_reader_forget(powercut->digests, 0, block->info.size);
	return res < 0 ? res : block_wait(powercut->filter.below, &flush);
}

void powercut_restore(struct block *block)
{
	powercut_of(block)->off = false;
}

uint64_t powercut_unflushed(struct block *block)
{
	return powercut_of(block)->unflushed;
}
