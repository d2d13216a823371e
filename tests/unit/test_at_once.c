/* SPDX-License-Identifier: GPL-2.0-or-later */
/* When a write may be done at once: each hint at one that would wait, alone. */
#include "block/at_once.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define US  UINT64_C(1000)
#define NOW UINT64_C(77000000000)

static struct at_once wanted(void)
{
	return (struct at_once){.wanted = true};
}

static void test_small_writes_alone(void **state)
{
	struct at_once at_once = wanted();

	assert_true(at_once_may(&at_once, 512, NOW));
	assert_true(at_once_may(&at_once, AT_ONCE_BYTES_MAX, NOW));
	assert_false(at_once_may(&at_once, AT_ONCE_BYTES_MAX + 1, NOW));
	at_once.wanted = false;
	assert_false(at_once_may(&at_once, 512, NOW));
}

static void test_after_a_slow_one(void **state)
{
	struct at_once at_once = wanted();

	at_once_did(&at_once, NOW, NOW + AT_ONCE_SLOW_NS, 1);
	assert_true(at_once_may(&at_once, 512, NOW + AT_ONCE_SLOW_NS));
	assert_false(at_once_watches(&at_once, NOW));
	/* The longer it took, the longer it is not tried again; less when it is not known that it waited. */
	for (uint64_t took = AT_ONCE_SLOW_NS + 1; took < 200 * AT_ONCE_SLOW_NS; took *= 3)
		for (int waited = -1; waited <= 1; waited += 2) {
			uint64_t rest = took * (waited < 0 ? AT_ONCE_REST_UNSURE : AT_ONCE_REST);
			uint64_t end = NOW + took;

			rest = rest < AT_ONCE_REST_MAX_NS ? rest : AT_ONCE_REST_MAX_NS;
			at_once_did(&at_once, NOW, end, waited);
			assert_false(at_once_may(&at_once, 512, end + 1));
			assert_false(at_once_may(&at_once, 512, end + rest - 1));
			assert_true(at_once_may(&at_once, 512, end + rest));
			assert_true(at_once_watches(&at_once, end + rest + AT_ONCE_WATCH_NS - 1));
			assert_false(at_once_watches(&at_once, end + rest + AT_ONCE_WATCH_NS));
		}
}

/* Whoever only lacked a processor needs no rest, and stays watched. */
static void test_after_a_busy_processor(void **state)
{
	struct at_once at_once = wanted();
	uint64_t now = NOW;

	at_once_did(&at_once, now, now + 40000 * US, -1);
	now += 40000 * US * (1 + AT_ONCE_REST_UNSURE);
	for (unsigned i = 0; i < 100; i++) {
		assert_true(at_once_may(&at_once, 512, now));
		assert_true(at_once_watches(&at_once, now));
		at_once_did(&at_once, now, now + 40000 * US, 0);
		now += 40000 * US;
	}
}

/* A flush of the file, or a hole that is made, may have its lock for long. */
static void test_beside_a_flush(void **state)
{
	struct at_once at_once = wanted();

	at_once.heavy = 1;
	assert_false(at_once_may(&at_once, 512, NOW));
	at_once.heavy = 0;
	assert_true(at_once_may(&at_once, 512, NOW));
}

/* Others that took the long way and do not come back: whatever holds them up would hold up this one, and the loop. */
static void test_beside_stuck_ones(void **state)
{
	struct at_once at_once = wanted();
	uint64_t now = NOW;

	at_once_long_begin(&at_once, now);
	assert_true(at_once_may(&at_once, 512, now + AT_ONCE_SLOW_NS));
	assert_false(at_once_may(&at_once, 512, now + AT_ONCE_SLOW_NS + 1));
	/* A second one does not make the first one younger. */
	at_once_long_begin(&at_once, now + 900 * US);
	assert_false(at_once_may(&at_once, 512, now + AT_ONCE_SLOW_NS + 1));
	/* One of them comes back in time, and another moment passes for the other. */
	at_once_long_end(&at_once, now += 950 * US);
	assert_true(at_once_may(&at_once, 512, now + AT_ONCE_SLOW_NS));
	assert_false(at_once_may(&at_once, 512, now + AT_ONCE_SLOW_NS + 1));
	/* The other does, too late; nothing is stuck any more. */
	at_once_long_end(&at_once, now += 40000 * US);
	assert_true(at_once_may(&at_once, 512, now + 1));
}

/* A file system that stays slow takes little of the loop's time. */
static void test_slow_for_good(void **state)
{
	struct at_once at_once = wanted();
	uint64_t now = NOW, lost = 0;

	while (now < NOW + 100000000 * US) {
		uint64_t begin = now;

		now += 20000 * US;
		if (at_once_may(&at_once, 4096, begin)) {
			lost += now - begin;
			at_once_did(&at_once, begin, now, at_once_watches(&at_once, begin) ? 1 : -1);
		} else {
			at_once_long_begin(&at_once, begin);
			at_once_long_end(&at_once, now);
		}
	}
	assert_in_range(lost, 20000 * US, 100000000 * US / 50);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_small_writes_alone),
	    cmocka_unit_test(test_after_a_slow_one),
	    cmocka_unit_test(test_after_a_busy_processor),
	    cmocka_unit_test(test_beside_a_flush),
	    cmocka_unit_test(test_beside_stuck_ones),
	    cmocka_unit_test(test_slow_for_good),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
