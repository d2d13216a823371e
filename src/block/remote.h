/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A volume behind an agent, over any pair of stream descriptors: what remote_open() makes after starting ssh,
 * and what simulations use. */
#pragma once

#include "block/block.h"
#include "block/open.h"

/*
 * Speaks with an agent: reads from fd_in, writes to fd_out (may be the same), hands shake and opens `path`
 * there. Runs the ring until that is done or timeout_ms passed. Takes the descriptors, also on failure.
 */
int remote_new(struct block **ret, struct ring *ring, int fd_in, int fd_out, const char *name,
    const char *path, const struct block_open_options *options, struct error *error);
/* Ends the link now: what is under way ends with -ENOTCONN. Of a block that remote_new() made. */
void remote_hang_up(struct block *block, const char *why);
