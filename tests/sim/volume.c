/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Owns the file driver below, as filters do. */
#include "volume.h"

#include "base/bytes.h"
#include "block/file.h"
#include "filter/filter.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define PAGE 4096u

struct volume {
	struct filter filter;
	struct volume_options options;
	struct block_io late_flush; /* PLANT_JOURNAL_BEFORE_FLUSH: goes on behind the caller's back */
	bool flushing;
};

static struct volume *volume_of(struct block *block)
{
	return container_of(block, struct volume, filter.block);
}

/* A page that may hold what is not zero is never a hole; of the others some are. */
static enum extent_kind kind_of(struct volume *volume, uint64_t offset, uint64_t length)
{
	struct rand rand;
	uint64_t size;
	const uint8_t *data = ring_sim_disk_data(volume->options.sim, volume->options.fd, &size);

	if (volume->options.late_holes)
		data = ring_sim_disk_stable(volume->options.sim, volume->options.fd, &size);
	if (volume->options.hole_seed == 0 || !bytes_are_zero(data + offset, length))
		return EXTENT_DATA;
	rand_init(&rand, volume->options.hole_seed + offset / PAGE / 4);
	return rand_below(&rand, 4) ? EXTENT_ZERO : EXTENT_DATA;
}

static void answer_extents(struct volume *volume, struct block_io *io)
{
	uint64_t at = io->offset, end = io->offset + io->length, n;
	uint32_t count = 0;

	for (; at < end; at += n) {
		enum extent_kind kind;

		n = min_u64(PAGE - at % PAGE, end - at);
		kind = kind_of(volume, at, n);
		if (count && io->extents[count - 1].kind == kind)
			io->extents[count - 1].length += n;
		else if (count == io->extents_max)
			break;
		else
			io->extents[count++] = (struct extent){at, n, kind};
	}
	block_complete_later(&volume->filter.block, io, (int)count);
}

static void late_flush_done(struct block_io *io, int res)
{
	((struct volume *)io->user)->flushing = false;
}

static void flush_too_late(struct volume *volume, struct block_io *io)
{
	block_complete_later(&volume->filter.block, io, 0);
	if (volume->flushing)
		return;
	volume->flushing = true;
	volume->late_flush = (struct block_io){.op = BLOCK_FLUSH, .done = late_flush_done, .user = volume};
	block_submit(volume->filter.below, &volume->late_flush);
}

static void swallow(struct filter *filter, struct block_io *io, int res)
{
	block_complete(io, 0);
}

/* True when the planted mistake took the request. */
static bool do_wrong(struct volume *volume, struct block_io *io)
{
	bool writes = io->op == BLOCK_WRITE || io->op == BLOCK_ZERO;

	switch (volume->options.plant) {
	case PLANT_JOURNAL_BEFORE_FLUSH:
		if (io->op == BLOCK_FLUSH)
			flush_too_late(volume, io);
		return io->op == BLOCK_FLUSH;
	case PLANT_NO_FLUSH:
		if (io->op == BLOCK_FLUSH)
			block_complete_later(&volume->filter.block, io, 0);
		return io->op == BLOCK_FLUSH;
	case PLANT_LOST_WRITE:
		if (!writes || !rand_one_in(ring_sim_rand(volume->options.sim), 20))
			return false;
		block_complete_later(&volume->filter.block, io, 0);
		return true;
	case PLANT_SWALLOWED_ERROR:
		if (writes)
			filter_child(&volume->filter, io, swallow);
		return writes;
	default:
		return false;
	}
}

static void volume_submit(struct block *block, struct block_io *io)
{
	struct volume *volume = volume_of(block);

	if (volume->options.writable && do_wrong(volume, io))
		return;
	if (io->op == BLOCK_EXTENTS)
		answer_extents(volume, io);
	else
		filter_forward(&volume->filter, io);
}

static int volume_facts(struct block *block, struct block_facts *ret, struct error *error)
{
	const struct volume_options *options = &volume_of(block)->options;

	snprintf(ret->id, sizeof(ret->id), "sim:%s", options->name);
	snprintf(ret->mark, sizeof(ret->mark), "generation %llu", (unsigned long long)options->generation);
	if (options->boot)
		snprintf(ret->boot, sizeof(ret->boot), "boot %llu", (unsigned long long)options->boot);
	ret->allocated = block->info.size;
	return 0;
}

/* The disk may have become larger; the driver below cannot ask it. */
static int volume_measure(struct block *block, struct error *error)
{
	struct volume *volume = volume_of(block);
	int res = block_measure(volume->filter.below, error);

	if (res == 0)
		ring_sim_disk_data(volume->options.sim, volume->options.fd, &block->info.size);
	volume->filter.below->info.size = block->info.size;
	return res;
}

static void volume_free(struct block *block)
{
	struct volume *volume = volume_of(block);

	while (volume->flushing)
		if (ring_sim_step(volume->options.sim) < 0)
			abort();
	filter_done(&volume->filter);
	free(volume);
}

static const struct block_driver volume_driver = {
    .name = "sim",
    .submit = volume_submit,
    .facts = volume_facts,
    .measure = volume_measure,
    .free = volume_free,
};

int volume_new(
    struct block **ret, struct ring *ring, const struct volume_options *options, struct error *error)
{
	struct volume *volume = calloc(1, sizeof(*volume));
	struct file_options file = {.fd = options->fd,
	    .fd_direct = options->fd_direct,
	    .direct_align = options->direct_align,
	    .device = options->device};
	struct block *below;
	int res;

	if (!volume)
		return error_set(error, -ENOMEM, "out of memory");
	snprintf(file.info.name, sizeof(file.info.name), "%s", options->name);
	ring_sim_disk_data(options->sim, options->fd, &file.info.size);
	file.info.sector_size = options->sector_size;
	file.info.request_align = 1;
	file.info.writable = options->writable;
	file.info.holes_trusted = options->late_holes;
	file.info.zeroed = file.info.created = options->zeroed;
	res = file_new(&below, ring, &file, error);
	if (res < 0) {
		free(volume);
		return res;
	}
	filter_init(&volume->filter, &volume_driver, below);
	volume->options = *options;
	*ret = &volume->filter.block;
	return 0;
}
