/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Many requests at once, one wait for all. */
#include "block/stage_batch.h"

#include "base/bytes.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct stage_batch *stage_batch_new(void)
{
	struct stage_batch *batch = calloc(1, sizeof(*batch));
	void *memory = NULL;

	if (batch && posix_memalign(&memory, STAGE_BLOCK, 2 * STAGE_BATCH_BYTES) == 0) {
		batch->fresh = memory;
		batch->old = batch->fresh + STAGE_BATCH_BYTES;
		return batch;
	}
	free(batch);
	return NULL;
}

struct stage_batch *stage_batch_free(struct stage_batch *batch)
{
	if (batch)
		free(batch->fresh);
	free(batch);
	return NULL;
}

struct stage_piece *stage_batch_add(struct stage_batch *batch, const struct stage_entry *entry)
{
	struct stage_piece *piece = &batch->pieces[batch->count];

	assert(!stage_batch_is_full(batch));
	piece->batch = batch;
	piece->entry = *entry;
	piece->fresh = batch->fresh + batch->bytes;
	piece->old = batch->old + batch->bytes;
	batch->bytes += align_up(entry->length, STAGE_BLOCK);
	batch->count++;
	return piece;
}

static void ended(struct stage_batch *batch)
{
	batch->done = --batch->pending == 0;
}

static void piece_done(struct block_io *io, int res)
{
	struct stage_piece *piece = container_of(io, struct stage_piece, io);

	if (res < 0 && piece->batch->res == 0)
		piece->batch->res = res;
	ended(piece->batch);
}

int stage_batch_run(struct stage_batch *batch, enum stage_step step, struct block *block)
{
	int res;

	batch->pending = 1;
	batch->res = 0;
	batch->done = false;
	for (unsigned i = 0; i < batch->count; i++) {
		struct stage_piece *piece = &batch->pieces[i];
		bool zero = piece->entry.kind == EXTENT_ZERO, write = step == STAGE_WRITE_FRESH;

		if (zero && step == STAGE_READ_FRESH) {
			memset(piece->fresh, 0, piece->entry.length);
			continue;
		}
		piece->io = (struct block_io){.op = !write ? BLOCK_READ
		                                    : zero ? BLOCK_ZERO
		                                           : BLOCK_WRITE,
		    .offset = piece->entry.offset,
		    .length = piece->entry.length,
		    .buf = step == STAGE_READ_OLD ? piece->old
		           : write && zero        ? NULL
		                                  : piece->fresh,
		    .done = piece_done};
		batch->pending++;
		block_submit(block, &piece->io);
	}
	ended(batch);
	res = ring_run_until(block_ring(block), &batch->done);
	return res < 0 ? res : batch->res;
}
