/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * BLOCK_DIGEST and BLOCK_SHA256 for drivers that have the data at hand: reads through the driver itself,
 * digests, and keeps the leaf digests of recently read chunks, so that narrowing down from 1 MiB to 64 KiB to
 * 4 KiB reads nothing twice. One per block; it owns a bounded pool of chunk buffers (made on first use) and
 * queues what exceeds it.
 */
#pragma once

#include "block/block.h"

struct digest_reader;

int digest_reader_new(struct digest_reader **ret, struct block *block, struct error *error);
/* Takes NULL; returns NULL. */
struct digest_reader *digest_reader_free(struct digest_reader *reader);
/* Takes a BLOCK_DIGEST or BLOCK_SHA256 request. */
void digest_reader_submit(struct digest_reader *reader, struct block_io *io);
/*
 * Any write makes kept leaf digests of its range void: drivers call it for WRITE, ZERO and RESIZE, both when they
 * are submitted and when they end, for what was read in between may be old or new.
 */
void digest_reader_forget(struct digest_reader *reader, uint64_t offset, uint64_t length);
