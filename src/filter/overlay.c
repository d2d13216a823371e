/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads go to either side, run by run. A write or zero goes in at most three pieces: the partial blocks at its ends, whose rest is
 * read from below first, and the whole ones between. Those that share a block wait for each other, in order of arrival. A block's
 * bit is set once its data are in the upper volume, and never cleared, so that a read may look at it at any time.
 */
#include "filter/overlay.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "block/digest_reader.h"
#include "block/file.h"
#include "filter/filter.h"
#include "filter/overlay_map.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct overlay {
	struct filter filter;
	struct block *upper;
	struct overlay_map *map;
	struct digest_reader *digests;
	struct list_node writes; /* works that write, in order of arrival */
	struct list_node spare;
};

/* A request that is not one piece. */
struct work {
	struct list_node node; /* in `writes` or `spare`; a read's in none */
	struct overlay *overlay;
	struct block_io *io;   /* the caller's */
	struct block_io part;  /* under way for it */
	uint64_t done, length; /* bytes of io; those that `part` is for */
	bool started;
	_Alignas(OVERLAY_BLOCK) uint8_t block[OVERLAY_BLOCK];
};

static struct overlay *overlay_of(struct block *block)
{
	return container_of(block, struct overlay, filter.block);
}

static void step(struct work *work);

/* Works that share a block */

static bool must_wait(const struct work *work)
{
	uint64_t begin = align_down(work->io->offset, OVERLAY_BLOCK);
	uint64_t end = align_up(work->io->offset + work->io->length, OVERLAY_BLOCK);

	list_for_each (node, &work->overlay->writes) {
		const struct work *earlier = container_of(node, struct work, node);

		if (earlier == work)
			return false;
		if (align_down(earlier->io->offset, OVERLAY_BLOCK) < end &&
		    begin < align_up(earlier->io->offset + earlier->io->length, OVERLAY_BLOCK))
			return true;
	}
	return false;
}

static void start_waiting(struct overlay *overlay)
{
	list_for_each (node, &overlay->writes) {
		struct work *work = container_of(node, struct work, node);

		if (work->started || must_wait(work))
			continue;
		work->started = true;
		step(work);
	}
}

static void finish(struct work *work, int res)
{
	struct overlay *overlay = work->overlay;
	struct block_io *io = work->io;

	list_remove(&work->node);
	list_append(&overlay->spare, &work->node);
	if (block_op_writes(io->op)) {
		digest_reader_forget(overlay->digests, io->offset, io->length);
		start_waiting(overlay);
	}
	block_complete(io, res);
}

/* Pieces */

static void submit_part(
    struct work *work, struct block *block, enum block_op op, uint64_t offset, uint64_t length, void *buf)
{
	work->part.op = op;
	work->part.flags = op == BLOCK_ZERO ? work->io->flags & ~(uint32_t)BLOCK_FUA : 0;
	work->part.offset = offset;
	work->part.length = length;
	work->part.buf = buf;
	block_submit(block, &work->part);
}

static void part_done(struct block_io *part, int res)
{
	struct work *work = part->user;

	if (res == 0 && (work->io->op == BLOCK_WRITE || work->io->op == BLOCK_ZERO))
		res = overlay_map_set(work->overlay->map, part->offset, part->offset + part->length);
	work->done += work->length;
	if (res < 0 || work->done == work->io->length)
		finish(work, res);
	else
		step(work);
}

static void extents_came(struct block_io *part, int res)
{
	finish(part->user, res);
}

/* The block around a piece came from below: with the piece in it, it goes into the upper volume. */
static void block_came(struct block_io *part, int res)
{
	struct work *work = part->user;
	struct block_io *io = work->io;
	uint8_t *inside = work->block + (io->offset + work->done - part->offset);

	if (res < 0) {
		finish(work, res);
		return;
	}
	if (io->op == BLOCK_WRITE)
		memcpy(inside, (uint8_t *)io->buf + work->done, work->length);
	else
		memset(inside, 0, work->length);
	part->done = part_done;
	submit_part(work, work->overlay->upper, BLOCK_WRITE, part->offset, part->length, work->block);
}

static void step_write(struct work *work, uint64_t at, uint64_t end)
{
	struct overlay *overlay = work->overlay;
	uint64_t size = overlay->filter.block.info.size, begin = align_down(at, OVERLAY_BLOCK);
	uint64_t whole_end = end == size ? end : align_down(end, OVERLAY_BLOCK);
	uint64_t next = min_u64(end, begin + OVERLAY_BLOCK);
	bool whole = at == begin && whole_end > at;

	if (whole || overlay_map_has(overlay->map, at)) {
		work->length = (whole ? whole_end : next) - at;
		work->part.done = part_done;
		submit_part(work, overlay->upper, work->io->op, at, work->length,
		    work->io->buf ? (uint8_t *)work->io->buf + work->done : NULL);
		return;
	}
	work->length = next - at;
	work->part.done = block_came;
	submit_part(work, overlay->filter.below, BLOCK_READ, begin, min_u64(OVERLAY_BLOCK, size - begin),
	    work->block);
}

static void step_read(struct work *work, uint64_t at, uint64_t end)
{
	struct overlay *overlay = work->overlay;
	struct block_io *io = work->io;
	bool upper;

	work->length = overlay_map_run(overlay->map, at, end, &upper) - at;
	work->part.done = io->op == BLOCK_READ ? part_done : extents_came;
	work->part.extents = io->extents;
	work->part.extents_max = io->extents_max;
	submit_part(work, upper ? overlay->upper : overlay->filter.below, io->op, at, work->length,
	    io->op == BLOCK_READ ? (uint8_t *)io->buf + work->done : NULL);
}

static void step(struct work *work)
{
	struct block_io *io = work->io;
	uint64_t at = io->offset + work->done, end = io->offset + io->length;

	if (!block_op_writes(io->op)) {
		step_read(work, at, end);
	} else if (io->op == BLOCK_TRIM) {
		/* What is only below stays as it is. */
		work->length = io->length;
		work->part.done = part_done;
		submit_part(work, work->overlay->upper, BLOCK_TRIM, at, io->length, NULL);
	} else {
		step_write(work, at, end);
	}
}

static void begin_work(struct overlay *overlay, struct block_io *io)
{
	struct list_node *node = list_pop(&overlay->spare);
	void *memory = NULL;
	struct work *work;

	if (!node && posix_memalign(&memory, OVERLAY_BLOCK, sizeof(*work)) != 0) {
		block_complete_later(&overlay->filter.block, io, -ENOMEM);
		return;
	}
	work = node ? container_of(node, struct work, node) : memory;
	memset(work, 0, offsetof(struct work, block));
	work->overlay = overlay;
	work->io = io;
	work->part.user = work;
	list_init(&work->node);
	if (block_op_writes(io->op))
		list_append(&overlay->writes, &work->node);
	work->started = !block_op_writes(io->op) || !must_wait(work);
	if (work->started)
		step(work);
}

/* The driver */

/* One side knows all of it: the request goes there as it is. Else a read goes in pieces; of extents the first run will do. */
static void submit_by_run(struct overlay *overlay, struct block_io *io)
{
	uint64_t end = io->offset + io->length;
	bool upper;

	if (overlay_map_run(overlay->map, io->offset, end, &upper) < end)
		begin_work(overlay, io);
	else
		block_submit(upper ? overlay->upper : overlay->filter.below, io);
}

static void overlay_submit(struct block *block, struct block_io *io)
{
	struct overlay *overlay = overlay_of(block);

	switch (io->op) {
	case BLOCK_READ:
	case BLOCK_EXTENTS:
		submit_by_run(overlay, io);
		return;
	case BLOCK_WRITE:
	case BLOCK_ZERO:
	case BLOCK_TRIM:
		digest_reader_forget(overlay->digests, io->offset, io->length);
		begin_work(overlay, io);
		return;
	case BLOCK_FLUSH:
		block_complete_later(block, io, 0);
		return;
	case BLOCK_DIGEST:
	case BLOCK_SHA256:
		digest_reader_submit(overlay->digests, io);
		return;
	case BLOCK_RESIZE:
		block_complete_later(block, io, io->length == block->info.size ? 0 : -EOPNOTSUPP);
		return;
	}
	assert(!"a known operation");
}

static void overlay_free(struct block *block)
{
	struct overlay *overlay = overlay_of(block);
	struct list_node *node;

	assert(list_empty(&overlay->writes));
	while ((node = list_pop(&overlay->spare)))
		free(container_of(node, struct work, node));
	digest_reader_free(overlay->digests);
	overlay_map_free(overlay->map);
	block_free(overlay->upper);
	filter_done(&overlay->filter);
	free(overlay);
}

static const struct block_driver overlay_driver = {
    .name = "overlay",
    .submit = overlay_submit,
    .facts = filter_facts,
    .link_error = filter_link_error,
    .free = overlay_free,
};

int overlay_new(struct block **ret, struct block *take_below, struct block *take_upper, struct error *error)
{
	struct overlay *overlay = calloc(1, sizeof(*overlay));
	struct block_info *info;
	int res;

	assert(
	    block_info(take_upper)->writable && block_info(take_upper)->size >= block_info(take_below)->size);
	if (!overlay) {
		block_free(take_below);
		block_free(take_upper);
		return error_set(error, -ENOMEM, "cannot make an overlay: out of memory");
	}
	filter_init(&overlay->filter, &overlay_driver, take_below);
	overlay->upper = take_upper;
	info = &overlay->filter.block.info;
	info->writable = info->fua = info->no_hole = true;
	info->zeroed = info->created = info->resizable = false;
	list_init(&overlay->writes);
	list_init(&overlay->spare);
	res = overlay_map_new(&overlay->map, info->size);
	if (res == 0)
		res = digest_reader_new(&overlay->digests, &overlay->filter.block, error);
	if (res < 0) {
		overlay_free(&overlay->filter.block);
		return error_set(error, res, "cannot make an overlay: out of memory");
	}
	*ret = &overlay->filter.block;
	return 0;
}

struct overlay_map *overlay_map_of(struct block *overlay)
{
	assert(overlay->driver == &overlay_driver);
	return overlay_of(overlay)->map;
}

/* A file without a name. */
static int make_file(const char *folder, struct error *error)
{
	char path[4200];
	int fd = open(folder, O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
		snprintf(path, sizeof(path), "%.4096s/blkmove-overlay-XXXXXX", folder);
		fd = mkostemp(path, O_CLOEXEC);
		if (fd >= 0)
			unlink(path);
	}
	if (fd < 0)
		return error_set(error, -errno,
		    "cannot make an overlay's file in %s: %s; name a folder that may be written in "
		    "--overlay-dir",
		    folder, strerror(errno));
	return fd;
}

int overlay_open(struct block **ret, struct block *take_below, const char *folder, struct error *error)
{
	const struct block_info *below = block_info(take_below);
	struct file_options file = {.fd_direct = -1,
	    .info = {.size = below->size, .sector_size = 1, .request_align = 1, .writable = true}};
	struct block *upper;
	int res = 0;

	snprintf(file.info.name, sizeof(file.info.name), "the overlay of %.200s", below->name);
	file.fd = make_file(folder, error);
	if (file.fd < 0) {
		res = file.fd;
	} else if (ftruncate(file.fd, (off_t)below->size) < 0) {
		res = error_set(error, -errno,
		    "cannot make an overlay of %llu bytes in %s: %s; name a folder on another file system in "
		    "--overlay-dir",
		    (unsigned long long)below->size, folder, strerror(errno));
		close(file.fd);
	} else {
		res = file_new(&upper, take_below->ring, &file, error);
	}
	if (res < 0) {
		block_free(take_below);
		return res;
	}
	return overlay_new(ret, take_below, upper, error);
}
