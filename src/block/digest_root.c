/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * See digest_root.h. Each node is bound to its place by HMAC-SHA-256, and these are added by exclusive or. No GMAC here: it is linear,
 * so two nodes could change places unnoticed.
 */
#include "block/digest_root.h"

#include "base/bytes.h"

#include <assert.h>
#include <gnutls/crypto.h>
#include <string.h>

int digest_root_init(struct digest_root *root, const struct digest_key *key, struct error *error)
{
	int res;

	*root = (struct digest_root){0};
	res = digest_derive(key, "blkmove digest root", &root->key, error);
	return res < 0 ? res : digest_new(&root->digest, key, error);
}

void digest_root_done(struct digest_root *root)
{
	root->digest = digest_free(root->digest);
	explicit_bzero(&root->key, sizeof(root->key));
}

static void add_node(struct digest_root *root, uint64_t offset, uint64_t length, const uint8_t *node)
{
	uint8_t zero[DIGEST_BYTES], text[DIGEST_BYTES + sizeof(uint64_t)], bound[32];
	int res;

	digest_zeroes(root->digest, length, DIGEST_NODE, zero);
	if (!memcmp(node, zero, DIGEST_BYTES))
		return;
	memcpy(text, node, DIGEST_BYTES);
	put_le64(text + DIGEST_BYTES, offset / DIGEST_NODE);
	res = gnutls_hmac_fast(
	    GNUTLS_MAC_SHA256, root->key.bytes, sizeof(root->key.bytes), text, sizeof(text), bound);
	/* It worked at the start, for the key. */
	assert(res == 0);
	for (unsigned i = 0; i < DIGEST_BYTES; i++)
		root->sum[i] ^= bound[i];
}

void digest_root_add(struct digest_root *root, uint64_t offset, uint64_t length, const uint8_t *leaves)
{
	uint8_t nodes[DIGEST_CHUNK / DIGEST_NODE * DIGEST_BYTES];
	size_t count;

	assert(offset % DIGEST_NODE == 0 && length <= DIGEST_CHUNK);
	count = digest_fold(root->digest, leaves, digest_count(length, DIGEST_LEAF), DIGEST_NODE, nodes);
	for (size_t i = 0; i < count; i++)
		add_node(root, offset + i * DIGEST_NODE, min_u64(DIGEST_NODE, length - i * DIGEST_NODE),
		    nodes + i * DIGEST_BYTES);
}
