/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Leaf digests of chunks that were read not long ago, so that whoever narrows a difference down does not read
 * twice. Only a question for finer digests than the ones that a chunk was read for is answered: the same
 * question asked again (a verify after a sync) must come from the medium. At most 2048 chunks, 8 MiB, each
 * allocated when it is needed.
 */
#pragma once

#include "block/digest.h"

struct leaf_cache;

/* NULL when memory is short. */
struct leaf_cache *leaf_cache_new(void);
/* Takes NULL; returns NULL. */
struct leaf_cache *leaf_cache_free(struct leaf_cache *cache);
/* Keeps the leaves of a range inside one chunk that was read for digests of `granularity`. May forget others,
 * or this. */
void leaf_cache_keep(
    struct leaf_cache *cache, uint64_t offset, uint64_t length, uint32_t granularity, const uint8_t *leaves);
/* The kept leaf digests of the range, or NULL; valid until the next call. */
const uint8_t *leaf_cache_find(
    const struct leaf_cache *cache, uint64_t offset, uint64_t length, uint32_t granularity);
void leaf_cache_forget(struct leaf_cache *cache, uint64_t offset, uint64_t length);
void leaf_cache_forget_all(struct leaf_cache *cache);
