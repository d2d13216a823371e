/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Arithmetic about room: see snapshot_fill.h. */
#include "snapshot/snapshot_fill.h"

#include "base/bytes.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#define LEAST_BYTES (64u << 20)

static int percent(uint64_t used, uint64_t all)
{
	if (used >= all)
		return 100;
	/* Rounded up: 89.1 % is 90. */
	return (int)((double)used * 100 / (double)all + 0.999999);
}

int snapshot_fill_store(const char *status)
{
	uint64_t used, all;

	if (sscanf(status, "%" SCNu64 "/%" SCNu64, &used, &all) != 2)
		return -ESTALE;
	return percent(used, all);
}

int snapshot_fill_pool(const char *status, const char **ret_which)
{
	uint64_t metadata[2], data[2];
	int of_metadata, of_data;

	if (sscanf(status, "%*u %" SCNu64 "/%" SCNu64 " %" SCNu64 "/%" SCNu64, &metadata[0], &metadata[1],
	        &data[0], &data[1]) != 4)
		return -EIO;
	of_metadata = percent(metadata[0], metadata[1]);
	of_data = percent(data[0], data[1]);
	*ret_which = of_metadata > of_data ? "metadata" : "data";
	return of_metadata > of_data ? of_metadata : of_data;
}

uint64_t snapshot_store_extents(uint64_t origin, uint64_t free, uint64_t extent_bytes, bool has_base)
{
	uint64_t wanted = max_u64(origin / 5, (LEAST_BYTES + extent_bytes - 1) / extent_bytes);
	uint64_t all = origin + origin / 100 + 2; /* each chunk once, and its place in the list */
	uint64_t extents;

	wanted = min_u64(wanted, all);
	extents = min_u64(wanted, has_base ? free : free / 2);
	return extents < wanted && extents < (origin + 49) / 50 ? 0 : extents;
}
