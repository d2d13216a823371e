/* SPDX-License-Identifier: GPL-2.0-or-later */
/* range_lock: what excludes each other is never held together, nobody is passed by or forgotten. */
#include "range/range_lock.h"
#include "ring/ring_sim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "seed.h"

enum { WRITE, BEHIND, COPY };

#define BIT(kind) (1u << (kind))
#define LOCKS     60u
#define SPACE     1000u

static const uint8_t excludes[RANGE_LOCK_KINDS] = {
    [WRITE] = BIT(WRITE) | BIT(BEHIND) | BIT(COPY),
    [BEHIND] = BIT(WRITE) | BIT(BEHIND),
    [COPY] = BIT(WRITE) | BIT(COPY),
};

struct user {
	struct range_lock lock;
	bool taken, held;
	uint64_t number; /* of its coming */
};

struct world {
	struct ring_sim *sim;
	struct ring *ring;
	struct range_locks locks;
	struct user users[LOCKS];
	uint64_t numbers, grants, gone;
};

static struct world world;

static void world_init(uint64_t seed)
{
	world = (struct world){.sim = ring_sim_new(seed, 0)};
	world.ring = ring_sim_host_new(world.sim, "host");
	range_locks_init(&world.locks, world.ring, excludes);
}

static void world_done(void)
{
	ring_free(world.ring);
	ring_sim_free(world.sim);
}

static bool clash(const struct user *a, const struct user *b)
{
	return (excludes[a->lock.kind] & BIT(b->lock.kind)) &&
	       a->lock.offset < b->lock.offset + b->lock.length &&
	       b->lock.offset < a->lock.offset + a->lock.length;
}

/* Nobody who came earlier and clashes may still be there. */
static void check_grant(struct user *user)
{
	for (unsigned i = 0; i < LOCKS; i++) {
		struct user *other = &world.users[i];

		if (other != user && other->taken && clash(user, other))
			assert_true(other->number > user->number && !other->held);
	}
	user->held = true;
	world.grants++;
}

static void granted(struct range_lock *lock)
{
	check_grant(container_of(lock, struct user, lock));
}

static void take(struct user *user, uint64_t offset, uint64_t length, unsigned kind)
{
	user->lock =
	    (struct range_lock){.offset = offset, .length = length, .kind = kind, .granted = granted};
	user->number = ++world.numbers;
	user->taken = true;
	user->held = false;
	if (range_lock_take(&world.locks, &user->lock))
		check_grant(user);
}

static void drop(struct user *user)
{
	user->taken = user->held = false;
	range_lock_drop(&user->lock);
}

/* Who waits goes; whose turn has come stays. */
static void leave(struct user *user)
{
	bool left = range_lock_leave(&user->lock);

	assert_true(left || user->lock.blockers == 0);
	user->taken = !left;
	world.gone += left;
}

static void run_dry(void)
{
	while (ring_sim_step(world.sim) == 0)
		;
}

static void test_random_ranges(void **state)
{
	uint64_t seed = seed_of_run();
	struct rand *rand;

	world_init(seed);
	rand = ring_sim_rand(world.sim);
	for (int i = 0; i < 20000; i++) {
		struct user *user = &world.users[rand_below(rand, LOCKS)];

		if (rand_below(rand, 3) == 0)
			ring_sim_step(world.sim);
		else if (!user->taken)
			take(user, rand_below(rand, SPACE), rand_between(rand, 1, 100),
			    (unsigned)rand_below(rand, 3));
		else if (user->held)
			drop(user);
		else if (rand_below(rand, 4) == 0)
			leave(user);
	}
	/* Everyone who waits gets it when those before have gone. */
	for (unsigned left = LOCKS; left > 0;) {
		run_dry();
		left = 0;
		for (unsigned i = 0; i < LOCKS; i++) {
			left += world.users[i].taken;
			if (world.users[i].held)
				drop(&world.users[i]);
		}
	}
	assert_true(world.gone > 0);
	assert_int_equal(world.grants + world.gone, world.numbers);
	assert_int_equal(world.locks.count, 0);
	world_done();
}

/* A stream of overlapping writes does not keep a copy away for ever. */
static void test_no_starvation(void **state)
{
	world_init(1);
	take(&world.users[0], 0, 10, WRITE);
	take(&world.users[1], 5, 10, COPY);
	take(&world.users[2], 12, 10, WRITE);
	assert_true(world.users[0].held && !world.users[1].held && !world.users[2].held);
	drop(&world.users[0]);
	run_dry();
	assert_true(world.users[1].held && !world.users[2].held);
	drop(&world.users[1]);
	run_dry();
	assert_true(world.users[2].held);
	drop(&world.users[2]);
	world_done();
}

/* Whom it held up goes on, and whoever has the lock is in nobody's way because of it. */
static void test_who_leaves_holds_nobody_up(void **state)
{
	world_init(1);
	take(&world.users[0], 0, 10, WRITE);
	take(&world.users[1], 5, 10, COPY);
	take(&world.users[2], 12, 10, WRITE);
	leave(&world.users[1]);
	assert_false(world.users[1].taken);
	run_dry();
	assert_true(world.users[2].held && world.users[0].held && !world.users[1].held);
	drop(&world.users[0]);
	drop(&world.users[2]);
	run_dry();
	assert_int_equal(world.locks.count, 0);
	assert_int_equal(world.grants, 2);
	world_done();
}

static void test_kinds(void **state)
{
	world_init(1);
	take(&world.users[0], 0, 10, COPY);
	take(&world.users[1], 9, 10, BEHIND);
	take(&world.users[2], 10, 10, COPY);
	assert_true(world.users[1].held && world.users[2].held);
	take(&world.users[3], 0, 20, WRITE);
	assert_false(world.users[3].held);
	for (unsigned i = 0; i < 3; i++)
		drop(&world.users[i]);
	run_dry();
	assert_true(world.users[3].held);
	drop(&world.users[3]);
	world_done();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_random_ranges),
	    cmocka_unit_test(test_no_starvation),
	    cmocka_unit_test(test_who_leaves_holds_nobody_up),
	    cmocka_unit_test(test_kinds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
