/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The persistent exception store of a device-mapper snapshot: the bytes of its COW device. Pure: no I/O; every byte is
 * doubted. docs/formats/dm-snapshot.md has the layout and where it comes from.
 */
#pragma once

#include "base/error.h"
#include "track/changes.h"

#include <stdbool.h>

#define DM_SNAPSHOT_HEADER    512u       /* bytes at the device's beginning that the header lies in */
#define DM_SNAPSHOT_CHUNK_MAX (4u << 20) /* bytes; what is larger is not read */

struct dm_snapshot_geometry {
	uint32_t chunk;         /* bytes; a power of two, 512...DM_SNAPSHOT_CHUNK_MAX */
	uint32_t area_max;      /* exceptions in an area, which is one chunk */
	uint64_t store_chunks;  /* whole chunks of the COW device */
	uint64_t origin_chunks; /* of the origin; the last one may be a part */
};

/*
 * The header. Returns 0; -EBADMSG it is no such store, or a damaged one; -ESTALE the kernel marked it as invalid: it overflowed or
 * an I/O error met it, and it does not hold all changes; -EOPNOTSUPP of a kind that is not known. With words.
 */
int dm_snapshot_header(const uint8_t bytes[DM_SNAPSHOT_HEADER], uint64_t store_size, uint64_t origin_size,
    struct dm_snapshot_geometry *ret, struct error *error);
/* Where an area lies on the COW device, bytes; false when the device has no such area. */
bool dm_snapshot_area_at(const struct dm_snapshot_geometry *geometry, uint64_t area, uint64_t *ret_offset);
/*
 * Takes the exceptions of an area (geometry->chunk bytes) into `changes`. Returns 1 when the area is full, so that another one
 * follows; 0 at the list's end; -EBADMSG with words; -ENOMEM.
 */
int dm_snapshot_area(const struct dm_snapshot_geometry *geometry, uint64_t area, const uint8_t *bytes,
    struct changes *changes, struct error *error);
