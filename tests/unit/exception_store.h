/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writes the persistent exception store of a dm-snapshot into a memory volume, as the kernel does (docs/formats/dm-snapshot.md). */
#pragma once

#include "base/bytes.h"
#include "block/memory.h"

#include <assert.h>

struct exception_store {
	struct block *cow;
	uint32_t chunk; /* bytes */
	uint64_t count; /* exceptions so far */
};

static inline void exception_store_header(
    const struct exception_store *store, uint32_t magic, uint32_t valid, uint32_t version, uint32_t sectors)
{
	uint8_t header[16];

	put_le32(header, magic);
	put_le32(header + 4, valid);
	put_le32(header + 8, version);
	put_le32(header + 12, sectors);
	memory_poke(store->cow, 0, header, sizeof(header));
}

static inline void exception_store_init(struct exception_store *store, struct block *cow, uint32_t chunk)
{
	*store = (struct exception_store){cow, chunk, 0};
	exception_store_header(store, 0x70416e53, 1, 1, chunk / 512);
}

/* Where exception `number` stands, bytes, and in which chunk its data lie. */
static inline uint64_t exception_store_place(
    const struct exception_store *store, uint64_t number, uint64_t *ret_new)
{
	uint64_t most = store->chunk / 16, area = 1 + number / most * (most + 1);

	*ret_new = area + 1 + number % most;
	return area * store->chunk + number % most * 16;
}

static inline void exception_store_put(
    const struct exception_store *store, uint64_t number, uint64_t old, uint64_t new)
{
	uint8_t entry[16];
	uint64_t ignored;

	put_le64(entry, old);
	put_le64(entry + 8, new);
	memory_poke(store->cow, exception_store_place(store, number, &ignored), entry, sizeof(entry));
}

/* False when the store is full. */
static inline bool exception_store_add(struct exception_store *store, uint64_t old)
{
	uint64_t new;

	exception_store_place(store, store->count, &new);
	if ((new + 1) * store->chunk > block_info(store->cow)->size)
		return false;
	exception_store_put(store, store->count++, old, new);
	return true;
}
