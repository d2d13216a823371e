/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A throw-away writable view over a volume that is never written: what is written goes to an upper volume, in blocks of 4 KiB,
 * and is read from there; all else is read from below. Which blocks are in the upper one is known in memory alone: the view ends
 * with the process, so a flush has nothing to do.
 */
#pragma once

#include "block/block.h"

#define OVERLAY_BLOCK 4096u

struct overlay_map;

/*
 * Takes both, also on failure. `take_upper` is writable, at least as long as the volume below, and what it holds does not matter. Full:
 * -ENOSPC answers the write, which has then changed nothing, or a part of it.
 */
int overlay_new(struct block **ret, struct block *take_below, struct block *take_upper, struct error *error);
/* Which blocks are in the upper volume; the overlay's. */
struct overlay_map *overlay_map_of(struct block *overlay);
/* The same with an unlinked, sparse file in `folder` as the upper volume. Takes `take_below`, also on failure. */
int overlay_open(struct block **ret, struct block *take_below, const char *folder, struct error *error);
