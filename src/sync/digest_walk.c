/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Digests of a whole volume: see digest_walk.h. Requests lie in a ring of places and are taken up in order.
 */
#include "sync/digest_walk.h"

#include "base/bytes.h"

#include <errno.h>
#include <stdlib.h>

#define AHEAD 12u

struct place {
	struct block_io io;
	bool done;
	int res;
	uint8_t digests[DIGEST_CHUNK / DIGEST_LEAF * DIGEST_BYTES];
};

struct walk {
	struct digest_walk *public;
	struct digest *digest; /* for holes */
	struct extent extent;  /* what is known about holes from here on */
	struct place places[AHEAD];
	uint64_t issued, taken; /* chunks */
};

static void place_done(struct block_io *io, int res)
{
	struct place *place = io->user;

	place->done = true;
	place->res = res;
}

static int fail(struct block *block, const char *what, uint64_t offset, int res, struct error *error)
{
	error_set(error, res, "cannot %s %s at byte %llu: %s", what, block_info(block)->name,
	    (unsigned long long)offset, strerror(-res));
	block_link_error(block, error);
	return res;
}

/* 1 when the source says that all of the range is a hole, else 0; or -errno with words. */
static int is_hole(struct walk *walk, uint64_t offset, uint64_t length, struct error *error)
{
	struct digest_walk *public = walk->public;
	struct extent *extent = &walk->extent;

	if (public->ignore_holes)
		return 0;
	while (extent->offset + extent->length <= offset) {
		struct block_io io = {.op = BLOCK_EXTENTS,
		    .offset = offset,
		    .length = block_info(public->block)->size - offset,
		    .extents = extent,
		    .extents_max = 1};
		int res = block_wait(public->block, &io);

		if (res < 0)
			return fail(public->block, "learn where there is data in", offset, res, error);
	}
	return extent->kind == EXTENT_ZERO && extent->offset + extent->length >= offset + length;
}

static int issue(struct walk *walk, struct error *error)
{
	struct digest_walk *public = walk->public;
	struct place *place = &walk->places[walk->issued % AHEAD];
	uint64_t offset = walk->issued * DIGEST_CHUNK;
	uint64_t length = min_u64(DIGEST_CHUNK, block_info(public->block)->size - offset);
	int hole = is_hole(walk, offset, length, error);

	if (hole < 0)
		return hole;
	place->io = (struct block_io){.op = BLOCK_DIGEST,
	    .offset = offset,
	    .length = length,
	    .granularity = public->granularity,
	    .key = public->key,
	    .buf = place->digests,
	    .done = place_done,
	    .user = place};
	place->done = hole;
	place->res = 0;
	walk->issued++;
	if (hole)
		digest_zeroes(walk->digest, length, public->granularity, place->digests);
	else
		block_submit(public->block, &place->io);
	return 0;
}

static int take(struct walk *walk, struct error *error)
{
	struct digest_walk *public = walk->public;
	struct place *place = &walk->places[walk->taken % AHEAD];
	int res = ring_run_until(block_ring(public->block), &place->done);

	if (res < 0)
		return error_set(error, res, "the event loop failed: %s", strerror(-res));
	walk->taken++;
	if (place->res < 0)
		return fail(public->block, "digest", place->io.offset, place->res, error);
	public->position = place->io.offset + place->io.length;
	return public->got(public->data, place->io.offset, place->io.length, place->digests);
}

/* No request may outlive the walk. */
static void drain(struct walk *walk)
{
	for (; walk->taken < walk->issued; walk->taken++)
		ring_run_until(block_ring(walk->public->block), &walk->places[walk->taken % AHEAD].done);
}

int digest_walk(struct digest_walk *public, struct error *error)
{
	uint64_t chunks = (block_info(public->block)->size + DIGEST_CHUNK - 1) / DIGEST_CHUNK;
	struct walk *walk = calloc(1, sizeof(*walk));
	int res;

	if (!walk)
		return error_set(error, -ENOMEM, "out of memory");
	walk->public = public;
	res = digest_new(&walk->digest, public->key, error);
	while (res == 0 && walk->taken < chunks) {
		if (public->cancelled && *public->cancelled)
			res = error_set(error, -ECANCELED, "interrupted");
		else if (walk->issued < chunks && walk->issued - walk->taken < AHEAD)
			res = issue(walk, error);
		else
			res = take(walk, error);
	}
	drain(walk);
	digest_free(walk->digest);
	free(walk);
	return res;
}

int digest_sha256(
    struct block *block, const bool *cancelled, uint64_t *ret_position, uint8_t ret[32], struct error *error)
{
	uint64_t size = block_info(block)->size, at = 0;

	do {
		struct block_io io = {
		    .op = BLOCK_SHA256, .offset = at, .length = min_u64(DIGEST_CHUNK, size - at), .buf = ret};
		int res = block_wait(block, &io);

		if (res < 0)
			return fail(block, "digest", at, res, error);
		if (cancelled && *cancelled)
			return error_set(error, -ECANCELED, "interrupted");
		at += io.length;
		*ret_position = at;
	} while (at < size);
	return 0;
}
