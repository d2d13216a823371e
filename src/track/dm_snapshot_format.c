/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The arithmetic of an exception store, and what it may not say. Areas follow from their number: there is no pointer that could make a loop. */
#include "track/dm_snapshot_format.h"

#include "base/bytes.h"

#include <errno.h>
#include <inttypes.h>

#define MAGIC         0x70416e53u
#define VERSION       1u
#define HEADER_CHUNKS 1u
#define ENTRY         16u /* bytes of an exception: the origin's chunk and the store's */
#define SECTOR        512u

int dm_snapshot_header(const uint8_t bytes[DM_SNAPSHOT_HEADER], uint64_t store_size, uint64_t origin_size,
    struct dm_snapshot_geometry *ret, struct error *error)
{
	uint32_t magic = get_le32(bytes), valid = get_le32(bytes + 4), version = get_le32(bytes + 8);
	uint64_t chunk = (uint64_t)get_le32(bytes + 12) * SECTOR;

	if (magic != MAGIC)
		return error_set(
		    error, -EBADMSG, "it has no exception store (its magic number is %08x)", magic);
	if (version != VERSION)
		return error_set(error, -EOPNOTSUPP, "its exception store has version %u, only %u is known",
		    version, VERSION);
	if (valid != 1)
		return error_set(error, -ESTALE,
		    "the kernel gave the snapshot up: it was full, or its store could not be written");
	if (chunk == 0 || (chunk & (chunk - 1)) != 0)
		return error_set(
		    error, -EBADMSG, "its exception store is damaged: chunks of %" PRIu64 " bytes", chunk);
	if (chunk > DM_SNAPSHOT_CHUNK_MAX)
		return error_set(error, -EOPNOTSUPP, "its chunks of %" PRIu64 " bytes are larger than %u",
		    chunk, DM_SNAPSHOT_CHUNK_MAX);
	*ret = (struct dm_snapshot_geometry){.chunk = (uint32_t)chunk,
	    .area_max = (uint32_t)chunk / ENTRY,
	    .store_chunks = store_size / chunk,
	    .origin_chunks = origin_size / chunk + (origin_size % chunk != 0)};
	return 0;
}

bool dm_snapshot_area_at(const struct dm_snapshot_geometry *geometry, uint64_t area, uint64_t *ret_offset)
{
	uint64_t stride = geometry->area_max + 1;

	if (geometry->store_chunks <= HEADER_CHUNKS ||
	    area > (geometry->store_chunks - HEADER_CHUNKS - 1) / stride)
		return false;
	*ret_offset = (HEADER_CHUNKS + area * stride) * geometry->chunk;
	return true;
}

/* Whether the kernel can have put data there: not on the header, nor on an area, nor behind the end. */
static bool is_data_chunk(const struct dm_snapshot_geometry *geometry, uint64_t chunk)
{
	return chunk > HEADER_CHUNKS && chunk < geometry->store_chunks &&
	       (chunk - HEADER_CHUNKS) % (geometry->area_max + 1) != 0;
}

int dm_snapshot_area(const struct dm_snapshot_geometry *geometry, uint64_t area, const uint8_t *bytes,
    struct changes *changes, struct error *error)
{
	for (uint32_t i = 0; i < geometry->area_max; i++) {
		uint64_t old = get_le64(bytes + (size_t)i * ENTRY);
		uint64_t new = get_le64(bytes + (size_t)i * ENTRY + 8);

		if (new == 0)
			return 0;
		if (!is_data_chunk(geometry, new) || old >= geometry->origin_chunks)
			return error_set(error, -EBADMSG,
			    "its exception store is damaged: exception %u of area %" PRIu64
			    " says that chunk %" PRIu64 " of the origin lies in chunk %" PRIu64
			    " of the store",
			    i, area, old, new);
		if (changes_add(changes, old * geometry->chunk, geometry->chunk) < 0)
			return error_set(error, -ENOMEM, "out of memory for its changes");
	}
	return 1;
}
