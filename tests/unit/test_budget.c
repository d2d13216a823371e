/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What several mirrors may take together: in proportion, nothing left lying, least rates kept. */
#include "base/bytes.h"
#include "base/rand.h"
#include "sync/budget.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "seed.h"

#define MB       1000000ull
#define MS       1000000ull
#define INTERVAL (200 * MS)
#define MANY     8u

/* A mirror whose legs can do so much. */
struct mirror {
	struct budget_member member;
	struct governor_limits limits;
	uint64_t can;  /* bytes per second; 0: nothing to copy */
	uint64_t rate; /* over the last interval */
	bool away;
	uint64_t requests, p99_ns;
};

struct world {
	struct budget budget;
	struct mirror mirrors[MANY];
	unsigned count;
	uint64_t now_ns;
};

static void begin(struct world *world, const struct governor_options *options)
{
	*world = (struct world){.now_ns = 5 * INTERVAL};
	budget_init(&world->budget, options, world->now_ns);
}

static struct mirror *add(struct world *world, unsigned priority, uint64_t can, uint64_t min_rate)
{
	struct mirror *mirror = &world->mirrors[world->count++];

	mirror->can = can;
	mirror->member.priority = priority;
	mirror->member.min_rate = min_rate;
	budget_join(&world->budget, &mirror->member, world->now_ns);
	mirror->limits = mirror->member.limits;
	return mirror;
}

static uint64_t sum_of_limits(const struct world *world)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < world->count; i++)
		sum += world->mirrors[i].member.busy ? world->mirrors[i].limits.rate : 0;
	return sum;
}

/* Each copies for a while and tells, not all at the same time. */
static void pass(struct world *world, unsigned intervals)
{
	for (unsigned i = 0; i < intervals; i++) {
		for (unsigned j = 0; j < world->count; j++) {
			struct mirror *mirror = &world->mirrors[j];
			uint64_t may = mirror->limits.hold ? 0 : mirror->limits.rate;
			struct budget_report report = {.following = !mirror->away,
			    .wanting = mirror->can > 0,
			    .requests = mirror->requests,
			    .p99_ns = mirror->p99_ns};

			mirror->rate = mirror->away ? 0 : may && may < mirror->can ? may : mirror->can;
			report.copied = mirror->rate / 5;
			/* By the copy's doing. */
			if (!mirror->limits.hold && mirror->p99_ns > mirror->limits.slow_ns)
				report.slow = mirror->requests / 20;
			report.limited = may && may < mirror->can;
			budget_report(&mirror->member, &report, world->now_ns + j * MS);
			mirror->limits = mirror->member.limits;
		}
		world->now_ns += INTERVAL;
	}
}

static void assert_near(uint64_t is, uint64_t ought)
{
	assert_in_range(is, ought - ought / 50, ought + ought / 50);
}

static void test_in_proportion(void **state)
{
	struct world world;

	begin(&world, &(struct governor_options){.max_rate = 70 * MB});
	add(&world, 4, 500 * MB, 0);
	add(&world, 2, 500 * MB, 0);
	add(&world, 1, 500 * MB, 0);
	pass(&world, 5);
	assert_near(world.mirrors[0].rate, 40 * MB);
	assert_near(world.mirrors[1].rate, 20 * MB);
	assert_near(world.mirrors[2].rate, 10 * MB);
	/* Changed while it goes on. */
	world.mirrors[2].member.priority = 8;
	pass(&world, 3);
	assert_near(world.mirrors[0].rate, 20 * MB);
	assert_near(world.mirrors[2].rate, 40 * MB);
	budget_set(&world.budget, &(struct governor_options){.max_rate = 14 * MB}, world.now_ns);
	pass(&world, 3);
	assert_near(world.mirrors[1].rate, 2 * MB);
	assert_near(world.mirrors[2].rate, 8 * MB);
}

/* Who is slow, has nothing to do, is away or silent leaves its share to the others; and has it back soon. */
static void test_nothing_is_left_lying(void **state)
{
	struct world world;
	struct mirror *first, *second;

	begin(&world, &(struct governor_options){.max_rate = 60 * MB});
	first = add(&world, 3, 500 * MB, 0);
	second = add(&world, 3, 5 * MB, 0);
	pass(&world, 12);
	assert_near(second->rate, 5 * MB);
	assert_in_range(first->rate, 52 * MB, 55 * MB);
	second->can = 500 * MB;
	pass(&world, 4);
	assert_near(first->rate, 30 * MB);
	assert_near(second->rate, 30 * MB);
	first->can = 0;
	pass(&world, 3);
	assert_near(second->rate, 60 * MB);
	first->can = 500 * MB;
	second->away = true;
	pass(&world, 3);
	assert_near(first->rate, 60 * MB);
	second->away = false;
	pass(&world, 3);
	assert_near(first->rate, 30 * MB);
	/* As one is that opens a leg which does not answer. */
	world.count = 1;
	pass(&world, 8);
	assert_near(first->rate, 60 * MB);
	world.count = 2;
	pass(&world, 3);
	assert_near(second->rate, 30 * MB);
	budget_leave(&second->member);
	world.count = 1;
	pass(&world, 2);
	assert_near(first->rate, 60 * MB);
}

static void test_least_rates(void **state)
{
	struct world world;

	begin(&world, &(struct governor_options){.max_rate = 40 * MB});
	add(&world, 100, 500 * MB, 0);
	add(&world, 1, 500 * MB, 10 * MB);
	add(&world, 1, 500 * MB, 0);
	pass(&world, 5);
	assert_near(world.mirrors[1].rate, 10 * MB);
	assert_near(world.mirrors[0].rate, 30 * MB * 100 / 101);
	/* More than there is: they are shared, and the most holds. */
	world.mirrors[0].member.min_rate = 90 * MB;
	pass(&world, 5);
	assert_in_range(sum_of_limits(&world), 39 * MB, 40 * MB + MANY);
	assert_near(world.mirrors[1].rate, 40 * MB / 101);
}

/* The clients of one suffer: all yield, down to their least rates. */
static void test_one_governor(void **state)
{
	struct world world;

	begin(&world, &(struct governor_options){.target_ns = 2 * MS});
	add(&world, 1, 100 * MB, 3 * MB);
	add(&world, 1, 100 * MB, 1 * MB);
	world.mirrors[0].requests = 1000;
	world.mirrors[0].p99_ns = MS;
	/* Three slow requests of thousands are not their slowest hundredth. */
	world.mirrors[1].requests = 3;
	world.mirrors[1].p99_ns = 900 * MS;
	pass(&world, 60);
	assert_near(world.mirrors[0].rate, 100 * MB);
	assert_near(world.mirrors[1].rate, 100 * MB);
	world.mirrors[1].requests = 300;
	pass(&world, 150);
	assert_in_range(world.mirrors[0].rate, 3 * MB, 3 * MB + 100000);
	assert_in_range(world.mirrors[1].rate, MB, MB + 100000);
	assert_true(world.mirrors[0].limits.window > 0);
	/* With --impact all hold while it is measured. */
	begin(&world, &(struct governor_options){.impact = 10});
	add(&world, 1, 100 * MB, 0);
	add(&world, 1, 100 * MB, 0);
	pass(&world, 2);
	assert_true(world.mirrors[0].limits.hold && world.mirrors[1].limits.hold);
	pass(&world, 14);
	assert_true(!world.mirrors[0].limits.hold && !world.mirrors[1].limits.hold);
}

/* Without any limit priorities are told by what is under way, and where they are equal by nothing. */
static void test_without_limits(void **state)
{
	struct world world;

	begin(&world, &(struct governor_options){0});
	add(&world, 1, 100 * MB, 0);
	assert_int_equal(world.mirrors[0].limits.rate | world.mirrors[0].limits.window, 0);
	add(&world, 1, 100 * MB, 0);
	pass(&world, 2);
	assert_int_equal(world.mirrors[0].limits.rate | world.mirrors[0].limits.window, 0);
	world.mirrors[0].member.priority = 3;
	pass(&world, 2);
	assert_int_equal(world.mirrors[0].limits.rate, 0);
	assert_near(world.mirrors[0].limits.window, 3 * world.mirrors[1].limits.window);
	world.mirrors[1].can = 0;
	pass(&world, 2);
	assert_int_equal(world.mirrors[0].limits.window, 0);
}

/* Whatever they can and want: never more than all may, never less than they could use of it, and nobody stands still. */
static void test_any_mix(void **state)
{
	struct world world;
	struct rand rand;

	rand_init(&rand, seed_of_run());
	for (unsigned round = 0; round < 300; round++) {
		uint64_t total = rand_between(&rand, MB, 500 * MB), could = 0, used = 0;

		begin(&world, &(struct governor_options){.max_rate = total});
		for (unsigned i = (unsigned)rand_between(&rand, 1, MANY); i > 0; i--)
			add(&world, (unsigned)rand_between(&rand, 1, BUDGET_PRIORITY_MAX),
			    rand_below(&rand, 4) ? rand_between(&rand, MB, 300 * MB) : 0,
			    rand_below(&rand, 3) ? 0 : rand_below(&rand, 20 * MB));
		pass(&world, 30);
		for (unsigned i = 0; i < world.count; i++) {
			const struct mirror *mirror = &world.mirrors[i];

			could += mirror->can;
			used += mirror->rate;
			assert_true(mirror->limits.rate > 0);
		}
		assert_true(sum_of_limits(&world) <= total + MANY);
		assert_true(used >= min_u64(could, total) * 8 / 10);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_in_proportion),
	    cmocka_unit_test(test_nothing_is_left_lying),
	    cmocka_unit_test(test_least_rates),
	    cmocka_unit_test(test_one_governor),
	    cmocka_unit_test(test_without_limits),
	    cmocka_unit_test(test_any_mix),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
