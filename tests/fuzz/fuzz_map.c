/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target: a mirror's map from a disk that may hold anything. What is loaded holds together, and loading it once more
 * gives the same: what was written by the load is what was believed. Checksums are put right first, or the fuzzer would
 * never get past them.
 */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "range/bitmap_file.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct ring *the_ring;

/* The first byte says which blocks are mended: bits 0 and 1 the superblocks, bit 2 all others. */
static void mend(uint8_t *file, size_t size, uint8_t what)
{
	for (size_t at = 0, i = 0; size - at >= BITMAP_BLOCK; at += BITMAP_BLOCK, i++)
		if (what >> min_u64(i, 2) & 1)
			put_le32(file + at + BITMAP_BLOCK - 4, crc32c(0, file + at, BITMAP_BLOCK - 4));
}

static struct bitmap_file *load(int fd, size_t size)
{
	struct bitmap_file *map = NULL;
	struct error error = {0};
	int res = bitmap_file_load(&map, the_ring, fd, false, &error);
	const struct bitmap_super *super;

	if (res < 0) {
		assert(!map && error.text[0]);
		return NULL;
	}
	super = bitmap_file_super(map);
	assert(size >= (2 + super->records + bitmap_super_pages(super)) * BITMAP_BLOCK);
	assert(bitmap_file_dirty(map)->bits == bitmap_super_regions(super));
	assert(bitmap_file_dirty(map)->count == bitmap_file_logged(map)->count);
	assert(!super->given_up && !super->undecided && super->authoritative < BITMAP_LEGS);
	return map;
}

static void check(int fd, size_t size)
{
	struct bitmap_file *first = load(fd, size), *second;
	const struct bitmap *a, *b;

	if (!first)
		return;
	second = load(fd, size);
	assert(second);
	a = bitmap_file_dirty(first);
	b = bitmap_file_dirty(second);
	assert(a->bits == b->bits && a->count == b->count);
	for (uint64_t bit = bitmap_next_set(a, 0); bit < a->bits; bit = bitmap_next_set(a, bit + 1))
		assert(bitmap_test(b, bit));
	bitmap_file_free(first);
	bitmap_file_free(second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct error error;
	uint8_t *file;
	int fd;

	if (size < 1 || size > 1 << 20)
		return 0;
	if (!the_ring && ring_new(&the_ring, 32, &error) < 0)
		abort();
	file = malloc(size);
	fd = memfd_create("map", MFD_CLOEXEC);
	assert(file && fd >= 0);
	memcpy(file, data + 1, size - 1);
	mend(file, size - 1, data[0]);
	assert(write(fd, file, size - 1) == (ssize_t)(size - 1));
	check(fd, size - 1);
	close(fd);
	free(file);
	return 0;
}
