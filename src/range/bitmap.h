/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bits, one a region. Plain memory of one thread; the number of set bits is always known. Bits are numbered from 0. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bitmap {
	uint64_t *words;
	uint64_t *summary; /* a bit for each word: it is not zero; so that little is found soon in much */
	uint64_t bits;     /* how many there are */
	uint64_t count;    /* how many are set */
};

/* All clear; memory is touched as bits are set. 0 or -ENOMEM. */
int bitmap_init(struct bitmap *bitmap, uint64_t bits);
/* Other bits are kept, new ones are clear. 0, or -ENOMEM: nothing has changed; fewer bits can always be had. */
int bitmap_resize(struct bitmap *bitmap, uint64_t bits);
/* Takes a zeroed bitmap too. */
void bitmap_done(struct bitmap *bitmap);
bool bitmap_test(const struct bitmap *bitmap, uint64_t bit);
/* True when all of [first, first + count) are set; true for none. */
bool bitmap_test_all(const struct bitmap *bitmap, uint64_t first, uint64_t count);
/* [first, first + count) lies within the bitmap. Return how many bits changed. */
uint64_t bitmap_set(struct bitmap *bitmap, uint64_t first, uint64_t count);
uint64_t bitmap_clear(struct bitmap *bitmap, uint64_t first, uint64_t count);
/* Sets all that are set in `other`, which has as many bits. */
void bitmap_or(struct bitmap *bitmap, const struct bitmap *other);
/* Sets all that are set in both of these. */
void bitmap_or_common(struct bitmap *bitmap, const struct bitmap *one, const struct bitmap *other);
/* The first bit at or after `from` that is set (clear); bitmap->bits when there is none. */
uint64_t bitmap_next_set(const struct bitmap *bitmap, uint64_t from);
uint64_t bitmap_next_clear(const struct bitmap *bitmap, uint64_t from);
/*
 * As little-endian bytes, bit 0 the lowest of the first: `first` is a multiple of 64. Bits beyond the end are written as
 * zero, and passed over when read. bitmap_load() adds to what is set.
 */
void bitmap_store(const struct bitmap *bitmap, uint64_t first, uint8_t *bytes, size_t length);
void bitmap_load(struct bitmap *bitmap, uint64_t first, const uint8_t *bytes, size_t length);
