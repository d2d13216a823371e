/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Limits how many bytes per second pass, changeable at any time, and pauses. READ, WRITE, DIGEST and SHA256
 * cost their length, all else is free. Requests that are held wait in their order; those that are free
 * overtake them.
 */
#pragma once

#include "block/block.h"

/* Takes `below`, also on failure. bytes_per_second 0: no limit. */
int throttle_new(
    struct block **ret, struct block *take_below, uint64_t bytes_per_second, struct error *error);
void throttle_set_rate(struct block *throttle, uint64_t bytes_per_second);
/* Holds every request, free ones too, until throttle_go_on(). What is below already goes on. */
void throttle_pause(struct block *throttle);
void throttle_go_on(struct block *throttle);
/* For good: what is held ends with -ECANCELED, and nothing is held from now on. */
void throttle_cancel(struct block *throttle);
