/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See share.h. What is under way is the owner's to wait for: it passes by. */
#include "filter/share.h"

#include "filter/filter.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

static void share_submit(struct block *block, struct block_io *io)
{
	if (io->op == BLOCK_RESIZE)
		block_complete_later(block, io, io->length == block->info.size ? 0 : -EOPNOTSUPP);
	else
		filter_forward(filter_of(block), io);
}

static void share_free(struct block *block)
{
	free(filter_of(block));
}

static const struct block_driver share_driver = {
    .name = "share",
    .submit = share_submit,
    .facts = filter_facts,
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
	struct filter *filter = calloc(1, sizeof(*filter));

	assert(
	    size == below->info.size || (size < below->info.size && size % below->info.request_align == 0));
	if (!filter)
		return error_set(error, -ENOMEM, "out of memory");
	filter_init(filter, &share_driver, below);
	filter->block.info.size = size;
	filter->block.info.resizable = filter->block.info.zeroed = filter->block.info.created = false;
	*ret = &filter->block;
	return 0;
}
