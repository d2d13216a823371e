/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Walks both volumes' maps pairwise, cuts them into slots of at most a chunk, keeps a window of slots being
 * compared, and gives what differs in order of offset, merged over leaf and chunk borders. Bounds lie on
 * multiples of 64 KiB, so that a fragmented map does not become a host of small requests. All on the ring's
 * thread.
 */
#include "sync/hash_extents.h"

#include "base/bytes.h"
#include "sync/extent_map.h"
#include "sync/failed_extents.h"
#include "sync/hash_slot.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW_LOCAL  16
#define WINDOW_REMOTE 128
#define SHARE_FULL    1024 /* what `share` is when all chunks differ */

struct hash_extents {
	struct extents extents;
	/* set at the start */
	struct hash_extents_options options;
	struct hash_context context;
	unsigned window;
	bool trusted; /* what the volume compared with calls a hole reads as zero */
	struct extent_map *maps[HASH_SIDES];

	uint64_t position;       /* all below has a slot, or is done */
	struct hash_slot *slots; /* a queue in order of offset */
	unsigned first, count;
	unsigned busy;  /* slots with requests under way */
	bool idle;      /* busy == 0 */
	unsigned share; /* of the last chunks, how many differed */
	struct failed_extents failed;
	bool waiting; /* next() said that wake() follows */
	bool closing;
	int res;
};

static struct hash_extents *to_hash(struct extents *extents)
{
	return container_of(extents, struct hash_extents, extents);
}

static struct hash_slot *slot_at(const struct hash_extents *hash, unsigned index)
{
	return &hash->slots[(hash->first + index) % hash->window];
}

static int fail(struct hash_extents *hash, int res, const struct block *block, const char *what)
{
	if (hash->res == 0) {
		hash->res = res;
		error_set(&hash->context.error, res, "cannot %s %s: %s", what, block_info(block)->name,
		    strerror(-res));
		block_link_error((struct block *)block, &hash->context.error);
	}
	return hash->res;
}

/*
 * What one side has from `position` on: whether a hole, and up to where that is so. A node counts as hole
 * when it is one from `position` to its end.
 */
static int next_run(struct hash_extents *hash, int index, bool *ret_hole, uint64_t *ret_end)
{
	uint64_t at = hash->position, end;
	struct extent extent;
	int res = extent_map_at(hash->maps[index], at, &extent);

	if (res < 0)
		return fail(hash, res, hash->context.blocks[index], "learn where there is data in");
	if (res != 1)
		return res;
	end = extent.offset + extent.length;
	if (extent.kind == EXTENT_ZERO && end != hash->options.end)
		end = align_down(end, HASH_NODE);
	*ret_hole = extent.kind == EXTENT_ZERO && end > at;
	if (!*ret_hole)
		end = extent.kind == EXTENT_ZERO ? at + 1 : end;
	*ret_end = *ret_hole ? end : min_u64(align_up(end, HASH_NODE), hash->options.end);
	return 1;
}

/* Passes over what is done. False at the end. */
static bool next_gap(struct hash_extents *hash, uint64_t *ret_end)
{
	uint64_t end = hash->options.end;
	struct range gap = {hash->position, end - hash->position};

	if (hash->options.done && !range_set_gap(hash->options.done, hash->position, end, &gap))
		hash->position = end;
	if (hash->position >= end)
		return false;
	hash->position = max_u64(hash->position, align_down(gap.offset, HASH_NODE));
	*ret_end = min_u64(align_up(gap.offset + gap.length, HASH_NODE), end);
	return true;
}

/* Fine digests first where most chunks differ anyway: that spares a round trip. */
static uint32_t first_granularity(const struct hash_extents *hash)
{
	if (hash->options.top_granularity)
		return hash->options.top_granularity;
	return hash->share > SHARE_FULL / 2 ? HASH_NODE : DIGEST_CHUNK;
}

static void start_slot(struct hash_extents *hash, const bool holes[HASH_SIDES], uint64_t end)
{
	struct hash_slot *slot = slot_at(hash, hash->count);
	uint64_t chunk_end = align_down(hash->position, DIGEST_CHUNK) + DIGEST_CHUNK;

	slot->kind = HASH_COMPARED;
	if (holes[HASH_SOURCE] && holes[HASH_COMPARE])
		slot->kind = HASH_SAME;
	else if (holes[HASH_COMPARE] && !holes[HASH_SOURCE] && !hash->options.leaves)
		slot->kind = HASH_DIFFERENT;
	else
		end = min_u64(end, chunk_end);
	slot->context = &hash->context;
	slot->offset = hash->position;
	slot->length = end - hash->position;
	slot->granularity = first_granularity(hash);
	for (int i = 0; i < HASH_SIDES; i++)
		slot->sides[i].hole = holes[i];
	hash->position = end;
	hash->count++;
	if (!hash_slot_start(slot)) {
		hash->busy++;
		hash->idle = false;
	}
}

/* Fills the window as far as the maps are known. */
static void walk(struct hash_extents *hash)
{
	while (hash->count < hash->window && hash->res == 0 && !hash->closing) {
		uint64_t end, run_end[HASH_SIDES];
		bool holes[HASH_SIDES];

		if (!next_gap(hash, &end))
			return;
		for (int i = 0; i < HASH_SIDES; i++)
			if (next_run(hash, i, &holes[i], &run_end[i]) != 1)
				return;
		/* To say "same" of stale bytes would leave them there; to say "differs" of zeros costs little. */
		if (!hash->trusted && (holes[HASH_SOURCE] || hash->options.leaves))
			holes[HASH_COMPARE] = false;
		end = min_u64(end, min_u64(run_end[HASH_SOURCE], run_end[HASH_COMPARE]));
		start_slot(hash, holes, end);
	}
}

static bool at_end(const struct hash_extents *hash)
{
	return hash->position >= hash->options.end && hash->count == 0;
}

/* From the ring's loop, when something has come. */
static void progress(struct hash_extents *hash)
{
	walk(hash);
	if (!hash->waiting || hash->closing)
		return;
	if (hash->res == 0 && !at_end(hash) && !(hash->count > 0 && slot_at(hash, 0)->done))
		return;
	hash->waiting = false;
	extents_wake(&hash->extents);
}

static void map_wakes(void *data)
{
	progress(data);
}

static void slot_done(struct hash_slot *slot, int res)
{
	struct hash_extents *hash = container_of(slot->context, struct hash_extents, context);
	unsigned differs = slot->narrowed ? SHARE_FULL : 0;

	hash->busy--;
	hash->idle = hash->busy == 0;
	hash->share = (hash->share * 7 + differs) / 8;
	if (res < 0 && hash->res == 0)
		hash->res = res; /* hash_slot.c found the words */
	progress(hash);
}

/* Tells the leaves of a slot whose first run was given. */
static void tell_leaves(const struct hash_extents *hash, const struct hash_slot *slot)
{
	const struct hash_side *side = &slot->sides[HASH_SOURCE];
	const uint8_t *leaves = side->hole ? NULL : side->leaves;

	if (hash->options.leaves && !slot->unreadable)
		hash->options.leaves(hash->options.leaves_data, slot->offset, slot->length, leaves);
}

/* Adds what fits of a run to *extent. False when nothing does. */
static bool append(struct extent *extent, uint64_t length_max, uint64_t offset, uint64_t length,
    enum extent_kind kind, uint64_t *ret_taken)
{
	if (extent->length == 0)
		*extent = (struct extent){offset, 0, kind};
	if (extent->kind != kind || extent->offset + extent->length != offset)
		return false;
	if (kind == EXTENT_DATA)
		length = min_u64(length, length_max - extent->length);
	extent->length += length;
	*ret_taken = length;
	return length > 0;
}

/* How many bytes from `at` on are done; where none are, *length is cut to those that are not. */
static uint64_t passed_over(const struct hash_extents *hash, uint64_t at, uint64_t *length)
{
	struct range gap;

	if (!hash->options.done)
		return 0;
	if (!range_set_gap(hash->options.done, at, at + *length, &gap))
		return *length;
	*length = gap.length;
	return gap.offset - at;
}

static void advance(struct hash_extents *hash, struct hash_slot *slot, uint64_t length)
{
	if (slot->cursor == 0)
		tell_leaves(hash, slot);
	slot->cursor += length;
	if (slot->cursor < slot->length)
		return;
	hash->first = (hash->first + 1) % hash->window;
	hash->count--;
}

/* Takes runs from the first slots, as long as they add to one extent. */
static void gather(struct hash_extents *hash, uint64_t length_max, struct extent *extent)
{
	while (hash->count > 0 && slot_at(hash, 0)->done) {
		struct hash_slot *slot = slot_at(hash, 0);
		uint64_t at = slot->offset + slot->cursor, length;
		enum hash_verdict verdict = hash_slot_run(slot, &length);
		enum extent_kind kind = verdict == HASH_LEAF_ZERO ? EXTENT_ZERO : EXTENT_DATA;
		uint64_t taken = passed_over(hash, at, &length);

		if (taken == 0 && verdict == HASH_LEAF_SAME) {
			if (extent->length > 0)
				return;
			if (hash->options.same)
				hash->options.same(hash->options.same_data, at, length);
			taken = length;
		} else if (taken == 0 && !append(extent, length_max, at, length, kind, &taken)) {
			return;
		}
		advance(hash, slot, taken);
	}
}

static int hash_next(struct extents *extents, uint64_t length_max, struct extent *ret)
{
	struct hash_extents *hash = to_hash(extents);
	struct extent extent = {0};
	int res = failed_extents_next(&hash->failed, length_max, ret);

	hash->waiting = false;
	if (res)
		return res;
	/* What was passed over as same makes room for more: go on until there is something, or a wait. */
	do {
		unsigned before;

		walk(hash);
		before = hash->count;
		if (hash->res < 0)
			return hash->res;
		gather(hash, length_max, &extent);
		if (hash->count == before)
			break;
	} while (extent.length == 0);
	walk(hash);
	if (extent.length > 0) {
		*ret = extent;
		return 1;
	}
	if (hash->res < 0)
		return hash->res;
	hash->waiting = !at_end(hash);
	return at_end(hash) ? 2 : 0;
}

static void hash_finish(struct extents *extents, const struct extent *extent, int res)
{
	if (res < 0)
		failed_extents_add(&to_hash(extents)->failed, extent);
}

static void hash_free(struct extents *extents)
{
	struct hash_extents *hash = to_hash(extents);

	hash->closing = true;
	/* When the loop itself broke, requests may still be under way: better to lose memory than to free
	 * theirs. */
	if (!hash->idle && ring_run_until(block_ring(hash->context.blocks[HASH_SOURCE]), &hash->idle) < 0)
		return;
	for (int i = 0; i < HASH_SIDES; i++)
		extent_map_free(hash->maps[i]);
	failed_extents_done(&hash->failed);
	digest_free(hash->context.digest);
	explicit_bzero(&hash->context.key, sizeof(hash->context.key));
	free(hash->slots);
	free(hash);
}

static const struct extents_ops hash_ops = {
    .next = hash_next,
    .finish = hash_finish,
    .free = hash_free,
};

const struct error *hash_extents_error(const struct extents *extents)
{
	return &container_of(extents, struct hash_extents, extents)->context.error;
}

static int prepare(struct hash_extents *hash, struct error *error)
{
	const struct hash_extents_options *options = &hash->options;
	struct hash_context *context = &hash->context;
	int res = digest_new(&context->digest, &context->key, error);

	for (int i = 0; i < HASH_SIDES && res == 0; i++)
		res = extent_map_new(&hash->maps[i], context->blocks[i], options->end, options->ignore_holes,
		    map_wakes, hash, error);
	if (res < 0)
		return res;
	hash->slots = calloc(hash->window, sizeof(*hash->slots));
	if (!hash->slots)
		return error_set(error, -ENOMEM, "cannot compare volumes: out of memory");
	return 0;
}

int hash_extents_new(struct extents **ret, struct block *source, struct block *compare,
    const struct hash_extents_options *options, struct error *error)
{
	struct hash_extents *hash = calloc(1, sizeof(*hash));
	bool remote = block_info(source)->remote || block_info(compare)->remote;
	int res;

	assert(options->end <= block_info(source)->size && options->end <= block_info(compare)->size);
	/* A key that was never drawn is one that everybody knows. */
	assert(!bytes_are_zero(options->key->bytes, sizeof(options->key->bytes)));
	assert(options->top_granularity == 0 || digest_granularity_ok(options->top_granularity));
	if (!hash)
		return error_set(error, -ENOMEM, "cannot compare volumes: out of memory");
	hash->extents.ops = &hash_ops;
	hash->options = *options;
	hash->idle = true;
	hash->trusted = options->trust_holes || block_info(compare)->holes_trusted;
	hash->window = options->window ? options->window : remote ? WINDOW_REMOTE : WINDOW_LOCAL;
	hash->context = (struct hash_context){.blocks = {source, compare},
	    .key = *options->key,
	    .leaves_asked = {!block_info(source)->remote || options->leaves, !block_info(compare)->remote},
	    .give_unreadable = options->give_unreadable,
	    .slot_done = slot_done};
	failed_extents_init(&hash->failed);
	res = prepare(hash, error);
	if (res < 0) {
		hash_free(&hash->extents);
		return res;
	}
	*ret = &hash->extents;
	return 0;
}
