/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A map whose volume becomes larger, on a simulated disk: what is dirty afterwards, to the region; killed, or without power, at each step
 * of it while clients claim; and on a disk that fails. What is loaded then has one size or the other, and lacks nothing.
 */
#include "base/bytes.h"
#include "range/bitmap_file.h"
#include "ring/ring_sim.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "seed.h"

#define REGION  4096ull
#define PAGE    (BITMAP_PAGE_BITS * REGION)
#define RECORDS 6u
#define CLAIMS  5u
#define MAX     (BITMAP_PAGE_BITS * 20u)

static const struct {
	uint64_t before, after;
} sizes[] = {
    {100, 200},                           /* within the first region */
    {100, REGION},                        /* to its end */
    {REGION, REGION + 1},                 /* another region */
    {50 * REGION, 90 * REGION},           /* within a page, by whole regions */
    {50 * REGION - 512, 90 * REGION + 1}, /* and by no whole ones */
    {PAGE - 1, PAGE},                     /* to the end of a page */
    {PAGE, PAGE + 512},                   /* another page */
    {PAGE - 512, PAGE + REGION},          /* over the end of a page */
    {PAGE / 3, 3 * PAGE + 777},           /* over pages */
    {2 * PAGE + 5, 18 * PAGE},            /* over more than a round writes */
};

#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

struct user {
	struct bitmap_claim claim;
	bool active, granted;
};

static struct world {
	struct ring_sim *sim;
	struct ring *ring;
	struct rand *rand;
	int fd;
	struct bitmap_file *map;
	struct error error;
	uint64_t size, granted; /* bytes that may be claimed */
	struct user users[CLAIMS];
	bool must[MAX], clean[MAX]; /* may differ, as far as anyone was told; nobody ever claimed it */
} world;

static uint64_t regions_of(uint64_t size)
{
	return (size + REGION - 1) / REGION;
}

static void world_init(uint64_t seed, uint64_t size)
{
	const struct ring_sim_disk_options disk = {.size_max = (2 + RECORDS + 21) * BITMAP_BLOCK};
	const struct bitmap_super super = {
	    .nonce = seed, .size = size, .region_size = REGION, .records = RECORDS, .ids = {"here", "there"}};
	struct bitmap none;

	memset(&world, 0, sizeof(world));
	world.sim = ring_sim_new(seed, 0);
	world.rand = ring_sim_rand(world.sim);
	world.fd = ring_sim_disk_new(world.sim, &disk);
	world.ring = ring_sim_host_new(world.sim, "host");
	world.size = size;
	memset(world.clean, true, sizeof(world.clean));
	assert_int_equal(bitmap_init(&none, regions_of(size)), 0);
	assert_int_equal(
	    bitmap_file_create(&world.map, world.ring, world.fd, &super, &none, &world.error), 0);
	bitmap_done(&none);
}

static void world_done(void)
{
	world.map = bitmap_file_free(world.map);
	ring_free(world.ring);
	ring_sim_free(world.sim);
}

static void grant(struct user *user)
{
	user->granted = true;
	world.granted++;
	memset(world.must + user->claim.first, true, user->claim.count);
}

static void claim_done(struct bitmap_claim *claim, int res)
{
	if (res == 0)
		grant(container_of(claim, struct user, claim));
}

static void claim_at(struct user *user, uint64_t offset, uint64_t length)
{
	user->claim.done = claim_done;
	user->active = true;
	user->granted = false;
	if (bitmap_file_claim(world.map, &user->claim, offset, length) == 1)
		grant(user);
	memset(world.clean + user->claim.first, false, user->claim.count);
}

static void release(struct user *user)
{
	bitmap_file_release(world.map, &user->claim);
	user->active = user->granted = false;
}

/* Mostly near the end. */
static void clients(void *data)
{
	struct user *user = &world.users[rand_below(world.rand, CLAIMS)];
	uint64_t offset = rand_below(world.rand, world.size);

	if (ring_sim_killed(world.ring))
		return;
	if (rand_below(world.rand, 2))
		offset = world.size - 1 - rand_below(world.rand, min_u64(world.size, 3 * REGION));
	if (!user->active)
		claim_at(user, offset, rand_between(world.rand, 1, min_u64(world.size - offset, 4 * REGION)));
	else if (user->granted)
		release(user);
}

static void serve(unsigned turns)
{
	ring_sim_on_step(world.sim, clients, NULL);
	for (unsigned i = 0; i < turns; i++)
		if (ring_sim_step(world.sim) < 0)
			clients(NULL);
}

static void end(bool power)
{
	ring_sim_on_step(world.sim, NULL, NULL);
	ring_sim_forget_steps(world.sim);
	ring_sim_kill(world.ring, power ? RING_SIM_KILL_MACHINE : RING_SIM_KILL_PROCESS);
	while (ring_sim_step(world.sim) == 0)
		;
	for (unsigned i = 0; i < CLAIMS; i++)
		if (world.users[i].active)
			release(&world.users[i]);
	world.map = bitmap_file_free(world.map);
	ring_free(world.ring);
	if (power) {
		ring_sim_power_cut(world.sim, world.fd);
		ring_sim_power_on(world.sim, world.fd);
	}
	world.ring = ring_sim_host_new(world.sim, "host");
}

/* The new area of a map that has grown, with the region in which it begins. */
static void note_grown(uint64_t before, uint64_t after)
{
	for (uint64_t i = before / REGION; i < regions_of(after); i++) {
		world.must[i] = true;
		world.clean[i] = false;
	}
}

static void check(bool exact)
{
	const struct bitmap *dirty = bitmap_file_dirty(world.map), *logged = bitmap_file_logged(world.map);

	assert_int_equal(dirty->bits, regions_of(bitmap_file_super(world.map)->size));
	assert_int_equal(logged->bits, dirty->bits);
	for (uint64_t i = 0; i < dirty->bits; i++) {
		if (world.must[i] && !bitmap_test(logged, i))
			fail_msg("region %llu is not logged", (unsigned long long)i);
		if (exact && world.clean[i] && bitmap_test(dirty, i))
			fail_msg("region %llu is dirty", (unsigned long long)i);
	}
}

static void load(bool exact)
{
	if (bitmap_file_load(&world.map, world.ring, world.fd, false, &world.error) < 0)
		fail_msg("%s", world.error.text);
	world.size = bitmap_file_super(world.map)->size;
	check(exact);
	assert_int_equal(bitmap_file_dirty(world.map)->count, bitmap_file_logged(world.map)->count);
}

static int grow(uint64_t after)
{
	int res = bitmap_file_grow(world.map, after, &world.error);

	if (res == 0) {
		note_grown(world.size, after);
		world.size = after;
	}
	return res;
}

static void test_what_is_new_is_dirty(void **state)
{
	uint64_t seed = seed_of_run();

	for (unsigned i = 0; i < 2 * SIZES; i++) {
		uint64_t before = sizes[i / 2].before, after = sizes[i / 2].after, i_first = before / REGION;

		world_init(seed, before);
		assert_int_equal(grow(after), 0);
		assert_int_equal(bitmap_file_super(world.map)->size, after);
		/* Nothing else is. */
		check(true);
		assert_int_equal(bitmap_file_dirty(world.map)->count, regions_of(after) - i_first);
		claim_at(&world.users[0], after - 1, 1);
		assert_true(world.users[0].granted);
		end(i % 2);
		load(true);
		assert_int_equal(bitmap_file_super(world.map)->size, after);
		assert_int_equal(bitmap_file_dirty(world.map)->count, regions_of(after) - i_first);
		assert_string_equal(bitmap_file_super(world.map)->ids[1], "there");
		world_done();
	}
}

/* The pages are cleared and set as all others. */
static void test_it_is_a_map_like_any(void **state)
{
	uint64_t size = 3 * PAGE + 99;

	world_init(1, 5 * REGION - 1);
	assert_int_equal(grow(size), 0);
	assert_int_equal(bitmap_file_equal(world.map, 0, regions_of(size)), regions_of(size) - 4);
	while (bitmap_file_settle_begin(world.map)) {
		bitmap_file_settle_end(world.map, true);
		while (!bitmap_file_idle(world.map))
			assert_int_equal(ring_sim_step(world.sim), 0);
	}
	assert_int_equal(bitmap_file_logged(world.map)->count, 0);
	memset(world.must, false, sizeof(world.must));
	memset(world.clean, true, sizeof(world.clean));
	claim_at(&world.users[0], 2 * PAGE, 1);
	while (!world.users[0].granted)
		assert_int_equal(ring_sim_step(world.sim), 0);
	end(true);
	load(true);
	assert_int_equal(bitmap_file_dirty(world.map)->count, 1);
	world_done();
}

static void kill_step(void *data)
{
	ring_sim_kill(world.ring, RING_SIM_KILL_PROCESS);
}

/* False when it had ended before it was killed. */
static bool crash_at(uint64_t seed, unsigned which, unsigned step, bool power)
{
	uint64_t before = sizes[which].before, after = sizes[which].after;
	bool killed;

	world_init(seed, before);
	ring_sim_disk_options(world.sim, world.fd)->short_ppm = 100000;
	/* In half of them nobody has claimed the last region before. */
	ring_sim_on_step(world.sim, clients, NULL);
	if (seed % 2)
		serve(20);
	ring_sim_at_step(world.sim, ring_sim_steps(world.sim) + step, kill_step, NULL);
	grow(after);
	killed = ring_sim_killed(world.ring);
	/* In some of those with the new size, clients go on. */
	if (!killed)
		serve(30);
	end(power);
	load(false);
	if (!killed)
		assert_int_equal(world.size, after);
	else
		assert_true(world.size == before || world.size == after);
	if (killed && world.size == after) {
		note_grown(before, after);
		check(false);
	}
	/* And on from there. */
	assert_int_equal(grow(after), 0);
	check(false);
	end(power);
	load(false);
	assert_int_equal(world.size, after);
	world_done();
	return killed;
}

static void test_h25_a_crash_at_each_step(void **state)
{
	uint64_t seed = seed_of_run();
	unsigned crashes = 0;

	for (unsigned i = 0; i < 12 * SIZES; i++)
		for (unsigned step = 1; crash_at(seed + i, i % SIZES, step, i / SIZES % 4); step++)
			crashes++;
	assert_in_range(crashes, 500, 100000);
}

/* A superblock that cannot be written: it has one size or the other for sure, or is lost and says so. */
static void test_h11_a_disk_that_fails(void **state)
{
	uint64_t seed = seed_of_run();
	unsigned done = 0, refused = 0, lost = 0;

	for (unsigned i = 0; i < 300; i++) {
		unsigned which = i % SIZES;
		uint64_t before = sizes[which].before, after = sizes[which].after;
		int res;

		world_init(seed + i, before);
		serve(10);
		ring_sim_disk_options(world.sim, world.fd)->write_error_ppm = i % 3 ? 250000 : 500000;
		ring_sim_disk_options(world.sim, world.fd)->fsync_error_ppm = i % 2 ? 250000 : 500000;
		res = grow(after);
		ring_sim_disk_options(world.sim, world.fd)->write_error_ppm = 0;
		ring_sim_disk_options(world.sim, world.fd)->fsync_error_ppm = 0;
		done += res == 0;
		if (res < 0) {
			assert_non_null(
			    strstr(world.error.text, "cannot grow the map: cannot write the map"));
			assert_int_equal(bitmap_file_super(world.map)->size, before);
			assert_int_equal(bitmap_file_dirty(world.map)->bits, regions_of(before));
		}
		lost += bitmap_file_lost(world.map) != 0;
		refused += res < 0 && !bitmap_file_lost(world.map);
		serve(30);
		if (!bitmap_file_lost(world.map)) {
			end(i % 2);
			load(false);
			assert_int_equal(world.size, res == 0 ? after : before);
			assert_int_equal(grow(after), 0);
			check(false);
		}
		end(false);
		world_done();
	}
	assert_true(done > 10 && refused > 10 && lost > 10);
}

static void test_what_cannot_be(void **state)
{
	world_init(1, 50 * REGION);
	assert_int_equal(grow(50 * REGION), 0);
	assert_int_equal(bitmap_file_dirty(world.map)->count, 0);
	assert_int_equal(grow(50 * REGION - 1), -EINVAL);
	assert_int_equal(grow(BITMAP_BITS_MAX * REGION + 1), -E2BIG);
	assert_non_null(strstr(world.error.text, "cannot grow the map: 8796093022209 bytes are more than"));
	assert_int_equal(grow(UINT64_MAX), -E2BIG);
	assert_int_equal(bitmap_file_dirty(world.map)->bits, 50);
	bitmap_file_lose(world.map, -ENOSPC);
	assert_int_equal(grow(60 * REGION), -ENOSPC);
	end(false);
	world_done();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_what_is_new_is_dirty),
	    cmocka_unit_test(test_it_is_a_map_like_any),
	    cmocka_unit_test(test_h25_a_crash_at_each_step),
	    cmocka_unit_test(test_h11_a_disk_that_fails),
	    cmocka_unit_test(test_what_cannot_be),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
