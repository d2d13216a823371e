/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Bits in words of 64, and a bit for each word: see bitmap.h. Bits beyond the end are never set. */
#include "range/bitmap.h"

#include "base/bytes.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define WORD_BITS 64u

int bitmap_init(struct bitmap *bitmap, uint64_t bits)
{
	uint64_t words = bits / WORD_BITS + (bits % WORD_BITS != 0);

	*bitmap = (struct bitmap){.bits = bits};
	bitmap->words = calloc(words ? words : 1, sizeof(*bitmap->words));
	bitmap->summary = calloc(words / WORD_BITS + 1, sizeof(*bitmap->summary));
	if (bitmap->words && bitmap->summary)
		return 0;
	bitmap_done(bitmap);
	return -ENOMEM;
}

void bitmap_done(struct bitmap *bitmap)
{
	free(bitmap->words);
	free(bitmap->summary);
	*bitmap = (struct bitmap){0};
}

bool bitmap_test(const struct bitmap *bitmap, uint64_t bit)
{
	assert(bit < bitmap->bits);
	return bitmap->words[bit / WORD_BITS] >> bit % WORD_BITS & 1;
}

/* The bits of the word that holds `first` which belong to [first, end). */
static uint64_t mask_of(uint64_t first, uint64_t end)
{
	uint64_t low = first % WORD_BITS, n = min_u64(end - first, WORD_BITS - low);

	return (n == WORD_BITS ? UINT64_MAX : (1ull << n) - 1) << low;
}

static uint64_t next_word(uint64_t bit)
{
	return align_down(bit, WORD_BITS) + WORD_BITS;
}

/* Looks at no more than it is asked for: a search for the next clear bit could go through the whole volume. */
bool bitmap_test_all(const struct bitmap *bitmap, uint64_t first, uint64_t count)
{
	uint64_t end = first + count;

	assert(first <= bitmap->bits && count <= bitmap->bits - first);
	for (uint64_t at = first; at < end; at = next_word(at))
		if (~bitmap->words[at / WORD_BITS] & mask_of(at, end))
			return false;
	return true;
}

static void summarize(struct bitmap *bitmap, uint64_t word)
{
	uint64_t bit = 1ull << word % WORD_BITS;

	if (bitmap->words[word])
		bitmap->summary[word / WORD_BITS] |= bit;
	else
		bitmap->summary[word / WORD_BITS] &= ~bit;
}

static uint64_t change(struct bitmap *bitmap, uint64_t first, uint64_t count, bool set)
{
	uint64_t end = first + count, changed = 0;

	assert(first <= bitmap->bits && count <= bitmap->bits - first);
	for (uint64_t at = first; at < end; at = next_word(at)) {
		uint64_t *word = &bitmap->words[at / WORD_BITS], mask = mask_of(at, end);

		changed += (uint64_t)__builtin_popcountll(mask & (set ? ~*word : *word));
		*word = set ? *word | mask : *word & ~mask;
		summarize(bitmap, at / WORD_BITS);
	}
	return changed;
}

uint64_t bitmap_set(struct bitmap *bitmap, uint64_t first, uint64_t count)
{
	uint64_t changed = change(bitmap, first, count, true);

	bitmap->count += changed;
	return changed;
}

uint64_t bitmap_clear(struct bitmap *bitmap, uint64_t first, uint64_t count)
{
	uint64_t changed = change(bitmap, first, count, false);

	bitmap->count -= changed;
	return changed;
}

void bitmap_or_common(struct bitmap *bitmap, const struct bitmap *one, const struct bitmap *other)
{
	uint64_t words = align_up(bitmap->bits, WORD_BITS) / WORD_BITS;

	assert(bitmap->bits == one->bits && bitmap->bits == other->bits);
	for (uint64_t i = 0; i < words; i++) {
		uint64_t word = one->words[i] ? one->words[i] & other->words[i] : 0;

		bitmap->count += (uint64_t)__builtin_popcountll(word & ~bitmap->words[i]);
		/* Memory that nobody set is not touched. */
		if (word) {
			bitmap->words[i] |= word;
			summarize(bitmap, i);
		}
	}
}

void bitmap_or(struct bitmap *bitmap, const struct bitmap *other)
{
	bitmap_or_common(bitmap, other, other);
}

/* The first word at or after `word` that is not zero; a number beyond the end when there is none. */
static uint64_t next_word_set(const struct bitmap *bitmap, uint64_t word, uint64_t words)
{
	while (word < words) {
		uint64_t bits = bitmap->summary[word / WORD_BITS] >> word % WORD_BITS;

		if (bits)
			return word + (uint64_t)__builtin_ctzll(bits);
		word = next_word(word);
	}
	return word;
}

uint64_t bitmap_next_set(const struct bitmap *bitmap, uint64_t from)
{
	uint64_t words = align_up(bitmap->bits, WORD_BITS) / WORD_BITS, word;

	if (bitmap->count == 0 || from >= bitmap->bits)
		return bitmap->bits;
	word = bitmap->words[from / WORD_BITS] >> from % WORD_BITS;
	if (word)
		return from + (uint64_t)__builtin_ctzll(word);
	from = next_word_set(bitmap, from / WORD_BITS + 1, words);
	if (from >= words)
		return bitmap->bits;
	return from * WORD_BITS + (uint64_t)__builtin_ctzll(bitmap->words[from]);
}

uint64_t bitmap_next_clear(const struct bitmap *bitmap, uint64_t from)
{
	while (from < bitmap->bits) {
		uint64_t word = ~bitmap->words[from / WORD_BITS] >> from % WORD_BITS;

		if (word)
			return min_u64(from + (uint64_t)__builtin_ctzll(word), bitmap->bits);
		from = next_word(from);
	}
	return bitmap->bits;
}

void bitmap_store(const struct bitmap *bitmap, uint64_t first, uint8_t *bytes, size_t length)
{
	assert(first % WORD_BITS == 0 && length % sizeof(uint64_t) == 0);
	for (size_t at = 0; at < length; at += sizeof(uint64_t), first += WORD_BITS)
		put_le64(bytes + at, first < bitmap->bits ? bitmap->words[first / WORD_BITS] : 0);
}

void bitmap_load(struct bitmap *bitmap, uint64_t first, const uint8_t *bytes, size_t length)
{
	assert(first % WORD_BITS == 0 && length % sizeof(uint64_t) == 0);
	for (size_t at = 0; at < length && first < bitmap->bits; at += sizeof(uint64_t), first += WORD_BITS) {
		uint64_t *word = &bitmap->words[first / WORD_BITS];
		uint64_t value = get_le64(bytes + at) & mask_of(first, bitmap->bits);

		bitmap->count += (uint64_t)__builtin_popcountll(value & ~*word);
		*word |= value;
		summarize(bitmap, first / WORD_BITS);
	}
}

/* What is zero is not touched: it takes no memory in either. */
static void copy_words(uint64_t *to, const uint64_t *from, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		if (from[i])
			to[i] = from[i];
}

int bitmap_resize(struct bitmap *bitmap, uint64_t bits)
{
	uint64_t words = bitmap->bits / WORD_BITS + (bitmap->bits % WORD_BITS != 0);
	struct bitmap larger;
	int res;

	if (bits <= bitmap->bits) {
		bitmap_clear(bitmap, bits, bitmap->bits - bits);
		bitmap->bits = bits;
		return 0;
	}
	res = bitmap_init(&larger, bits);
	if (res < 0)
		return res;
	copy_words(larger.words, bitmap->words, words);
	copy_words(larger.summary, bitmap->summary, words / WORD_BITS + 1);
	larger.count = bitmap->count;
	bitmap_done(bitmap);
	*bitmap = larger;
	return 0;
}
