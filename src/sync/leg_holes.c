/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See leg_holes.h. The lists are searched from their begin: they are short, and hardly ever asked. */
#include "sync/leg_holes.h"

#include "base/bytes.h"

#include <assert.h>

/* What was answered is kept by leg: it outlives a change of their parts. */
static struct block *port_of(const struct leg_holes *holes, unsigned leg)
{
	return leg == mirror_authoritative(holes->mirror) ? mirror_copy_source(holes->mirror)
	                                                  : mirror_copy_target(holes->mirror);
}

static unsigned source_of(const struct leg_holes *holes)
{
	return mirror_authoritative(holes->mirror);
}

static unsigned target_of(const struct leg_holes *holes)
{
	return MIRROR_LEGS - 1 - source_of(holes);
}

static uint64_t size_of(const struct leg_holes *holes)
{
	return bitmap_file_super(mirror_map(holes->mirror))->size;
}

static bool is_trusted(const struct leg_holes *holes, unsigned leg)
{
	return block_info(port_of(holes, leg))->holes_trusted;
}

bool leg_holes_possible(const struct leg_holes *holes, uint64_t offset, uint64_t *ret_end)
{
	*ret_end = size_of(holes);
	return mirror_attached(holes->mirror) && is_trusted(holes, source_of(holes)) &&
	       !mirror_leg_written(mirror_copy_source(holes->mirror), offset, ret_end);
}

/* Up to where a leg's answer goes; what makes no sense is no answer. */
static uint64_t answered_up_to(const struct leg_holes *holes, unsigned leg)
{
	uint64_t at = holes->begin;

	for (unsigned i = 0; i < holes->counts[leg]; i++) {
		const struct extent *extent = &holes->extents[leg][i];

		if (extent->offset != at || extent->length == 0 || extent->length > holes->asked - at)
			break;
		at += extent->length;
	}
	return at;
}

static void answered(struct block_io *io, int res)
{
	struct leg_holes *holes = io->user;

	holes->counts[io - holes->ios] = res > 0 ? (unsigned)res : 0;
	if (--holes->pending > 0)
		return;
	if (holes->abandoned) {
		holes->done(holes);
		return;
	}
	/* What could not be learned is data: it is read, and whoever reads it tells what is wrong. */
	holes->end = answered_up_to(holes, source_of(holes));
	if (is_trusted(holes, target_of(holes)))
		holes->end = min_u64(holes->end, answered_up_to(holes, target_of(holes)));
	if (holes->end == holes->begin) {
		holes->counts[0] = holes->counts[1] = 0;
		holes->end = holes->asked;
	}
	holes->done(holes);
}

void leg_holes_ask(struct leg_holes *holes, uint64_t offset, uint64_t length)
{
	assert(holes->pending == 0 && length > 0);
	holes->begin = holes->end = offset;
	holes->asked = offset + length;
	holes->counts[0] = holes->counts[1] = 0;
	holes->abandoned = false;
	for (unsigned i = 0; i < MIRROR_LEGS; i++) {
		if (!is_trusted(holes, i))
			continue;
		holes->pending++;
		holes->lives[i] = mirror_leg_life(port_of(holes, i));
		holes->ios[i] = (struct block_io){.op = BLOCK_EXTENTS,
		    .offset = offset,
		    .length = length,
		    .extents = holes->extents[i],
		    .extents_max = LEG_HOLES_EXTENTS,
		    .done = answered,
		    .user = holes};
		block_submit(port_of(holes, i), &holes->ios[i]);
	}
	assert(holes->pending > 0);
}

bool leg_holes_asking(const struct leg_holes *holes)
{
	return holes->pending > 0;
}

void leg_holes_abandon(struct leg_holes *holes)
{
	holes->abandoned = true;
	holes->end = holes->begin;
}

/* Whether a leg has a hole at `offset`, and up to where that is so at least. */
static bool is_hole(const struct leg_holes *holes, unsigned leg, uint64_t offset, uint64_t *ret_end)
{
	const struct extent *extent = holes->extents[leg];
	const struct extent *past = extent + holes->counts[leg];
	uint64_t end;
	bool written;

	while (extent < past && extent->offset + extent->length <= offset)
		extent++;
	*ret_end = holes->end;
	if (extent == past || !is_trusted(holes, leg))
		return false;
	*ret_end = min_u64(extent->offset + extent->length, holes->end);
	if (extent->kind != EXTENT_ZERO || holes->lives[leg] != mirror_leg_life(port_of(holes, leg)))
		return false;
	written = mirror_leg_written(port_of(holes, leg), offset, &end);
	*ret_end = min_u64(*ret_end, end);
	return !written;
}

enum leg_hole leg_holes_at(const struct leg_holes *holes, uint64_t offset, uint64_t unit, uint64_t *ret_end)
{
	uint64_t ends[MIRROR_LEGS], end, size = size_of(holes);
	bool source = is_hole(holes, source_of(holes), offset, &ends[0]);
	bool target = is_hole(holes, target_of(holes), offset, &ends[1]);

	assert(offset >= holes->begin && offset < holes->end && offset % unit == 0);
	/* The follower's answer does not matter where there are data. */
	end = source ? min_u64(ends[0], ends[1]) : ends[0];
	if (source && end < size)
		end = align_down(end, unit);
	if (end == offset) {
		/* Within the unit it changes: of the follower alone, or of both. */
		source = source && (ends[0] == size || ends[0] - offset >= unit);
		target = false;
		end = offset + 1;
	}
	*ret_end = min_u64(align_up(end, unit), size);
	return !source ? LEG_HOLE_NONE : target ? LEG_HOLE_BOTH : LEG_HOLE_SOURCE;
}
