/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What trackers say, collected: against a byte for each block; and that it stays small without ever leaving anything out. */
#include "track/changes.h"
#include "volume.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define BLOCKS 3000u

/* Each block that was added is there, and nothing else; the volume's odd end, too. */
static void check_exact(const struct range_set *set, const uint8_t *model, uint64_t unit, uint64_t end)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < BLOCKS; i++) {
		uint64_t at = i * unit, length = at >= end ? 0 : min_u64(unit, end - at);
		struct range gap;

		if (!length)
			continue;
		if (model[i])
			assert_true(range_set_contains(set, at, length));
		else
			assert_true(range_set_gap(set, at, at + length, &gap) && gap.length == length);
		bytes += model[i] ? length : 0;
	}
	assert_int_equal(set->bytes, bytes);
	for (size_t i = 1; i < set->count; i++)
		assert_true(set->ranges[i - 1].offset + set->ranges[i - 1].length < set->ranges[i].offset);
}

static void add_some(struct changes *changes, struct rand *rand, uint8_t *model, uint64_t unit, bool *again)
{
	unsigned count = (unsigned)rand_below(rand, BLOCKS);

	for (unsigned n = 0; n < count; n++) {
		unsigned block = (unsigned)rand_below(rand, BLOCKS),
		         blocks = 1 + (unsigned)rand_below(rand, 4);

		for (unsigned i = block; i < block + blocks && i < BLOCKS; i++) {
			*again |= model[i] && i * unit < changes->end;
			model[i] = 1;
		}
		assert_int_equal(
		    changes_add(changes, block * unit, min_u64(blocks, BLOCKS - block) * unit), 0);
	}
}

static void test_any_order_is_exact(void **state)
{
	struct rand rand;

	rand_init(&rand, seed_of_run());
	for (int round = 0; round < 200; round++) {
		uint8_t model[BLOCKS] = {0};
		uint64_t unit = UINT64_C(512) << rand_below(&rand, 12);
		uint64_t end = BLOCKS * unit - rand_below(&rand, 3 * unit);
		struct changes changes;
		struct range_set set;
		bool again = false;

		changes_init(&changes, end);
		add_some(&changes, &rand, model, unit, &again);
		if (rand_one_in(&rand, 2))
			changes_tidy(&changes);
		add_some(&changes, &rand, model, unit, &again);
		changes_tidy(&changes);
		assert_int_equal(changes.overlaps, again);
		assert_int_equal(changes_take(&changes, &set), 0);
		check_exact(&set, model, unit, end);
		range_set_done(&set);
	}
}

/* Far more separate ranges than are kept: coarser, never less, and never beyond the end. */
static void test_many_become_coarser(void **state)
{
	const uint64_t count = 5 * (uint64_t)CHANGES_MAX, step = 3 * 4096, end = count * step - 5000;
	struct changes changes;
	struct range_set set;

	changes_init(&changes, end);
	/* Backwards, so that each is a range of its own. */
	for (uint64_t i = count; i-- > 0;)
		assert_int_equal(changes_add(&changes, i * step, 512), 0);
	assert_true(changes.capacity <= 2 * CHANGES_MAX);
	assert_int_equal(changes_take(&changes, &set), 0);
	assert_true(set.count <= CHANGES_MAX);
	for (uint64_t i = 0; i < count; i++)
		assert_true(range_set_contains(&set, i * step, 512));
	assert_true(set.ranges[set.count - 1].offset + set.ranges[set.count - 1].length <= end);
	range_set_done(&set);
}

static void test_ends(void **state)
{
	struct changes changes;
	struct range_set set;

	changes_init(&changes, 10000);
	assert_int_equal(changes_add(&changes, 10000, 1), 0);
	assert_int_equal(changes_add(&changes, UINT64_MAX, UINT64_MAX), 0);
	assert_int_equal(changes_add(&changes, 5, 0), 0);
	assert_int_equal(changes_add(&changes, 9999, UINT64_MAX), 0);
	assert_int_equal(changes_take(&changes, &set), 0);
	assert_int_equal(set.count, 1);
	assert_int_equal(set.ranges[0].offset, 9999);
	assert_int_equal(set.ranges[0].length, 1);
	range_set_done(&set);
	assert_int_equal(changes_take(&changes, &set), 0);
	assert_int_equal(set.count, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_any_order_is_exact),
	    cmocka_unit_test(test_many_become_coarser),
	    cmocka_unit_test(test_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
