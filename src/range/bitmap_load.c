/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Beginning a map file and opening an earlier one; control paths, which run the ring. A load first makes durable what it is
 * going to believe: what a killed process wrote may be seen and yet be lost by a later power cut.
 */
#include "range/bitmap_file_private.h"

#include "base/bytes.h"
#include "base/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK_BLOCKS 64u

static struct bitmap_file *map_alloc(struct ring *ring, int fd, const struct bitmap_super *super)
{
	struct bitmap_file *map = calloc(1, sizeof(*map));
	int res;

	if (!map)
		return NULL;
	map->ring = ring;
	map->fd = fd;
	map->super = *super;
	map->super_sequence = super->sequence;
	map->regions = bitmap_super_regions(super);
	map->pages = bitmap_super_pages(super);
	map->ahead = 1;
	list_init(&map->uses);
	list_init(&map->pending);
	list_init(&map->recording);
	map->blocks = aligned_alloc(BITMAP_BLOCK, (ROUND_PAGES + 1) * BITMAP_BLOCK);
	res = map->blocks ? 0 : -ENOMEM;
	res = res ? res : bitmap_init(&map->dirty, map->regions);
	res = res ? res : bitmap_init(&map->logged, map->regions);
	res = res ? res : bitmap_init(&map->warm, map->regions);
	res = res ? res : bitmap_init(&map->touched, map->pages);
	res = res ? res : bitmap_init(&map->run, map->pages);
	res = res ? res : bitmap_init(&map->clearing, min_u64(map->pages, SETTLE_PAGES) * BITMAP_PAGE_BITS);
	if (res < 0)
		return bitmap_file_free(map);
	return map;
}

/* Moves all of a range; what lies beyond the end of the file reads as zeros. 0 or -errno. */
static int transfer(
    struct ring *ring, int fd, enum ring_opcode opcode, uint64_t offset, uint8_t *buf, size_t length)
{
	size_t at = 0;

	while (at < length) {
		struct ring_op op = {.opcode = opcode,
		    .fd = fd,
		    .offset = offset + at,
		    .buf = buf + at,
		    .length = length - at};
		int res = ring_wait(ring, &op);

		if (res < 0)
			return res;
		if (res == 0 && opcode == RING_WRITE)
			return -EIO;
		if (res == 0) {
			memset(buf + at, 0, length - at);
			return 0;
		}
		at += (size_t)res;
	}
	return 0;
}

static int sync_now(struct ring *ring, int fd)
{
	struct ring_op op = {.opcode = RING_FSYNC, .fd = fd};

	return ring_wait(ring, &op);
}

/* Runs rounds until all pages that differ from the disk are on it. */
static int write_pages(struct bitmap_file *map)
{
	map->run_wanted = true;
	bitmap_round_start(map);
	while (!bitmap_file_idle(map) && !map->lost) {
		int res = ring_step(map->ring);

		if (res < 0)
			return res;
	}
	return map->lost;
}

/* Zeros over superblocks and records: nothing of an earlier map is left while the new one is not whole. */
static int wipe(struct bitmap_file *map)
{
	_cleanup_(cleanup_free) uint8_t *zeros = calloc(CHUNK_BLOCKS, BITMAP_BLOCK);
	uint64_t end = (SUPER_COPIES + map->super.records) * BITMAP_BLOCK;
	int res = zeros ? 0 : -ENOMEM;

	for (uint64_t at = 0; res == 0 && at < end; at += CHUNK_BLOCKS * BITMAP_BLOCK)
		res = transfer(map->ring, map->fd, RING_WRITE, at, zeros,
		    min_u64(end - at, CHUNK_BLOCKS * BITMAP_BLOCK));
	return res < 0 ? res : sync_now(map->ring, map->fd);
}

int bitmap_file_create(struct bitmap_file **ret, struct ring *ring, int fd, const struct bitmap_super *super,
    const struct bitmap *dirty, struct error *error)
{
	struct bitmap_file *map;
	int res = bitmap_super_check_size(super, error);

	if (res < 0)
		return error_prefix(error, "cannot begin a map");
	map = map_alloc(ring, fd, super);
	if (!map)
		return error_set(error, -ENOMEM, "cannot begin a map: out of memory");
	assert(!dirty || dirty->bits == map->regions);
	if (dirty)
		bitmap_or(&map->logged, dirty);
	else
		bitmap_set(&map->logged, 0, map->regions);
	bitmap_file_doubt(map);
	res = wipe(map);
	bitmap_set(&map->touched, 0, map->pages);
	if (res == 0)
		res = write_pages(map);
	if (res < 0)
		error_set(error, res, "cannot write it: %s", strerror(-res));
	else
		res = bitmap_file_record(map, super, error);
	if (res < 0) {
		error_prefix(error, "cannot begin a map");
		bitmap_file_free(map);
		return res;
	}
	*ret = map;
	return 0;
}

static int choose_super(const uint8_t *blocks, struct bitmap_super *ret, struct error *error)
{
	bool found = false;
	int res = 0;

	for (unsigned i = 0; i < SUPER_COPIES; i++) {
		struct bitmap_super super;

		res = bitmap_super_decode(blocks + i * BITMAP_BLOCK, &super, error);
		if (res < 0 || (found && super.sequence <= ret->sequence))
			continue;
		*ret = super;
		found = true;
	}
	return found ? 0 : res;
}

static int load_super(struct ring *ring, int fd, struct bitmap_super *ret, struct error *error)
{
	uint8_t blocks[SUPER_COPIES * BITMAP_BLOCK];
	int res = sync_now(ring, fd);

	if (res == 0)
		res = transfer(ring, fd, RING_READ, 0, blocks, sizeof(blocks));
	return res < 0 ? error_set(error, res, "cannot read the map: %s", strerror(-res))
	               : choose_super(blocks, ret, error);
}

int bitmap_file_peek(int fd, struct bitmap_super *ret, struct error *error)
{
	uint8_t blocks[SUPER_COPIES * BITMAP_BLOCK] = {0};

	if (pread(fd, blocks, sizeof(blocks), 0) < 0)
		return error_set(error, -errno, "cannot read the map: %s", strerror(errno));
	return choose_super(blocks, ret, error);
}

struct loading {
	struct bitmap_file *map;
	uint64_t *page_sequences;
	uint64_t newest; /* of the pages */
	uint8_t *buf;
};

/* A page that is torn, or not this file's, makes all of its regions dirty; it is written anew. */
static int load_pages(struct loading *loading)
{
	struct bitmap_file *map = loading->map;

	for (uint64_t page = 0; page < map->pages; page++) {
		uint8_t *block = loading->buf + page % CHUNK_BLOCKS * BITMAP_BLOCK;
		uint64_t first = page * BITMAP_PAGE_BITS, sequence = UINT64_MAX;

		if (page % CHUNK_BLOCKS == 0) {
			int res = transfer(map->ring, map->fd, RING_READ, bitmap_page_at(&map->super, page),
			    loading->buf, min_u64(map->pages - page, CHUNK_BLOCKS) * BITMAP_BLOCK);

			if (res < 0)
				return res;
		}
		if (bitmap_page_decode(block, page, map->super.nonce, &sequence)) {
			bitmap_load(&map->logged, first, block + BITMAP_PAGE_AT, BITMAP_PAGE_BYTES);
			loading->newest = max_u64(loading->newest, sequence);
		} else {
			bitmap_set(&map->logged, first, min_u64(map->regions - first, BITMAP_PAGE_BITS));
			bitmap_set(&map->touched, page, 1);
		}
		loading->page_sequences[page] = sequence;
	}
	return 0;
}

/* What is newer than the pages that it concerns. */
static void apply_record(struct loading *loading, const struct bitmap_record *record)
{
	struct bitmap_file *map = loading->map;

	for (uint32_t i = 0; i < record->count; i++) {
		uint64_t at = record->intents[i].first, end = at + record->intents[i].count, next;

		for (; at < end; at = next) {
			uint64_t page = at / BITMAP_PAGE_BITS;

			next = min_u64((page + 1) * BITMAP_PAGE_BITS, end);
			if (record->sequence <= loading->page_sequences[page])
				continue;
			bitmap_set(&map->logged, at, next - at);
			bitmap_set(&map->touched, page, 1);
		}
	}
}

/* Each slot holds the record that it must, but for the one whose writing may have been cut off: -EBADMSG if not. */
static int load_records(struct loading *loading)
{
	struct bitmap_file *map = loading->map;
	uint32_t records = map->super.records;
	_cleanup_(cleanup_free) uint64_t *sequences = calloc(records, sizeof(*sequences));
	_cleanup_(cleanup_free) struct bitmap_record *record = malloc(sizeof(*record));
	int res = sequences && record ? 0 : -ENOMEM;

	for (uint32_t slot = 0; res == 0 && slot < records; slot++) {
		res = transfer(map->ring, map->fd, RING_READ, bitmap_record_at(&map->super, slot),
		    loading->buf, BITMAP_BLOCK);
		if (res < 0 || !bitmap_record_decode(loading->buf, map->super.nonce, map->regions, record))
			continue;
		if (record->sequence % records != slot)
			return -EBADMSG;
		sequences[slot] = record->sequence;
		map->sequence = max_u64(map->sequence, record->sequence);
		apply_record(loading, record);
	}
	for (uint64_t back = 0; res == 0 && back < records - 1 && back < map->sequence; back++)
		if (sequences[(map->sequence - back) % records] != map->sequence - back)
			return -EBADMSG;
	return res < 0 ? res : loading->newest > map->sequence ? -EBADMSG : 0;
}

static int load_bits(struct bitmap_file *map)
{
	struct loading loading = {.map = map};
	_cleanup_(cleanup_free) uint64_t *sequences = calloc(map->pages, sizeof(*sequences));
	_cleanup_(cleanup_free) uint8_t *buf = malloc(CHUNK_BLOCKS * BITMAP_BLOCK);
	int res = sequences && buf ? 0 : -ENOMEM;

	loading.page_sequences = sequences;
	loading.buf = buf;
	if (res == 0)
		res = load_pages(&loading);
	if (res == 0)
		res = load_records(&loading);
	return res;
}

/* So that no superblock makes us take more memory than the file is worth. */
static int check_length(struct ring *ring, int fd, const struct bitmap_super *super, struct error *error)
{
	uint8_t byte;
	struct ring_op op = {.opcode = RING_READ,
	    .fd = fd,
	    .offset = bitmap_page_at(super, bitmap_super_pages(super)) - 1,
	    .buf = &byte,
	    .length = 1};
	int res = ring_wait(ring, &op);

	if (res < 0)
		return error_set(error, res, "cannot read the map: %s", strerror(-res));
	return res == 1 ? 0 : error_set(error, -EBADMSG, "the map is cut short");
}

int bitmap_file_load(struct bitmap_file **ret, struct ring *ring, int fd, bool distrust, struct error *error)
{
	struct bitmap_super super;
	struct bitmap_file *map;
	int res = load_super(ring, fd, &super, error);

	if (res == 0)
		res = check_length(ring, fd, &super, error);
	/* One of both may be the leg that was written on; the other one would undo it. */
	if (res == 0 && super.undecided && (distrust || super.given_up))
		res = error_set(error, -ENOTRECOVERABLE,
		    "the map could not be written while the legs were switched, so that it cannot be known "
		    "which "
		    "leg is the newer one: look at both, then --forget this mirror, and begin again with the "
		    "newer one as the source");
	if (res < 0)
		return res;
	map = map_alloc(ring, fd, &super);
	res = map ? load_bits(map) : -ENOMEM;
	if (res == -EBADMSG)
		error_set(error, res, "the map's intent records are damaged");
	else if (res < 0)
		error_set(error, res, "cannot read the map: %s", strerror(-res));
	if (res == 0) {
		distrust |= super.given_up;
		if (distrust) {
			bitmap_set(&map->logged, 0, map->regions);
			bitmap_set(&map->touched, 0, map->pages);
		}
		super.given_up = super.undecided = false;
		/* Then all slots are free, and both superblocks are good. */
		bitmap_file_doubt(map);
		res = write_pages(map);
		if (res < 0)
			error_set(error, res, "cannot write the map: %s", strerror(-res));
		else
			res = bitmap_file_record(map, &super, error);
	}
	if (res < 0) {
		bitmap_file_free(map);
		return res;
	}
	*ret = map;
	return distrust;
}
