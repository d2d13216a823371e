/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For those who implement a block: drivers and filters. Users include block.h alone. */
#pragma once

#include "block/block.h"

struct block_driver {
	const char *name;
	/*
	 * Takes a request that block_submit() has checked: op known, range inside the volume (not for a stream), READ and WRITE
	 * at most BLOCK_IO_MAX, DIGEST inside one DIGEST_CHUNK, writes only on a writable block, length 0 already answered. Must
	 * complete it through block_complete(), later, from the ring's loop. BLOCK_FUA comes only to a block with info.fua, NO_HOLE
	 * and FAST only to one with info.no_hole. A driver that cannot trim answers BLOCK_TRIM with 0. BLOCK_DIGEST and BLOCK_SHA256 may be handed to
	 * digest_reader_submit(); BLOCK_EXTENTS to block_extents_all_data().
	 */
	void (*submit)(struct block *block, struct block_io *io);
	/* block_takes_pipe(); NULL: it does not. Of a filter: NULL, what it is there for must see the data. */
	bool (*takes_pipe)(const struct block *block, enum block_op op);
	/* NULL: nothing is known (all texts empty). */
	int (*facts)(struct block *block, struct block_facts *ret, struct error *error);
	/* block_measure(); NULL: its size stays. */
	int (*measure)(struct block *block, struct error *error);
	/* NULL: there is no link. */
	int (*link_error)(struct block *block, struct error *error);
	void (*free)(struct block *block);
};

/* Every driver's structure begins with this. */
struct block {
	const struct block_driver *driver;
	struct ring *ring;
	struct block_info info;
};

/* WRITE, ZERO or TRIM: the contents may be others afterwards. */
static inline bool block_op_writes(enum block_op op)
{
	return op == BLOCK_WRITE || op == BLOCK_ZERO || op == BLOCK_TRIM;
}

/* Ends the request now; only from the ring's loop. */
static inline void block_complete(struct block_io *io, int res)
{
	io->done(io, res);
}

/* Ends the request from the loop, for answers known within submit(). Uses io->ring_op. */
void block_complete_later(struct block *block, struct block_io *io, int res);
/* Answers BLOCK_EXTENTS with one EXTENT_DATA of the whole range, for volumes that know no better. */
void block_extents_all_data(struct block *block, struct block_io *io);
