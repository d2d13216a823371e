/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Makes chosen requests fail, or lies about them: by operation, range, count, or chance from a seed. */
#pragma once

#include "block/block.h"

enum fault_kind {
	FAULT_ERROR,       /* answers `result` and does nothing */
	FAULT_ERROR_AFTER, /* does it and answers `result`: the acknowledgement was lost */
	FAULT_CORRUPT,     /* READ, DIGEST: does it, then flips one bit of what was read */
};

struct fault_rule {
	enum fault_kind kind;
	int result;              /* -errno; 0 with FAULT_ERROR: says that it was done (a lost write) */
	unsigned ops;            /* bits 1u << BLOCK_READ...; 0: all */
	uint64_t offset, length; /* requests that touch this; length 0: anywhere, FLUSH too */
	unsigned nth;            /* only the nth request that matches, from 1 on; 0: every one */
	unsigned times;          /* at most so often; 0: without end */
	uint32_t ppm;            /* chance in a million; 0: always */
};

/* Takes `below`, also on failure. */
int fault_new(struct block **ret, struct block *take_below, uint64_t seed, struct error *error);
/* Adds a rule (at most 32); the first that matches is followed. Returns its number or -ENOSPC. */
int fault_add(struct block *fault, const struct fault_rule *rule);
void fault_clear(struct block *fault);
/* How often faults were made since fault_new(). */
unsigned fault_hits(struct block *fault);
