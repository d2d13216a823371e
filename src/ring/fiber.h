/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A fiber: sequential code with a stack of its own on the ring's thread. Where it waits (ring_run_until(), ring_step(), ring_wait())
 * the loop and all other fibers go on; so several jobs that run the ring until they have what they need wait side by side, and
 * none of them for the end of another's wait, as nested loops would. There is no switch but in those three calls: between them
 * a fiber is as alone as a callback is.
 */
#pragma once

#include "ring/ring.h"

#define FIBER_STACK (512u << 10) /* bytes; only what is used takes memory */

struct fiber;

/* Calls run(data), until its first wait at once, from then on from the loop; all of it from the loop if this is called in a fiber. */
int fiber_start(
    struct fiber **ret, struct ring *ring, void (*run)(void *data), void *data, struct error *error);
bool fiber_has_ended(const struct fiber *fiber);
/* It must have ended. Takes NULL; returns NULL. */
struct fiber *fiber_free(struct fiber *fiber);

/* For ring.c. Within a fiber: comes back when *until is so, or after the loop's next step when it is NULL. 0, or the loop's -errno. */
int fiber_wait(struct ring *ring, const bool *until);
/* In the loop: lets those go on that need not wait any more; with res < 0, the loop's error, all. Whether there was one. */
bool fiber_run_ready(struct ring *ring, bool stepped, int res);
