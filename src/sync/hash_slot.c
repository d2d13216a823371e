/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Asks both sides for digests of a range, compares, and asks again for finer ones of what differs. A side
 * whose leaves are known (a local one, a hole) is not asked again: coarser digests are folded from its
 * leaves.
 */
#include "sync/hash_slot.h"

#include "base/bytes.h"

#include <assert.h>
#include <string.h>

static bool step(struct hash_slot *slot);

static void note_failure(struct hash_slot *slot, const struct block_io *io, int res)
{
	struct hash_context *context = slot->context;

	if (context->give_unreadable && block_medium_failed(io->block, res)) {
		slot->unreadable = true;
		return;
	}
	if (slot->res < 0)
		return;
	slot->res = res;
	error_set(&context->error, res, "cannot read %s for comparison, %llu bytes at %llu: %s",
	    block_info(io->block)->name, (unsigned long long)io->length, (unsigned long long)io->offset,
	    strerror(-res));
	block_link_error(io->block, &context->error);
}

static void ask_done(struct block_io *io, int res)
{
	struct hash_slot *slot = io->user;

	if (res < 0)
		note_failure(slot, io, res);
	if (--slot->pending > 0)
		return;
	if (slot->res < 0 || step(slot))
		slot->context->slot_done(slot, slot->res);
}

static void ask(
    struct hash_slot *slot, int index, uint64_t from, uint64_t to, uint32_t granularity, void *buf)
{
	struct hash_side *side = &slot->sides[index];
	struct block_io *io = &side->ios[side->io_count++];

	assert(side->io_count <= HASH_REQUESTS_MAX && from < to);
	*io = (struct block_io){.op = BLOCK_DIGEST,
	    .offset = slot->offset + from,
	    .length = to - from,
	    .granularity = granularity,
	    .key = &slot->context->key,
	    .buf = buf,
	    .done = ask_done,
	    .user = slot};
	slot->pending++;
	block_submit(slot->context->blocks[index], io);
}

/* One request for each run of nodes that may differ. */
static void ask_leaves_of_nodes(struct hash_slot *slot, int index)
{
	unsigned count = (unsigned)digest_count(slot->length, HASH_NODE), first = 0;

	while (first < count) {
		unsigned last = first;

		while (last < count && slot->nodes >> last & 1)
			last++;
		if (last > first)
			ask(slot, index, (uint64_t)first * HASH_NODE,
			    min_u64((uint64_t)last * HASH_NODE, slot->length), DIGEST_LEAF,
			    slot->sides[index].leaves + first * DIGEST_FANOUT * DIGEST_BYTES);
		first = last + 1;
	}
}

static void ask_side(struct hash_slot *slot, int index)
{
	struct hash_side *side = &slot->sides[index];

	side->io_count = 0;
	if (side->leaves_known)
		return;
	if (slot->context->leaves_asked[index]) {
		side->leaves_known = true;
		ask(slot, index, 0, slot->length, DIGEST_LEAF, side->leaves);
	} else if (slot->granularity == DIGEST_LEAF) {
		ask_leaves_of_nodes(slot, index);
	} else {
		ask(slot, index, 0, slot->length, slot->granularity, side->coarse);
	}
}

static const uint8_t *coarse_digests(struct hash_slot *slot, int index)
{
	struct hash_side *side = &slot->sides[index];

	if (side->leaves_known)
		digest_fold(slot->context->digest, side->leaves, digest_count(slot->length, DIGEST_LEAF),
		    slot->granularity, side->coarse);
	return side->coarse;
}

/* Sets slot->nodes to those that still may differ. */
static void compare_coarse(struct hash_slot *slot)
{
	const uint8_t *a = coarse_digests(slot, HASH_SOURCE), *b = coarse_digests(slot, HASH_COMPARE);
	size_t count = digest_count(slot->length, slot->granularity);
	uint32_t differ = 0;

	for (size_t i = 0; i < count; i++)
		if (memcmp(a + i * DIGEST_BYTES, b + i * DIGEST_BYTES, DIGEST_BYTES) != 0)
			differ |= 1u << i;
	if (slot->granularity == DIGEST_CHUNK)
		differ = differ ? UINT32_MAX : 0;
	slot->nodes = differ;
	slot->narrowed = differ != 0;
}

static void compare_leaves(struct hash_slot *slot)
{
	size_t count = digest_count(slot->length, DIGEST_LEAF);
	const uint8_t *a = slot->sides[HASH_SOURCE].leaves, *b = slot->sides[HASH_COMPARE].leaves;
	uint8_t zero[DIGEST_BYTES], short_zero[DIGEST_BYTES];

	digest_zeroes(slot->context->digest, DIGEST_LEAF, DIGEST_LEAF, zero);
	memcpy(short_zero, zero, sizeof(zero));
	digest_zeroes(slot->context->digest, slot->length % DIGEST_LEAF, DIGEST_LEAF, short_zero);
	memset(slot->verdicts, HASH_LEAF_SAME, sizeof(slot->verdicts));
	for (size_t i = 0; i < count; i++) {
		size_t at = i * DIGEST_BYTES;
		const uint8_t *zeroes = i + 1 < count ? zero : short_zero;

		if (!(slot->nodes >> (i / DIGEST_FANOUT) & 1) || memcmp(a + at, b + at, DIGEST_BYTES) == 0)
			continue;
		/* The source's digest of zeros says zeros as surely as equal digests say equal. */
		slot->verdicts[i] =
		    memcmp(a + at, zeroes, DIGEST_BYTES) == 0 ? HASH_LEAF_ZERO : HASH_LEAF_DATA;
		slot->narrowed = true;
	}
}

/* Goes on after all answers of a level are there, down to where requests are needed again. True when done. */
static bool step(struct hash_slot *slot)
{
	for (;;) {
		if (slot->unreadable) {
			slot->kind = HASH_DIFFERENT;
			slot->narrowed = false;
			return slot->done = true;
		}
		if (slot->granularity == DIGEST_LEAF) {
			compare_leaves(slot);
			return slot->done = true;
		}
		compare_coarse(slot);
		if (slot->nodes == 0)
			return slot->done = true;
		slot->granularity /= DIGEST_FANOUT;
		ask_side(slot, HASH_SOURCE);
		ask_side(slot, HASH_COMPARE);
		if (slot->pending > 0)
			return false;
	}
}

bool hash_slot_start(struct hash_slot *slot)
{
	bool leaves[HASH_SIDES];

	slot->pending = 0;
	slot->res = 0;
	slot->nodes = UINT32_MAX;
	slot->unreadable = slot->narrowed = false;
	slot->cursor = 0;
	slot->done = slot->kind != HASH_COMPARED;
	if (slot->done)
		return true;
	memset(slot->verdicts, HASH_LEAF_SAME, sizeof(slot->verdicts));
	for (int i = 0; i < HASH_SIDES; i++) {
		struct hash_side *side = &slot->sides[i];

		side->leaves_known = side->hole;
		leaves[i] = side->hole || slot->context->leaves_asked[i];
		if (side->hole)
			digest_zeroes(slot->context->digest, slot->length, DIGEST_LEAF, side->leaves);
	}
	/* No need for coarse digests where all leaves will be at hand; nor for a chunk's where it has one
	 * node. */
	if (leaves[HASH_SOURCE] && leaves[HASH_COMPARE])
		slot->granularity = DIGEST_LEAF;
	else if (slot->granularity == DIGEST_CHUNK &&
	         (slot->length <= HASH_NODE || slot->offset % DIGEST_CHUNK != 0))
		slot->granularity = HASH_NODE;
	ask_side(slot, HASH_SOURCE);
	ask_side(slot, HASH_COMPARE);
	return slot->pending == 0 && step(slot);
}

enum hash_verdict hash_slot_run(const struct hash_slot *slot, uint64_t *ret_length)
{
	uint64_t at = slot->cursor;
	enum hash_verdict verdict;

	if (slot->kind != HASH_COMPARED) {
		*ret_length = slot->length - at;
		return slot->kind == HASH_SAME ? HASH_LEAF_SAME : HASH_LEAF_DATA;
	}
	verdict = slot->verdicts[at / DIGEST_LEAF];
	do
		at = min_u64(align_down(at, DIGEST_LEAF) + DIGEST_LEAF, slot->length);
	while (at < slot->length && slot->verdicts[at / DIGEST_LEAF] == verdict);
	*ret_length = at - slot->cursor;
	return verdict;
}
