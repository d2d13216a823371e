/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The sending end. Everything goes below in the order of its coming, and the remote volume's frames keep it; a write with
 * BLOCK_FUA is a write and a flush right behind it, so that both take one round trip.
 */
#include "filter/replicate.h"

#include "base/page_buffers.h"
#include "base/plant.h"
#include "filter/filter.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE_DEFAULT (16u << 20)
#define BARE_MAX      4096u /* requests without data that have their answer, and are under way */

struct send {
	struct filter filter;
	struct replicate_send_options options;
	struct list_node under_way; /* struct send_io, in their order */
	struct list_node waiting;   /* block_io, for room */
	struct list_node spare;
	struct page_buffers buffers;
	uint64_t queued; /* bytes acknowledged and not answered */
	unsigned bare;   /* likewise, requests without data */
	int failed;
};

struct send_io {
	struct send *send;
	struct list_node node;
	struct block_io *parent; /* NULL: it has its answer */
	struct block_io child, flush;
	unsigned pending; /* of child and flush */
	bool bare;        /* counted as such */
	bool waits;       /* a flush, and its parent waits for all ahead of it */
	void *copy;
	int res;
};

static const char *const names[REPLICATE_ACKS] = {"sent", "received", "durable"};

const char *replicate_ack_name(enum replicate_ack ack)
{
	return names[ack];
}

static struct send *send_of(const struct block *block)
{
	return container_of((struct block *)block, struct send, filter.block);
}

static void release(struct send_io *sio)
{
	struct send *send = sio->send;

	if (sio->copy) {
		page_buffers_put(&send->buffers, sio->copy, sio->child.length);
		send->queued -= sio->child.length;
	}
	sio->copy = NULL;
	send->bare -= sio->bare;
	list_remove(&sio->node);
	list_append(&send->spare, &sio->node);
}

static void let_in(struct send *send);

static void ended(struct send_io *sio)
{
	struct send *send = sio->send;
	struct block_io *parent = sio->parent;
	int res = sio->res;

	release(sio);
	if (res < 0 && !parent && !send->failed) {
		send->failed = res;
		if (send->options.failed)
			send->options.failed(send->options.data, res);
	}
	if (parent)
		block_complete(parent, send->failed ? send->failed : res);
}

/* A flush may have been answered while news of something ahead of it was still on the way. */
static void end_flushes(struct send *send)
{
	while (!list_empty(&send->under_way)) {
		struct send_io *first = container_of(send->under_way.next, struct send_io, node);

		if (!first->waits || first->pending > 0)
			return;
		ended(first);
	}
}

/* A lasting write is received, and its flush under way. */
static void answer(struct send_io *sio)
{
	struct block_io *parent = sio->parent;

	sio->parent = NULL;
	block_complete(parent, 0);
}

static void child_done(struct block_io *io, int res)
{
	struct send_io *sio = io->user;
	struct send *send = sio->send;

	/* How many extents there are, or the first that fails. */
	if (sio->res == 0 || (res < 0 && sio->res > 0))
		sio->res = res;
	if (--sio->pending > 0) {
		if (res == 0 && io == &sio->child && send->options.ack == REPLICATE_RECEIVED)
			answer(sio);
		return;
	}
	if (!sio->waits)
		ended(sio);
	end_flushes(send);
	let_in(send);
}

static struct send_io *send_io_get(struct send *send)
{
	struct list_node *node = list_pop(&send->spare);

	return node ? container_of(node, struct send_io, node) : calloc(1, sizeof(struct send_io));
}

/* The parent gets its answer now: its data are copied, if need be. 0 or -ENOMEM. */
static int answer_early(struct send_io *sio)
{
	struct send *send = sio->send;
	struct block_io *parent = sio->parent;

	if (parent->op == BLOCK_WRITE) {
		sio->copy = page_buffers_get(&send->buffers, parent->length);
		if (!sio->copy)
			return -ENOMEM;
		memcpy(sio->copy, parent->buf, parent->length);
		sio->child.buf = sio->copy;
		send->queued += parent->length;
	} else {
		sio->bare = true;
		send->bare++;
	}
	sio->parent = NULL;
	block_complete_later(&send->filter.block, parent, 0);
	return 0;
}

static bool is_early(const struct send *send, const struct block_io *io)
{
	if (io->op == BLOCK_FLUSH)
		return send->options.ack != REPLICATE_DURABLE &&
		       (!(io->flags & BLOCK_DURABLE) || PLANTED(PLANTED_EARLY_FLUSH));
	return send->options.ack == REPLICATE_SENT && (io->op == BLOCK_WRITE || io->op == BLOCK_ZERO);
}

static void start(struct send *send, struct block_io *io)
{
	struct send_io *sio = send->failed ? NULL : send_io_get(send);
	bool flushes = block_op_writes(io->op) && io->flags & BLOCK_FUA;

	if (PLANTED(PLANTED_IDLE_FLUSH) && io->op == BLOCK_FLUSH && is_early(send, io)) {
		block_complete_later(&send->filter.block, io, 0);
		return;
	}
	if (!sio) {
		block_complete_later(&send->filter.block, io, send->failed ? send->failed : -ENOMEM);
		return;
	}
	*sio = (struct send_io){.send = send, .parent = io, .child = *io, .pending = 1 + flushes};
	sio->child.flags &= ~(uint32_t)(BLOCK_FUA | BLOCK_DURABLE);
	sio->child.done = child_done;
	sio->child.user = sio;
	sio->flush = (struct block_io){.op = BLOCK_FLUSH, .done = child_done, .user = sio};
	list_append(&send->under_way, &sio->node);
	if (is_early(send, io)) {
		if (answer_early(sio) < 0) {
			release(sio);
			block_complete_later(&send->filter.block, io, -ENOMEM);
			return;
		}
	} else {
		sio->waits = io->op == BLOCK_FLUSH;
	}
	block_submit(send->filter.below, &sio->child);
	if (flushes)
		block_submit(send->filter.below, &sio->flush);
}

static bool has_room(const struct send *send, const struct block_io *io)
{
	if (!is_early(send, io))
		return true;
	if (io->op != BLOCK_WRITE)
		return send->bare < BARE_MAX;
	return send->queued == 0 || send->queued + io->length <= send->options.queue_max;
}

static void let_in(struct send *send)
{
	while (!list_empty(&send->waiting)) {
		struct block_io *io = container_of(send->waiting.next, struct block_io, node);

		if (!send->failed && !has_room(send, io))
			return;
		list_remove(&io->node);
		start(send, io);
	}
}

static void send_submit(struct block *block, struct block_io *io)
{
	struct send *send = send_of(block);

	if (list_empty(&send->waiting) && (send->failed || has_room(send, io))) {
		start(send, io);
		return;
	}
	/* Nothing overtakes it, or the order would be another. */
	list_append(&send->waiting, &io->node);
	if (send->waiting.next == &io->node && send->options.congested)
		send->options.congested(send->options.data);
}

void replicate_send_make_durable(struct block *block)
{
	struct send *send = send_of(block);

	send->options.ack = REPLICATE_DURABLE;
	let_in(send);
}

uint64_t replicate_send_queued(const struct block *block)
{
	return send_of(block)->queued;
}

bool replicate_send_idle(const struct block *block)
{
	const struct send *send = send_of(block);

	return list_empty(&send->under_way) && list_empty(&send->waiting);
}

static void send_free(struct block *block)
{
	struct send *send = send_of(block);
	struct list_node *node;

	while (!replicate_send_idle(block))
		if (ring_step(block->ring) < 0)
			break;
	while ((node = list_pop(&send->spare)))
		free(container_of(node, struct send_io, node));
	page_buffers_done(&send->buffers);
	filter_done(&send->filter);
	free(send);
}

static const struct block_driver send_driver = {
    .name = "replicate-send",
    .submit = send_submit,
    .facts = filter_facts,
    .link_error = filter_link_error,
    .free = send_free,
};

int replicate_send_new(struct block **ret, struct block *take_below,
    const struct replicate_send_options *options, struct error *error)
{
	struct send *send = calloc(1, sizeof(*send));

	if (!send) {
		block_free(take_below);
		return error_set(error, -ENOMEM, "cannot send a replica's writes: out of memory");
	}
	filter_init(&send->filter, &send_driver, take_below);
	send->filter.block.info.fua = true;
	send->options = *options;
	if (!send->options.queue_max)
		send->options.queue_max = QUEUE_DEFAULT;
	send->buffers.kept_bytes_max = send->options.queue_max;
	list_init(&send->under_way);
	list_init(&send->waiting);
	list_init(&send->spare);
	*ret = &send->filter.block;
	return 0;
}
