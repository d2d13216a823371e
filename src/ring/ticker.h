/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Calls a function at intervals from the ring's loop. Embedded; the ring thread's. */
#pragma once

#include "ring/ring.h"

struct ticker {
	struct ring *ring; /* NULL: never started */
	uint64_t interval_ns;
	void (*tick)(void *data);
	void *data;
	struct ring_op op;
	bool stopping;
};

void ticker_start(
    struct ticker *ticker, struct ring *ring, uint64_t interval_ns, void (*tick)(void *data), void *data);
/* No call comes after this. Runs the ring until that is so; does nothing when it was never started. */
void ticker_stop(struct ticker *ticker);
