/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lets every request wait before it goes on: slow disks and long links for tests and trials. */
#pragma once

#include "block/block.h"

struct delay_options {
	uint64_t min_ns, max_ns; /* uniform between them */
	uint64_t seed;
	unsigned ops; /* bits 1u << BLOCK_READ...; 0: all */
};

/* Takes `below`, also on failure. */
int delay_new(
    struct block **ret, struct block *take_below, const struct delay_options *options, struct error *error);
/* Changes what later requests wait; the seed is not looked at. */
void delay_set(struct block *delay, const struct delay_options *options);
