/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How full a snapshot's store or a thin pool is, by what the kernel says of it, and how large a store should be. Pure. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/*
 * The status of a target "snapshot" ("used/all metadata", sectors). Percent, rounded up; -ESTALE: the snapshot lost its store ("Invalid",
 * "Overflow"...).
 */
int snapshot_fill_store(const char *status);
/*
 * The status of a target "thin-pool" ("transaction used/all used/all ...", blocks of metadata and of data). Returns the larger percentage, rounded
 * up, and which it is; -EIO: the pool has failed ("Fail").
 */
int snapshot_fill_pool(const char *status, const char **ret_which);
/*
 * Extents for the store of a snapshot of `origin` extents, where `free` are free: a fifth of the origin, at least 64 MiB, never more than could ever be
 * used. Without a base half of what is free stays free, because the next run needs as much while this one's is still there. 0: that would be less than
 * a fiftieth of the origin, too little to begin with.
 */
uint64_t snapshot_store_extents(uint64_t origin, uint64_t free, uint64_t extent_bytes, bool has_base);
