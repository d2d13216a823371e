/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The first bytes of a volume as a volume of its own; what lies behind them cannot be reached. It is not resizable. */
#pragma once

#include "block/block.h"

/* Takes `below`, which is longer than `size` bytes, also when it fails: -ENOMEM, or -EINVAL when `size` lies within one of its blocks. */
int head_new(struct block **ret, struct block *take_below, uint64_t size, struct error *error);
