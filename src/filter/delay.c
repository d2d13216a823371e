/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A request's own ring_op is its timer; when that ends the very request goes below. */
#include "filter/delay.h"

#include "base/rand.h"
#include "filter/filter.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

struct delay {
	struct filter filter;
	struct delay_options options;
	struct rand rand;
};

static void timer_done(struct ring_op *op, int res)
{
	struct block_io *io = container_of(op, struct block_io, ring_op);

	filter_forward(filter_of(io->block), io);
}

static void delay_submit(struct block *block, struct block_io *io)
{
	struct delay *delay = container_of(block, struct delay, filter.block);
	const struct delay_options *options = &delay->options;

	if (options->ops && !(options->ops & 1u << io->op)) {
		filter_forward(&delay->filter, io);
		return;
	}
	io->ring_op.opcode = RING_TIMER;
	io->ring_op.done = timer_done;
	io->ring_op.deadline_ns =
	    ring_now_ns(block->ring) + rand_between(&delay->rand, options->min_ns, options->max_ns);
	ring_submit(block->ring, &io->ring_op);
}

static void delay_free(struct block *block)
{
	struct delay *delay = container_of(block, struct delay, filter.block);

	filter_done(&delay->filter);
	free(delay);
}

static const struct block_driver delay_driver = {
    .name = "delay",
    .submit = delay_submit,
    .facts = filter_facts,
    .measure = filter_measure,
    .link_error = filter_link_error,
    .free = delay_free,
};

int delay_new(
    struct block **ret, struct block *take_below, const struct delay_options *options, struct error *error)
{
	struct delay *delay = calloc(1, sizeof(*delay));

	if (!delay) {
		block_free(take_below);
		return error_set(error, -ENOMEM, "cannot make a delay: out of memory");
	}
	filter_init(&delay->filter, &delay_driver, take_below);
	delay->options = *options;
	rand_init(&delay->rand, options->seed);
	*ret = &delay->filter.block;
	return 0;
}

void delay_set(struct block *block, const struct delay_options *options)
{
	assert(block->driver == &delay_driver);
	container_of(block, struct delay, filter.block)->options = *options;
}
