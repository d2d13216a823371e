/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See dirty_compare.h. */
#include "sync/dirty_compare.h"

#include <assert.h>
#include <string.h>

static void ended(struct block_io *io, int res)
{
	struct dirty_compare *compare = io->user;
	size_t bytes = digest_count(io->length, DIGEST_LEAF) * DIGEST_BYTES;

	compare->failed = compare->failed || res < 0;
	if (io == &compare->ios[0] && res < 0)
		compare->source_res = res;
	if (--compare->pending > 0)
		return;
	compare->done(compare, compare->failed || memcmp(compare->digests[0], compare->digests[1], bytes));
}

void dirty_compare_start(struct dirty_compare *compare, struct block *source, struct block *target,
    const struct digest_key *key, uint64_t offset, uint64_t length)
{
	assert(length > 0 && offset / DIGEST_CHUNK == (offset + length - 1) / DIGEST_CHUNK);
	compare->pending = 2;
	compare->failed = false;
	compare->source_res = 0;
	for (unsigned i = 0; i < 2; i++) {
		compare->ios[i] = (struct block_io){.op = BLOCK_DIGEST,
		    .offset = offset,
		    .length = length,
		    .buf = compare->digests[i],
		    .granularity = DIGEST_LEAF,
		    .key = key,
		    .done = ended,
		    .user = compare};
		block_submit(i == 0 ? source : target, &compare->ios[i]);
	}
}
