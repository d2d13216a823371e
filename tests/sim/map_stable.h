/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a map on a simulated disk would say after a loss of power now. For maps of one page. */
#pragma once

#include "range/bitmap.h"
#include "range/bitmap_format.h"
#include "ring/ring_sim.h"

/* The superblock that would count. False: there is none. */
bool map_stable_super(struct ring_sim *sim, int fd, struct bitmap_super *ret);
/* The regions that may differ, as whoever resumes would read them; `ret` has as many bits as there are regions. */
void map_stable_load(struct ring_sim *sim, int fd, const struct bitmap_super *super, struct bitmap *ret);
