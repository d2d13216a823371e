/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Digests against GnuTLS's own GMAC, and the properties that a sync leans on. */
#include "base/rand.h"
#include "block/digest_root.h"

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "seed.h"

#define NODE   DIGEST_NODE
#define LEAVES (DIGEST_CHUNK / DIGEST_LEAF)

struct fixture {
	struct digest_key key;
	struct digest *digest;
	struct rand rand;
	uint8_t *data; /* DIGEST_CHUNK bytes */
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	uint64_t seed = seed_of_run();

	rand_init(&f->rand, seed);
	rand_bytes(&f->rand, f->key.bytes, sizeof(f->key.bytes));
	f->data = malloc(DIGEST_CHUNK);
	rand_bytes(&f->rand, f->data, DIGEST_CHUNK);
	*state = f;
	return digest_new(&f->digest, &f->key, NULL);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	digest_free(f->digest);
	free(f->data);
	free(f);
	return 0;
}

/* The definition, spelt out with another function of the library: GMAC under a derived key and a nonce of
 * zeros. */
static void reference(
    const struct digest_key *key, const char *level, const void *data, size_t length, uint8_t *ret)
{
	static const uint8_t nonce[12];
	uint8_t derived[32];
	gnutls_hmac_hd_t mac;

	assert_int_equal(gnutls_hmac_fast(GNUTLS_MAC_SHA256, key->bytes, sizeof(key->bytes), level,
	                     strlen(level), derived),
	    0);
	assert_int_equal(gnutls_hmac_init(&mac, GNUTLS_MAC_AES_GMAC_128, derived, 16), 0);
	gnutls_hmac_set_nonce(mac, nonce, sizeof(nonce));
	assert_int_equal(gnutls_hmac(mac, data, length), 0);
	gnutls_hmac_deinit(mac, ret);
}

static void test_leaf_is_gmac(void **state)
{
	static const size_t lengths[] = {0, 1, 15, 16, 17, 511, 512, 4095, 4096};
	struct fixture *f = *state;
	uint8_t want[16], got[16];

	for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
		reference(&f->key, "blkmove digest leaf", f->data, lengths[i], want);
		digest_bytes(f->digest, f->data, lengths[i], got);
		assert_memory_equal(want, got, 16);
	}
}

/* A frozen vector: a format that files keep must never change unnoticed. */
static void test_frozen_vector(void **state)
{
	static const uint8_t want_leaf[16] = {0xbe, 0x3b, 0xae, 0xd1, 0x80, 0x93, 0x8a, 0x8f, 0x26, 0xb7,
	    0x72, 0xc5, 0x8f, 0x08, 0x37, 0x03},
	                     want_chunk[16] = {0x56, 0xe9, 0x25, 0xd0, 0x68, 0xba, 0x5f, 0x78, 0x17, 0x87,
	                         0xff, 0x89, 0x5f, 0x39, 0x1a, 0x19};
	struct digest_key key;
	struct digest *digest;
	uint8_t *data = malloc(DIGEST_CHUNK), leaves[LEAVES * 16], got[16];

	for (unsigned i = 0; i < sizeof(key.bytes); i++)
		key.bytes[i] = (uint8_t)i;
	for (unsigned i = 0; i < DIGEST_CHUNK; i++)
		data[i] = (uint8_t)(i * 7 + i / 4096);
	assert_int_equal(digest_new(&digest, &key, NULL), 0);
	digest_leaves(digest, data, DIGEST_CHUNK, leaves);
	assert_memory_equal(leaves, want_leaf, 16);
	assert_int_equal(digest_fold(digest, leaves, LEAVES, DIGEST_CHUNK, got), 1);
	assert_memory_equal(got, want_chunk, 16);
	digest_free(digest);
	free(data);
}

static void test_tree(void **state)
{
	struct fixture *f = *state;
	uint8_t leaves[LEAVES * 16], nodes[16 * 16], want[16], folded[LEAVES * 16];

	memset(f->data + 5 * DIGEST_LEAF, 0, 3 * DIGEST_LEAF);
	digest_leaves(f->digest, f->data, DIGEST_CHUNK, leaves);
	for (unsigned i = 0; i < LEAVES; i++) {
		reference(
		    &f->key, "blkmove digest leaf", f->data + (size_t)i * DIGEST_LEAF, DIGEST_LEAF, want);
		assert_memory_equal(leaves + i * 16, want, 16);
	}
	for (unsigned i = 0; i < 16; i++)
		reference(&f->key, "blkmove digest node", leaves + i * 256, 256, nodes + i * 16);
	assert_int_equal(digest_fold(f->digest, leaves, LEAVES, NODE, folded), 16);
	assert_memory_equal(folded, nodes, sizeof(nodes));
	reference(&f->key, "blkmove digest chunk", nodes, sizeof(nodes), want);
	assert_int_equal(digest_fold(f->digest, leaves, LEAVES, DIGEST_CHUNK, folded), 1);
	assert_memory_equal(folded, want, 16);
	assert_int_equal(digest_fold(f->digest, leaves, LEAVES, DIGEST_LEAF, folded), LEAVES);
	assert_memory_equal(folded, leaves, sizeof(leaves));
	/* In place. */
	assert_int_equal(digest_fold(f->digest, folded, LEAVES, DIGEST_CHUNK, folded), 1);
	assert_memory_equal(folded, want, 16);
}

static void test_short_last_leaf(void **state)
{
	struct fixture *f = *state;
	uint8_t leaves[LEAVES * 16], want[16], longer[16];

	for (size_t length = DIGEST_LEAF + 1; length < 3 * DIGEST_LEAF; length += 509) {
		size_t count = digest_count(length, DIGEST_LEAF), last = (count - 1) * DIGEST_LEAF;

		digest_leaves(f->digest, f->data, length, leaves);
		reference(&f->key, "blkmove digest leaf", f->data + last, length - last, want);
		assert_memory_equal(leaves + (count - 1) * 16, want, 16);
		/* Not the same as with zeros added: sizes are part of what is compared. */
		memset(f->data + length, 0, 16);
		digest_bytes(f->digest, f->data + last, length - last + 1, longer);
		assert_memory_not_equal(want, longer, 16);
	}
}

static void test_zeroes(void **state)
{
	static const uint32_t granularities[] = {DIGEST_LEAF, NODE, DIGEST_CHUNK};
	static const size_t lengths[] = {
	    0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 131072, 700001, DIGEST_CHUNK - 1, DIGEST_CHUNK};
	struct fixture *f = *state;
	uint8_t leaves[LEAVES * 16], want[LEAVES * 16], got[LEAVES * 16];

	memset(f->data, 0, DIGEST_CHUNK);
	for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
		digest_leaves(f->digest, f->data, lengths[i], leaves);
		for (int g = 0; g < 3; g++) {
			size_t count = digest_fold(
			    f->digest, leaves, digest_count(lengths[i], DIGEST_LEAF), granularities[g], want);

			assert_int_equal(count, digest_count(lengths[i], granularities[g]));
			assert_int_equal(digest_zeroes(f->digest, lengths[i], granularities[g], got), count);
			assert_memory_equal(want, got, count * 16);
		}
	}
	reference(&f->key, "blkmove digest leaf", f->data, DIGEST_LEAF, want);
	digest_leaves(f->digest, f->data, DIGEST_LEAF, got);
	assert_memory_equal(want, got, 16);
}

static void test_h03_one_byte_at_every_position(void **state)
{
	struct fixture *f = *state;
	uint8_t zero[16], got[16];

	memset(f->data, 0, DIGEST_LEAF);
	digest_leaves(f->digest, f->data, DIGEST_LEAF, zero);
	for (unsigned i = 0; i < DIGEST_LEAF; i++) {
		f->data[i] = (uint8_t)(1u << rand_below(&f->rand, 8));
		digest_leaves(f->digest, f->data, DIGEST_LEAF, got);
		assert_memory_not_equal(zero, got, 16);
		f->data[i] = 0;
	}
	digest_leaves(f->digest, f->data, DIGEST_LEAF, got);
	assert_memory_equal(zero, got, 16);
}

/*
 * With one GMAC key for all levels a node is a polynomial in the key whose coefficients are the contents, so
 * that a change in one leaf and the same change one leaf on, 16 bytes earlier or later, cancel out whatever
 * the key is. Keys of their own for each level prevent that.
 */
static void test_shifted_changes_do_not_cancel_out(void **state)
{
	struct fixture *f = *state;
	uint8_t leaves[LEAVES * 16], before[16], after[16];

	for (int shift = -64; shift <= 64; shift += 16) {
		for (int apart = 1; apart < 32; apart++) {
			digest_leaves(f->digest, f->data, DIGEST_CHUNK, leaves);
			digest_fold(f->digest, leaves, LEAVES, DIGEST_CHUNK, before);
			f->data[1024] ^= 1;
			f->data[1024 + apart * (int)DIGEST_LEAF + shift] ^= 1;
			digest_leaves(f->digest, f->data, (size_t)(apart + 1) * DIGEST_LEAF, leaves);
			digest_fold(f->digest, leaves, LEAVES, DIGEST_CHUNK, after);
			assert_memory_not_equal(before, after, 16);
		}
	}
}

static void test_keys_differ(void **state)
{
	struct fixture *f = *state;
	struct digest_key a, b;
	struct digest *digest;
	uint8_t one[16], two[16];

	assert_int_equal(digest_key_random(&a, NULL), 0);
	assert_int_equal(digest_key_random(&b, NULL), 0);
	assert_memory_not_equal(a.bytes, b.bytes, 16);
	assert_int_equal(digest_new(&digest, &a, NULL), 0);
	digest_bytes(digest, f->data, 4096, one);
	digest_bytes(f->digest, f->data, 4096, two);
	assert_memory_not_equal(one, two, 16);
	digest_free(digest);
	digest_free(NULL);
}

static void root_of(const uint8_t *data, size_t length, bool backwards, uint8_t ret[16])
{
	const struct digest_key key = {{1, 2, 3}};
	size_t nodes = digest_count(length, DIGEST_NODE);
	struct digest_root root;
	uint8_t leaves[LEAVES * 16];

	assert_int_equal(digest_root_init(&root, &key, NULL), 0);
	for (size_t i = 0; i < nodes; i++) {
		size_t at = (backwards ? nodes - 1 - i : i) * DIGEST_NODE;
		size_t n = length - at < DIGEST_NODE ? length - at : DIGEST_NODE;

		digest_leaves(root.digest, data + at, n, leaves);
		digest_root_add(&root, at, n, leaves);
	}
	memcpy(ret, root.sum, 16);
	digest_root_done(&root);
}

static void test_root(void **state)
{
	struct fixture *f = *state;
	static uint8_t changed[DIGEST_CHUNK], none[16];
	const size_t length = DIGEST_CHUNK - 3 * DIGEST_NODE - 700;
	uint8_t root[16], other[16];

	memset(f->data + DIGEST_NODE, 0, DIGEST_NODE);
	root_of(f->data, length, false, root);
	root_of(f->data, length, true, other);
	assert_memory_equal(root, other, 16);
	/* Nodes that change places; the linear digests would add up to the same. */
	memcpy(changed, f->data, DIGEST_CHUNK);
	memcpy(changed, f->data + (size_t)2 * DIGEST_NODE, DIGEST_NODE);
	memcpy(changed + (size_t)2 * DIGEST_NODE, f->data, DIGEST_NODE);
	root_of(changed, length, false, other);
	assert_memory_not_equal(root, other, 16);
	/* Zeros that move make a difference, although they count for nothing. */
	memcpy(changed, f->data, DIGEST_CHUNK);
	memmove(changed + DIGEST_NODE, f->data, DIGEST_NODE);
	memset(changed, 0, DIGEST_NODE);
	root_of(changed, length, false, other);
	assert_memory_not_equal(root, other, 16);
	memcpy(changed, f->data, DIGEST_CHUNK);
	changed[length - 1] ^= 1;
	root_of(changed, length, false, other);
	assert_memory_not_equal(root, other, 16);
	memset(changed, 0, sizeof(changed));
	root_of(changed, length, false, other);
	assert_memory_equal(other, none, 16);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_leaf_is_gmac, setup, teardown),
	    cmocka_unit_test(test_frozen_vector),
	    cmocka_unit_test_setup_teardown(test_tree, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_short_last_leaf, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_zeroes, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_h03_one_byte_at_every_position, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_shifted_changes_do_not_cancel_out, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_keys_differ, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_root, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
