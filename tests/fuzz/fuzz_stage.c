/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target: a stage that may hold anything, for a small volume. A refusal has words; looking and checking write nothing; what is applied
 * changes nothing outside of its table's entries. Input: what is mended (or the fuzzer would never get past the sums), then the file from its table on.
 */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "block/memory.h"
#include "block/stage.h"
#include "fuzz_ring.h"

#include <stdlib.h>

#define SIZE 12293u

enum mend {
	MEND_HEADER = 1,
	MEND_COMMIT = 2,
	MEND_APPLIED = 4,
	MEND_TABLE = 8,
	MEND_IDS = 16,
	MEND_DATA = 32
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void mend_entries(uint8_t *file, const struct stage_layout *layout, uint64_t length)
{
	struct stage_entry entry;
	uint64_t at = 0, from = 0;

	while (at + STAGE_ENTRY_BYTES <= length &&
	       stage_parse_entry(file + layout->table_at + at, from, SIZE, &entry) == 0) {
		if (entry.kind == EXTENT_DATA)
			put_le32(
			    file + layout->table_at + at + 20, crc32c(0, file + entry.offset, entry.length));
		at += STAGE_ENTRY_BYTES + stage_sums(&entry) * 4;
		from = entry.offset + entry.length;
	}
}

static void mend(uint8_t *file, const struct stage_layout *layout, uint8_t what)
{
	uint8_t *header = file + layout->header_at, *commit = file + layout->commit_at,
	        *applied = file + layout->applied_at;
	uint64_t length = min_u64(get_le64(commit + 40), layout->table_max);

	if (what & MEND_IDS) {
		memcpy(commit + 8, header + 16, STAGE_ID);
		memcpy(applied + 8, header + 16, STAGE_ID);
	}
	if (what & MEND_DATA)
		mend_entries(file, layout, length);
	if (what & MEND_TABLE)
		put_le32(commit + 64, crc32c(0, file + layout->table_at, length));
	if (what & MEND_COMMIT)
		put_le32(commit + 508, crc32c(0, commit, 508));
	if (what & MEND_APPLIED)
		put_le32(applied + 508, crc32c(0, applied, 508));
	if (what & MEND_HEADER)
		put_le32(header + 4092, crc32c(0, header, 4092));
}

static void check(struct block *file, struct block *volume, const uint8_t *before)
{
	static uint8_t after[SIZE];
	struct error error = {0};
	struct stage stage;
	int res = stage_look(file, &stage, &error);

	assert(res == 0 || res == -ENODATA || error.text[0]);
	if (res < 0 || stage.header.size != SIZE || stage.state != STAGE_COMMITTED)
		return;
	res = stage_check(file, &stage, volume, &error);
	memory_peek(volume, 0, after, SIZE);
	assert(!memcmp(before, after, SIZE) && memory_counts(volume)->writes == 0);
	if (res < 0) {
		assert(error.text[0]);
		return;
	}
	/* What was checked can be applied, and then it is over. */
	assert(stage_apply(file, &stage, volume, &error) == 0);
	assert(stage_look(file, &stage, &error) == 0 && stage.state == STAGE_APPLIED);
	memory_peek(volume, 0, after, SIZE);
	if (stage.commit.entries == 0)
		assert(!memcmp(before, after, SIZE));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t bytes[65536], before[SIZE];
	struct block *file, *volume;
	struct stage_layout layout;
	struct fuzz_ring ring;

	if (size < 1 || !stage_layout(SIZE, &layout) || layout.length > sizeof(bytes))
		return 0;
	fuzz_ring_init(&ring, NULL, 0, 0);
	memset(bytes, 0, sizeof(bytes));
	for (unsigned i = 0; i < SIZE; i++) {
		bytes[i] = (uint8_t)(i * 7 + i / 251);
		before[i] = (uint8_t)(i * 3);
	}
	memcpy(bytes + layout.table_at, data + 1, min_u64(size - 1, layout.length - layout.table_at));
	mend(bytes, &layout, data[0]);
	if (memory_new(&file, &ring.ring, layout.length, NULL, NULL) < 0 ||
	    memory_new(&volume, &ring.ring, SIZE, NULL, NULL) < 0 ||
	    memory_poke(file, 0, bytes, layout.length) < 0 || memory_poke(volume, 0, before, SIZE) < 0)
		abort();
	check(file, volume, before);
	block_free(file);
	block_free(volume);
	return 0;
}
