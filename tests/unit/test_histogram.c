/* SPDX-License-Identifier: GPL-2.0-or-later */
/* histogram against a sorted array; and that old values go. */
#include "base/histogram.h"
#include "base/rand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "seed.h"

#define COUNT 3000u

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void check_near(uint64_t said, uint64_t is)
{
	assert_true(said >= is);
	assert_true(said - is <= is / 8);
}

static void test_percentiles(void **state)
{
	uint64_t seed = seed_of_run();
	static uint64_t values[COUNT];
	struct rand rand;

	rand_init(&rand, seed);
	for (unsigned round = 0; round < 200; round++) {
		unsigned count = (unsigned)rand_between(&rand, 1, COUNT);
		struct histogram histogram;
		struct histogram_figures figures;

		histogram_init(&histogram, 1000, 0);
		for (unsigned i = 0; i < count; i++) {
			values[i] = rand_u64(&rand) >> rand_between(&rand, 2, 63);
			histogram_add(&histogram, i * 700 / count, values[i]);
		}
		qsort(values, count, sizeof(values[0]), compare);
		histogram_figures(&histogram, 700, &figures);
		assert_int_equal(figures.count, count);
		assert_int_equal(figures.max_ns, values[count - 1]);
		check_near(figures.p50_ns, values[(count + 1) / 2 - 1]);
		check_near(figures.p99_ns, values[(count * 99 + 99) / 100 - 1]);
	}
}

static void test_the_window_slides(void **state)
{
	struct histogram histogram;
	struct histogram_figures figures;

	histogram_init(&histogram, 1000, 5000);
	histogram_figures(&histogram, 5000, &figures);
	assert_int_equal(figures.count, 0);
	assert_int_equal(figures.p99_ns, 0);
	histogram_add(&histogram, 5000, 77);
	histogram_add(&histogram, 5600, 5);
	histogram_figures(&histogram, 5700, &figures);
	assert_int_equal(figures.count, 2);
	assert_int_equal(figures.max_ns, 77);
	histogram_figures(&histogram, 6100, &figures);
	assert_int_equal(figures.count, 1);
	assert_int_equal(figures.max_ns, 5);
	histogram_figures(&histogram, 900000, &figures);
	assert_int_equal(figures.count, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_percentiles),
	    cmocka_unit_test(test_the_window_slides),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
