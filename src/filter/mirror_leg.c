/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests to the legs: which are under way, and for how long. A request that the follower fails, or does not end in time, lets
 * it go at once; the request itself ends when the driver ends it, and until then keeps its memory and the leg busy.
 */
#include "filter/mirror_private.h"

#include "base/bytes.h"
#include "base/plant.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define GRANULES_MAX (1ull << 26) /* 8 MiB of bits a leg, if all of it is written */

struct port_io {
	struct mirror_leg_io leg_io;
	struct block_io *parent;
	struct list_node node; /* in mirror->spare_ports */
};

/* The follower's oldest request, or NULL. */
static struct mirror_leg_io *oldest(struct mirror *mirror)
{
	struct mirror_leg *leg = mirror_follower(mirror);

	if (!leg->block || list_empty(&leg->under_way))
		return NULL;
	return container_of(leg->under_way.next, struct mirror_leg_io, node);
}

static void watch(struct mirror *mirror);

static void watched(struct ring_op *op, int res)
{
	struct mirror *mirror = container_of(op, struct mirror, watch);
	struct mirror_leg_io *leg_io = oldest(mirror);
	uint64_t now_ns = ring_now_ns(mirror->block.ring);

	if (leg_io && leg_io->start_ns + mirror->options.follower_timeout_ns <= now_ns)
		mirror_let_go(mirror, -ETIMEDOUT);
	else
		watch(mirror);
}

/* A timer for when it would be too late. */
static void watch(struct mirror *mirror)
{
	struct mirror_leg_io *leg_io = oldest(mirror);

	if (!leg_io || mirror->watch.active)
		return;
	mirror->watch = (struct ring_op){.opcode = RING_TIMER,
	    .deadline_ns = leg_io->start_ns + mirror->options.follower_timeout_ns,
	    .done = watched};
	ring_submit(mirror->block.ring, &mirror->watch);
}

static void note_written(struct mirror_leg *leg, const struct block_io *io)
{
	uint64_t first = io->offset / leg->mirror->granule;

	if (io->op == BLOCK_WRITE && io->length > 0)
		bitmap_set(
		    &leg->written, first, (io->offset + io->length - 1) / leg->mirror->granule - first + 1);
}

static void note_changed(struct mirror *mirror, const struct block_io *io)
{
	uint64_t region_size = bitmap_file_super(mirror->map)->region_size, first = io->offset / region_size;

	if (mirror->notes_changed && block_op_writes(io->op) && io->length > 0)
		bitmap_set(&mirror->changed, first, (io->offset + io->length - 1) / region_size - first + 1);
}

/* Writes that overlap do not meet on a leg, so there is none under way to what this one zeroed. */
static void note_zeroed(struct mirror_leg *leg, const struct block_io *io)
{
	uint64_t granule = leg->mirror->granule, end = io->offset + io->length;
	uint64_t first = (io->offset + granule - 1) / granule;
	uint64_t last = end == bitmap_file_super(leg->mirror->map)->size ? leg->written.bits : end / granule;

	if (io->op == BLOCK_ZERO && first < last)
		bitmap_clear(&leg->written, first, last - first);
}

/*
 * Such a failure is told once, by whichever request flushed. A request that was refused as it stands flushed nothing; of other errors
 * nobody can say which part they are of.
 */
static bool failed_to_flush(const struct block_io *io, int res)
{
	if (io->op == BLOCK_FLUSH)
		return res < 0;
	return io->flags & BLOCK_FUA && res < 0 && res != -EOPNOTSUPP && res != -EINVAL;
}

/* What a follower cannot read of its own may be wrong there, as all that is to be copied; a write to it mends many a bad sector. */
static bool is_bad_sector(struct mirror_leg *leg, const struct block_io *io, int res)
{
	bool reads = io->op == BLOCK_READ || io->op == BLOCK_DIGEST || io->op == BLOCK_EXTENTS;

	return reads && block_medium_failed(leg->block, res);
}

/* Not what is refused as it stands, or finds no room. */
static bool fails_itself(const struct block_io *io, int res)
{
	return res < 0 && res != -ENOTCONN &&
	       (failed_to_flush(io, res) ||
	           (res != -EOPNOTSUPP && res != -EINVAL && res != -ENOSPC && res != -ENOMEM));
}

static void port_done(struct mirror_leg_io *leg_io, int res);

static void leg_done(struct block_io *io, int res)
{
	struct mirror_leg_io *leg_io = container_of(io, struct mirror_leg_io, io);
	struct mirror_leg *leg = leg_io->leg;
	struct mirror *mirror = leg->mirror;
	bool leads = leg != mirror_follower(mirror);

	list_remove(&leg_io->node);
	if (res == 0)
		note_zeroed(leg, io);
	/* Before the follower gets what may be left here. */
	if (leads && leg_io->done != port_done && fails_itself(io, res))
		mirror_tell(mirror, MIRROR_LEADER_FAILING);
	if (leads)
		mirror_note_end(mirror, leg_io, res);
	if (leads && res == -ENOTCONN)
		mirror_leader_gone(mirror);
	else if (leads && failed_to_flush(io, res))
		mirror_flush_failed(mirror);
	else if (res < 0 && res != -EOPNOTSUPP && !leads && leg->block && !is_bad_sector(leg, io, res))
		mirror_let_go(mirror, res);
	/* Not before that: a request that is answered as the follower is let go would believe its memory to be free. */
	leg_io->active = false;
	leg_io->done(leg_io, res);
}

void mirror_leg_submit(struct mirror_leg *leg, struct mirror_leg_io *leg_io)
{
	assert(leg->block && !leg_io->active);
	leg_io->leg = leg;
	leg_io->active = true;
	leg_io->start_ns = ring_now_ns(leg->mirror->block.ring);
	leg_io->io.done = leg_done;
	list_append(&leg->under_way, &leg_io->node);
	note_written(leg, &leg_io->io);
	note_changed(leg->mirror, &leg_io->io);
	leg_io->notes = false;
	if (leg != mirror_follower(leg->mirror))
		mirror_note_submit(leg->mirror, leg_io);
	block_submit(leg->block, &leg_io->io);
	watch(leg->mirror);
}

static struct mirror_leg *leg_of(const struct block *block)
{
	const struct mirror_port *port = container_of(block, struct mirror_port, block);
	struct mirror *mirror = port->mirror;

	return port->follower ? mirror_follower(mirror) : &mirror->legs[mirror->authoritative];
}

static void port_done(struct mirror_leg_io *leg_io, int res)
{
	struct port_io *port_io = container_of(leg_io, struct port_io, leg_io);

	list_append(&leg_io->leg->mirror->spare_ports, &port_io->node);
	block_complete(port_io->parent, res);
}

static void port_submit(struct block *block, struct block_io *io)
{
	struct mirror_leg *leg = leg_of(block);
	struct list_node *node = leg->block ? list_pop(&leg->mirror->spare_ports) : NULL;
	struct port_io *port_io;

	if (!leg->block) {
		block_complete_later(block, io, -ENOTCONN);
		return;
	}
	port_io = node ? container_of(node, struct port_io, node) : calloc(1, sizeof(struct port_io));
	if (!port_io) {
		block_complete_later(block, io, -ENOMEM);
		return;
	}
	port_io->parent = io;
	port_io->leg_io.io = *io;
	/* Only a copy writes to the follower now: what is in no page cache need not be written back at a flush. */
	if (leg == mirror_follower(leg->mirror) && leg->mirror->mode == MIRROR_BACKGROUND)
		port_io->leg_io.io.flags |= BLOCK_UNCACHED;
	port_io->leg_io.io.flags |= BLOCK_APART;
	port_io->leg_io.done = port_done;
	mirror_leg_submit(leg, &port_io->leg_io);
}

static int port_facts(struct block *block, struct block_facts *ret, struct error *error)
{
	struct mirror_leg *leg = leg_of(block);

	return leg->block ? block_facts(leg->block, ret, error)
	                  : error_set(error, -ENOTCONN, "it is not there");
}

static int port_link_error(struct block *block, struct error *error)
{
	const struct mirror_port *port = container_of(block, struct mirror_port, block);
	struct mirror_leg *leg = leg_of(block);

	return leg->block
	           ? block_link_error(leg->block, error)
	           : error_set(error, -ENOTCONN, "%s",
	                 port->follower ? "the following leg was let go" : "the authoritative leg is away");
}

static void port_free(struct block *block)
{
	assert(!"a port is the mirror's");
}

static const struct block_driver port_driver = {
    .name = "mirror-leg",
    .submit = port_submit,
    .facts = port_facts,
    .link_error = port_link_error,
    .free = port_free,
};

uint64_t mirror_granule(uint64_t region_size, uint64_t size)
{
	while (size / region_size >= GRANULES_MAX)
		region_size *= 2;
	return region_size;
}

int mirror_ports_init(struct mirror *mirror)
{
	const struct bitmap_super *super = bitmap_file_super(mirror->map);
	int res = bitmap_init(&mirror->changed, bitmap_super_regions(super));

	list_init(&mirror->spare_ports);
	mirror->granule = mirror_granule(super->region_size, super->size);
	for (unsigned i = 0; i < MIRROR_LEGS; i++) {
		struct mirror_port *port = &mirror->ports[i];
		struct mirror_leg *leg = &mirror->legs[i];

		leg->mirror = mirror;
		list_init(&leg->under_way);
		port->mirror = mirror;
		port->follower = i > 0;
		port->block.driver = &port_driver;
		port->block.ring = mirror->block.ring;
		if (bitmap_init(&leg->written, super->size / mirror->granule + 1) < 0)
			res = -ENOMEM;
	}
	return res;
}

void mirror_leg_came(struct mirror_leg *leg, struct block *block)
{
	leg->block = block;
	leg->life++;
	bitmap_clear(&leg->written, 0, leg->written.bits);
}

unsigned mirror_leg_life(const struct block *port)
{
	return leg_of(port)->life;
}

bool mirror_leg_written(const struct block *port, uint64_t offset, uint64_t *ret_end)
{
	const struct mirror_leg *leg = leg_of(port);
	uint64_t granule = leg->mirror->granule, at = offset / granule;
	bool written = bitmap_test(&leg->written, at) && !PLANTED(PLANTED_STALE_HOLES);
	uint64_t next =
	    written ? bitmap_next_clear(&leg->written, at) : bitmap_next_set(&leg->written, at + 1);

	*ret_end = min_u64(next * granule, bitmap_file_super(leg->mirror->map)->size);
	return written;
}

void mirror_ports_set_info(struct mirror *mirror)
{
	for (unsigned i = 0; i < MIRROR_LEGS; i++) {
		struct mirror_leg *leg = leg_of(&mirror->ports[i].block);

		if (leg->block)
			mirror->ports[i].block.info = *block_info(leg->block);
	}
}

void mirror_ports_done(struct mirror *mirror)
{
	struct list_node *node;

	bitmap_done(&mirror->changed);
	for (unsigned i = 0; i < MIRROR_LEGS; i++) {
		assert(list_empty(&mirror->legs[i].under_way));
		bitmap_done(&mirror->legs[i].written);
	}
	while ((node = list_pop(&mirror->spare_ports)))
		free(container_of(node, struct port_io, node));
}
