/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Another handle of a volume that somebody else owns: freed without it. For those who take what they use. */
#pragma once

#include "block/block.h"

/* `below` is borrowed, and outlives it. */
int share_new(struct block **ret, struct block *below, struct error *error);
