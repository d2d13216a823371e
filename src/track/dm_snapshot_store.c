/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Areas lie far apart, each behind the data of the one before it: several are read at once. What lies behind the list's end is read and not looked at. */
#include "track/dm_snapshot_store.h"

#include "base/cleanup.h"
#include "track/dm_snapshot_format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define READS_MAX 16u

struct batch {
	struct block_io reads[READS_MAX];
	uint8_t *buffers;
	unsigned count, open;
	bool over;
	int res;
};

static void read_done(struct block_io *io, int res)
{
	struct batch *batch = io->user;

	if (res < 0 && batch->res == 0)
		batch->res = res;
	batch->over = --batch->open == 0;
}

/* Reads areas from `first` on, as many as there are and have room. Sets batch->count. */
static int read_areas(
    struct block *cow, const struct dm_snapshot_geometry *geometry, uint64_t first, struct batch *batch)
{
	unsigned most = DM_SNAPSHOT_CHUNK_MAX / geometry->chunk;
	uint64_t offset;
	int res;

	most = most > READS_MAX ? READS_MAX : most;
	batch->count = batch->open = 0;
	batch->over = false;
	while (batch->count < most && dm_snapshot_area_at(geometry, first + batch->count, &offset)) {
		batch->reads[batch->count] = (struct block_io){.op = BLOCK_READ,
		    .offset = offset,
		    .length = geometry->chunk,
		    .buf = batch->buffers + (size_t)batch->count * geometry->chunk,
		    .done = read_done,
		    .user = batch};
		batch->count++;
	}
	batch->open = batch->count;
	for (unsigned i = 0; i < batch->count; i++)
		block_submit(cow, &batch->reads[i]);
	res = batch->count ? ring_run_until(block_ring(cow), &batch->over) : 0;
	return res < 0 ? res : batch->res;
}

static int read_list(struct block *cow, const struct dm_snapshot_geometry *geometry, struct batch *batch,
    struct changes *changes, struct error *error)
{
	uint64_t area = 0;

	for (;;) {
		int res = read_areas(cow, geometry, area, batch);

		if (res < 0)
			return error_set(error, res, "its store cannot be read: %s", strerror(-res));
		/* The last area is full, and there is no room for another. */
		if (batch->count == 0)
			return 0;
		for (unsigned i = 0; i < batch->count; i++, area++) {
			res = dm_snapshot_area(geometry, area, batch->reads[i].buf, changes, error);
			if (res <= 0)
				return res;
		}
	}
}

static int read_header(
    struct block *cow, uint64_t origin, void *buf, struct dm_snapshot_geometry *ret, struct error *error)
{
	struct block_io io = {.op = BLOCK_READ, .length = 4096, .buf = buf};
	int res;

	if (block_info(cow)->size < io.length)
		return error_set(error, -EBADMSG, "its store is too small to be one");
	res = block_wait(cow, &io);
	if (res < 0)
		return error_set(error, res, "its store cannot be read: %s", strerror(-res));
	return dm_snapshot_header(buf, block_info(cow)->size, origin, ret, error);
}

int dm_snapshot_store_read(struct block *cow, struct changes *changes, struct error *error)
{
	_cleanup_(cleanup_free) void *memory = NULL;
	struct dm_snapshot_geometry geometry;
	struct batch batch = {0};
	int res;

	if (posix_memalign(&memory, 4096, DM_SNAPSHOT_CHUNK_MAX) != 0)
		return error_set(error, -ENOMEM, "out of memory to read its store");
	batch.buffers = memory;
	res = read_header(cow, changes->end, memory, &geometry, error);
	if (res == 0)
		res = read_list(cow, &geometry, &batch, changes, error);
	/* The kernel gives it up by the header: what was read before that is all, what was read after it may not be. */
	if (res == 0)
		res = read_header(cow, changes->end, memory, &geometry, error);
	return res;
}
