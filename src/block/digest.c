/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keyed digests by GnuTLS's AES-128-GCM with the data as associated data and no plaintext, which is GMAC and
 * half as dear as gnutls_hmac's. Every level of the tree has a key of its own: with one key for all, a node
 * would be linear in its leaves' contents and two changes could be made to cancel out whatever the key is
 * (docs/formats/digests.md).
 */
#include "block/digest.h"

#include "base/bytes.h"
#include "base/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <string.h>

enum { LEVEL_LEAF, LEVEL_NODE, LEVEL_CHUNK, LEVELS };

#define LEAVES_IN_CHUNK (DIGEST_CHUNK / DIGEST_LEAF)
#define NONCE_BYTES     12

struct digest {
	gnutls_aead_cipher_hd_t levels[LEVELS];
	uint8_t zeroes[LEVELS][DIGEST_BYTES]; /* the digests of a whole leaf, node and chunk of zeros */
};

static const uint8_t zero_leaf[DIGEST_LEAF];

int digest_key_random(struct digest_key *ret, struct error *error)
{
	struct digest_key key;
	int res = gnutls_rnd(GNUTLS_RND_KEY, key.bytes, sizeof(key.bytes));

	if (res < 0)
		return error_set(error, -EIO, "cannot make a random digest key: %s", gnutls_strerror(res));
	*ret = key;
	return 0;
}

int digest_derive(
    const struct digest_key *key, const char *purpose, struct digest_key *ret, struct error *error)
{
	uint8_t mac[32];
	int res = gnutls_hmac_fast(
	    GNUTLS_MAC_SHA256, key->bytes, sizeof(key->bytes), purpose, strlen(purpose), mac);

	if (res < 0)
		return error_set(error, -EIO, "cannot derive a digest key: %s", gnutls_strerror(res));
	memcpy(ret->bytes, mac, sizeof(ret->bytes));
	return 0;
}

static int init_level(struct digest *digest, int level, const struct digest_key *key, struct error *error)
{
	static const char *const purposes[LEVELS] = {
	    "blkmove digest leaf",
	    "blkmove digest node",
	    "blkmove digest chunk",
	};
	struct digest_key derived;
	gnutls_datum_t datum = {derived.bytes, sizeof(derived.bytes)};
	int res = digest_derive(key, purposes[level], &derived, error);

	if (res < 0)
		return res;
	res = gnutls_aead_cipher_init(&digest->levels[level], GNUTLS_CIPHER_AES_128_GCM, &datum);
	if (res < 0)
		return error_set(error, -ENOTSUP, "cannot set up AES-128-GCM: %s", gnutls_strerror(res));
	return 0;
}

static void mac(struct digest *digest, int level, const void *data, size_t length, uint8_t ret[DIGEST_BYTES])
{
	static const uint8_t nonce[NONCE_BYTES];
	uint8_t tag[DIGEST_BYTES];
	size_t tag_length = sizeof(tag);
	int res;

	res = gnutls_aead_cipher_encrypt(
	    digest->levels[level], nonce, sizeof(nonce), data, length, sizeof(tag), "", 0, tag, &tag_length);
	/* No input can make it fail; going on without a digest would be the worst of answers. */
	assert(res == 0 && tag_length == sizeof(tag));
	memcpy(ret, tag, sizeof(tag));
}

static void init_zeroes(struct digest *digest)
{
	uint8_t children[DIGEST_FANOUT * DIGEST_BYTES];

	mac(digest, LEVEL_LEAF, zero_leaf, sizeof(zero_leaf), digest->zeroes[LEVEL_LEAF]);
	for (int level = LEVEL_NODE; level < LEVELS; level++) {
		for (unsigned i = 0; i < DIGEST_FANOUT; i++)
			memcpy(children + i * DIGEST_BYTES, digest->zeroes[level - 1], DIGEST_BYTES);
		mac(digest, level, children, sizeof(children), digest->zeroes[level]);
	}
}

int digest_new(struct digest **ret, const struct digest_key *key, struct error *error)
{
	struct digest *digest = calloc(1, sizeof(*digest));

	if (!digest)
		return error_set(error, -ENOMEM, "cannot set up digests: out of memory");
	for (int level = 0; level < LEVELS; level++) {
		int res = init_level(digest, level, key, error);

		if (res < 0) {
			digest_free(digest);
			return res;
		}
	}
	init_zeroes(digest);
	*ret = digest;
	return 0;
}

struct digest *digest_free(struct digest *digest)
{
	if (!digest)
		return NULL;
	for (int level = 0; level < LEVELS; level++)
		if (digest->levels[level])
			gnutls_aead_cipher_deinit(digest->levels[level]);
	explicit_bzero(digest, sizeof(*digest));
	free(digest);
	return NULL;
}

void digest_bytes(struct digest *digest, const void *data, size_t length, uint8_t ret[DIGEST_BYTES])
{
	assert(length <= DIGEST_CHUNK);
	mac(digest, LEVEL_LEAF, data, length, ret);
}

void digest_leaves(struct digest *digest, const void *data, size_t length, uint8_t *ret_leaves)
{
	const uint8_t *at = data;

	assert(length <= DIGEST_CHUNK);
	for (; length > 0; ret_leaves += DIGEST_BYTES) {
		size_t part = length < DIGEST_LEAF ? length : DIGEST_LEAF;

		if (part == DIGEST_LEAF && bytes_are_zero(at, part))
			memcpy(ret_leaves, digest->zeroes[LEVEL_LEAF], DIGEST_BYTES);
		else
			mac(digest, LEVEL_LEAF, at, part, ret_leaves);
		at += part;
		length -= part;
	}
}

/* Digests of up to DIGEST_FANOUT children each; safe in place, since a group is read before its digest is
 * put. */
static size_t fold_level(
    struct digest *digest, int level, const uint8_t *children, size_t count, uint8_t *ret)
{
	size_t made = 0;

	for (size_t i = 0; i < count; i += DIGEST_FANOUT) {
		size_t group = count - i < DIGEST_FANOUT ? count - i : DIGEST_FANOUT;

		mac(digest, level, children + i * DIGEST_BYTES, group * DIGEST_BYTES,
		    ret + made++ * DIGEST_BYTES);
	}
	return made;
}

static size_t fold_chunks(struct digest *digest, const uint8_t *leaves, size_t count, uint8_t *ret)
{
	uint8_t nodes[DIGEST_FANOUT * DIGEST_BYTES];
	size_t made = 0;

	for (size_t i = 0; i < count; i += LEAVES_IN_CHUNK) {
		size_t group = count - i < LEAVES_IN_CHUNK ? count - i : LEAVES_IN_CHUNK;

		group = fold_level(digest, LEVEL_NODE, leaves + i * DIGEST_BYTES, group, nodes);
		made += fold_level(digest, LEVEL_CHUNK, nodes, group, ret + made * DIGEST_BYTES);
	}
	return made;
}

size_t digest_fold(
    struct digest *digest, const uint8_t *leaves, size_t count, uint32_t granularity, uint8_t *ret)
{
	assert(digest_granularity_ok(granularity));
	switch (granularity) {
	case DIGEST_LEAF:
		memmove(ret, leaves, count * DIGEST_BYTES);
		return count;
	case DIGEST_NODE:
		return fold_level(digest, LEVEL_NODE, leaves, count, ret);
	default:
		return fold_chunks(digest, leaves, count, ret);
	}
}

size_t digest_zeroes(struct digest *digest, size_t length, uint32_t granularity, uint8_t *ret)
{
	uint8_t leaves[LEAVES_IN_CHUNK * DIGEST_BYTES];
	int level = granularity == DIGEST_LEAF   ? LEVEL_LEAF
	            : granularity == DIGEST_NODE ? LEVEL_NODE
	                                         : LEVEL_CHUNK;
	size_t whole = length / granularity, rest = length % granularity, count = 0;

	assert(length <= DIGEST_CHUNK && digest_granularity_ok(granularity));
	for (size_t i = 0; i < whole; i++)
		memcpy(ret + i * DIGEST_BYTES, digest->zeroes[level], DIGEST_BYTES);
	if (rest == 0)
		return whole;
	for (; rest >= DIGEST_LEAF; rest -= DIGEST_LEAF)
		memcpy(leaves + count++ * DIGEST_BYTES, digest->zeroes[LEVEL_LEAF], DIGEST_BYTES);
	if (rest > 0)
		mac(digest, LEVEL_LEAF, zero_leaf, rest, leaves + count++ * DIGEST_BYTES);
	return whole + digest_fold(digest, leaves, count, granularity, ret + whole * DIGEST_BYTES);
}
