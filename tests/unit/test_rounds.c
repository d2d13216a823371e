/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Rounds against a model of a source that changes and a link that sends: when the stop comes, and when it is given up. */
#include "base/rand.h"
#include "sync/rounds.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define MB         1e6
#define ROUNDS_MAX 200

/* What is sent takes overhead + bytes / rate. The first round moves all, and faster for a byte. */
struct model {
	double size, change, send, overhead;
	double first_faster; /* times */
	struct rand rand;
	double now_s, moment_s; /* of the round before */
};

static double bytes_to_move(const struct model *model, bool first)
{
	double bytes = first ? model->size : model->change * (model->now_s - model->moment_s);

	return bytes < model->size ? bytes : model->size;
}

static struct round_figures run(struct model *model, bool first)
{
	double bytes = bytes_to_move(model, first), rate = model->send * (first ? model->first_faster : 1);
	struct round_figures figures = {.moment_s = model->now_s, .moved = (uint64_t)bytes};

	figures.seconds = model->overhead + bytes / rate;
	model->moment_s = model->now_s;
	model->now_s += figures.seconds;
	figures.ended_s = model->now_s;
	return figures;
}

static void run_all(struct rounds *rounds, struct model *model)
{
	for (unsigned i = 0; i < ROUNDS_MAX && rounds->step == ROUNDS_SEND; i++) {
		const struct round_figures figures = run(model, i == 0);

		rounds_sent(rounds, &figures);
	}
	assert_int_not_equal(rounds->step, ROUNDS_SEND);
}

static struct model model_of(double change, double send, double overhead)
{
	struct model model = {
	    .size = 20000 * MB, .change = change, .send = send, .overhead = overhead, .first_faster = 1};

	rand_init(&model.rand, 1);
	return model;
}

static void test_stops_when_short_enough(void **state)
{
	struct model model = model_of(10 * MB, 100 * MB, 0.5);
	struct rounds rounds;

	rounds_init(&rounds, 0, 5);
	run_all(&rounds, &model);
	assert_int_equal(rounds.step, ROUNDS_STOP);
	/* 200 s, 20 s, 2.5 s: then 0.75 s are expected, but after the round of 20 s 2.5 s were, already. */
	assert_int_equal(rounds.sent, 2);
	assert_in_range(rounds.expected_s * 1000, 2400, 3000);
	assert_in_range(rounds.change_rate, 9.9 * MB, 10.1 * MB);
}

/* Nothing is known of how fast a source changes before there were two rounds. */
static void test_one_round_is_never_enough(void **state)
{
	struct model model = model_of(0, 100 * MB, 0.1);
	struct rounds rounds;
	struct round_figures figures;

	rounds_init(&rounds, 0, 1000);
	figures = run(&model, true);
	assert_int_equal(rounds_sent(&rounds, &figures), ROUNDS_SEND);
	assert_true(rounds.expected_s < 0);
	figures = run(&model, false);
	assert_int_equal(figures.moved, 0);
	assert_int_equal(rounds_sent(&rounds, &figures), ROUNDS_STOP);
	assert_true(rounds.expected_s >= 0.09 && rounds.expected_s < 0.11);
}

static void test_source_changes_faster_than_it_is_sent(void **state)
{
	struct model model = model_of(120 * MB, 100 * MB, 0.5);
	struct rounds rounds;

	rounds_init(&rounds, 0, 5);
	run_all(&rounds, &model);
	assert_int_equal(rounds.end, ROUNDS_DIVERGE);
	assert_int_equal(rounds.sent, 1 + ROUNDS_STUCK_MAX);
	assert_true(rounds.change_rate > rounds.send_rate * 0.99);
}

/* A round that moves nothing takes too long: no number of rounds helps. */
static void test_rounds_cost_too_much_of_themselves(void **state)
{
	struct model model = model_of(1 * MB, 100 * MB, 8);
	struct rounds rounds;

	rounds_init(&rounds, 0, 5);
	run_all(&rounds, &model);
	assert_int_equal(rounds.end, ROUNDS_DIVERGE);
	assert_true(rounds.sent <= 6);
}

/* Shorter by little each time, but again and again: that is worth while. */
static void test_slow_convergence_is_convergence(void **state)
{
	struct model model = model_of(95 * MB, 100 * MB, 0);
	struct rounds rounds;

	rounds_init(&rounds, 0, 30);
	run_all(&rounds, &model);
	assert_int_equal(rounds.step, ROUNDS_STOP);
	assert_true(rounds.sent > 20);
}

/* Whatever the world is like: what is promised of the next round holds, as far as the world stays so. */
static void test_expectation_holds(void **state)
{
	unsigned stops = 0, ends = 0;

	for (unsigned seed = 0; seed < 3000; seed++) {
		struct model model = model_of(0, 0, 0);
		struct rounds rounds;

		rand_init(&model.rand, seed);
		model.size = (double)rand_between(&model.rand, 1, 100000) * MB;
		model.send = (double)rand_between(&model.rand, 10, 1000) * MB;
		model.change = model.send * (double)rand_between(&model.rand, 0, 130) / 100;
		model.overhead = (double)rand_between(&model.rand, 0, 3000) / 1000;
		model.first_faster = (double)rand_between(&model.rand, 10, 100) / 10;
		rounds_init(&rounds, 0, (double)rand_between(&model.rand, 1, 20));
		run_all(&rounds, &model);
		if (rounds.step == ROUNDS_STOP) {
			const struct round_figures figures = run(&model, false);

			stops++;
			if (figures.seconds > rounds.until_s * 1.01)
				fail_msg("seed %u: %g s were allowed, %g expected, %g needed", seed,
				    rounds.until_s, rounds.expected_s, figures.seconds);
		} else {
			ends++;
			/* In the long run a round takes overhead / (1 - change / send). */
			if (model.change < 0.8 * model.send &&
			    model.overhead / (1 - model.change / model.send) < 0.7 * rounds.until_s)
				fail_msg("seed %u: it would have converged", seed);
		}
	}
	assert_true(stops > 500 && ends > 500);
}

/* Who writes in bursts is not taken by his pauses. */
static void test_a_pause_does_not_hide_the_burst_before_it(void **state)
{
	struct model model = model_of(50 * MB, 100 * MB, 0);
	struct rounds rounds;
	struct round_figures figures;

	rounds_init(&rounds, 0, 20);
	figures = run(&model, true);
	rounds_sent(&rounds, &figures);
	figures = run(&model, false);
	assert_int_equal(rounds_sent(&rounds, &figures), ROUNDS_SEND);
	model.change = 1 * MB;
	figures = run(&model, false);
	rounds_sent(&rounds, &figures);
	assert_true(rounds.expected_bytes >= 49 * MB * figures.seconds);
	assert_true(rounds.change_rate < 2 * MB);
}

static void test_a_number_of_rounds(void **state)
{
	struct model model = model_of(200 * MB, 100 * MB, 1);
	struct rounds rounds;

	rounds_init(&rounds, 7, 0);
	run_all(&rounds, &model);
	assert_int_equal(rounds.step, ROUNDS_STOP);
	assert_int_equal(rounds.sent, 7);
}

/* To each step, and out of it by all that may happen. */
static void test_every_way(void **state)
{
	static const enum rounds_end failed[ROUNDS_STEPS] = {
	    ROUNDS_BROKE, ROUNDS_NOT_STOPPED, ROUNDS_IN_USE, ROUNDS_BROKE, ROUNDS_NO_END};

	for (enum rounds_step step = ROUNDS_SEND; step < ROUNDS_END; step++) {
		struct rounds rounds;

		rounds_init(&rounds, 1, 0);
		rounds.step = step;
		assert_int_equal(rounds_next(&rounds, ROUNDS_CANCELED), ROUNDS_END);
		assert_int_equal(rounds.end, ROUNDS_GIVEN_UP);
		rounds_init(&rounds, 1, 0);
		rounds.step = step;
		assert_int_equal(rounds_next(&rounds, ROUNDS_FAILED), ROUNDS_END);
		assert_int_equal(rounds.end, failed[step]);
		if (step == ROUNDS_SEND)
			continue;
		rounds_init(&rounds, 1, 0);
		rounds.step = step;
		assert_int_equal(rounds_next(&rounds, ROUNDS_DONE), step + 1);
		assert_int_equal(rounds.end, step == ROUNDS_LAST ? ROUNDS_EQUAL : ROUNDS_NO_END);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_stops_when_short_enough),
	    cmocka_unit_test(test_one_round_is_never_enough),
	    cmocka_unit_test(test_source_changes_faster_than_it_is_sent),
	    cmocka_unit_test(test_rounds_cost_too_much_of_themselves),
	    cmocka_unit_test(test_slow_convergence_is_convergence),
	    cmocka_unit_test(test_expectation_holds),
	    cmocka_unit_test(test_a_pause_does_not_hide_the_burst_before_it),
	    cmocka_unit_test(test_a_number_of_rounds),
	    cmocka_unit_test(test_every_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
