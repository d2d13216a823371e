/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages of 4 KiB in tables of 16 MiB; what is missing reads as zero. A request takes effect when it is
 * submitted and is answered from the loop.
 */
#include "block/memory.h"

#include "base/bytes.h"
#include "base/rand.h"
#include "block/digest_reader.h"
#include "block/driver.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE        4096u
#define TABLE_PAGES 4096u
#define TABLE_BYTES ((uint64_t)PAGE * TABLE_PAGES)

struct table {
	uint8_t *pages[TABLE_PAGES];
};

struct memory {
	struct block block;
	/* set at open */
	struct memory_options options;
	struct digest_reader *digests;
	/* ring thread only */
	struct table **tables;
	uint64_t tables_count, pages_count;
	uint64_t writes_made; /* the change mark */
	struct memory_counts counts;
	struct rand lies;
};

static const struct block_driver memory_driver;

static struct memory *memory_of(struct block *block)
{
	assert(block->driver == &memory_driver);
	return container_of(block, struct memory, block);
}

static uint8_t **find_slot(const struct memory *memory, uint64_t offset)
{
	struct table *table = memory->tables[offset / TABLE_BYTES];

	return table ? &table->pages[offset % TABLE_BYTES / PAGE] : NULL;
}

static uint8_t *find_page(const struct memory *memory, uint64_t offset)
{
	uint8_t **slot = find_slot(memory, offset);

	return slot ? *slot : NULL;
}

static uint8_t *make_page(struct memory *memory, uint64_t offset)
{
	struct table **table = &memory->tables[offset / TABLE_BYTES];
	uint8_t **slot;

	if (!*table)
		*table = calloc(1, sizeof(**table));
	if (!*table)
		return NULL;
	slot = find_slot(memory, offset);
	if (!*slot) {
		*slot = calloc(1, PAGE);
		memory->pages_count += *slot != NULL;
	}
	return *slot;
}

/* Bytes from `offset` to the end of its page, at most `length`. */
static uint64_t in_page(uint64_t offset, uint64_t length)
{
	return min_u64(length, PAGE - offset % PAGE);
}

void memory_peek(struct block *block, uint64_t offset, void *ret, uint64_t length)
{
	struct memory *memory = memory_of(block);
	uint8_t *to = ret;

	for (uint64_t n; length > 0; offset += n, to += n, length -= n) {
		const uint8_t *page = find_page(memory, offset);

		n = in_page(offset, length);
		if (page)
			memcpy(to, page + offset % PAGE, n);
		else
			memset(to, 0, n);
	}
}

/* Makes room in the list of tables for a volume of `size` bytes. */
static int make_tables(struct memory *memory, uint64_t size)
{
	uint64_t count = size / TABLE_BYTES + 1;
	struct table **tables;

	if (count <= memory->tables_count)
		return 0;
	tables = realloc(memory->tables, count * sizeof(struct table *));
	if (!tables)
		return -ENOMEM;
	memset(tables + memory->tables_count, 0, (count - memory->tables_count) * sizeof(struct table *));
	memory->tables = tables;
	memory->tables_count = count;
	return 0;
}

int memory_poke(struct block *block, uint64_t offset, const void *data, uint64_t length)
{
	struct memory *memory = memory_of(block);
	const uint8_t *from = data;
	int res = make_tables(memory, offset + length);

	if (res < 0)
		return res;
	memory->writes_made++;
	digest_reader_forget(memory->digests, offset, length);
	for (uint64_t n; length > 0; offset += n, from += n, length -= n) {
		uint8_t *page = make_page(memory, offset);

		if (!page)
			return -ENOMEM;
		n = in_page(offset, length);
		memcpy(page + offset % PAGE, from, n);
	}
	return 0;
}

/* A stretch without tables may be terabytes long: step over it as a whole. */
static uint64_t next_border(const struct memory *memory, uint64_t at)
{
	return memory->tables[at / TABLE_BYTES] ? align_down(at, PAGE) + PAGE
	                                        : align_down(at, TABLE_BYTES) + TABLE_BYTES;
}

static void zero(struct memory *memory, uint64_t offset, uint64_t length)
{
	/* Behind the end there is nothing: a volume that grows later has zeros there. */
	uint64_t end = min_u64(offset + length, memory->block.info.size);

	memory->writes_made++;
	digest_reader_forget(memory->digests, offset, length);
	for (uint64_t at = offset, next; at < end; at = next) {
		uint8_t **slot = find_slot(memory, at);

		next = min_u64(next_border(memory, at), end);
		if (!slot || !*slot)
			continue;
		if (next - at < PAGE) {
			memset(*slot + at % PAGE, 0, next - at);
			continue;
		}
		free(*slot);
		*slot = NULL;
		memory->pages_count--;
	}
}

static int allocate(struct memory *memory, uint64_t offset, uint64_t length)
{
	for (uint64_t at = offset, n; length > 0; at += n, length -= n) {
		n = in_page(at, length);
		if (!make_page(memory, at))
			return -ENOMEM;
	}
	return 0;
}

static enum extent_kind kind_at(struct memory *memory, uint64_t offset)
{
	if (memory->options.no_extents)
		return EXTENT_DATA;
	if (!find_page(memory, offset))
		return EXTENT_ZERO;
	return memory->options.lie_seed && rand_one_in(&memory->lies, 3) ? EXTENT_ZERO : EXTENT_DATA;
}

static int extents(struct memory *memory, struct block_io *io)
{
	uint64_t at = io->offset, end = io->offset + io->length, next;
	uint32_t count = 0;

	for (; at < end; at = next) {
		enum extent_kind kind = kind_at(memory, at);
		struct extent *last = count ? &io->extents[count - 1] : NULL;

		next = memory->options.no_extents ? end : min_u64(next_border(memory, at), end);
		if (last && last->kind == kind)
			last->length += next - at;
		else if (count == io->extents_max)
			break;
		else
			io->extents[count++] = (struct extent){at, next - at, kind};
	}
	return (int)count;
}

static int resize(struct memory *memory, uint64_t size)
{
	uint64_t old = memory->block.info.size;
	int res;

	if (size == old)
		return 0;
	if (!memory->options.resizable)
		return -EOPNOTSUPP;
	if (size < old)
		zero(memory, size, old - size);
	res = make_tables(memory, size);
	if (res < 0)
		return res;
	digest_reader_forget(memory->digests, min_u64(old, size), UINT64_MAX - min_u64(old, size));
	memory->block.info.size = size;
	return 0;
}

/* Does it now; the result is answered later. */
static int perform(struct memory *memory, struct block_io *io)
{
	struct memory_counts *counts = &memory->counts;

	counts->fuas += block_op_writes(io->op) && io->flags & BLOCK_FUA;
	switch (io->op) {
	case BLOCK_READ:
		counts->reads++;
		counts->bytes_read += io->length;
		memory_peek(&memory->block, io->offset, io->buf, io->length);
		return 0;
	case BLOCK_WRITE:
		counts->writes++;
		counts->bytes_written += io->length;
		return memory_poke(&memory->block, io->offset, io->buf, io->length);
	case BLOCK_ZERO:
		counts->zeroes++;
		counts->bytes_zeroed += io->length;
		zero(memory, io->offset, io->length);
		return io->flags & BLOCK_NO_HOLE ? allocate(memory, io->offset, io->length) : 0;
	case BLOCK_TRIM:
		counts->trims++;
		zero(memory, io->offset, io->length);
		return 0;
	case BLOCK_FLUSH:
		counts->flushes++;
		return 0;
	case BLOCK_EXTENTS:
		counts->extents++;
		return extents(memory, io);
	case BLOCK_RESIZE:
		return resize(memory, io->length);
	default:
		return -EOPNOTSUPP;
	}
}

static void memory_submit(struct block *block, struct block_io *io)
{
	struct memory *memory = memory_of(block);
	uint64_t align = block->info.request_align;
	bool data = io->op == BLOCK_READ || io->op == BLOCK_WRITE;

	if (data &&
	    (io->offset % align || (io->length % align && io->offset + io->length != block->info.size))) {
		block_complete_later(block, io, -EINVAL);
	} else if (io->op == BLOCK_DIGEST || io->op == BLOCK_SHA256) {
		memory->counts.digests++;
		digest_reader_submit(memory->digests, io);
	} else {
		block_complete_later(block, io, perform(memory, io));
	}
}

static int memory_facts(struct block *block, struct block_facts *ret, struct error *error)
{
	struct memory *memory = memory_of(block);

	snprintf(ret->id, sizeof(ret->id), "memory:%.100s", block->info.name);
	snprintf(ret->mark, sizeof(ret->mark), "%llu", (unsigned long long)memory->writes_made);
	ret->allocated = memory->pages_count * PAGE;
	return 0;
}

static void memory_free(struct block *block)
{
	struct memory *memory = memory_of(block);

	digest_reader_free(memory->digests);
	for (uint64_t i = 0; i < memory->tables_count; i++) {
		for (unsigned page = 0; memory->tables[i] && page < TABLE_PAGES; page++)
			free(memory->tables[i]->pages[page]);
		free(memory->tables[i]);
	}
	free(memory->tables);
	free(memory);
}

static const struct block_driver memory_driver = {
    .name = "memory",
    .submit = memory_submit,
    .facts = memory_facts,
    .free = memory_free,
};

static void fill_info(struct memory *memory, uint64_t size)
{
	const struct memory_options *options = &memory->options;
	struct block_info *info = &memory->block.info;

	snprintf(info->name, sizeof(info->name), "%s", options->name ? options->name : "memory");
	info->size = size;
	info->sector_size = options->sector_size ? options->sector_size : 512;
	info->request_align = options->request_align ? options->request_align : 1;
	info->writable = !options->read_only;
	info->zeroed = options->zeroed;
	info->holes_trusted = !options->lie_seed;
	info->remote = options->remote;
	info->resizable = options->resizable;
	info->fua = info->no_hole = !options->no_fua;
}

int memory_new(struct block **ret, struct ring *ring, uint64_t size, const struct memory_options *options,
    struct error *error)
{
	static const struct memory_options defaults;
	struct memory *memory = calloc(1, sizeof(*memory));
	int res;

	if (!memory)
		return error_set(error, -ENOMEM, "cannot make a volume in memory: out of memory");
	memory->block.driver = &memory_driver;
	memory->block.ring = ring;
	memory->options = options ? *options : defaults;
	fill_info(memory, size);
	rand_init(&memory->lies, memory->options.lie_seed);
	memory->tables_count = size / TABLE_BYTES + 1;
	memory->tables = calloc(memory->tables_count, sizeof(struct table *));
	if (!memory->tables)
		res = error_set(error, -ENOMEM, "cannot make a volume in memory: out of memory");
	else
		res = digest_reader_new(&memory->digests, &memory->block, error);
	if (res < 0) {
		free(memory->tables);
		free(memory);
		return res;
	}
	*ret = &memory->block;
	return 0;
}

const struct memory_counts *memory_counts(struct block *block)
{
	return &memory_of(block)->counts;
}
