/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How long a server sleeps so that requests come together: by rule, and against clients that are reckoned with. */
#include "export/nbd_pace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void test_never_for_a_client_that_waits(void **state)
{
	struct nbd_pace pace = {0};

	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(nbd_pace_next(&pace, false), 0);
	/* Nor for one that has two under way, and waits as often as not. */
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(nbd_pace_next(&pace, i % 2), 0);
}

static void test_grows_and_shrinks(void **state)
{
	struct nbd_pace pace = {0};
	uint64_t sleep_ns = 0, last;

	for (unsigned i = 1; i < NBD_PACE_SURE; i++)
		assert_int_equal(nbd_pace_next(&pace, true), 0);
	for (unsigned i = 0; i < 1000; i++) {
		last = sleep_ns;
		sleep_ns = nbd_pace_next(&pace, true);
		assert_true(sleep_ns <= NBD_PACE_MAX_NS);
		assert_true(sleep_ns == last + NBD_PACE_STEP_NS || sleep_ns == NBD_PACE_MAX_NS);
	}
	assert_int_equal(sleep_ns, NBD_PACE_MAX_NS);
	/* Once without a reply left may be the first of many requests. */
	assert_int_equal(nbd_pace_next(&pace, false), NBD_PACE_MAX_NS - NBD_PACE_STEP_NS);
	for (unsigned i = 0; sleep_ns; i++) {
		assert_in_range(i, 0, 7);
		last = nbd_pace_next(&pace, false);
		assert_true(last <= (sleep_ns + 1) / 2 || i == 0);
		sleep_ns = last;
	}
}

static void test_looks_seldom_while_there_is_no_sleep(void **state)
{
	struct nbd_pace pace = {0};
	unsigned asked = 0;

	for (unsigned i = 0; i < 100 * NBD_PACE_SAMPLE; i++)
		asked += nbd_pace_asks(&pace);
	assert_int_equal(asked, 100);
	while (pace.sleep_ns == 0)
		nbd_pace_next(&pace, true);
	assert_true(nbd_pace_asks(&pace) && nbd_pace_asks(&pace));
}

/*
 * A client with `depth` requests under way that takes `take_ns` for each reply and its next request; the server takes no time at
 * all. Returns how many requests came together on average, and how much of the time the client had nothing to do.
 */
static double run_client(unsigned depth, uint64_t take_ns, double *ret_together)
{
	struct nbd_pace pace = {0};
	uint64_t now = 0, idle = 0, wakes = 0, requests = 0;
	unsigned replies = 0, sent = depth; /* what waits at the client, and at the server */

	while (now < 1000000000) {
		/* The server wakes, is done at once, and sleeps; without a sleep until the next request. */
		uint64_t sleep_ns = nbd_pace_asks(&pace) ? nbd_pace_next(&pace, replies > 0) : pace.sleep_ns;
		uint64_t until;

		wakes++;
		requests += sent;
		replies += sent;
		sent = 0;
		until = now + (sleep_ns ? sleep_ns : take_ns);
		while (now + take_ns <= until && replies > 0) {
			now += take_ns;
			replies--;
			sent++;
		}
		if (replies == 0 && now < until) {
			idle += until - now;
			now = until;
		}
	}
	*ret_together = (double)requests / (double)wakes;
	return (double)idle / (double)now;
}

static void test_clients_do_not_starve(void **state)
{
	double together, idle;

	for (unsigned depth = 1; depth <= 128; depth *= 2)
		for (uint64_t take_ns = 1000; take_ns <= 40000; take_ns *= 2) {
			idle = run_client(depth, take_ns, &together);
			print_message("depth %u, %u ns each: %.1f together, idle %.3f\n", depth,
			    (unsigned)take_ns, together, idle);
			if (depth == 1)
				assert_true(idle == 0 && together <= 1);
			/* Nobody is that fast in truth, and a server needs some time, too. */
			assert_true(idle < (take_ns < 2000 ? 0.2 : depth < 16 ? 0.1 : 0.03));
			if (depth >= 32 && take_ns == 8000)
				assert_true(together > 8);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_never_for_a_client_that_waits),
	    cmocka_unit_test(test_grows_and_shrinks),
	    cmocka_unit_test(test_looks_seldom_while_there_is_no_sleep),
	    cmocka_unit_test(test_clients_do_not_starve),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
