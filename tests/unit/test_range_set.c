/* SPDX-License-Identifier: GPL-2.0-or-later */
/* range_set against a plain bitmap, for random sequences of additions and takings. */
#include "range/range_set.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "seed.h"

#define SPACE 300

static void check_shape(const struct range_set *set, const bool *bits)
{
	uint64_t bytes = 0, end = 0;

	for (size_t i = 0; i < set->count; i++) {
		assert_true(set->ranges[i].length > 0);
		/* Sorted, and never adjacent: adjacent ones are one. */
		assert_true(i == 0 || set->ranges[i].offset > end);
		end = set->ranges[i].offset + set->ranges[i].length;
		for (uint64_t at = set->ranges[i].offset; at < end; at++)
			assert_true(bits[at]);
		bytes += set->ranges[i].length;
	}
	assert_int_equal(bytes, set->bytes);
	for (unsigned i = 0; i < SPACE; i++)
		bytes -= bits[i];
	assert_int_equal(bytes, 0);
}

static void check_contains(const struct range_set *set, const bool *bits, unsigned from, unsigned to)
{
	bool all = true;

	for (unsigned i = from; i < to; i++)
		all = all && bits[i];
	assert_int_equal(range_set_contains(set, from, to - from), all);
}

static void check_gap(const struct range_set *set, const bool *bits, unsigned from, unsigned to)
{
	struct range gap;
	unsigned begin = from, end;

	while (begin < to && bits[begin])
		begin++;
	for (end = begin; end < to && !bits[end];)
		end++;
	assert_int_equal(range_set_gap(set, from, to, &gap), begin < to);
	if (begin < to) {
		assert_int_equal(gap.offset, begin);
		assert_int_equal(gap.length, end - begin);
	}
}

static void take_some(struct range_set *set, bool *bits, unsigned length_max)
{
	struct range range;
	unsigned first = 0;

	while (first < SPACE && !bits[first])
		first++;
	if (!range_set_take(set, length_max, &range)) {
		assert_int_equal(first, SPACE);
		return;
	}
	assert_int_equal(range.offset, first);
	assert_true(range.length > 0 && range.length <= length_max);
	memset(bits + range.offset, 0, range.length);
	/* All of what could be taken was taken. */
	assert_true(range.length == length_max || range.offset + range.length == SPACE ||
	            !bits[first + range.length]);
}

static void check_union(const struct range_set *set, const bool *bits)
{
	unsigned from = (unsigned)rand() % SPACE, length = (unsigned)rand() % (SPACE - from);
	struct range_set both;
	bool both_bits[SPACE];

	range_set_init(&both);
	assert_int_equal(range_set_add(&both, from, length), 0);
	assert_int_equal(range_set_add_all(&both, set), 0);
	memcpy(both_bits, bits, sizeof(both_bits));
	memset(both_bits + from, 1, length);
	check_shape(&both, both_bits);
	range_set_done(&both);
}

static void one_run(void)
{
	struct range_set set;
	bool bits[SPACE] = {0};

	range_set_init(&set);
	for (int step = 0; step < 120; step++) {
		unsigned a = (unsigned)rand() % (SPACE + 1), b = (unsigned)rand() % (SPACE + 1);
		unsigned from = a < b ? a : b, to = a < b ? b : a;

		if (rand() % 4)
			to = from + (to - from) / 16;
		if (rand() % 5) {
			assert_int_equal(range_set_add(&set, from, to - from), 0);
			memset(bits + from, 1, to - from);
		} else {
			take_some(&set, bits, 1 + (unsigned)rand() % 40);
		}
		check_shape(&set, bits);
		for (int i = 0; i < 8; i++) {
			a = (unsigned)rand() % (SPACE + 1), b = (unsigned)rand() % (SPACE + 1);
			check_contains(&set, bits, a < b ? a : b, a < b ? b : a);
			check_gap(&set, bits, a < b ? a : b, a < b ? b : a);
		}
	}
	check_union(&set, bits);
	range_set_done(&set);
}

static void test_against_bitmap(void **state)
{
	srand((unsigned)seed_of_run());
	for (int i = 0; i < 300; i++)
		one_run();
}

static void test_empty_and_huge(void **state)
{
	struct range_set set;
	struct range gap;

	range_set_init(&set);
	assert_true(range_set_contains(&set, 5, 0));
	assert_false(range_set_contains(&set, 5, 1));
	assert_false(range_set_gap(&set, 7, 7, &gap));
	assert_true(range_set_gap(&set, 0, UINT64_MAX, &gap));
	assert_true(gap.length == UINT64_MAX);
	assert_int_equal(range_set_add(&set, UINT64_MAX - 10, 10), 0);
	assert_int_equal(range_set_add(&set, 0, UINT64_MAX - 10), 0);
	assert_int_equal(set.count, 1);
	assert_true(set.bytes == UINT64_MAX);
	range_set_done(&set);
	assert_int_equal(set.count, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_against_bitmap),
	    cmocka_unit_test(test_empty_and_huge),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
