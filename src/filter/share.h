/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Another handle of a volume, or of its first bytes, as a volume of its own: what lies behind them cannot be reached. It is not resizable.
 */
#pragma once

#include "block/block.h"

/*
 * Of one that somebody else owns, and which outlives it: for those who take what they use. size: bytes, a multiple of its request_align, at
 * most its own. Its holes are not to be trusted: others write to the volume, too.
 */
int share_new(struct block **ret, struct block *below, uint64_t size, struct error *error);
/* Takes `below`, which is longer than `size` bytes, also when it fails: -ENOMEM, or -EINVAL when `size` lies within one of its blocks. */
int share_take(struct block **ret, struct block *take_below, uint64_t size, struct error *error);
/* More of it, from now on. */
void share_measure(struct block *share, uint64_t size);
