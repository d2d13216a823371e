/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* block_submit() refuses what does not lie inside info.size: nothing is left to do but to hand on. */
#include "filter/head.h"

#include "filter/filter.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

static void head_submit(struct block *block, struct block_io *io)
{
	if (io->op == BLOCK_RESIZE)
		block_complete_later(block, io, io->length == block->info.size ? 0 : -EOPNOTSUPP);
	else
		filter_forward(filter_of(block), io);
}

static void head_free(struct block *block)
{
	filter_done(filter_of(block));
	free(filter_of(block));
}

/* What it is the head of may be larger now; its own size stays. */
static int head_measure(struct block *block, struct error *error)
{
	return block_measure(filter_of(block)->below, error);
}

static const struct block_driver head_driver = {
    .name = "head",
    .submit = head_submit,
    .facts = filter_facts,
    .measure = head_measure,
    .link_error = filter_link_error,
    .free = head_free,
};

int head_new(struct block **ret, struct block *take_below, uint64_t size, struct error *error)
{
	const struct block_info *info = block_info(take_below);
	struct filter *filter = calloc(1, sizeof(*filter));
	int res = 0;

	assert(size < info->size);
	if (!filter)
		res = error_set(error, -ENOMEM, "out of memory");
	else if (size % info->request_align)
		res = error_set(error, -EINVAL,
		    "%s takes blocks of %u bytes only, and %llu bytes end within one; name another target",
		    info->name, info->request_align, (unsigned long long)size);
	if (res < 0) {
		free(filter);
		block_free(take_below);
		return res;
	}
	filter_init(filter, &head_driver, take_below);
	filter->block.info.size = size;
	filter->block.info.resizable = false;
	*ret = &filter->block;
	return 0;
}
