/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Entries of a stage's table, some at a time, with room for the data of each and for what the volume has there: read and written side by side. */
#pragma once

#include "block/block.h"
#include "block/stage_format.h"

#define STAGE_BATCH       64u
#define STAGE_BATCH_BYTES (4u << 20)

struct stage_piece {
	struct stage_batch *batch;
	struct stage_entry entry;
	uint8_t *fresh, *old; /* of the stage, of the volume */
	struct block_io io;
	uint32_t sums[STAGE_SUMS_MAX];
};

struct stage_batch {
	unsigned count, pending;
	uint64_t bytes;
	int res;
	bool done;
	uint8_t *fresh, *old;
	struct stage_piece pieces[STAGE_BATCH];
};

/* NULL: out of memory. */
struct stage_batch *stage_batch_new(void);
struct stage_batch *stage_batch_free(struct stage_batch *batch);
static inline bool stage_batch_is_full(const struct stage_batch *batch)
{
	return batch->count == STAGE_BATCH || batch->bytes + STAGE_PIECE > STAGE_BATCH_BYTES;
}
/* One more piece, its entry as given; not when it is full. */
struct stage_piece *stage_batch_add(struct stage_batch *batch, const struct stage_entry *entry);
static inline void stage_batch_clear(struct stage_batch *batch)
{
	batch->count = 0;
	batch->bytes = 0;
}

enum stage_step {
	STAGE_READ_FRESH,  /* the data, from the stage; zeros */
	STAGE_READ_OLD,    /* from the volume */
	STAGE_WRITE_FRESH, /* the data, and zeros, to the volume */
};
/* One step with all pieces. 0 or the first -errno, when all have ended. */
int stage_batch_run(struct stage_batch *batch, enum stage_step step, struct block *block);
