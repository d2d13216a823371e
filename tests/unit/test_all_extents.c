/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The extents of a full copy: all of the source once, holes as holes, but for what is done; and failures come
 * back. */
#include "sync/all_extents.h"
#include "volume.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define SIZE_MAX_BYTES 40000u

struct fixture {
	struct ring *ring;
	struct rand rand;
	struct volume *volume;
	struct range_set done;
	uint8_t given[SIZE_MAX_BYTES]; /* times */
	bool awake;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	rand_init(&f->rand, seed_of_run());
	*state = f;
	return ring_new(&f->ring, 64, NULL);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	ring_free(f->ring);
	free(f);
	return 0;
}

static void make_volume(struct fixture *f, uint64_t size)
{
	f->volume = volume_new(f->ring, &f->rand, size);
	for (uint64_t at = 0; at < size;) {
		uint64_t length =
		    min_u64(size - at, 1 + rand_below(&f->rand, rand_one_in(&f->rand, 3) ? 9000 : 40));

		memset(f->volume->hole + at, (int)rand_below(&f->rand, 2), length);
		at += length;
	}
	range_set_init(&f->done);
	memset(f->given, 0, sizeof(f->given));
}

static void drop_volume(struct fixture *f)
{
	range_set_done(&f->done);
	block_free(&f->volume->block);
}

static void woken(void *data)
{
	*(bool *)data = true;
}

static struct extents *make_extents(struct fixture *f, uint64_t end, bool ignore_holes)
{
	struct all_extents_options options = {.end = end, .done = &f->done, .ignore_holes = ignore_holes};
	struct extents *extents;

	assert_int_equal(all_extents_new(&extents, &f->volume->block, &options, NULL), 0);
	extents->wake = woken;
	extents->wake_data = &f->awake;
	return extents;
}

/* next(), waiting as the engine would. */
static int next(struct fixture *f, struct extents *extents, uint64_t length_max, struct extent *ret)
{
	for (;;) {
		int res;

		f->awake = false;
		res = extents_next(extents, length_max, ret);
		assert_false(f->awake); /* never from within next() */
		if (res != 0)
			return res;
		assert_int_equal(ring_run_until(f->ring, &f->awake), 0);
	}
}

static void check_extent(
    struct fixture *f, const struct extent *extent, uint64_t length_max, bool ignore_holes)
{
	assert_true(extent->length > 0);
	if (extent->kind == EXTENT_DATA)
		assert_true(extent->length <= length_max);
	for (uint64_t at = extent->offset; at < extent->offset + extent->length; at++) {
		f->given[at]++;
		if (ignore_holes)
			assert_int_equal(extent->kind, EXTENT_DATA);
		else
			assert_int_equal(extent->kind, f->volume->hole[at] ? EXTENT_ZERO : EXTENT_DATA);
	}
}

static void one_walk(struct fixture *f)
{
	uint64_t size = rand_below(&f->rand, SIZE_MAX_BYTES), end, length_max;
	bool ignore_holes = rand_one_in(&f->rand, 4), was_done[SIZE_MAX_BYTES] = {0};
	struct extents *extents;
	struct extent extent;
	int res;

	make_volume(f, size);
	end = rand_one_in(&f->rand, 3) ? rand_below(&f->rand, size + 1) : size;
	length_max = 1 + rand_below(&f->rand, 5000);
	for (uint64_t i = rand_below(&f->rand, 10); i > 0; i--) {
		uint64_t at = rand_below(&f->rand, size + 1),
		         length = rand_below(&f->rand, (size - at) / 2 + 1);

		range_set_add(&f->done, at, length);
		memset(was_done + at, 1, length);
	}
	extents = make_extents(f, end, ignore_holes);
	while ((res = next(f, extents, length_max, &extent)) == 1) {
		check_extent(f, &extent, length_max, ignore_holes);
		if (rand_one_in(&f->rand, 8)) {
			for (uint64_t at = 0; at < extent.length; at++)
				f->given[extent.offset + at]--;
			extents_finish(extents, &extent, -EIO);
		} else {
			extents_finish(extents, &extent, 0);
			range_set_add(&f->done, extent.offset, extent.length);
		}
	}
	assert_int_equal(res, 2);
	for (uint64_t at = 0; at < SIZE_MAX_BYTES; at++)
		assert_int_equal(f->given[at], at < end && !was_done[at]);
	extents_free(extents);
	drop_volume(f);
}

static void test_walks(void **state)
{
	for (int i = 0; i < 150; i++)
		one_walk(*state);
}

static void test_failed_after_the_end_comes_back(void **state)
{
	struct fixture *f = *state;
	struct extents *extents;
	struct extent extent = {0}, again;

	make_volume(f, 5000);
	extents = make_extents(f, 5000, true);
	assert_int_equal(next(f, extents, 8192, &extent), 1);
	assert_int_equal(next(f, extents, 8192, &again), 2);
	extents_finish(extents, &extent, -EIO);
	assert_int_equal(next(f, extents, 4096, &again), 1);
	assert_int_equal(again.offset, 0);
	assert_int_equal(again.length, 4096);
	assert_int_equal(next(f, extents, 4096, &again), 1);
	assert_int_equal(again.offset, 4096);
	assert_int_equal(next(f, extents, 4096, &again), 2);
	extents_free(extents);
	drop_volume(f);
}

static void test_error_is_told(void **state)
{
	struct fixture *f = *state;
	struct extents *extents;
	struct extent extent;

	make_volume(f, 5000);
	f->volume->fail_extents = true;
	extents = make_extents(f, 5000, false);
	assert_int_equal(next(f, extents, 4096, &extent), -EIO);
	extents_free(extents);
	drop_volume(f);
}

static void test_free_while_asking(void **state)
{
	struct fixture *f = *state;
	struct extents *extents;
	struct extent extent;

	make_volume(f, 5000);
	extents = make_extents(f, 5000, false);
	assert_int_equal(extents_next(extents, 4096, &extent), 0);
	extents_free(extents);
	drop_volume(f);
}

/* A driver or a peer that lies about extents. */
static struct extent lie[2];
static int lie_count;

static void liar_submit(struct block *block, struct block_io *io)
{
	if (lie_count > 0)
		memcpy(io->extents, lie, sizeof(lie));
	block_complete_later(block, io, lie_count);
}

static void check_lie(struct fixture *f, int count, struct extent first, struct extent second)
{
	static const struct block_driver liar = {.name = "liar", .submit = liar_submit};
	struct block block = {.driver = &liar, .ring = f->ring, .info = {.name = "liar", .size = 5000}};
	struct all_extents_options options = {.end = 5000};
	struct extents *extents;
	struct extent extent;

	lie[0] = first;
	lie[1] = second;
	lie_count = count;
	assert_int_equal(all_extents_new(&extents, &block, &options, NULL), 0);
	extents->wake = woken;
	extents->wake_data = &f->awake;
	assert_int_equal(next(f, extents, 4096, &extent), -EPROTO);
	extents_free(extents);
}

static void test_lies_are_refused(void **state)
{
	struct fixture *f = *state;

	check_lie(f, 0, (struct extent){0}, (struct extent){0});
	check_lie(f, 1, (struct extent){1, 10, EXTENT_DATA}, (struct extent){0});
	check_lie(f, 1, (struct extent){0, 0, EXTENT_DATA}, (struct extent){0});
	check_lie(f, 1, (struct extent){0, 5001, EXTENT_DATA}, (struct extent){0});
	check_lie(f, 1, (struct extent){0, 10, (enum extent_kind)7}, (struct extent){0});
	check_lie(f, 2, (struct extent){0, 10, EXTENT_DATA}, (struct extent){9, 10, EXTENT_DATA});
	check_lie(
	    f, 2, (struct extent){0, 10, EXTENT_DATA}, (struct extent){10, UINT64_MAX - 4, EXTENT_ZERO});
	check_lie(f, 4000, (struct extent){0, 10, EXTENT_DATA}, (struct extent){10, 10, EXTENT_ZERO});
}

static void test_stream(void **state)
{
	struct extents *extents;
	struct extent extent;

	for (int way = 0; way < 2; way++) {
		assert_int_equal(stream_extents_new(&extents, NULL), 0);
		for (uint64_t i = 0; i < 5; i++) {
			assert_int_equal(extents_next(extents, 1000, &extent), 1);
			assert_int_equal(extent.offset, i * 1000);
			assert_int_equal(extent.length, 1000);
			assert_int_equal(extent.kind, EXTENT_DATA);
			extents_finish(extents, &extent, 0);
		}
		extent.length = 999;
		if (way)
			extents_finish(extents, &extent, 0);
		else
			stream_extents_end(extents);
		assert_int_equal(extents_next(extents, 1000, &extent), 2);
		extents_free(extents);
	}
}

#define ONE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    ONE(test_walks),
	    ONE(test_failed_after_the_end_comes_back),
	    ONE(test_error_is_told),
	    ONE(test_free_while_asking),
	    ONE(test_lies_are_refused),
	    cmocka_unit_test(test_stream),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
