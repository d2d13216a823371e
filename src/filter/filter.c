/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Children are made when first needed and kept by the filter until it is freed. */
#include "filter/filter.h"

#include <errno.h>
#include <stdlib.h>

struct child {
	struct block_io io;
	struct list_node node; /* in filter->spare */
	struct filter *filter;
	struct block_io *parent;
	filter_answered *answered;
};

void filter_init(struct filter *filter, const struct block_driver *driver, struct block *take_below)
{
	filter->block.driver = driver;
	filter->block.ring = take_below->ring;
	filter->block.info = take_below->info;
	filter->below = take_below;
	list_init(&filter->spare);
}

void filter_done(struct filter *filter)
{
	struct list_node *node;

	while ((node = list_pop(&filter->spare)))
		free(container_of(node, struct child, node));
	block_free(filter->below);
}

void filter_forward(struct filter *filter, struct block_io *io)
{
	block_submit(filter->below, io);
}

static void child_done(struct block_io *io, int res)
{
	struct child *child = container_of(io, struct child, io);
	struct filter *filter = child->filter;

	list_append(&filter->spare, &child->node);
	/* A new size below is a new size here. */
	if (io->op == BLOCK_RESIZE)
		filter->block.info.size = filter->below->info.size;
	child->answered(filter, child->parent, res);
}

void filter_child(struct filter *filter, struct block_io *parent, filter_answered *answered)
{
	filter_child_of(filter, filter->below, parent, answered);
}

void filter_child_of(
    struct filter *filter, struct block *block, struct block_io *parent, filter_answered *answered)
{
	struct list_node *node = list_pop(&filter->spare);
	struct child *child = node ? container_of(node, struct child, node) : calloc(1, sizeof(*child));

	if (!child) {
		block_complete_later(&filter->block, parent, -ENOMEM);
		return;
	}
	child->filter = filter;
	child->parent = parent;
	child->answered = answered;
	child->io.op = parent->op;
	child->io.flags = parent->flags;
	child->io.offset = parent->offset;
	child->io.length = parent->length;
	child->io.buf = parent->buf;
	child->io.extents = parent->extents;
	child->io.extents_max = parent->extents_max;
	child->io.granularity = parent->granularity;
	child->io.key = parent->key;
	child->io.done = child_done;
	block_submit(block, &child->io);
}

int filter_facts(struct block *block, struct block_facts *ret, struct error *error)
{
	return block_facts(filter_of(block)->below, ret, error);
}

int filter_link_error(struct block *block, struct error *error)
{
	return block_link_error(filter_of(block)->below, error);
}

int filter_measure(struct block *block, struct error *error)
{
	struct filter *filter = filter_of(block);
	int res = block_measure(filter->below, error);

	if (res == 0)
		block->info.size = filter->below->info.size;
	return res;
}
