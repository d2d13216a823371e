/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Random pairs of volumes: the extents given are exactly the blocks that differ, whatever the sizes, holes,
 * granularities, order of answers and failures.
 */
#include "sync/hash_extents.h"
#include "volume.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define NODE (DIGEST_LEAF * DIGEST_FANOUT)
#define MIB  (1u << 20)

struct fixture {
	struct ring *ring;
	struct rand rand;
	struct volume *source, *target;
	struct digest_key key;
	struct digest *digest;
	struct range_set done, given, same, told;
	struct hash_extents_options options;
	bool awake;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	rand_init(&f->rand, seed_of_run());
	rand_bytes(&f->rand, f->key.bytes, sizeof(f->key.bytes));
	*state = f;
	if (digest_new(&f->digest, &f->key, NULL) < 0)
		return -1;
	return ring_new(&f->ring, 64, NULL);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	digest_free(f->digest);
	ring_free(f->ring);
	free(f);
	return 0;
}

static void woken(void *data)
{
	*(bool *)data = true;
}

static void add_once(struct range_set *set, uint64_t offset, uint64_t length)
{
	uint64_t before = set->bytes;

	assert_int_equal(range_set_add(set, offset, length), 0);
	assert_true(set->bytes == before + length);
}

static void found_same(void *data, uint64_t offset, uint64_t length)
{
	add_once(&((struct fixture *)data)->same, offset, length);
}

static void told_leaves(void *data, uint64_t offset, uint64_t length, const uint8_t *leaves)
{
	struct fixture *f = data;
	uint8_t expected[4096];

	add_once(&f->told, offset, length);
	if (!leaves) {
		assert_true(bytes_are_zero(f->source->data + offset, length));
		return;
	}
	digest_leaves(f->digest, f->source->data + offset, length, expected);
	assert_memory_equal(leaves, expected, digest_count(length, DIGEST_LEAF) * DIGEST_BYTES);
}

static void make_pair(struct fixture *f, uint64_t source_size, uint64_t target_size)
{
	f->source = volume_new(f->ring, &f->rand, source_size);
	f->target = volume_new(f->ring, &f->rand, target_size);
	range_set_init(&f->done);
	range_set_init(&f->given);
	range_set_init(&f->same);
	range_set_init(&f->told);
	f->options = (struct hash_extents_options){
	    .end = min_u64(source_size, target_size), .key = &f->key, .same = found_same, .same_data = f};
}

static void drop_pair(struct fixture *f)
{
	range_set_done(&f->done);
	range_set_done(&f->given);
	range_set_done(&f->same);
	range_set_done(&f->told);
	block_free(&f->source->block);
	block_free(&f->target->block);
}

/* Random contents: stretches of noise and of zeros, some of these told as holes. */
static void fill(struct fixture *f, struct volume *volume)
{
	uint64_t size = volume->block.info.size;

	for (uint64_t at = 0; at < size;) {
		static const uint64_t scales[] = {600, 9000, 150000, 2000000};
		uint64_t length = 1 + rand_below(&f->rand, scales[rand_below(&f->rand, 4)]);

		if (rand_one_in(&f->rand, 2))
			length = align_up(length, rand_one_in(&f->rand, 2) ? NODE : DIGEST_LEAF);
		length = min_u64(length, size - at);
		if (rand_one_in(&f->rand, 2))
			rand_bytes(&f->rand, volume->data + at, length);
		else
			memset(volume->hole + at, (int)rand_below(&f->rand, 2), length);
		at += length;
	}
}

static void change(struct fixture *f, struct volume *volume, uint64_t at, uint64_t length, bool zero)
{
	if (zero)
		memset(volume->data + at, 0, length);
	else
		rand_bytes(&f->rand, volume->data + at, length);
	memset(volume->hole + at, zero && rand_one_in(&f->rand, 2), length);
}

/* The target: a copy of the source with changes on either side, or something else altogether. */
static void make_contents(struct fixture *f)
{
	uint64_t end = f->options.end;

	fill(f, f->source);
	fill(f, f->target);
	if (rand_one_in(&f->rand, 5) || end == 0)
		return;
	memcpy(f->target->data, f->source->data, end);
	memset(f->target->hole, 0, end);
	for (uint64_t at = 0; at < end; at++)
		f->target->hole[at] = f->source->hole[at] && (at >> 17 & 1);
	for (uint64_t i = rand_below(&f->rand, 12); i > 0; i--) {
		uint64_t at = rand_below(&f->rand, end);
		uint64_t most = rand_one_in(&f->rand, 2) ? 300000 : 3;

		change(f, rand_one_in(&f->rand, 2) ? f->source : f->target, at,
		    1 + rand_below(&f->rand, min_u64(most, end - at)), rand_one_in(&f->rand, 2));
	}
}

static void check_extent(struct fixture *f, const struct extent *extent, uint64_t length_max)
{
	assert_true(extent->length > 0 && extent->offset + extent->length <= f->options.end);
	if (extent->kind == EXTENT_DATA)
		assert_true(extent->length <= length_max);
	else
		assert_true(bytes_are_zero(f->source->data + extent->offset, extent->length));
}

static int next(struct fixture *f, struct extents *extents, uint64_t length_max, struct extent *ret)
{
	for (;;) {
		int res;

		f->awake = false;
		res = extents_next(extents, length_max, ret);
		assert_false(f->awake);
		if (res != 0)
			return res;
		assert_int_equal(ring_run_until(f->ring, &f->awake), 0);
	}
}

static struct extents *begin(struct fixture *f)
{
	struct extents *extents;

	assert_int_equal(
	    hash_extents_new(&extents, &f->source->block, &f->target->block, &f->options, NULL), 0);
	extents->wake = woken;
	extents->wake_data = &f->awake;
	return extents;
}

static void run(struct fixture *f, uint64_t length_max, bool failures)
{
	struct extents *extents = begin(f);
	struct extent extent;
	int res;

	while ((res = next(f, extents, length_max, &extent)) == 1) {
		bool failed = failures && rand_one_in(&f->rand, 5);

		check_extent(f, &extent, length_max);
		if (!failed)
			add_once(&f->given, extent.offset, extent.length);
		extents_finish(extents, &extent, failed ? -EIO : 0);
	}
	assert_int_equal(res, 2);
	extents_free(extents);
}

/* The source's range goes without a look where only the target has a hole. */
static bool may_go_unseen(const struct fixture *f, uint64_t at)
{
	uint64_t from = align_down(at, NODE), to = min_u64(from + NODE, f->options.end);

	if (f->options.ignore_holes || f->options.leaves)
		return false;
	for (uint64_t i = at; i < to; i++)
		if (!f->target->hole[i])
			return false;
	return true;
}

static void check_part(struct fixture *f, const struct range *part, bool differs)
{
	bool given = range_set_contains(&f->given, part->offset, part->length);
	bool same = range_set_contains(&f->same, part->offset, part->length);

	/* Each leaf as a whole is the one or the other. */
	assert_true(given != same);
	if (given != differs)
		assert_true(given && may_go_unseen(f, part->offset));
	if (f->options.leaves)
		assert_true(range_set_contains(&f->told, part->offset, part->length));
}

static void check_result(struct fixture *f)
{
	uint64_t end = f->options.end, passed = 0;

	for (uint64_t at = 0; at < end; at += DIGEST_LEAF) {
		uint64_t length = min_u64(DIGEST_LEAF, end - at), from = at;
		bool differs = memcmp(f->source->data + at, f->target->data + at, length) != 0;
		struct range part;

		passed += length;
		for (; range_set_gap(&f->done, from, at + length, &part); from = part.offset + part.length) {
			check_part(f, &part, differs);
			passed -= part.length;
		}
	}
	/* What is done is neither. */
	assert_true(f->given.bytes + f->same.bytes + passed == end);
}

static uint64_t any_size(struct fixture *f)
{
	static const uint64_t sizes[] = {0, 1, 511, 4095, 4096, 4097, 65535, 65536, 65537, MIB - 1, MIB,
	    MIB + 1, 2 * MIB, 2 * MIB + 65536, 3 * MIB - 4096};
	const unsigned count = sizeof(sizes) / sizeof(*sizes);
	uint64_t pick = rand_below(&f->rand, count + 5);

	return pick < count ? sizes[pick] : rand_below(&f->rand, 4000001);
}

static void pick_options(struct fixture *f)
{
	static const uint32_t granularities[] = {0, DIGEST_LEAF, NODE, DIGEST_CHUNK};
	static const unsigned windows[] = {0, 1, 2, 5};

	f->options.top_granularity = granularities[rand_below(&f->rand, 4)];
	f->options.window = windows[rand_below(&f->rand, 4)];
	f->options.ignore_holes = rand_one_in(&f->rand, 4);
	f->source->block.info.remote = rand_one_in(&f->rand, 2);
	f->target->block.info.remote = rand_one_in(&f->rand, 2);
	f->source->block.info.request_align = rand_one_in(&f->rand, 2) ? 1 : 512;
	if (rand_one_in(&f->rand, 3)) {
		f->options.leaves = told_leaves;
		f->options.leaves_data = f;
	}
	if (rand_one_in(&f->rand, 4) && f->options.end > 0) {
		f->options.done = &f->done;
		for (uint64_t i = 1 + rand_below(&f->rand, 6); i > 0; i--) {
			uint64_t at = rand_below(&f->rand, f->options.end);

			range_set_add(&f->done, at, rand_below(&f->rand, f->options.end - at + 1));
		}
	}
}

static void one_pair(struct fixture *f, uint64_t source_size, uint64_t target_size)
{
	make_pair(f, source_size, target_size);
	make_contents(f);
	pick_options(f);
	run(f, rand_one_in(&f->rand, 2) ? MIB : 1 + rand_below(&f->rand, 200000), rand_one_in(&f->rand, 3));
	check_result(f);
	drop_pair(f);
}

static void test_random_pairs(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 120; i++) {
		uint64_t size = any_size(f);

		one_pair(f, size, size);
	}
}

/* Only what both have is compared, and the last leaf at the same length on both sides. */
static void test_h18_sizes_that_differ(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 60; i++)
		one_pair(f, any_size(f), any_size(f));
}

static void test_h12_last_partial_block(void **state)
{
	static const uint64_t sizes[] = {1, 4095, 4097, 65537, MIB - 1, MIB + 1, 3 * MIB + 4097};
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		for (int way = 0; way < 4; way++) {
			uint64_t size = sizes[i], last = align_down(size - 1, DIGEST_LEAF);

			/* The last byte alone differs; the target goes on behind it in ways 2 and 3. */
			make_pair(f, size, way < 2 ? size : size + 5000);
			rand_bytes(&f->rand, f->source->data, size);
			memcpy(f->target->data, f->source->data, size);
			f->target->data[size - 1] ^= 0x80;
			f->target->block.info.remote = way % 2;
			run(f, MIB, false);
			assert_int_equal(f->given.count, 1);
			assert_int_equal(f->given.ranges[0].offset, last);
			assert_int_equal(f->given.bytes, size - last);
			assert_int_equal(f->same.bytes, last);
			drop_pair(f);
		}
	}
}

static void test_equal_volumes_give_nothing(void **state)
{
	struct fixture *f = *state;

	make_pair(f, 3 * MIB + 777, 3 * MIB + 777);
	fill(f, f->source);
	memcpy(f->target->data, f->source->data, 3 * MIB + 777);
	f->target->block.info.remote = true;
	run(f, MIB, false);
	assert_int_equal(f->given.bytes, 0);
	assert_int_equal(f->same.bytes, 3 * MIB + 777);
	drop_pair(f);
}

/* A short last leaf that became zeros needs no data either. */
static void test_h12_last_partial_block_of_zeros(void **state)
{
	struct fixture *f = *state;
	struct extents *extents;
	struct extent extent;

	make_pair(f, MIB + 777, MIB + 777);
	rand_bytes(&f->rand, f->target->data, MIB + 777);
	memcpy(f->source->data, f->target->data, MIB);
	extents = begin(f);
	assert_int_equal(next(f, extents, MIB, &extent), 1);
	assert_int_equal(extent.offset, MIB);
	assert_int_equal(extent.length, 777);
	assert_int_equal(extent.kind, EXTENT_ZERO);
	assert_int_equal(next(f, extents, MIB, &extent), 2);
	extents_free(extents);
	drop_pair(f);
}

/* A change of one byte costs a chunk's digest for each chunk, 16 of nodes and 16 of leaves; and nothing is
 * read twice. */
static void test_narrowing_is_cheap(void **state)
{
	struct fixture *f = *state;

	make_pair(f, 16 * MIB, 16 * MIB);
	rand_bytes(&f->rand, f->source->data, 16 * MIB);
	memcpy(f->target->data, f->source->data, 16 * MIB);
	f->target->data[5 * MIB + 3 * NODE + 4097]++;
	f->target->block.info.remote = true;
	run(f, MIB, false);
	assert_int_equal(f->given.bytes, DIGEST_LEAF);
	assert_int_equal(f->given.ranges[0].offset, 5 * MIB + 3 * NODE + 4096);
	assert_int_equal(f->target->digests, 16 + 16 + 16);
	assert_int_equal(f->target->digest_requests, 16 + 2);
	assert_int_equal(f->target->read_bytes, 16 * MIB);
	assert_int_equal(f->source->read_bytes, 16 * MIB);
	drop_pair(f);
}

static void test_merges_over_chunks(void **state)
{
	struct fixture *f = *state;
	struct extents *extents;
	struct extent extent;

	make_pair(f, 4 * MIB, 4 * MIB);
	rand_bytes(&f->rand, f->source->data + MIB / 2, MIB);
	extents = begin(f);
	/* Until both chunks have been compared nothing is taken. */
	assert_int_equal(extents_next(extents, 4 * MIB, &extent), 0);
	for (int i = 0; i < 200; i++) {
		struct ring_op op = {.opcode = RING_TIMER, .deadline_ns = ring_now_ns(f->ring)};

		ring_wait(f->ring, &op);
	}
	assert_int_equal(next(f, extents, 4 * MIB, &extent), 1);
	assert_int_equal(extent.offset, MIB / 2);
	assert_int_equal(extent.length, MIB);
	assert_int_equal(extent.kind, EXTENT_DATA);
	assert_int_equal(next(f, extents, 4 * MIB, &extent), 2);
	extents_free(extents);
	drop_pair(f);
}

static void test_zero_extents(void **state)
{
	struct fixture *f = *state;
	struct extents *extents;
	struct extent extent;

	make_pair(f, 8 * MIB, 8 * MIB);
	rand_bytes(&f->rand, f->target->data + 100000, 5 * MIB);
	memset(f->source->hole, 1, 8 * MIB);
	extents = begin(f);
	for (uint64_t at = align_down(100000, DIGEST_LEAF); at < align_up(100000 + 5 * MIB, DIGEST_LEAF);) {
		assert_int_equal(next(f, extents, 4096, &extent), 1);
		assert_int_equal(extent.kind, EXTENT_ZERO);
		assert_int_equal(extent.offset, at);
		at += extent.length;
	}
	assert_int_equal(next(f, extents, MIB, &extent), 2);
	assert_int_equal(f->source->read_bytes, 0);
	extents_free(extents);
	drop_pair(f);
}

/* Where both claim a hole, or where leaves are told, a target is read unless its word is good. */
static void test_h04_a_targets_holes_are_read(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 4; i++) {
		bool trusted = i & 1, leaves = i & 2;
		struct extents *extents;
		struct extent extent;

		make_pair(f, 4 * MIB, 4 * MIB);
		rand_bytes(&f->rand, f->target->data + MIB, NODE);
		memset(f->source->hole, !leaves, 4 * MIB);
		memset(f->target->hole, 1, 4 * MIB);
		f->target->block.info.holes_trusted = trusted;
		f->options.leaves = leaves ? told_leaves : NULL;
		f->options.leaves_data = f;
		extents = begin(f);
		if (!trusted) {
			assert_int_equal(next(f, extents, 2 * MIB, &extent), 1);
			assert_int_equal(extent.kind, EXTENT_ZERO);
			assert_int_equal(extent.offset, MIB);
			assert_int_equal(extent.length, NODE);
		}
		assert_int_equal(next(f, extents, MIB, &extent), 2);
		assert_true(f->target->read_bytes == (trusted ? 0 : 4 * MIB));
		extents_free(extents);
		drop_pair(f);
	}
}

static void test_errors_end_it(void **state)
{
	struct fixture *f = *state;

	for (int way = 0; way < 4; way++) {
		struct extents *extents;
		struct volume *bad;
		struct extent extent;

		make_pair(f, 4 * MIB, 4 * MIB);
		bad = way % 2 ? f->source : f->target;
		if (way < 2) {
			bad->fail_offset = 2 * MIB + 9999;
			bad->fail_length = 1;
			bad->fail_res = -EIO;
		} else {
			bad->fail_extents = true;
		}
		extents = begin(f);
		assert_int_equal(next(f, extents, MIB, &extent), -EIO);
		assert_int_equal(hash_extents_error(extents)->code, -EIO);
		assert_non_null(strstr(hash_extents_error(extents)->text, "volume"));
		/* And it stays so. */
		assert_int_equal(next(f, extents, MIB, &extent), -EIO);
		extents_free(extents);
		drop_pair(f);
	}
}

static void test_unreadable_is_given(void **state)
{
	struct fixture *f = *state;

	for (int way = 0; way < 4; way++) {
		struct volume *bad;

		make_pair(f, 4 * MIB, 4 * MIB);
		f->options.give_unreadable = true;
		if (way >= 2) {
			f->options.leaves = told_leaves;
			f->options.leaves_data = f;
		}
		bad = way % 2 ? f->source : f->target;
		bad->fail_offset = 2 * MIB + 9999;
		bad->fail_length = 1;
		bad->fail_res = -EIO;
		run(f, MIB, false);
		assert_true(range_set_contains(&f->given, bad->fail_offset, 1));
		assert_int_equal(f->given.bytes, MIB);
		assert_int_equal(f->same.bytes, 3 * MIB);
		if (way >= 2)
			assert_int_equal(f->told.bytes, 3 * MIB);
		drop_pair(f);
	}
}

/* Let go at any moment, with requests under way. */
static void test_free_early(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 40; i++) {
		struct extents *extents;
		struct extent extent;

		make_pair(f, 4 * MIB, 4 * MIB);
		make_contents(f);
		f->target->block.info.remote = true;
		extents = begin(f);
		for (uint64_t steps = rand_below(&f->rand, 6); steps > 0; steps--)
			if (next(f, extents, MIB, &extent) != 1)
				break;
		extents_next(extents, MIB, &extent);
		extents_free(extents);
		drop_pair(f);
	}
}

/* Fragmented maps do not make a host of small requests. */
static void test_fragmented_maps(void **state)
{
	struct fixture *f = *state;

	make_pair(f, 4 * MIB, 4 * MIB);
	for (uint64_t at = 0; at < 4 * MIB; at += 2 * DIGEST_LEAF) {
		rand_bytes(&f->rand, f->source->data + at, DIGEST_LEAF);
		memset(f->source->hole + at + DIGEST_LEAF, 1, DIGEST_LEAF);
	}
	memcpy(f->target->data, f->source->data, 4 * MIB);
	run(f, MIB, false);
	assert_int_equal(f->given.bytes, 0);
	assert_true(f->source->digest_requests <= 4 * 16);
	drop_pair(f);
}

#define ONE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    ONE(test_random_pairs),
	    ONE(test_h18_sizes_that_differ),
	    ONE(test_h12_last_partial_block),
	    ONE(test_h12_last_partial_block_of_zeros),
	    ONE(test_equal_volumes_give_nothing),
	    ONE(test_narrowing_is_cheap),
	    ONE(test_merges_over_chunks),
	    ONE(test_zero_extents),
	    ONE(test_h04_a_targets_holes_are_read),
	    ONE(test_errors_end_it),
	    ONE(test_unreadable_is_given),
	    ONE(test_free_early),
	    ONE(test_fragmented_maps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
