/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where the stores of a plain device's snapshots lie: pure arithmetic on tables. */
#pragma once

#include "attach/dm_table.h"

#define SNAPSHOT_SLOTS       2u                  /* the base and the fresh one */
#define SNAPSHOT_STORE_LEAST ((8u << 20) / 512u) /* sectors of a half */
#define SNAPSHOT_CHUNK       8u                  /* sectors */

/* The half of a store of `sectors` for a slot. -ENOSPC: it is too small for two. */
int snapshot_place_half(uint64_t sectors, unsigned slot, uint64_t *ret_begin, uint64_t *ret_length);
/*
 * The table of a store: so many sectors of `device` from `begin` on, and where the origin is encrypted (its table is one "crypt"),
 * encrypted by the same key, at sector numbers that the origin's do not reach: what is secret on the source does not lie open in the store. -EOPNOTSUPP
 * with words where that cannot be: its key is in the kernel's keyring, or it has integrity tags.
 */
int snapshot_place_table(const struct dm_table *origin, dev_t device, uint64_t begin, uint64_t length,
    struct dm_table *ret, struct error *error);
