/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A table by chunk number: chunks are asked for in order, so the oldest one gives way. */
#include "block/leaf_cache.h"

#include "base/bytes.h"

#include <assert.h>
#include <stdlib.h>

#define SLOTS 2048u

struct entry {
	uint64_t offset, length; /* length 0: nothing kept */
	uint32_t granularity;    /* what it was read for */
	uint8_t leaves[DIGEST_CHUNK / DIGEST_LEAF * DIGEST_BYTES];
};

struct leaf_cache {
	struct entry *slots[SLOTS];
};

struct leaf_cache *leaf_cache_new(void)
{
	return calloc(1, sizeof(struct leaf_cache));
}

struct leaf_cache *leaf_cache_free(struct leaf_cache *cache)
{
	for (unsigned i = 0; cache && i < SLOTS; i++)
		free(cache->slots[i]);
	free(cache);
	return NULL;
}

void leaf_cache_keep(
    struct leaf_cache *cache, uint64_t offset, uint64_t length, uint32_t granularity, const uint8_t *leaves)
{
	struct entry **slot = &cache->slots[offset / DIGEST_CHUNK % SLOTS];

	assert(offset % DIGEST_LEAF == 0 && length <= DIGEST_CHUNK);
	if (!*slot)
		*slot = malloc(sizeof(**slot));
	if (!*slot)
		return;
	(*slot)->offset = offset;
	(*slot)->length = length;
	(*slot)->granularity = granularity;
	memcpy((*slot)->leaves, leaves, digest_count(length, DIGEST_LEAF) * DIGEST_BYTES);
}

const uint8_t *leaf_cache_find(
    const struct leaf_cache *cache, uint64_t offset, uint64_t length, uint32_t granularity)
{
	const struct entry *entry = cache->slots[offset / DIGEST_CHUNK % SLOTS];
	uint64_t end = offset + length;

	if (!entry || entry->length == 0 || granularity >= entry->granularity)
		return NULL;
	if (offset < entry->offset || end > entry->offset + entry->length)
		return NULL;
	/* A short last leaf has a digest of its own. */
	if (end % DIGEST_LEAF && end != entry->offset + entry->length)
		return NULL;
	return entry->leaves + (offset - entry->offset) / DIGEST_LEAF * DIGEST_BYTES;
}

void leaf_cache_forget(struct leaf_cache *cache, uint64_t offset, uint64_t length)
{
	uint64_t first = offset / DIGEST_CHUNK, last = (offset + length - 1) / DIGEST_CHUNK;

	if (length == 0)
		return;
	if (last - first >= SLOTS) {
		leaf_cache_forget_all(cache);
		return;
	}
	for (uint64_t chunk = first; chunk <= last; chunk++) {
		struct entry *entry = cache->slots[chunk % SLOTS];

		if (entry && entry->offset / DIGEST_CHUNK == chunk)
			entry->length = 0;
	}
}

void leaf_cache_forget_all(struct leaf_cache *cache)
{
	for (unsigned i = 0; i < SLOTS; i++)
		if (cache->slots[i])
			cache->slots[i]->length = 0;
}
