/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Calls that may block, on a thread of their own while the ring goes on: for control paths that wait for what the ring itself serves. */
#pragma once

#include "ring/ring.h"

/*
 * Runs work(data, error) on a new thread, without signals, and the ring until it has returned; returns what it returned. `work` may
 * touch what the ring's thread does not touch meanwhile. -errno with words when there can be no thread.
 */
int ring_call(
    struct ring *ring, int (*work)(void *data, struct error *error), void *data, struct error *error);
