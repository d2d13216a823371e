/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fibers: waits side by side, and none for the end of another's. */
#include "ring/fiber.h"
#include "ring/ring_sim.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MS   UINT64_C(1000000)
#define MANY 100u

struct sleeper {
	struct ring *ring;
	uint64_t sleep_ms, naps;
	uint64_t ended_ns; /* 0: not yet */
	bool by_step;
	bool *told; /* NULL, or set at the end */
	int res;
};

static void nap_done(struct ring_op *op, int res)
{
	op->result = res;
}

static void sleeper_run(void *data)
{
	struct sleeper *sleeper = data;

	for (uint64_t i = 0; i < sleeper->naps; i++) {
		struct ring_op op = {.opcode = RING_TIMER,
		    .deadline_ns = ring_now_ns(sleeper->ring) + sleeper->sleep_ms * MS,
		    .done = nap_done};

		if (!sleeper->by_step) {
			assert_int_equal(ring_wait(sleeper->ring, &op), 0);
			continue;
		}
		ring_submit(sleeper->ring, &op);
		while (op.active)
			assert_int_equal(ring_step(sleeper->ring), 0);
	}
	sleeper->ended_ns = ring_now_ns(sleeper->ring);
	if (sleeper->told)
		*sleeper->told = true;
}

struct world {
	struct ring_sim *sim;
	struct ring *ring;
};

static int set_up(void **state)
{
	static struct world world;

	world.sim = ring_sim_new(1, 0);
	world.ring = ring_sim_host_new(world.sim, "host");
	*state = &world;
	return 0;
}

static int tear_down(void **state)
{
	struct world *world = *state;

	ring_free(world->ring);
	ring_sim_free(world->sim);
	return 0;
}

/* With nested loops the first one would come back after the last one. */
static void test_none_waits_for_another(void **state)
{
	struct world *world = *state;
	struct sleeper sleepers[MANY];
	struct fiber *fibers[MANY];
	uint64_t begun_ns = ring_now_ns(world->ring);
	struct error error;
	bool last = false;

	for (unsigned i = 0; i < MANY; i++) {
		sleepers[i] = (struct sleeper){
		    .ring = world->ring, .sleep_ms = 1 + i % 10, .naps = 1 + i % 3, .by_step = i % 2};
		if (i == MANY - 1)
			sleepers[i] =
			    (struct sleeper){.ring = world->ring, .sleep_ms = 1000, .naps = 1, .told = &last};
		assert_int_equal(fiber_start(&fibers[i], world->ring, sleeper_run, &sleepers[i], &error), 0);
		assert_false(fiber_has_ended(fibers[i]));
	}
	assert_int_equal(ring_run_until(world->ring, &last), 0);
	for (unsigned i = 0; i < MANY; i++) {
		uint64_t due_ns = sleepers[i].sleep_ms * sleepers[i].naps * MS;

		assert_true(fiber_has_ended(fibers[i]));
		assert_in_range(sleepers[i].ended_ns - begun_ns, due_ns, due_ns + MS);
		fiber_free(fibers[i]);
	}
}

/* What needs no wait has ended when it was started; what the loop's own code sets lets a fiber go on with nothing under way. */
static void set_when(void *data)
{
	struct sleeper *sleeper = data;

	sleeper->res = ring_run_until(sleeper->ring, sleeper->told);
	sleeper->ended_ns = 1;
}

static void test_a_condition_that_the_loop_sets(void **state)
{
	struct world *world = *state;
	bool so = true;
	struct sleeper sleeper = {.ring = world->ring, .told = &so, .res = 1};
	struct fiber *fiber;
	struct error error;

	assert_int_equal(fiber_start(&fiber, world->ring, set_when, &sleeper, &error), 0);
	assert_true(fiber_has_ended(fiber));
	fiber_free(fiber);
	so = false;
	assert_int_equal(fiber_start(&fiber, world->ring, set_when, &sleeper, &error), 0);
	assert_false(fiber_has_ended(fiber));
	so = true;
	assert_int_equal(ring_step(world->ring), 0);
	assert_true(fiber_has_ended(fiber));
	assert_int_equal(sleeper.res, 0);
	fiber_free(fiber);
}

/* A loop that breaks ends all waits. */
static void test_a_broken_loop(void **state)
{
	struct world *world = *state;
	bool never = false;
	struct sleeper sleeper = {.ring = world->ring, .told = &never};
	struct fiber *fiber;
	struct error error;

	assert_int_equal(fiber_start(&fiber, world->ring, set_when, &sleeper, &error), 0);
	assert_int_equal(ring_run_until(world->ring, &never), -EDEADLK);
	assert_true(fiber_has_ended(fiber));
	assert_int_equal(sleeper.res, -EDEADLK);
	fiber_free(fiber);
	assert_null(fiber_free(NULL));
}

/* Wide frames on several stacks, each filled with a pattern across its waits, keep out of each other. */
static void fill(void *data)
{
	struct sleeper *sleeper = data;
	unsigned char frame[FIBER_STACK / 2];

	memset(frame, (int)sleeper->sleep_ms, sizeof(frame));
	sleeper_run(sleeper);
	for (size_t i = 0; i < sizeof(frame); i++)
		sleeper->res += frame[i] != sleeper->sleep_ms;
}

static void test_stacks_of_their_own(void **state)
{
	struct world *world = *state;
	struct sleeper sleepers[3];
	struct fiber *fibers[3];
	struct error error;
	bool last = false;

	for (unsigned i = 0; i < 3; i++) {
		sleepers[i] = (struct sleeper){.ring = world->ring, .sleep_ms = i + 1, .naps = 9 - 3 * i};
		sleepers[i].told = i == 1 ? &last : NULL; /* 12 ms */
		assert_int_equal(fiber_start(&fibers[i], world->ring, fill, &sleepers[i], &error), 0);
	}
	assert_int_equal(ring_run_until(world->ring, &last), 0);
	for (unsigned i = 0; i < 3; i++) {
		assert_true(fiber_has_ended(fibers[i]));
		assert_int_equal(sleepers[i].res, 0);
		fiber_free(fibers[i]);
	}
}

/* One waits for bytes, another for bytes that never come, and neither for the other. On the kernel's ring, which has descriptors. */
struct reader {
	struct ring *ring;
	int fd, got;
	uint64_t timeout_ms, took_ns;
	bool ended;
};

static void wait_for_bytes(void *data)
{
	struct reader *reader = data;
	uint64_t begun_ns = ring_now_ns(reader->ring);

	reader->got = ring_wait_fd(reader->ring, reader->fd, POLLIN, reader->timeout_ms);
	reader->took_ns = ring_now_ns(reader->ring) - begun_ns;
	reader->ended = true;
}

static void test_waits_for_descriptors(void **state)
{
	struct reader readers[3] = {
	    {.timeout_ms = 60000}, {.timeout_ms = 300}, {.timeout_ms = 100, .fd = -1}};
	struct fiber *fibers[3];
	struct ring *ring;
	struct error error;
	int pipes[2][2];

	assert_int_equal(ring_new(&ring, 64, &error), 0);
	for (unsigned i = 0; i < 3; i++) {
		if (i < 2)
			assert_int_equal(pipe(pipes[i]), 0);
		readers[i].ring = ring;
		readers[i].fd = i < 2 ? pipes[i][0] : -1;
		assert_int_equal(fiber_start(&fibers[i], ring, wait_for_bytes, &readers[i], &error), 0);
	}
	assert_int_equal(ring_run_until(ring, &readers[2].ended), 0);
	assert_int_equal(readers[2].got, 0);
	assert_false(readers[0].ended);
	assert_int_equal(write(pipes[0][1], "x", 1), 1);
	assert_int_equal(ring_run_until(ring, &readers[0].ended), 0);
	assert_int_equal(readers[0].got & POLLIN, POLLIN);
	assert_int_equal(ring_run_until(ring, &readers[1].ended), 0);
	assert_int_equal(readers[1].got, 0);
	assert_true(readers[1].took_ns >= 300 * MS && readers[2].took_ns >= 100 * MS);
	for (unsigned i = 0; i < 3; i++)
		fiber_free(fibers[i]);
	/* Outside of any fiber, too; and what is so already needs no wait. */
	assert_int_equal(ring_wait_fd(ring, pipes[0][0], POLLIN, 60000) & POLLIN, POLLIN);
	assert_true(ring_wait_fd(ring, 12345, POLLIN, 1000) != 0);
	for (unsigned i = 0; i < 4; i++)
		close(pipes[i / 2][i % 2]);
	ring_free(ring);
}

/* One that begins another: the other's turn comes from the loop, and it may be freed in there. */
static void parent_run(void *data)
{
	struct sleeper *child = data;
	struct fiber *fiber;
	struct error error;
	bool over = false;

	child->told = &over;
	assert_int_equal(fiber_start(&fiber, child->ring, sleeper_run, child, &error), 0);
	assert_int_equal(child->ended_ns, 0);
	assert_int_equal(ring_run_until(child->ring, &over), 0);
	while (!fiber_has_ended(fiber))
		assert_int_equal(ring_step(child->ring), 0);
	fiber_free(fiber);
	child->res = 1;
}

static void test_one_begins_another(void **state)
{
	struct world *world = *state;
	struct sleeper child = {.ring = world->ring, .sleep_ms = 3, .naps = 2};
	struct fiber *fiber;
	struct error error;

	assert_int_equal(fiber_start(&fiber, world->ring, parent_run, &child, &error), 0);
	while (!fiber_has_ended(fiber))
		assert_int_equal(ring_step(world->ring), 0);
	fiber_free(fiber);
	assert_int_equal(child.res, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_none_waits_for_another, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_a_condition_that_the_loop_sets, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_one_begins_another, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_a_broken_loop, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_stacks_of_their_own, set_up, tear_down),
	    cmocka_unit_test(test_waits_for_descriptors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
