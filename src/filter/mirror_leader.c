/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The authoritative leg, the leader for short, when its link is lost: clients' requests wait until it is back, or get -EIO after a
 * time. And which regions have writes that it acknowledged and has not flushed: what its machine may have lost.
 */
#include "filter/mirror_private.h"

#include <assert.h>

/* What waits, in the order of its coming. */

static void wait_ended(struct ring_op *op, int res);

static void wait_start(struct mirror *mirror)
{
	if (mirror->patience.active)
		return;
	mirror->patience = (struct ring_op){.opcode = RING_TIMER,
	    .deadline_ns = mirror->away_since_ns + mirror->options.leader_timeout_ns,
	    .done = wait_ended};
	ring_submit(mirror->block.ring, &mirror->patience);
}

static void fail_all(struct mirror *mirror)
{
	struct list_node *node;

	while ((node = list_pop(&mirror->parked)))
		mirror_io_abandon(container_of(node, struct mirror_io, parked));
	mirror_io_give_turns(mirror);
}

static void wait_ended(struct ring_op *op, int res)
{
	struct mirror *mirror = container_of(op, struct mirror, patience);
	uint64_t now_ns = ring_now_ns(mirror->block.ring);

	if (!mirror_is_away(mirror) || mirror->overdue)
		return;
	/* It may be of an earlier loss. */
	if (res == 0 && now_ns < mirror->away_since_ns + mirror->options.leader_timeout_ns) {
		wait_start(mirror);
		return;
	}
	mirror->overdue = true;
	mirror_tell(mirror, MIRROR_LEADER_OVERDUE);
	fail_all(mirror);
}

void mirror_park(struct mirror_io *mio)
{
	struct mirror *mirror = mio->mirror;

	assert(mirror_is_away(mirror));
	if (mirror->overdue) {
		mirror_io_abandon(mio);
		return;
	}
	list_append(&mirror->parked, &mio->parked);
	mirror_look_drained(mirror);
}

/* All that waits is sent, or sent again: it was acknowledged to nobody, and still holds its locks. */
void mirror_unpark(struct mirror *mirror)
{
	struct list_node mine, *node;

	list_take(&mine, &mirror->parked);
	while ((node = list_pop(&mine)))
		mirror_io_resume(container_of(node, struct mirror_io, parked));
}

void mirror_leader_gone(struct mirror *mirror)
{
	struct mirror_leg *leader = &mirror->legs[mirror->authoritative];

	if (!leader->block)
		return;
	leader->block = NULL;
	mirror->overdue = false;
	mirror->away_since_ns = ring_now_ns(mirror->block.ring);
	mirror->counts.leader_lost++;
	wait_start(mirror);
	mirror_tell(mirror, MIRROR_LEADER_LOST);
}

/* What is not flushed */

static void move_bits(struct bitmap *to, struct bitmap *from)
{
	for (uint64_t at = bitmap_next_set(from, 0), end; at < from->bits; at = bitmap_next_set(from, end)) {
		end = bitmap_next_clear(from, at);
		if (to)
			bitmap_set(to, at, end - at);
		bitmap_clear(from, at, end - at);
	}
}

void mirror_note_submit(struct mirror *mirror, struct mirror_leg_io *leg_io)
{
	struct bitmap flushing = mirror->flushing;

	/* One at a time: another that is under way meanwhile proves less than could be. */
	leg_io->notes = leg_io->io.op == BLOCK_FLUSH && !mirror->noting;
	if (!leg_io->notes)
		return;
	assert(flushing.count == 0);
	mirror->noting = true;
	mirror->flushing = mirror->unflushed;
	mirror->unflushed = flushing;
}

void mirror_note_end(struct mirror *mirror, struct mirror_leg_io *leg_io, int res)
{
	const struct block_io *io = &leg_io->io;
	uint32_t region_size = bitmap_file_super(mirror->map)->region_size;

	if (leg_io->notes) {
		leg_io->notes = mirror->noting = false;
		move_bits(res < 0 ? &mirror->unflushed : NULL, &mirror->flushing);
	} else if (res == 0 && block_op_writes(io->op) && !(io->flags & BLOCK_FUA) && mirror->linked) {
		uint64_t first = io->offset / region_size;

		bitmap_set(
		    &mirror->unflushed, first, (io->offset + io->length - 1) / region_size - first + 1);
	}
}

void mirror_note_swap(struct mirror *mirror)
{
	assert(!mirror->noting);
	move_bits(NULL, &mirror->unflushed);
	mirror->linked = block_info(mirror->legs[mirror->authoritative].block)->linked;
}

/* For the user */

bool mirror_leader_here(const struct block *block)
{
	return !mirror_is_away(mirror_const_of(block));
}

void mirror_leader_lose(struct block *block)
{
	mirror_leader_gone(mirror_of(block));
}

uint64_t mirror_leader_away_ns(const struct block *block)
{
	const struct mirror *mirror = mirror_const_of(block);

	return mirror_is_away(mirror) ? ring_now_ns(block->ring) - mirror->away_since_ns : 0;
}

void mirror_leader_give_up(struct block *block)
{
	struct mirror *mirror = mirror_of(block);

	if (!mirror_is_away(mirror))
		return;
	mirror->overdue = true;
	fail_all(mirror);
}

const struct bitmap *mirror_unflushed(struct block *block)
{
	struct mirror *mirror = mirror_of(block);

	assert(!mirror->noting);
	return &mirror->unflushed;
}

int mirror_leader_return(struct block *block, struct block *leg, struct error *error)
{
	struct mirror *mirror = mirror_of(block);
	struct mirror_leg *leader = &mirror->legs[mirror->authoritative];
	uint64_t region_size = bitmap_file_super(mirror->map)->region_size;
	int res = mirror_check_leg(mirror, leg, error);

	assert(!leader->block && list_empty(&leader->under_way));
	if (res < 0)
		return res;
	mirror_leg_came(leader, leg);
	/* Perhaps written by whoever opened it, which its holes do not show yet. */
	for (uint64_t at = bitmap_next_set(&mirror->unflushed, 0); at < mirror->unflushed.bits;
	     at = bitmap_next_set(&mirror->unflushed, at + 1))
		bitmap_set(&leader->written, at * region_size / mirror->granule, 1);
	mirror->overdue = false;
	mirror->linked = block_info(leg)->linked;
	mirror_ports_set_info(mirror);
	/* What was being written may be in one leg alone, also where clients were told of an error. */
	if (!mirror->alone) {
		bitmap_file_doubt(mirror->map);
		mirror_tell(mirror, MIRROR_DIRTIED);
	}
	mirror_unpark(mirror);
	return 0;
}
