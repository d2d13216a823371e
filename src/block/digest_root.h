/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One digest for a whole volume, of the digests of its 64 KiB nodes, given in any order and each once: nodes of zeros count for
 * nothing, so that holes need not be given. docs/formats/digests.md ("The root").
 */
#pragma once

#include "block/digest.h"

struct digest_root {
	struct digest *digest;
	struct digest_key key;     /* its own */
	uint8_t sum[DIGEST_BYTES]; /* the root of what was given so far */
};

int digest_root_init(struct digest_root *root, const struct digest_key *key, struct error *error);
/* Takes a zeroed one, too. */
void digest_root_done(struct digest_root *root);
/* The leaves of [offset, offset + length), which begins at a node's border and ends at one or at the volume's end; one chunk at most. */
void digest_root_add(struct digest_root *root, uint64_t offset, uint64_t length, const uint8_t *leaves);
