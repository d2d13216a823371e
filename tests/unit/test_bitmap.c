/* SPDX-License-Identifier: GPL-2.0-or-later */
/* bitmap against an array of bool, for random sequences of changes; sizes that are no multiple of anything. */
#include "base/rand.h"
#include "range/bitmap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "seed.h"

#define BITS_MAX 9000u /* more than a word of the summary has */

static void check(const struct bitmap *bitmap, const bool *model, uint64_t from, uint64_t count)
{
	uint64_t set = from, clear = from, sum = 0;
	bool all = true;

	while (set < bitmap->bits && !model[set])
		set++;
	while (clear < bitmap->bits && model[clear])
		clear++;
	for (uint64_t i = 0; i < bitmap->bits; i++)
		sum += model[i];
	for (uint64_t i = from; i < from + count; i++)
		all = all && model[i];
	assert_int_equal(bitmap->count, sum);
	assert_int_equal(bitmap_next_set(bitmap, from), set);
	assert_int_equal(bitmap_next_clear(bitmap, from), clear);
	assert_int_equal(bitmap_test_all(bitmap, from, count), all);
	if (from < bitmap->bits)
		assert_int_equal(bitmap_test(bitmap, from), model[from]);
}

static void check_copy(const struct bitmap *bitmap)
{
	uint8_t bytes[BITS_MAX / 8 + 96] = {0};
	struct bitmap copy, sum;
	uint64_t first = bitmap->bits / 2 / 64 * 64;

	assert_int_equal(bitmap_init(&copy, bitmap->bits), 0);
	assert_int_equal(bitmap_init(&sum, bitmap->bits), 0);
	bitmap_store(bitmap, 0, bytes, first / 8);
	bitmap_store(bitmap, first, bytes + first / 8, 64);
	/* What lies beyond the end is nobody's. */
	memset(bytes + first / 8 + 64, 0xff, 8);
	bitmap_load(&copy, 0, bytes, first / 8);
	bitmap_load(&copy, first, bytes + first / 8, 64);
	bitmap_or(&sum, &copy);
	bitmap_or(&sum, bitmap);
	for (uint64_t i = 0; i < bitmap->bits; i++) {
		assert_int_equal(bitmap_test(&copy, i), i < first + 512 && bitmap_test(bitmap, i));
		assert_int_equal(bitmap_test(&sum, i), bitmap_test(bitmap, i));
	}
	assert_int_equal(sum.count, bitmap->count);
	bitmap_done(&copy);
	bitmap_done(&sum);
}

static void test_random_changes(void **state)
{
	struct rand rand;
	static bool model[BITS_MAX];

	rand_init(&rand, seed_of_run());
	for (int round = 0; round < 40; round++) {
		struct bitmap bitmap;
		uint64_t bits = rand_between(&rand, 1, BITS_MAX - 1);

		memset(model, 0, sizeof(model));
		assert_int_equal(bitmap_init(&bitmap, bits), 0);
		for (int i = 0; i < 100; i++) {
			uint64_t first = rand_below(&rand, bits + 1);
			uint64_t count = rand_below(&rand, bits - first + 1), changed = 0;
			bool set = rand_below(&rand, 3) == 0;

			/* Mostly little, so that words far apart are found. */
			if (set && rand_below(&rand, 3))
				count = count < 3 ? count : 3;

			for (uint64_t j = first; j < first + count; j++) {
				changed += model[j] != set;
				model[j] = set;
			}
			assert_int_equal(
			    set ? bitmap_set(&bitmap, first, count) : bitmap_clear(&bitmap, first, count),
			    changed);
			check(&bitmap, model, first, count);
			first = rand_below(&rand, bits + 1);
			check(&bitmap, model, first, rand_below(&rand, bits - first + 1));
		}
		check_copy(&bitmap);
		bitmap_done(&bitmap);
	}
}

/* Of each request of a mirror's clients it is asked whether its regions are logged; the volume may be large, and all of it is. */
/* Larger and smaller, with what is set in it. */
static void test_another_size(void **state)
{
	static bool model[BITS_MAX];
	struct bitmap bitmap;
	struct rand rand;
	uint64_t bits = 1;

	rand_init(&rand, seed_of_run());
	assert_int_equal(bitmap_init(&bitmap, bits), 0);
	for (unsigned i = 0; i < 2000; i++) {
		uint64_t next = rand_between(&rand, 1, i % 3 ? BITS_MAX : 200), first, count;

		assert_int_equal(bitmap_resize(&bitmap, next), 0);
		assert_int_equal(bitmap.bits, next);
		if (next < bits)
			memset(model + next, false, bits - next);
		bits = next;
		first = rand_below(&rand, bits);
		count = rand_between(&rand, 1, bits - first);
		check(&bitmap, model, first, count);
		check(&bitmap, model, 0, bits);
		if (i % 5 < 3)
			bitmap_set(&bitmap, first, count);
		else
			bitmap_clear(&bitmap, first, count);
		memset(model + first, i % 5 < 3, count);
		check_copy(&bitmap);
	}
	bitmap_done(&bitmap);
}

static void test_asking_for_few_bits_costs_little(void **state)
{
	const uint64_t bits = 1ull << 27;
	struct bitmap bitmap;
	clock_t begun;

	assert_int_equal(bitmap_init(&bitmap, bits), 0);
	bitmap_set(&bitmap, 0, bits);
	begun = clock();
	for (unsigned i = 0; i < 1000; i++)
		assert_true(bitmap_test_all(&bitmap, i * 100, 100));
	/* Going through all of it each time takes several times as long. */
	assert_true(clock() - begun < CLOCKS_PER_SEC);
	bitmap_done(&bitmap);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_random_changes),
	    cmocka_unit_test(test_another_size),
	    cmocka_unit_test(test_asking_for_few_bits_costs_little),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
