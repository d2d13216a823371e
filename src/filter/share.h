/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Another handle of a volume that somebody else owns, or of its first bytes: freed without it. For those who take what they use.
 */
#pragma once

#include "block/block.h"

/* `below` is borrowed, and outlives it. size: bytes, a multiple of its request_align, at most its own. */
int share_new(struct block **ret, struct block *below, uint64_t size, struct error *error);
/* More of it, from now on. */
void share_measure(struct block *share, uint64_t size);
