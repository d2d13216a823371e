/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How fast the keyed functions of the libraries that blkmove links digest blocks of a given size, in GB/s on
 * one core, beside memcpy for scale: what the choice of the digest rests on (docs/formats/digests.md).
 *
 *   ninja -C build tests/bench/digest_speed && build/tests/bench/digest_speed [BLOCK_BYTES]
 */
#include "block/digest.h"

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MEMORY  (64u << 20) /* beyond the caches */
#define SECONDS 1.0

struct subject {
	const char *name;
	int (*digest)(void *state, const uint8_t *data, size_t length, uint8_t *ret);
	void *state;
};

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int blkmove_leaf(void *state, const uint8_t *data, size_t length, uint8_t *ret)
{
	digest_bytes(state, data, length, ret);
	return 0;
}

static int aead(void *state, const uint8_t *data, size_t length, uint8_t *ret)
{
	static const uint8_t nonce[12];
	size_t tag = 16;

	return gnutls_aead_cipher_encrypt(state, nonce, sizeof(nonce), data, length, 16, "", 0, ret, &tag);
}

static int hmac(void *state, const uint8_t *data, size_t length, uint8_t *ret)
{
	static const uint8_t nonce[12];

	gnutls_hmac_set_nonce(state, nonce, sizeof(nonce));
	if (gnutls_hmac(state, data, length) < 0)
		return -1;
	gnutls_hmac_output(state, ret);
	return 0;
}

static int hash(void *state, const uint8_t *data, size_t length, uint8_t *ret)
{
	return gnutls_hash_fast(GNUTLS_DIG_SHA256, data, length, ret);
}

static int copy(void *state, const uint8_t *data, size_t length, uint8_t *ret)
{
	memcpy(state, data, length);
	return 0;
}

static void measure(const struct subject *subject, const uint8_t *memory, size_t block)
{
	double begin = now(), seconds;
	uint64_t bytes = 0;
	uint8_t digest[64];

	do {
		for (size_t at = 0; at + block <= MEMORY; at += block, bytes += block) {
			if (subject->digest(subject->state, memory + at, block, digest) < 0) {
				printf("%-40s not available\n", subject->name);
				return;
			}
		}
		seconds = now() - begin;
	} while (seconds < SECONDS);
	printf("%-40s %6.2f GB/s\n", subject->name, (double)bytes / seconds / 1e9);
}

static void *make_aead(gnutls_cipher_algorithm_t algorithm, unsigned key_length)
{
	uint8_t bytes[32] = {1};
	gnutls_datum_t key = {bytes, key_length};
	gnutls_aead_cipher_hd_t handle;

	return gnutls_aead_cipher_init(&handle, algorithm, &key) < 0 ? NULL : handle;
}

static void *make_hmac(gnutls_mac_algorithm_t algorithm)
{
	uint8_t key[16] = {1};
	gnutls_hmac_hd_t handle;

	return gnutls_hmac_init(&handle, algorithm, key, sizeof(key)) < 0 ? NULL : handle;
}

int main(int argc, char **argv)
{
	size_t block = argc > 1 ? strtoul(argv[1], NULL, 0) : DIGEST_LEAF;
	uint8_t *memory = malloc(MEMORY), *other = malloc(DIGEST_CHUNK);
	struct digest_key key = {{1}};
	struct digest *digest;

	if (!memory || !other || block == 0 || block > DIGEST_CHUNK || digest_new(&digest, &key, NULL) < 0) {
		fprintf(stderr, "usage: digest_speed [BLOCK_BYTES, at most %u]\n", DIGEST_CHUNK);
		return 1;
	}
	for (size_t i = 0; i < MEMORY; i++)
		memory[i] = (uint8_t)(i * 2654435761u >> 13);
	const struct subject subjects[] = {
	    {"blkmove's leaf", blkmove_leaf, digest},
	    {"GMAC, gnutls_aead_cipher, as AAD", aead, make_aead(GNUTLS_CIPHER_AES_128_GCM, 16)},
	    {"Poly1305, gnutls_aead_cipher, as AAD", aead, make_aead(GNUTLS_CIPHER_CHACHA20_POLY1305, 32)},
	    {"GMAC, gnutls_hmac", hmac, make_hmac(GNUTLS_MAC_AES_GMAC_128)},
	    {"UMAC-128, gnutls_hmac", hmac, make_hmac(GNUTLS_MAC_UMAC_128)},
	    {"SHA-256, gnutls_hash (no key)", hash, other},
	    {"memcpy", copy, other},
	};

	printf("blocks of %zu bytes, one core\n", block);
	for (size_t i = 0; i < sizeof(subjects) / sizeof(*subjects); i++)
		if (subjects[i].state)
			measure(&subjects[i], memory, block);
	digest_free(digest);
	free(memory);
	free(other);
	return 0;
}
