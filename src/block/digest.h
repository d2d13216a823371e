/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keyed digests of volume contents, a tree of fan-out 16: 4 KiB leaves, 64 KiB nodes, 1 MiB chunks. A leaf is
 * the AES-128-GMAC (NIST SP 800-38D) of its bytes, a node that of its children's digests in order, under keys
 * that are derived from one random key for each level; the nonce is constant, so that the collision bound is
 * GHASH's as a universal hash: for two different inputs of at most n bytes, (n/16 + 1) / 2^128 over the
 * choice of the key, against whoever knows neither key nor digests. The last leaf of a range may be short and
 * is digested at its own length. docs/formats/digests.md has the whole definition.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DIGEST_BYTES  16u
#define DIGEST_LEAF   4096u
#define DIGEST_FANOUT 16u
#define DIGEST_NODE   (DIGEST_LEAF * DIGEST_FANOUT)
#define DIGEST_CHUNK  (1u << 20)

/* DIGEST_LEAF times a power of the fan-out. */
static inline bool digest_granularity_ok(uint32_t granularity)
{
	return granularity == DIGEST_LEAF || granularity == DIGEST_LEAF * DIGEST_FANOUT ||
	       granularity == DIGEST_CHUNK;
}

struct digest_key {
	uint8_t bytes[16];
};

struct digest; /* a key made ready; not to be used by two threads at once */

int digest_key_random(struct digest_key *ret, struct error *error);
/* An independent key for another purpose: the first half of HMAC-SHA-256 over the purpose's letters. */
int digest_derive(
    const struct digest_key *key, const char *purpose, struct digest_key *ret, struct error *error);
int digest_new(struct digest **ret, const struct digest_key *key, struct error *error);
struct digest *digest_free(struct digest *digest);

/* The digest of up to DIGEST_CHUNK bytes as one leaf. */
void digest_bytes(struct digest *digest, const void *data, size_t length, uint8_t ret[DIGEST_BYTES]);
/*
 * Leaf digests of `length` bytes (at most DIGEST_CHUNK) that begin at a leaf border: DIV_UP(length,
 * DIGEST_LEAF) of them. Blocks of zeros are recognised and cost less.
 */
void digest_leaves(struct digest *digest, const void *data, size_t length, uint8_t *ret_leaves);
/* Folds `count` leaf digests into digests of `granularity` bytes each, in place or elsewhere; returns how
 * many. */
size_t digest_fold(
    struct digest *digest, const uint8_t *leaves, size_t count, uint32_t granularity, uint8_t *ret);
/* Digests of `length` zero bytes (one chunk at most) at a granularity; returns how many. */
size_t digest_zeroes(struct digest *digest, size_t length, uint32_t granularity, uint8_t *ret);
/* How many digests a range of `length` bytes from a border has. */
static inline size_t digest_count(uint64_t length, uint32_t granularity)
{
	return (size_t)((length + granularity - 1) / granularity);
}
