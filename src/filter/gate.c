/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writes and flushes are counted, so they go below as children; the rest is handed on. */
#include "filter/gate.h"

#include "filter/filter.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

struct gate {
	struct filter filter;
	struct gate_options options;
	enum gate_mode mode;
	struct list_node waiting; /* block_io */
	unsigned under_way;
	bool asked;         /* wanted() is due, or was called, since the mode was set */
	struct ring_op ask; /* calls it from the loop */
};

static const struct block_driver gate_driver;

static struct gate *gate_of(const struct block *block)
{
	assert(block->driver == &gate_driver);
	return container_of((struct block *)block, struct gate, filter.block);
}

static void answered(struct filter *filter, struct block_io *parent, int res)
{
	struct gate *gate = container_of(filter, struct gate, filter);

	gate->under_way--;
	block_complete(parent, res);
	if (gate->under_way == 0 && gate->options.idle)
		gate->options.idle(gate->options.data);
}

static void pass(struct gate *gate, struct block_io *io)
{
	if (io->op == BLOCK_FLUSH && gate->mode == GATE_DURABLE)
		io->flags |= BLOCK_DURABLE;
	gate->under_way++;
	filter_child(&gate->filter, io, answered);
}

static void asked(struct ring_op *op, int res)
{
	struct gate *gate = container_of(op, struct gate, ask);

	if (gate->mode == GATE_WAIT)
		gate->options.wanted(gate->options.data);
}

static void judge(struct gate *gate, struct block_io *io)
{
	bool writes = block_op_writes(io->op) || io->op == BLOCK_RESIZE;

	if (gate->mode == GATE_SHUT || (gate->mode == GATE_READ && writes)) {
		block_complete_later(&gate->filter.block, io, gate->mode == GATE_SHUT ? -ESHUTDOWN : -EPERM);
	} else if (gate->mode == GATE_WAIT && writes) {
		list_append(&gate->waiting, &io->node);
		if (!gate->asked && !gate->ask.active)
			ring_defer(gate->filter.block.ring, &gate->ask, 0);
		gate->asked = true;
	} else if (writes || io->op == BLOCK_FLUSH) {
		pass(gate, io);
	} else {
		filter_forward(&gate->filter, io);
	}
}

static void gate_submit(struct block *block, struct block_io *io)
{
	judge(gate_of(block), io);
}

void gate_set(struct block *block, enum gate_mode mode)
{
	struct gate *gate = gate_of(block);
	struct list_node waited, *node;

	gate->mode = mode;
	gate->asked = false;
	list_init(&waited);
	while ((node = list_pop(&gate->waiting)))
		list_append(&waited, node);
	while ((node = list_pop(&waited)))
		judge(gate, container_of(node, struct block_io, node));
}

enum gate_mode gate_mode(const struct block *block)
{
	return gate_of(block)->mode;
}

bool gate_is_idle(const struct block *block)
{
	return gate_of(block)->under_way == 0;
}

static void gate_free(struct block *block)
{
	struct gate *gate = gate_of(block);

	assert(list_empty(&gate->waiting) && gate->under_way == 0);
	while (gate->ask.active)
		if (ring_step(block->ring) < 0)
			break;
	filter_done(&gate->filter);
	free(gate);
}

static const struct block_driver gate_driver = {
    .name = "gate",
    .submit = gate_submit,
    .facts = filter_facts,
    .measure = filter_measure,
    .link_error = filter_link_error,
    .free = gate_free,
};

int gate_new(
    struct block **ret, struct block *take_below, const struct gate_options *options, struct error *error)
{
	struct gate *gate = calloc(1, sizeof(*gate));

	if (!gate) {
		block_free(take_below);
		return error_set(error, -ENOMEM, "cannot make a gate: out of memory");
	}
	filter_init(&gate->filter, &gate_driver, take_below);
	gate->options = *options;
	gate->ask.done = asked;
	list_init(&gate->waiting);
	*ret = &gate->filter.block;
	return 0;
}
