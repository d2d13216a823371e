/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A volume in memory for unit tests: answers in a random order, tells holes as it was given them, counts what
 * was asked, fails where it is told to. Digests go through the digest reader, as in a real driver.
 */
#pragma once

#include "base/bytes.h"
#include "base/rand.h"
#include "block/digest_reader.h"
#include "block/driver.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "seed.h"

struct volume {
	struct block block;
	uint8_t *data;
	uint8_t *hole; /* a byte for each byte: 1 where the volume says that it has a hole */
	struct digest_reader *reader;
	struct rand *rand;
	struct list_node queue;
	struct ring_op tick;
	bool ticking;
	uint64_t fail_offset, fail_length; /* reads that touch it fail */
	int fail_res;
	bool fail_extents;
	/* what was asked */
	uint64_t read_bytes, digest_requests, digests, extents_requests;
	unsigned in_flight, in_flight_max;
};

static inline int volume_tell_extents(struct volume *volume, struct block_io *io)
{
	uint64_t at = io->offset, end = io->offset + io->length;
	uint32_t count = 0, max = 1 + (uint32_t)rand_below(volume->rand, io->extents_max);

	if (volume->fail_extents)
		return -EIO;
	while (at < end && count < max) {
		uint64_t from = at;

		while (at < end && volume->hole[at] == volume->hole[from])
			at++;
		io->extents[count++] =
		    (struct extent){from, at - from, volume->hole[from] ? EXTENT_ZERO : EXTENT_DATA};
	}
	return (int)count;
}

static inline int volume_perform(struct volume *volume, struct block_io *io)
{
	uint64_t end = io->offset + io->length;

	switch (io->op) {
	case BLOCK_READ:
		assert(end <= volume->block.info.size);
		assert(io->offset % volume->block.info.request_align == 0);
		assert(end % volume->block.info.request_align == 0 || end == volume->block.info.size);
		volume->read_bytes += io->length;
		if (volume->fail_res && io->offset < volume->fail_offset + volume->fail_length &&
		    volume->fail_offset < end)
			return volume->fail_res;
		memcpy(io->buf, volume->data + io->offset, io->length);
		return 0;
	case BLOCK_WRITE:
		memcpy(volume->data + io->offset, io->buf, io->length);
		memset(volume->hole + io->offset, 0, io->length);
		return 0;
	case BLOCK_EXTENTS:
		volume->extents_requests++;
		return volume_tell_extents(volume, io);
	default:
		return -EOPNOTSUPP;
	}
}

static inline void volume_tick(struct ring_op *op, int res)
{
	struct volume *volume = container_of(op, struct volume, tick);
	struct list_node *node = volume->queue.next;
	struct block_io *io;

	for (uint64_t skip = rand_below(volume->rand, volume->in_flight); skip > 0; skip--)
		node = node->next;
	list_remove(node);
	volume->in_flight--;
	if (volume->in_flight > 0)
		ring_defer(volume->block.ring, &volume->tick, 0);
	else
		volume->ticking = false;
	io = container_of(node, struct block_io, node);
	block_complete(io, volume_perform(volume, io));
}

static inline void volume_submit(struct block *block, struct block_io *io)
{
	struct volume *volume = container_of(block, struct volume, block);

	if (io->op == BLOCK_WRITE)
		digest_reader_forget(volume->reader, io->offset, io->length);
	if (io->op == BLOCK_DIGEST) {
		volume->digest_requests++;
		volume->digests += digest_count(io->length, io->granularity);
	}
	if (io->op == BLOCK_DIGEST || io->op == BLOCK_SHA256) {
		digest_reader_submit(volume->reader, io);
		return;
	}
	list_append(&volume->queue, &io->node);
	volume->in_flight++;
	if (volume->in_flight > volume->in_flight_max)
		volume->in_flight_max = volume->in_flight;
	if (!volume->ticking)
		ring_defer(volume->block.ring, &volume->tick, 0);
	volume->ticking = true;
}

static inline void volume_free(struct block *block)
{
	struct volume *volume = container_of(block, struct volume, block);

	assert(volume->in_flight == 0);
	digest_reader_free(volume->reader);
	free(volume->data);
	free(volume->hole);
	free(volume);
}

/* All zeros and no hole. */
static inline struct volume *volume_new(struct ring *ring, struct rand *rand, uint64_t size)
{
	static const struct block_driver driver = {
	    .name = "volume", .submit = volume_submit, .free = volume_free};
	struct volume *volume = calloc(1, sizeof(*volume));

	volume->block.driver = &driver;
	volume->block.ring = ring;
	volume->block.info = (struct block_info){.name = "volume",
	    .size = size,
	    .sector_size = 1,
	    .request_align = 1,
	    .writable = true,
	    .holes_trusted = true};
	volume->data = calloc(1, size + 1);
	volume->hole = calloc(1, size + 1);
	volume->rand = rand;
	volume->tick.done = volume_tick;
	list_init(&volume->queue);
	if (digest_reader_new(&volume->reader, &volume->block, NULL) < 0)
		abort();
	return volume;
}
