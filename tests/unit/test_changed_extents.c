/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The extents of known changes: what changed and is not done, each byte once, holes as holes; the rest is not even asked about. */
#include "sync/changed_extents.h"
#include "volume.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define SIZE 30011u

static void woken(void *data)
{
	*(bool *)data = true;
}

static int next(struct ring *ring, struct extents *extents, struct extent *ret)
{
	bool awake = false;
	int res;

	extents->wake = woken;
	extents->wake_data = &awake;
	while ((res = extents_next(extents, 4096, ret)) == 0) {
		assert_int_equal(ring_run_until(ring, &awake), 0);
		awake = false;
	}
	return res;
}

static void make_set(struct rand *rand, struct range_set *set, uint8_t *model)
{
	range_set_init(set);
	for (unsigned n = (unsigned)rand_below(rand, 60); n > 0; n--) {
		uint64_t at = rand_below(rand, SIZE), length = min_u64(1 + rand_below(rand, 500), SIZE - at);

		assert_int_equal(range_set_add(set, at, length), 0);
		memset(model + at, 1, length);
	}
}

static void take_all(
    struct ring *ring, struct extents *extents, struct volume *volume, bool fail, uint8_t *given)
{
	struct extent extent;

	while (next(ring, extents, &extent) == 1) {
		for (uint64_t at = extent.offset; at < extent.offset + extent.length; at++) {
			given[at]++;
			if (extent.kind == EXTENT_ZERO)
				assert_true(volume->hole[at]);
		}
		extents_finish(extents, &extent, fail ? -EIO : 0);
		fail = false;
	}
}

static void test_what_changed_and_is_not_done(void **state)
{
	static uint8_t changed_model[SIZE], done_model[SIZE], given[SIZE];
	struct rand rand;
	struct ring *ring = *state;

	rand_init(&rand, seed_of_run());
	for (int round = 0; round < 200; round++) {
		struct volume *volume = volume_new(ring, &rand, SIZE);
		struct range_set changed, done;
		struct changed_extents_options options = {.changed = &changed, .done = &done};
		struct extents *extents;

		options.end = SIZE - rand_below(&rand, 600);
		memset(changed_model, 0, SIZE);
		memset(done_model, 0, SIZE);
		memset(given, 0, SIZE);
		for (unsigned i = 0; i < SIZE; i += 100)
			memset(volume->hole + i, (int)rand_below(&rand, 2), min_u64(100, SIZE - i));
		make_set(&rand, &changed, changed_model);
		make_set(&rand, &done, done_model);
		assert_int_equal(changed_extents_new(&extents, &volume->block, &options, NULL), 0);
		range_set_done(&changed);
		range_set_done(&done);
		take_all(ring, extents, volume, false, given);
		for (unsigned i = 0; i < SIZE; i++)
			assert_int_equal(given[i], changed_model[i] && !done_model[i] && i < options.end);
		extents_free(extents);
		block_free(&volume->block);
	}
}

static void test_what_failed_comes_back(void **state)
{
	static uint8_t given[SIZE];
	struct changed_extents_options options = {.end = SIZE, .ignore_holes = true};
	struct range_set changed;
	struct extents *extents;
	struct rand rand;
	struct volume *volume;

	rand_init(&rand, 7);
	volume = volume_new(*state, &rand, SIZE);
	range_set_init(&changed);
	range_set_add(&changed, SIZE - 11, 11);
	options.changed = &changed;
	assert_int_equal(changed_extents_new(&extents, &volume->block, &options, NULL), 0);
	take_all(*state, extents, volume, true, given);
	for (unsigned i = 0; i < SIZE; i++)
		assert_int_equal(given[i], i < SIZE - 11 ? 0 : 2);
	extents_free(extents);
	range_set_done(&changed);
	block_free(&volume->block);
}

static int setup(void **state)
{
	return ring_new((struct ring **)state, 64, NULL);
}

static int teardown(void **state)
{
	ring_free(*state);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_what_changed_and_is_not_done),
	    cmocka_unit_test(test_what_failed_comes_back),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
