/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A simulated disk as a volume: the real file driver on fake descriptors, with a filter on top that knows
 * holes, identity and change mark, which the driver cannot ask a simulated disk for, and that can be told to
 * do wrong.
 */
#pragma once

#include "block/block.h"
#include "ring/ring_sim.h"

/* Mistakes that the simulation must find. */
enum plant {
	PLANT_NONE,
	PLANT_JOURNAL_BEFORE_FLUSH, /* a flush is acknowledged before it is done */
	PLANT_NO_FLUSH,             /* a flush is acknowledged and never done */
	PLANT_LOST_WRITE,           /* now and then a write is acknowledged and not done */
	PLANT_SWALLOWED_ERROR,      /* failed writes are reported as done */
	PLANTS,
};

struct volume_options {
	struct ring_sim *sim;
	const char *name;
	int fd, fd_direct;
	uint32_t sector_size, direct_align;
	bool device, writable, zeroed;
	uint64_t generation; /* in the change mark */
	uint64_t boot;       /* of the machine; 0: cannot be known */
	uint64_t hole_seed;  /* which pages of zeros are told as holes; 0: none */
	/* Its holes are said to be trusted, but what is not written out yet may be told as a hole, as some file systems did. */
	bool late_holes;
	enum plant plant;
};

int volume_new(
    struct block **ret, struct ring *ring, const struct volume_options *options, struct error *error);
