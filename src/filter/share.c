/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See share.h. What is under way is the owner's to wait for: it passes by. */
#include "filter/share.h"

#include "filter/filter.h"

#include <errno.h>
#include <stdlib.h>

static void share_submit(struct block *block, struct block_io *io)
{
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

int share_new(struct block **ret, struct block *below, struct error *error)
{
	struct filter *filter = calloc(1, sizeof(*filter));

	if (!filter)
		return error_set(error, -ENOMEM, "out of memory");
	filter_init(filter, &share_driver, below);
	*ret = &filter->block;
	return 0;
}
