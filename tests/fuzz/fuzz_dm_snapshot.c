/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target: a COW device that may hold anything. What its list names lies inside the origin and is no more than the list can hold;
 * reading never goes past the device; a refusal has words. Input: the origin's size (4 bytes, in sectors of 512), then the device.
 */
#include "base/bytes.h"
#include "track/dm_snapshot_format.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Returns how many areas were read. */
static uint64_t read_list(const struct dm_snapshot_geometry *geometry, const uint8_t *device, uint64_t size,
    struct changes *changes)
{
	uint64_t area = 0, offset;

	for (; dm_snapshot_area_at(geometry, area, &offset); area++) {
		struct error error = {0};
		int res;

		assert(offset >= geometry->chunk && offset + geometry->chunk <= size);
		res = dm_snapshot_area(geometry, area, device + offset, changes, &error);
		assert(res == 0 || res == 1 || (res < 0 && error.text[0]));
		if (res <= 0)
			break;
	}
	return area + 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct dm_snapshot_geometry geometry;
	struct error error = {0};
	struct changes changes;
	struct range_set set;
	uint64_t origin, most;

	if (size < 4 + DM_SNAPSHOT_HEADER)
		return 0;
	origin = (uint64_t)get_le32(data) * 512;
	data += 4;
	size -= 4;
	if (dm_snapshot_header(data, size, origin, &geometry, &error) < 0) {
		assert(error.text[0]);
		return 0;
	}
	assert(geometry.chunk >= 512 && (geometry.chunk & (geometry.chunk - 1)) == 0);
	changes_init(&changes, origin);
	most = read_list(&geometry, data, size, &changes) * geometry.area_max * geometry.chunk;
	assert(changes_take(&changes, &set) == 0);
	assert(set.bytes <= most && set.bytes <= origin);
	for (size_t i = 0; i < set.count; i++)
		assert(set.ranges[i].length > 0 && set.ranges[i].offset + set.ranges[i].length <= origin);
	range_set_done(&set);
	return 0;
}
