/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What was written to is noted before it is written, and for good: how the write ends does not matter. So an answer from the saved
 * digests is true of the moment at which it was asked for, whoever writes, and in whatever order.
 */
#include "filter/known_digests.h"

#include "filter/filter.h"
#include "range/bitmap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define GRANULE      (64u << 10)
#define GRANULES_MAX (1ull << 27) /* 16 MiB of bits, if all of it is written */

struct known_digests {
	struct filter filter;
	struct block *saved;
	struct digest_key key;
	uint64_t granule;      /* bytes */
	struct bitmap written; /* granules */
};

static struct known_digests *known_of(struct block *block)
{
	return container_of(block, struct known_digests, filter.block);
}

static uint64_t first_of(const struct known_digests *known, const struct block_io *io)
{
	return io->offset / known->granule;
}

static uint64_t count_of(const struct known_digests *known, const struct block_io *io)
{
	return (io->offset + io->length - 1) / known->granule - first_of(known, io) + 1;
}

static void note_written(struct known_digests *known, const struct block_io *io)
{
	if (io->op == BLOCK_RESIZE)
		bitmap_set(&known->written, 0, known->written.bits);
	else if (block_op_writes(io->op) && io->length > 0)
		bitmap_set(&known->written, first_of(known, io), count_of(known, io));
}

static bool is_known(const struct known_digests *known, const struct block_io *io)
{
	uint64_t first = first_of(known, io);

	return io->op == BLOCK_DIGEST && !memcmp(io->key, &known->key, sizeof(known->key)) &&
	       bitmap_next_set(&known->written, first) >= first + count_of(known, io);
}

static void known_submit(struct block *block, struct block_io *io)
{
	struct known_digests *known = known_of(block);

	note_written(known, io);
	if (is_known(known, io))
		block_submit(known->saved, io);
	else
		filter_forward(&known->filter, io);
}

static void known_free(struct block *block)
{
	struct known_digests *known = known_of(block);

	filter_done(&known->filter);
	block_free(known->saved);
	bitmap_done(&known->written);
	explicit_bzero(&known->key, sizeof(known->key));
	free(known);
}

static const struct block_driver known_driver = {
    .name = "known digests",
    .submit = known_submit,
    .facts = filter_facts,
    .link_error = filter_link_error,
    .free = known_free,
};

int known_digests_new(struct block **ret, struct block *take_below, struct block *take_saved,
    const struct digest_key *key, struct error *error)
{
	struct known_digests *known = calloc(1, sizeof(*known));
	uint64_t size = take_below->info.size;

	if (known) {
		known->granule = GRANULE;
		while (size / known->granule >= GRANULES_MAX)
			known->granule *= 2;
	}
	if (!known || bitmap_init(&known->written, size / known->granule + 1) < 0) {
		free(known);
		block_free(take_saved);
		block_free(take_below);
		return error_set(error, -ENOMEM, "cannot use saved digests: out of memory");
	}
	filter_init(&known->filter, &known_driver, take_below);
	known->saved = take_saved;
	known->key = *key;
	*ret = &known->filter.block;
	return 0;
}
