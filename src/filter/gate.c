/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writes and flushes are counted, so they go below as children; the rest is handed on, but for those that may be kept. */
#include "filter/gate.h"

#include "filter/filter.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* In a request's driver_u64, while it is kept. */
enum { RESULT };

struct gate {
	struct filter filter;
	struct gate_options options;
	enum gate_mode mode;
	struct list_node waiting; /* block_io */
	struct list_node kept;    /* likewise, since the volume below fails */
	bool keeping;
	struct block *elsewhere; /* NULL: the volume below */
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

static void judge(struct gate *gate, struct block_io *io);

static bool is_read(const struct block_io *io)
{
	return !block_op_writes(io->op) && io->op != BLOCK_FLUSH && io->op != BLOCK_RESIZE;
}

/* `res`: what it has come back with; 0: it was not asked below, or is to be asked anew. */
static void keep(struct gate *gate, struct block_io *io, int res)
{
	io->driver_u64[RESULT] = (uint64_t)-res;
	list_append(&gate->kept, &io->node);
}

static void ended(struct gate *gate, bool counted)
{
	if (!counted)
		return;
	gate->under_way--;
	if (gate->under_way == 0 && gate->options.idle)
		gate->options.idle(gate->options.data);
}

static void answered(struct filter *filter, struct block_io *parent, int res)
{
	struct gate *gate = container_of(filter, struct gate, filter);
	bool reads = is_read(parent);
	/* Nor is it sure any more that what was read is what was written last. */
	bool again = (res < 0 || reads) && parent->op != BLOCK_RESIZE && gate->mode != GATE_SHUT;

	if (again && gate->keeping)
		keep(gate, parent, res < 0 ? res : 0);
	else if (again && gate->elsewhere)
		judge(gate, parent);
	else
		block_complete(parent, res);
	ended(gate, !reads);
}

static void answered_elsewhere(struct filter *filter, struct block_io *parent, int res)
{
	struct gate *gate = container_of(filter, struct gate, filter);
	bool reads = is_read(parent);

	if (res < 0 && res != -EOPNOTSUPP && gate->options.astray)
		gate->options.astray(gate->options.data, res);
	/* A trim is advice. */
	block_complete(parent, parent->op == BLOCK_TRIM && res == -EOPNOTSUPP ? 0 : res);
	ended(gate, !reads);
}

static void pass(struct gate *gate, struct block_io *io)
{
	if (io->op == BLOCK_FLUSH && (gate->mode == GATE_DURABLE || gate->mode == GATE_READ))
		io->flags |= BLOCK_DURABLE;
	gate->under_way += !is_read(io);
	if (gate->elsewhere && io->op != BLOCK_RESIZE)
		filter_child_of(&gate->filter, gate->elsewhere, io, answered_elsewhere);
	else
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
	} else if (gate->keeping) {
		keep(gate, io, 0);
	} else if (writes || io->op == BLOCK_FLUSH || gate->options.keeps) {
		pass(gate, io);
	} else {
		filter_forward(&gate->filter, io);
	}
}

static void gate_submit(struct block *block, struct block_io *io)
{
	judge(gate_of(block), io);
}

static void judge_anew(struct gate *gate, struct list_node *list)
{
	struct list_node waited, *node;

	list_take(&waited, list);
	while ((node = list_pop(&waited)))
		judge(gate, container_of(node, struct block_io, node));
}

void gate_set(struct block *block, enum gate_mode mode)
{
	struct gate *gate = gate_of(block);

	gate->mode = mode;
	gate->asked = false;
	judge_anew(gate, &gate->waiting);
	judge_anew(gate, &gate->kept);
}

void gate_keep(struct block *block)
{
	struct gate *gate = gate_of(block);

	assert(gate->options.keeps && !gate->elsewhere);
	gate->keeping = true;
}

void gate_divert(struct block *block, struct block *elsewhere)
{
	struct gate *gate = gate_of(block);
	struct list_node kept, *node;

	gate->keeping = false;
	gate->elsewhere = elsewhere;
	list_take(&kept, &gate->kept);
	while ((node = list_pop(&kept))) {
		struct block_io *io = container_of(node, struct block_io, node);
		int res = -(int)io->driver_u64[RESULT];

		/* Nobody asks twice for a flush that has failed: the second time it might succeed, and nothing be there. */
		if (res < 0 && !elsewhere)
			block_complete_later(block, io, res);
		else
			judge(gate, io);
	}
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

	assert(list_empty(&gate->waiting) && list_empty(&gate->kept) && gate->under_way == 0);
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
	list_init(&gate->kept);
	*ret = &gate->filter.block;
	return 0;
}
