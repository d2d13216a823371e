/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * See share.h. block_submit() refuses what does not lie inside info.size: nothing is left to do but to hand on. What is under way is the
 * owner's to wait for: it passes by.
 */
#include "filter/share.h"

#include "filter/filter.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

struct share {
	struct filter filter;
	bool owns; /* the volume below */
};

static void share_submit(struct block *block, struct block_io *io)
{
	if (io->op == BLOCK_RESIZE)
		block_complete_later(block, io, io->length == block->info.size ? 0 : -EOPNOTSUPP);
	else
		filter_forward(filter_of(block), io);
}

static void share_free(struct block *block)
{
	struct share *share = container_of(block, struct share, filter.block);

	if (share->owns)
		filter_done(&share->filter);
	free(share);
}

/* What it is a part of may be larger now; its own size stays. */
static int measure_below(struct block *block, struct error *error)
{
	return block_measure(filter_of(block)->below, error);
}

static const struct block_driver share_driver = {
    .name = "share",
    .submit = share_submit,
    .facts = filter_facts,
    .measure = measure_below,
    .link_error = filter_link_error,
    .free = share_free,
};

void share_measure(struct block *block, uint64_t size)
{
	assert(block->driver == &share_driver && size <= filter_of(block)->below->info.size);
	block->info.size = size;
}

int share_new(struct block **ret, struct block *below, uint64_t size, struct error *error)
{
	struct share *share = calloc(1, sizeof(*share));

	assert(
	    size == below->info.size || (size < below->info.size && size % below->info.request_align == 0));
	if (!share)
		return error_set(error, -ENOMEM, "out of memory");
	filter_init(&share->filter, &share_driver, below);
	share->filter.block.info.size = size;
	share->filter.block.info.resizable = false;
	share->filter.block.info.zeroed = share->filter.block.info.created = false;
	/* Others may write to it, and what they wrote not be written out when its holes are asked for. */
	share->filter.block.info.holes_trusted = false;
	*ret = &share->filter.block;
	return 0;
}

int share_take(struct block **ret, struct block *take_below, uint64_t size, struct error *error)
{
	const struct block_info *info = block_info(take_below);
	int res;

	assert(size < info->size);
	if (size % info->request_align)
		res = error_set(error, -EINVAL,
		    "%s takes blocks of %u bytes only, and %llu bytes end within one; name another target",
		    info->name, info->request_align, (unsigned long long)size);
	else
		res = share_new(ret, take_below, size, error);
	if (res < 0) {
		block_free(take_below);
		return res;
	}
	container_of(*ret, struct share, filter.block)->owns = true;
	(*ret)->info.zeroed = info->zeroed;
	(*ret)->info.created = info->created;
	(*ret)->info.holes_trusted = info->holes_trusted;
	return 0;
}
