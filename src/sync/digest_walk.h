/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Digests of a whole volume, in order, several chunks ahead: the digest command. Control path: runs the ring
 * until it is done.
 */
#pragma once

#include "block/block.h"

struct digest_walk {
	struct block *block;
	const struct digest_key *key;
	uint32_t granularity;
	bool ignore_holes;
	const bool *cancelled; /* looked at between chunks; or NULL */
	/* Digests of one chunk at the granularity, in order of offset. */
	int (*got)(void *data, uint64_t offset, uint64_t length, const uint8_t *digests);
	void *data;
	uint64_t position; /* bytes done so far */
};

/* 0, the first result of got() that is not 0, -ECANCELED, or -errno with words. */
int digest_walk(struct digest_walk *walk, struct error *error);
/* The SHA-256 of the whole volume, computed where the data is. */
int digest_sha256(
    struct block *block, const bool *cancelled, uint64_t *ret_position, uint8_t ret[32], struct error *error);
