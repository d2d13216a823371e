/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The receiving end. Order is kept by locks on ranges, first come, first served: a flush takes all of the volume, so it begins when
 * the writes ahead of it have ended, and those behind it when it has. Overlapping writes need it too: their sender may have acknowledged
 * the first before it came here.
 */
#include "filter/replicate.h"

#include "base/page_buffers.h"
#include "base/plant.h"
#include "filter/filter.h"
#include "range/range_lock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEMORY_DEFAULT (16u << 20)
#define BARE_MAX       4096u /* under way, before one without data waits for its end, too */

enum { LOCK_READ, LOCK_WRITE, LOCK_BARRIER, LOCK_KINDS };

struct receive {
	struct filter filter;
	struct range_locks locks;
	struct list_node spare;
	struct page_buffers buffers;
	bool early;
	uint64_t memory_max, held;         /* bytes */
	void (*told)(void *data, int res); /* of a failure */
	void *told_data;
	unsigned under_way;
	unsigned failures; /* of those before this one */
	int failed;
};

struct receive_io {
	struct receive *receive;
	struct list_node node;   /* in receive->spare */
	struct block_io *parent; /* NULL: it has its answer */
	struct range_lock lock;
	struct block_io child;
	void *copy;
};

static void end(struct receive_io *rio, int res)
{
	struct receive *receive = rio->receive;
	struct block_io *parent = rio->parent;

	/* What comes behind it must not reach the disk without it. */
	if (res < 0 && res != -EOPNOTSUPP && !receive->failed && rio->lock.kind != LOCK_READ &&
	    !PLANTED(PLANTED_FORGOTTEN_FAILURE)) {
		receive->failed = res;
		if (receive->told)
			receive->told(receive->told_data, res);
	}
	range_lock_drop(&rio->lock);
	if (rio->copy) {
		page_buffers_put(&receive->buffers, rio->copy, rio->child.length);
		receive->held -= rio->child.length;
	}
	rio->copy = NULL;
	receive->under_way--;
	list_append(&receive->spare, &rio->node);
	if (parent)
		block_complete(parent, res);
}

static void child_done(struct block_io *io, int res)
{
	struct receive_io *rio = container_of(io, struct receive_io, child);

	if (io->op == BLOCK_RESIZE)
		rio->receive->filter.block.info.size = rio->receive->filter.below->info.size;
	end(rio, res);
}

static void refuse(struct ring_op *op, int res)
{
	end(container_of(op, struct receive_io, child.ring_op), res);
}

static void granted(struct range_lock *lock)
{
	struct receive_io *rio = container_of(lock, struct receive_io, lock);
	struct receive *receive = rio->receive;

	if (receive->failed) {
		rio->child.ring_op.done = refuse;
		ring_defer(receive->filter.block.ring, &rio->child.ring_op, receive->failed);
		return;
	}
	block_submit(receive->filter.below, &rio->child);
}

static struct receive_io *receive_io_get(struct receive *receive)
{
	struct list_node *node = list_pop(&receive->spare);

	return node ? container_of(node, struct receive_io, node) : calloc(1, sizeof(struct receive_io));
}

static void take_lock(struct receive_io *rio)
{
	const struct block_io *io = &rio->child;

	rio->lock = (struct range_lock){
	    .offset = io->offset, .length = io->length, .kind = LOCK_READ, .granted = granted};
	if (block_op_writes(io->op)) {
		rio->lock.kind = LOCK_WRITE;
	} else if (io->op == BLOCK_FLUSH || io->op == BLOCK_RESIZE) {
		rio->lock.kind = LOCK_BARRIER;
		rio->lock.offset = 0;
		rio->lock.length = UINT64_MAX;
	}
	if (range_lock_take(&rio->receive->locks, &rio->lock))
		granted(&rio->lock);
}

/* The request is answered before it is done, if there is room for its data. */
static void answer_early(struct receive_io *rio)
{
	struct receive *receive = rio->receive;
	struct block_io *parent = rio->parent;

	if (parent->op == BLOCK_WRITE) {
		if (receive->held + parent->length > receive->memory_max)
			return;
		rio->copy = page_buffers_get(&receive->buffers, parent->length);
		if (!rio->copy)
			return;
		memcpy(rio->copy, parent->buf, parent->length);
		rio->child.buf = rio->copy;
		receive->held += parent->length;
	} else if (receive->under_way > BARE_MAX) {
		return;
	}
	rio->parent = NULL;
	block_complete_later(&receive->filter.block, parent, 0);
}

static void receive_submit(struct block *block, struct block_io *io)
{
	struct receive *receive = container_of(block, struct receive, filter.block);
	struct receive_io *rio = receive->failed ? NULL : receive_io_get(receive);

	if (!rio) {
		block_complete_later(block, io, receive->failed ? receive->failed : -ENOMEM);
		return;
	}
	receive->under_way++;
	rio->receive = receive;
	rio->parent = io;
	rio->child = *io;
	rio->child.done = child_done;
	if (receive->early && (io->op == BLOCK_WRITE || io->op == BLOCK_ZERO) && !(io->flags & BLOCK_FUA))
		answer_early(rio);
	take_lock(rio);
}

static void receive_free(struct block *block)
{
	struct receive *receive = container_of(block, struct receive, filter.block);
	struct list_node *node;

	while (receive->under_way > 0)
		if (ring_step(block->ring) < 0)
			break;
	while ((node = list_pop(&receive->spare)))
		free(container_of(node, struct receive_io, node));
	page_buffers_done(&receive->buffers);
	filter_done(&receive->filter);
	free(receive);
}

static int receive_facts(struct block *block, struct block_facts *ret, struct error *error)
{
	unsigned failures = container_of(block, struct receive, filter.block)->failures;
	int res = filter_facts(block, ret, error);
	size_t used = strlen(ret->boot);

	if (res == 0 && failures && used)
		snprintf(ret->boot + used, sizeof(ret->boot) - used, ",%u", failures);
	return res;
}

static const struct block_driver receive_driver = {
    .name = "replicate-receive",
    .submit = receive_submit,
    .facts = receive_facts,
    .measure = filter_measure,
    .link_error = filter_link_error,
    .free = receive_free,
};

void replicate_receive_make_durable(struct block *block)
{
	container_of(block, struct receive, filter.block)->early = false;
}

int replicate_receive_new(struct block **ret, struct block *take_below,
    const struct replicate_receive_options *options, struct error *error)
{
	const uint8_t write = PLANTED(PLANTED_OVERTAKING) ? 0 : 1u << LOCK_WRITE,
	              barrier = PLANTED(PLANTED_NO_BARRIER) ? 0 : 1u << LOCK_BARRIER;
	const uint8_t excludes[RANGE_LOCK_KINDS] = {
	    [LOCK_READ] = 1u << LOCK_WRITE,
	    [LOCK_WRITE] = (uint8_t)(1u << LOCK_READ | write | barrier),
	    [LOCK_BARRIER] = (uint8_t)(barrier ? 1u << LOCK_WRITE | barrier : 0),
	};
	struct receive *receive = calloc(1, sizeof(*receive));

	if (!receive) {
		block_free(take_below);
		return error_set(error, -ENOMEM, "cannot receive a replica's writes: out of memory");
	}
	filter_init(&receive->filter, &receive_driver, take_below);
	range_locks_init(&receive->locks, take_below->ring, excludes);
	list_init(&receive->spare);
	receive->told = options->failed;
	receive->told_data = options->data;
	receive->failures = options->failures;
	receive->early = options->ack == REPLICATE_RECEIVED;
	receive->memory_max = options->memory_max ? options->memory_max : MEMORY_DEFAULT;
	receive->buffers.kept_bytes_max = receive->memory_max;
	*ret = &receive->filter.block;
	return 0;
}
