/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A volume with a volatile cache: what is written stays in memory, and reads see it, until a FLUSH writes it
 * below. A cut keeps, loses or tears (sector by sector) each unflushed write, then all requests fail until
 * the power is back.
 */
#pragma once

#include "block/block.h"

/* Takes `below`, also on failure. */
int powercut_new(struct block **ret, struct block *take_below, uint64_t seed, struct error *error);
/* Not while this filter's requests are under way. Runs the ring, to write below what the cut keeps. 0 or
 * -errno of that. */
int powercut_cut(struct block *powercut);
void powercut_restore(struct block *powercut);
/* Bytes that a cut could lose now. */
uint64_t powercut_unflushed(struct block *powercut);
