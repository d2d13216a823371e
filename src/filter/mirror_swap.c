/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a switch is made of: clients are held, both legs flush, and the other leg leads. */
#include "filter/mirror_private.h"

#include "base/plant.h"

#include <assert.h>
#include <errno.h>

void mirror_hold(struct block *block)
{
	struct mirror *mirror = mirror_of(block);

	mirror->holding = true;
	mirror_io_hold(mirror);
	mirror_look_drained(mirror);
}

bool mirror_drained(const struct block *block)
{
	const struct mirror *mirror = mirror_const_of(block);

	return mirror->holding && mirror_is_quiet(mirror);
}

void mirror_release(struct block *block)
{
	struct mirror *mirror = mirror_of(block);

	mirror->holding = false;
	mirror_io_release(mirror);
}

void mirror_swap(struct block *block)
{
	struct mirror *mirror = mirror_of(block);

	assert(mirror_drained(block) && mirror_attached(block));
	assert(bitmap_file_dirty(mirror->map)->count == 0);
	/* Recorded before it takes effect. */
	if (!PLANTED(PLANTED_LATE_RECORD))
		assert(bitmap_file_super(mirror->map)->authoritative != mirror->authoritative);
	mirror->authoritative = MIRROR_LEGS - 1 - mirror->authoritative;
	mirror_set_info(mirror);
	mirror_note_swap(mirror);
	if (mirror_follower(mirror)->block)
		return;
	/* The old leader is away, and what it has not flushed may be gone there. */
	mirror->detach_reason = -ENOTCONN;
	mirror->counts.detached++;
	bitmap_file_doubt(mirror->map);
	mirror_tell(mirror, MIRROR_DETACHED);
	mirror_unpark(mirror);
}

/* Flushes of both legs */

static void flush_ended(struct mirror_leg_io *leg_io, int res)
{
	struct mirror *mirror = leg_io->leg->mirror;
	struct mirror_flush *flush = &mirror->flush;

	/* A kernel tells such a failure once: whoever flushes next would believe that all is well. */
	if (res < 0 && res != -ENOTCONN && leg_io->leg != mirror_follower(mirror))
		mirror->owed = res;
	if (res < 0 && flush->res == 0)
		flush->res = res;
	if (--flush->pending == 0)
		flush->done(flush->data, flush->res);
}

void mirror_flush_legs(
    struct block *block, bool without_leader, void (*done)(void *data, int res), void *data)
{
	struct mirror *mirror = mirror_of(block);
	struct mirror_flush *flush = &mirror->flush;

	assert(flush->pending == 0 && (mirror_leader_here(block) || mirror_attached(block)));
	flush->done = done;
	flush->data = data;
	flush->res = mirror_attached(block) && (without_leader || mirror_leader_here(block)) ? 0 : -ENOTCONN;
	for (unsigned i = 0; i < MIRROR_LEGS; i++) {
		if (!mirror->legs[i].block || (PLANTED(PLANTED_ONE_FLUSH) && i == mirror->authoritative))
			continue;
		flush->pending++;
		flush->legs[i].io = (struct block_io){.op = BLOCK_FLUSH, .flags = BLOCK_DURABLE};
		flush->legs[i].done = flush_ended;
		mirror_leg_submit(&mirror->legs[i], &flush->legs[i]);
	}
}

bool mirror_flushing(const struct block *block)
{
	return mirror_const_of(block)->flush.pending > 0;
}
