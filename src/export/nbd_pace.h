/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How long the server may sleep before it takes the next requests, so that many come together: a client that is slower than the
 * server would wake it for each. The sign is whether the client, when its request has come, still has replies that it did not take. If
 * so, it does not wait for us. Then the sleep grows; it shrinks fast when a client had nothing left to do. Arithmetic alone.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define NBD_PACE_STEP_NS UINT64_C(5000)
#define NBD_PACE_MAX_NS  UINT64_C(100000)
#define NBD_PACE_SURE    4u /* so often, before the first sleep */
#define NBD_PACE_SAMPLE  4u /* while there is no sleep, each fourth time is looked at */

struct nbd_pace {
	unsigned asked, score; /* score: how sure we are that clients are behind */
	bool was_behind;
	uint64_t sleep_ns; /* a multiple of the step, or what is left of one */
};

/* Requests have come. Whether nbd_pace_next() wants to know if their client still has replies to take. */
bool nbd_pace_asks(struct nbd_pace *pace);

/* It has, or has not. Returns how long to sleep before the next. */
uint64_t nbd_pace_next(struct nbd_pace *pace, bool behind);
