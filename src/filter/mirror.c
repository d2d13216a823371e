/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The mirror as a whole: legs that come and go. Clients' requests are in mirror_io.c. */
#include "filter/mirror_private.h"

#include "base/bytes.h"
#include "base/plant.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define TIMEOUT_NS 10000000000u
#define LEADER_NS  30000000000u
#define STABLE_MAX (16u << 20)
#define LATENCY_NS 8000000000u
#define RECENT_NS  2000000000u
#define BIT(kind)  (1u << (kind))

/* A write behind the copy's back needs no lock against copies: it leaves its regions dirty. */
static const uint8_t excludes[RANGE_LOCK_KINDS] = {
    [MIRROR_LOCK_THROUGH] = BIT(MIRROR_LOCK_THROUGH) | BIT(MIRROR_LOCK_BEHIND) | BIT(MIRROR_LOCK_COPY),
    [MIRROR_LOCK_BEHIND] = BIT(MIRROR_LOCK_THROUGH) | BIT(MIRROR_LOCK_BEHIND),
    [MIRROR_LOCK_COPY] = BIT(MIRROR_LOCK_THROUGH) | BIT(MIRROR_LOCK_COPY),
};

static const struct block_driver mirror_driver;

const struct mirror *mirror_const_of(const struct block *block)
{
	assert(block->driver == &mirror_driver);
	return container_of(block, struct mirror, block);
}

struct mirror *mirror_of(struct block *block)
{
	return (struct mirror *)mirror_const_of(block);
}

void mirror_tell(struct mirror *mirror, enum mirror_event event)
{
	if (mirror->options.event)
		mirror->options.event(mirror->options.data, event);
}

/* Whatever it was asked last may be missing there, flushed or not. */
void mirror_let_go(struct mirror *mirror, int res)
{
	struct mirror_leg *leg = mirror_follower(mirror);

	if (!leg->block)
		return;
	leg->block = NULL;
	mirror_withhold(&mirror->block);
	mirror->detach_reason = res;
	mirror->counts.detached++;
	if (!mirror->options.doubts_late)
		bitmap_file_doubt(mirror->map);
	mirror_tell(mirror, MIRROR_DETACHED);
	mirror_io_let_go(mirror);
}

/*
 * What was not flushed may be gone there, for good and for readers too, while the follower has it: what is not known to be
 * flushed is copied again, so that both are the same again. What was zeroed may have its old data back: no hole is believed any more.
 */
void mirror_flush_failed(struct mirror *mirror)
{
	struct bitmap *written = &mirror->legs[mirror->authoritative].written;

	bitmap_set(written, 0, written->bits);
	bitmap_file_doubt(mirror->map);
	mirror_tell(mirror, MIRROR_DIRTIED);
}

void mirror_map_was_lost(struct mirror *mirror)
{
	if (mirror->map_lost)
		return;
	mirror->map_lost = true;
	mirror_tell(mirror, MIRROR_LEADER_FAILING);
	mirror_let_go(mirror, bitmap_file_lost(mirror->map));
	mirror_tell(mirror, MIRROR_MAP_LOST);
}

void mirror_lose_map(struct block *block, int res)
{
	struct mirror *mirror = mirror_of(block);

	bitmap_file_lose(mirror->map, res);
	mirror_map_was_lost(mirror);
}

static void mirror_submit(struct block *block, struct block_io *io)
{
	mirror_io_submit(mirror_of(block), io);
}

static struct block *authoritative(const struct mirror *mirror)
{
	return mirror->legs[mirror->authoritative].block;
}

static int mirror_facts(struct block *block, struct block_facts *ret, struct error *error)
{
	struct block *leader = authoritative(mirror_of(block));

	return leader ? block_facts(leader, ret, error)
	              : error_set(error, -ENOTCONN, "the authoritative leg is away");
}

static void mirror_free(struct block *block)
{
	struct mirror *mirror = mirror_of(block);
	struct list_node *node;

	assert(mirror->in_flight == 0 && list_empty(&mirror->held) && list_empty(&mirror->turns));
	/* What the follower still has is waited for; nobody is left to be told. */
	mirror->options.event = NULL;
	mirror_follower(mirror)->block = NULL;
	ring_cancel(block->ring, &mirror->watch);
	ring_cancel(block->ring, &mirror->patience);
	while (mirror->watch.active || mirror->patience.active || mirror->drained.active ||
	       !list_empty(&mirror->under_way) || mirror->flush.pending)
		if (ring_step(block->ring) < 0)
			break;
	while ((node = list_pop(&mirror->spare)))
		free(container_of(node, struct mirror_io, node));
	mirror_ports_done(mirror);
	bitmap_done(&mirror->unflushed);
	bitmap_done(&mirror->flushing);
	free(mirror);
}

static const struct block_driver mirror_driver = {
    .name = "mirror",
    .submit = mirror_submit,
    .facts = mirror_facts,
    .free = mirror_free,
};

static int check_size(const struct mirror *mirror, const struct block *leg, struct error *error)
{
	uint64_t size = bitmap_file_super(mirror->map)->size;

	if (block_info(leg)->size == size)
		return 0;
	return error_set(error, -EINVAL,
	    "%s has %llu bytes, the mirror has %llu; both legs must have one size", block_info(leg)->name,
	    (unsigned long long)block_info(leg)->size, (unsigned long long)size);
}

/* Clients have been told what they may ask for; all of it must be possible on a leg that comes later, too. */
int mirror_check_leg(const struct mirror *mirror, const struct block *leg, struct error *error)
{
	int res = check_size(mirror, leg, error);

	if (res == 0 && block_info(leg)->request_align > mirror->block.info.request_align)
		res = error_set(error, -EINVAL,
		    "%s takes requests of %u bytes and multiples, clients may ask for %u",
		    block_info(leg)->name, block_info(leg)->request_align, mirror->block.info.request_align);
	return res;
}

static uint32_t max_u32(uint32_t a, uint32_t b)
{
	return a > b ? a : b;
}

void mirror_set_info(struct mirror *mirror)
{
	struct block_info *info = &mirror->block.info;
	uint32_t sector_size = info->sector_size, request_align = info->request_align;

	*info = *block_info(authoritative(mirror));
	/* What clients were told stays true on either leg. */
	for (unsigned i = 0; i < MIRROR_LEGS; i++) {
		if (!mirror->legs[i].block)
			continue;
		sector_size = max_u32(sector_size, block_info(mirror->legs[i].block)->sector_size);
		request_align = max_u32(request_align, block_info(mirror->legs[i].block)->request_align);
	}
	info->sector_size = sector_size;
	info->request_align = request_align;
	info->resizable = info->zeroed = info->created = info->remote = false;
	/* Flags are passed on to the legs, which know what to do with them. */
	info->fua = info->no_hole = true;
	mirror_ports_set_info(mirror);
}

int mirror_new(struct block **ret, struct block *const legs[MIRROR_LEGS],
    const struct mirror_options *options, struct error *error)
{
	struct mirror *mirror = calloc(1, sizeof(*mirror));
	int res = 0;

	if (!mirror)
		return error_set(error, -ENOMEM, "cannot make a mirror: out of memory");
	mirror->options = *options;
	if (!mirror->options.follower_timeout_ns)
		mirror->options.follower_timeout_ns = TIMEOUT_NS;
	if (!mirror->options.leader_timeout_ns)
		mirror->options.leader_timeout_ns = LEADER_NS;
	if (!mirror->options.stable_max)
		mirror->options.stable_max = STABLE_MAX;
	mirror->map = options->map;
	mirror->authoritative = bitmap_file_super(options->map)->authoritative;
	assert(legs[mirror->authoritative]);
	mirror->block.driver = &mirror_driver;
	mirror->block.ring = block_ring(legs[mirror->authoritative]);
	list_init(&mirror->under_way);
	list_init(&mirror->spare);
	list_init(&mirror->held);
	list_init(&mirror->turns);
	list_init(&mirror->parked);
	range_locks_init(&mirror->locks, mirror->block.ring, excludes);
	ring_attend(mirror->block.ring);
	histogram_init(&mirror->latency, LATENCY_NS, ring_now_ns(mirror->block.ring));
	histogram_init(&mirror->recent, RECENT_NS, ring_now_ns(mirror->block.ring));
	if (mirror_ports_init(mirror) < 0)
		res = error_set(error, -ENOMEM, "cannot make a mirror: out of memory");
	for (unsigned i = 0; i < MIRROR_LEGS && res == 0; i++) {
		mirror_leg_came(&mirror->legs[i], legs[i]);
		if (legs[i])
			res = check_size(mirror, legs[i], error);
	}
	if (res == 0)
		res = bitmap_init(&mirror->unflushed, bitmap_super_regions(bitmap_file_super(options->map)));
	if (res == 0)
		res = bitmap_init(&mirror->flushing, mirror->unflushed.bits);
	if (res == -ENOMEM)
		error_set(error, res, "cannot make a mirror: out of memory");
	if (res < 0) {
		mirror_ports_done(mirror);
		bitmap_done(&mirror->unflushed);
		free(mirror);
		return res;
	}
	mirror_set_info(mirror);
	mirror->linked = block_info(authoritative(mirror))->linked;
	*ret = &mirror->block;
	return 0;
}

void mirror_set_mode(struct block *block, enum mirror_mode mode)
{
	mirror_of(block)->mode = mode;
}

enum mirror_mode mirror_mode(const struct block *block)
{
	return mirror_const_of(block)->mode;
}

enum mirror_leg_index mirror_authoritative(const struct block *block)
{
	return mirror_const_of(block)->authoritative;
}

/* Legs */

int mirror_attach(struct block *block, struct block *leg, bool kept, struct error *error)
{
	struct mirror *mirror = mirror_of(block);
	struct mirror_leg *follower = mirror_follower(mirror);
	int res = mirror_check_leg(mirror, leg, error);

	assert(!follower->block && list_empty(&follower->under_way) && !mirror->alone);
	if (res < 0)
		return res;
	if (bitmap_file_lost(mirror->map))
		return error_set(error, -EIO, "the map was lost; what differs is not known any more");
	/* Writes since it went have their marks; now all that it may not have flushed gets one, too. */
	if (!kept || !mirror->options.doubts_late)
		bitmap_file_doubt(mirror->map);
	mirror_leg_came(follower, leg);
	mirror_ports_set_info(mirror);
	return 0;
}

void mirror_detach(struct block *block)
{
	mirror_let_go(mirror_of(block), -ECANCELED);
}

void mirror_withhold(struct block *block)
{
	struct mirror *mirror = mirror_of(block);

	mirror->withholding = mirror->options.withholds && !mirror->alone && !PLANTED(PLANTED_EARLY_ANSWERS);
}

void mirror_give_answers(struct block *block)
{
	struct mirror *mirror = mirror_of(block);

	mirror->withholding = false;
	mirror_io_answer(mirror);
}

void mirror_refuse_answers(struct block *block, bool on)
{
	struct mirror *mirror = mirror_of(block);

	mirror->refusing = on;
	mirror_io_answer(mirror);
}

void mirror_end(struct block *block)
{
	struct mirror *mirror = mirror_of(block);

	mirror->alone = true;
	mirror_let_go(mirror, -ECANCELED);
}

bool mirror_attached(const struct block *block)
{
	return mirror_follower(mirror_of((struct block *)block))->block != NULL;
}

bool mirror_writes_behind(const struct block *block)
{
	list_for_each (node, &mirror_of((struct block *)block)->under_way)
		if (mirror_io_is_behind(container_of(node, struct mirror_io, node)))
			return true;
	return false;
}

int mirror_detach_reason(const struct block *block)
{
	return mirror_const_of(block)->detach_reason;
}

bool mirror_leg_idle(const struct block *block, enum mirror_leg_index leg)
{
	return list_empty(&mirror_const_of(block)->legs[leg].under_way);
}

struct block *mirror_copy_source(struct block *block)
{
	return &mirror_of(block)->ports[0].block;
}

struct block *mirror_copy_target(struct block *block)
{
	return &mirror_of(block)->ports[1].block;
}

void mirror_forget_changed(struct block *block, uint64_t offset, uint64_t length)
{
	struct mirror *mirror = mirror_of(block);
	uint64_t region_size = bitmap_file_super(mirror->map)->region_size;

	assert(offset % region_size == 0);
	mirror->notes_changed = true;
	bitmap_clear(&mirror->changed, offset / region_size, (length + region_size - 1) / region_size);
}

uint64_t mirror_changed(const struct block *block)
{
	const struct mirror *mirror = mirror_const_of(block);
	const struct bitmap_super *super = bitmap_file_super(mirror->map);

	return min_u64(mirror->changed.count * super->region_size, super->size);
}

struct range_locks *mirror_locks(struct block *block)
{
	return &mirror_of(block)->locks;
}

struct bitmap_file *mirror_map(struct block *block)
{
	return mirror_of(block)->map;
}

const struct mirror_counts *mirror_counts(const struct block *block)
{
	return &mirror_const_of(block)->counts;
}

void mirror_latency(struct block *block, struct histogram_figures *ret)
{
	histogram_figures(&mirror_of(block)->latency, ring_now_ns(block->ring), ret);
}

void mirror_latency_recent(struct block *block, struct histogram_figures *ret)
{
	histogram_figures(&mirror_of(block)->recent, ring_now_ns(block->ring), ret);
}

void mirror_set_slow(struct block *block, uint64_t slow_ns)
{
	mirror_of(block)->slow_ns = slow_ns;
}

uint64_t mirror_pause_ns(struct block *block)
{
	struct mirror *mirror = mirror_of(block);
	uint64_t pause_ns = mirror->pause_ns;

	mirror->pause_ns = 0;
	return pause_ns;
}
