/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The map file on a simulated disk: random claims, copies and clearings against a model, ended by a kill, a power cut at any step,
 * or in order; then what is loaded must have every region dirty that may differ. And damage of single bytes.
 */
#include "base/bytes.h"
#include "range/bitmap_file.h"
#include "ring/ring_sim.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "seed.h"

#define REGION  4096u
#define REGIONS (BITMAP_PAGE_BITS * 2u + 1234u)
#define SIZE    ((uint64_t)REGIONS * REGION - 1000u)
#define RECORDS 8u
#define CLAIMS  12u

struct user {
	struct bitmap_claim claim;
	bool active, granted;
};

struct world {
	struct ring_sim *sim;
	struct ring *ring;
	struct rand *rand;
	int fd;
	struct bitmap_file *map;
	struct bitmap_super super;
	struct error error;

	/* the model: may differ on the disk, as far as anyone was told; may be cleared by the clearing under way */
	bool must[REGIONS], candidate[REGIONS];
	bool settling, dead;
	struct user users[CLAIMS];
	uint64_t granted;
};

static struct world world;

static void world_init(uint64_t seed)
{
	const struct ring_sim_disk_options disk = {.size = (2 + RECORDS + 3) * BITMAP_BLOCK};

	world = (struct world){.sim = ring_sim_new(seed, 0)};
	world.rand = ring_sim_rand(world.sim);
	world.fd = ring_sim_disk_new(world.sim, &disk);
	world.ring = ring_sim_host_new(world.sim, "host");
	world.super = (struct bitmap_super){
	    .nonce = seed, .size = SIZE, .region_size = REGION, .records = RECORDS, .ids = {"here", "there"}};
}

static void create(bool all)
{
	struct bitmap none;

	assert_int_equal(bitmap_init(&none, REGIONS), 0);
	assert_int_equal(bitmap_file_create(&world.map, world.ring, world.fd, &world.super,
	                     all ? NULL : &none, &world.error),
	    0);
	memset(world.must, all, sizeof(world.must));
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
	for (uint64_t i = 0; i < user->claim.count; i++)
		world.must[user->claim.first + i] = true;
}

static void claim_done(struct bitmap_claim *claim, int res)
{
	if (res == 0)
		grant(container_of(claim, struct user, claim));
}

static void claim(struct user *user)
{
	/* Few places, so that they meet. */
	uint64_t offset = rand_below(world.rand, 40) * SIZE / 40,
	         length = rand_between(world.rand, 1, 9 * REGION);
	int res;

	length = min_u64(length, SIZE - offset);
	user->claim.done = claim_done;
	user->active = true;
	user->granted = false;
	res = bitmap_file_claim(world.map, &user->claim, offset, length);
	for (uint64_t i = 0; i < user->claim.count; i++)
		world.candidate[user->claim.first + i] = false;
	if (res == 1)
		grant(user);
}

static void settle(void)
{
	if (world.settling) {
		bool flushed = rand_below(world.rand, 4);

		bitmap_file_settle_end(world.map, flushed);
		for (unsigned i = 0; flushed && i < REGIONS; i++)
			world.must[i] = world.must[i] && !world.candidate[i];
		world.settling = false;
		return;
	}
	world.settling = bitmap_file_settle_begin(world.map);
	for (unsigned i = 0; i < REGIONS; i++)
		world.candidate[i] = !bitmap_test(bitmap_file_dirty(world.map), i);
	for (unsigned i = 0; i < CLAIMS; i++)
		for (uint64_t j = 0; world.users[i].active && j < world.users[i].claim.count; j++)
			world.candidate[world.users[i].claim.first + j] = false;
}

static void release(struct user *user)
{
	bitmap_file_release(world.map, &user->claim);
	user->active = user->granted = false;
}

static void act(void)
{
	struct user *user = &world.users[rand_below(world.rand, CLAIMS)];

	switch (rand_below(world.rand, 8)) {
	case 0:
		settle();
		break;
	case 1:
		ring_sim_step(world.sim);
		break;
	case 2:
		if (user->granted && rand_below(world.rand, 2))
			bitmap_file_mark(world.map, &user->claim);
		else if (user->granted)
			bitmap_file_take(world.map, &user->claim);
		break;
	default:
		if (!user->active)
			claim(user);
		else if (user->granted)
			release(user);
		break;
	}
}

static void release_all(void)
{
	for (unsigned i = 0; i < CLAIMS; i++)
		if (world.users[i].active)
			release(&world.users[i]);
}

static void run_until_idle(void)
{
	while (!bitmap_file_idle(world.map))
		assert_int_equal(ring_sim_step(world.sim), 0);
}

static void load(void)
{
	if (bitmap_file_load(&world.map, world.ring, world.fd, false, &world.error) < 0)
		fail_msg("%s", world.error.text);
}

static void check_loaded(void)
{
	const struct bitmap *dirty = bitmap_file_dirty(world.map);

	assert_int_equal(dirty->bits, REGIONS);
	assert_int_equal(dirty->count, bitmap_file_logged(world.map)->count);
	for (unsigned i = 0; i < REGIONS; i++)
		if (world.must[i] && !bitmap_test(dirty, i))
			fail_msg("region %u is not dirty", i);
}

static void end(bool power)
{
	ring_sim_kill(world.ring, power ? RING_SIM_KILL_MACHINE : RING_SIM_KILL_PROCESS);
	while (ring_sim_step(world.sim) == 0)
		;
	release_all();
	world.map = bitmap_file_free(world.map);
	ring_free(world.ring);
	if (power) {
		ring_sim_power_cut(world.sim, world.fd);
		ring_sim_power_on(world.sim, world.fd);
	}
	world.ring = ring_sim_host_new(world.sim, "host");
}

/* After each end it goes on with what was loaded, so that what one life leaves is carried through the next. */
static void lives(uint64_t seed, bool power, bool errors)
{
	world_init(seed);
	create(rand_below(world.rand, 2));
	for (int life = 0; life < 8; life++) {
		unsigned acts = (unsigned)rand_below(world.rand, 400);

		ring_sim_disk_options(world.sim, world.fd)->short_ppm = 100000;
		ring_sim_disk_options(world.sim, world.fd)->write_error_ppm = errors ? 20000 : 0;
		ring_sim_disk_options(world.sim, world.fd)->fsync_error_ppm = errors ? 50000 : 0;
		world.settling = false;
		for (unsigned i = 0; i < acts; i++)
			act();
		ring_sim_disk_options(world.sim, world.fd)->write_error_ppm = 0;
		ring_sim_disk_options(world.sim, world.fd)->fsync_error_ppm = 0;
		assert_int_equal(bitmap_file_lost(world.map), 0);
		end(power && rand_below(world.rand, 2));
		load();
		check_loaded();
	}
	assert_true(world.granted > 10);
	world_done();
}

static void test_kills(void **state)
{
	uint64_t seed = seed_of_run();

	for (unsigned i = 0; i < 10; i++)
		lives(seed + i, false, false);
}

static void test_power_cuts(void **state)
{
	uint64_t seed = seed_of_run();

	for (unsigned i = 0; i < 20; i++)
		lives(seed + i, true, false);
}

static void test_errors_are_tried_again(void **state)
{
	uint64_t seed = seed_of_run();

	for (unsigned i = 0; i < 20; i++)
		lives(seed + i, true, true);
}

static void others_step(void *data)
{
	struct user *user = &world.users[rand_below(world.rand, CLAIMS)];

	if (ring_sim_killed(world.ring))
		return;
	if (!user->active)
		claim(user);
	else if (user->granted)
		release(user);
}

static void kill_step(void *data)
{
	ring_sim_kill(world.ring, RING_SIM_KILL_PROCESS);
}

static void some_regions(struct bitmap *ret)
{
	assert_int_equal(bitmap_init(ret, REGIONS), 0);
	for (uint64_t i = rand_below(world.rand, 6); i > 0; i--) {
		uint64_t first = rand_below(world.rand, REGIONS);

		bitmap_set(ret, first, rand_between(world.rand, 1, REGIONS - first));
	}
}

/* What was merged is there, and so is what others claimed meanwhile; a kill in the midst of it loses nothing. */
static void test_merge(void **state)
{
	uint64_t seed = seed_of_run();
	unsigned done = 0, killed = 0;

	for (unsigned i = 0; i < 60; i++) {
		struct bitmap more;
		bool all = i % 5 == 0;

		world_init(seed + i);
		create(false);
		some_regions(&more);
		ring_sim_on_step(world.sim, others_step, NULL);
		ring_sim_at_step(
		    world.sim, ring_sim_steps(world.sim) + rand_between(world.rand, 1, 9), kill_step, NULL);
		if (bitmap_file_merge(world.map, all ? NULL : &more) == 0) {
			done++;
			for (unsigned r = 0; r < REGIONS; r++)
				world.must[r] |= all || bitmap_test(&more, r);
		}
		killed += ring_sim_killed(world.ring);
		ring_sim_on_step(world.sim, NULL, NULL);
		ring_sim_forget_steps(world.sim);
		end(i % 2);
		load();
		check_loaded();
		bitmap_done(&more);
		world_done();
	}
	assert_true(done > 10 && killed > 10);
}

static void mark_late(struct bitmap_claim *claim, int res)
{
	bitmap_file_mark(world.map, claim);
	bitmap_file_release(world.map, claim);
}

static void test_empty(void **state)
{
	uint64_t seed = seed_of_run();

	for (unsigned i = 0; i < 40; i++) {
		world_init(seed + i);
		create(i % 3 == 0);
		for (unsigned j = 0; j < 100; j++)
			act();
		run_until_idle();
		release_all();
		if (i % 2) {
			struct bitmap_claim late = {.done = mark_late};

			/* It may wait for its record when the map is emptied. */
			if (bitmap_file_claim(world.map, &late, rand_below(world.rand, SIZE), 1) == 1)
				mark_late(&late, 0);
			assert_int_equal(bitmap_file_empty(world.map), 0);
			assert_int_equal(bitmap_file_logged(world.map)->count, 0);
			memset(world.must, 0, sizeof(world.must));
		} else {
			/* Killed in its midst: what is left is the old map, or some of it. */
			ring_sim_at_step(world.sim,
			    ring_sim_steps(world.sim) + rand_between(world.rand, 1, 8), kill_step, NULL);
			bitmap_file_empty(world.map);
			ring_sim_forget_steps(world.sim);
		}
		end(i % 4 < 2);
		load();
		if (i % 2)
			assert_int_equal(bitmap_file_dirty(world.map)->count, 0);
		world_done();
	}
}

/* A user's own words come back with the rest; a map that has some is another one to a program that knows none. */
static void test_note(void **state)
{
	uint8_t block[BITMAP_BLOCK];
	struct bitmap_super next, old;

	world_init(1);
	create(false);
	next = *bitmap_file_super(world.map);
	bitmap_super_encode(&next, block);
	assert_int_equal(get_le32(block + 8), 1);
	next.note_length = BITMAP_NOTE_MAX;
	rand_bytes(world.rand, next.note, sizeof(next.note));
	assert_int_equal(bitmap_file_record(world.map, &next, &world.error), 0);
	end(true);
	load();
	assert_memory_equal(bitmap_file_super(world.map)->note, next.note, sizeof(next.note));
	bitmap_super_encode(&next, block);
	assert_int_equal(get_le32(block + 8), 2);
	assert_int_equal(bitmap_super_decode(block, &old, &world.error), 0);
	world_done();
}

/* In order: what comes back is what was there, and no more. */
static void test_comes_back_exactly(void **state)
{
	struct bitmap before;

	world_init(seed_of_run());
	create(false);
	for (int i = 0; i < 2000; i++)
		act();
	if (world.settling)
		settle();
	run_until_idle();
	release_all();
	assert_int_equal(bitmap_init(&before, REGIONS), 0);
	bitmap_or(&before, bitmap_file_logged(world.map));
	bitmap_file_free(world.map);
	load();
	assert_true(before.count > 0 && before.count < REGIONS);
	assert_int_equal(bitmap_file_dirty(world.map)->count, before.count);
	for (unsigned i = 0; i < REGIONS; i++)
		assert_int_equal(bitmap_test(bitmap_file_dirty(world.map), i), bitmap_test(&before, i));
	bitmap_done(&before);
	world_done();
}

/* Claims of regions that are logged cost nothing; those that come together cost one record. */
static void test_group_commit(void **state)
{
	const struct ring_sim_disk_counts *counts;
	uint64_t flushes, writes;

	world_init(1);
	create(false);
	counts = ring_sim_disk_counts(world.sim, world.fd);
	flushes = counts->flushes;
	for (unsigned i = 0; i < 6; i++) {
		struct user *user = &world.users[i];

		user->claim.done = claim_done;
		assert_int_equal(
		    bitmap_file_claim(world.map, &user->claim, i * 10ull * REGION + 17, REGION), 0);
	}
	run_until_idle();
	/* The first went alone, the others waited for it. */
	assert_int_equal(counts->flushes, flushes + 2);
	assert_int_equal(world.granted, 6);
	writes = counts->writes;
	for (unsigned i = 0; i < 6; i++) {
		bitmap_file_release(world.map, &world.users[i].claim);
		assert_int_equal(
		    bitmap_file_claim(world.map, &world.users[i].claim, i * 10ull * REGION + 17, REGION), 1);
		assert_int_equal(world.users[i].claim.count, 2);
	}
	assert_int_equal(counts->writes, writes);
	for (unsigned i = 0; i < 6; i++)
		bitmap_file_release(world.map, &world.users[i].claim);
	world_done();
}

/* What clients write to again and again stays logged; what they do not goes at the second clearing. */
static void test_warm_regions_stay(void **state)
{
	const struct bitmap *logged;
	struct user *cold = &world.users[0], *warm = &world.users[1], *again = &world.users[2];

	world_init(1);
	create(false);
	logged = bitmap_file_logged(world.map);
	warm->claim.warm = again->claim.warm = true;
	for (unsigned i = 0; i < 3; i++) {
		world.users[i].claim.done = claim_done;
		bitmap_file_claim(world.map, &world.users[i].claim, i * 10ull * REGION, REGION);
	}
	run_until_idle();
	for (unsigned i = 0; i < 3; i++)
		bitmap_file_release(world.map, &world.users[i].claim);
	for (unsigned turn = 0; turn < 3; turn++) {
		assert_int_equal(bitmap_file_settle_begin(world.map), turn < 2);
		bitmap_file_settle_end(world.map, true);
		run_until_idle();
		assert_int_equal(bitmap_test(logged, cold->claim.first), false);
		assert_int_equal(bitmap_test(logged, warm->claim.first), turn < 1);
		assert_true(bitmap_test(logged, again->claim.first));
		assert_int_equal(bitmap_file_claim(world.map, &again->claim, 20ull * REGION, REGION), 1);
		bitmap_file_release(world.map, &again->claim);
	}
	world_done();
}

/* Neighbours of what clients write to cost them no record, and those of others are left alone. */
static void test_neighbours_are_logged(void **state)
{
	const struct bitmap *logged;
	struct user *cold = &world.users[0], *warm = &world.users[1], *last = &world.users[2];
	uint64_t regions;

	world_init(1);
	create(false);
	bitmap_file_log_ahead(world.map, 8);
	logged = bitmap_file_logged(world.map);
	regions = bitmap_super_regions(bitmap_file_super(world.map));
	warm->claim.warm = last->claim.warm = true;
	for (unsigned i = 0; i < 3; i++)
		world.users[i].claim.done = claim_done;
	bitmap_file_claim(world.map, &cold->claim, 50ull * REGION, REGION);
	bitmap_file_claim(world.map, &warm->claim, 12ull * REGION + 5, 1);
	bitmap_file_claim(world.map, &last->claim, (regions - 1) * REGION, 1);
	run_until_idle();
	assert_true(bitmap_test_all(logged, 8, 8) && !bitmap_test(logged, 7) && !bitmap_test(logged, 16));
	assert_true(bitmap_test(logged, 50) && !bitmap_test(logged, 49) && !bitmap_test(logged, 51));
	assert_true(bitmap_test(logged, regions - 1));
	assert_int_equal(warm->claim.first, 12);
	assert_int_equal(warm->claim.count, 1);
	for (unsigned i = 0; i < 3; i++)
		bitmap_file_release(world.map, &world.users[i].claim);
	assert_int_equal(bitmap_file_claim(world.map, &warm->claim, 9ull * REGION, REGION), 1);
	bitmap_file_release(world.map, &warm->claim);
	/* After a loss those that somebody used are in doubt, and not their neighbours. */
	assert_int_equal(bitmap_file_dirty(world.map)->count, 0);
	assert_int_equal(bitmap_file_doubt(world.map), 4);
	assert_true(
	    bitmap_test(bitmap_file_dirty(world.map), 9) && !bitmap_test(bitmap_file_dirty(world.map), 10));
	world_done();
}

/* H08: what a page holds on the disk does not change while it is being written. */
static void test_h08_pages_are_copied(void **state)
{
	world_init(seed_of_run());
	create(false);
	for (int i = 0; i < 3000; i++)
		act();
	assert_int_equal(ring_sim_disk_counts(world.sim, world.fd)->buffer_changed, 0);
	end(false);
	load();
	world_done();
}

/* A byte turns bad while nobody runs: it is noticed, or its regions are dirty. */
static void test_damaged_bytes(void **state)
{
	uint64_t refused = 0;

	world_init(seed_of_run());
	create(false);
	for (int round = 0; round < 150; round++) {
		uint64_t size, at;
		uint8_t *data;
		int res;

		world.settling = false;
		for (int i = 0; i < 40; i++)
			act();
		while (ring_sim_step(world.sim) == 0)
			;
		release_all();
		world.map = bitmap_file_free(world.map);
		/* The newest record may look as if it was never written whole; so let it be in the pages. */
		load();
		world.map = bitmap_file_free(world.map);
		data = ring_sim_disk_data(world.sim, world.fd, &size);
		at = rand_below(world.rand, size);
		data[at] ^= (uint8_t)rand_between(world.rand, 1, 255);
		res = bitmap_file_load(&world.map, world.ring, world.fd, false, &world.error);
		if (res == 0) {
			check_loaded();
			assert_int_equal(bitmap_file_super(world.map)->size, SIZE);
		} else {
			assert_int_equal(res, -EBADMSG);
			assert_true(world.error.text[0]);
			refused++;
			create(true);
		}
	}
	print_message("%llu of 150 refused\n", (unsigned long long)refused);
	world_done();
}

/* The superblocks: whatever is torn, one of old and new is found, and new once it was said to be written. */
static void test_records_of_state(void **state)
{
	uint64_t seed = seed_of_run();

	for (unsigned i = 0; i < 300; i++) {
		uint32_t said = 0, tried = 0;
		uint64_t steps;

		world_init(seed + i);
		create(false);
		steps = rand_between(world.rand, 1, 40) + ring_sim_steps(world.sim);
		while (!ring_sim_killed(world.ring)) {
			struct bitmap_super next = *bitmap_file_super(world.map);

			if (ring_sim_steps(world.sim) >= steps)
				break;
			next.state = ++tried;
			next.authoritative = tried & 1;
			if (bitmap_file_record(world.map, &next, &world.error) == 0)
				said = tried;
			if (rand_below(world.rand, 2) == 0)
				ring_sim_disk_options(world.sim, world.fd)->write_error_ppm = 300000;
		}
		ring_sim_disk_options(world.sim, world.fd)->write_error_ppm = 0;
		end(true);
		load();
		assert_in_range(bitmap_file_super(world.map)->state, said, tried);
		assert_int_equal(
		    bitmap_file_super(world.map)->authoritative, bitmap_file_super(world.map)->state & 1);
		world_done();
	}
}

static void check_all_dirty(void)
{
	const struct bitmap *dirty = bitmap_file_dirty(world.map);

	assert_int_equal(dirty->count, dirty->bits);
	assert_false(bitmap_file_super(world.map)->given_up);
}

/* H11: a gap in what was noted. A map that cannot be written any more says so to all, and a later run is told not to believe it. */
static void test_h11_a_lost_map_is_given_up(void **state)
{
	struct user *user = &world.users[0];

	world_init(1);
	create(false);
	/* Records cannot be written, superblocks can. */
	ring_sim_disk_bad(world.sim, world.fd, RING_SIM_BAD_WRITE, 2 * BITMAP_BLOCK, RECORDS * BITMAP_BLOCK);
	user->claim.done = claim_done;
	assert_int_equal(bitmap_file_claim(world.map, &user->claim, 0, 1), 0);
	while (ring_sim_step(world.sim) == 0)
		;
	assert_int_equal(world.granted, 0);
	assert_int_equal(bitmap_file_lost(world.map), -EIO);
	bitmap_file_release(world.map, &user->claim);
	assert_int_equal(bitmap_file_claim(world.map, &user->claim, 0, 1), -EIO);
	bitmap_file_release(world.map, &user->claim);
	bitmap_file_free(world.map);
	world.map = NULL;
	assert_int_equal(bitmap_file_load(&world.map, world.ring, world.fd, false, &world.error), 1);
	check_all_dirty();
	world_done();
}

/* Nothing of it can be written, not even that it is given up: that is tried until it can be. */
static void test_h11_it_is_given_up_as_soon_as_it_can_be(void **state)
{
	struct user *user = &world.users[0];
	struct bitmap_super super;

	world_init(1);
	create(false);
	ring_sim_disk_bad(world.sim, world.fd, RING_SIM_BAD_WRITE, 0, 64 * BITMAP_BLOCK);
	user->claim.done = claim_done;
	assert_int_equal(bitmap_file_claim(world.map, &user->claim, 0, 1), 0);
	while (!bitmap_file_lost(world.map))
		assert_int_equal(ring_sim_step(world.sim), 0);
	for (int i = 0; i < 100; i++)
		assert_int_equal(ring_sim_step(world.sim), 0);
	bitmap_file_release(world.map, &user->claim);
	/* A change of state fails, and says that it did; the map may be closed at any time. */
	super = *bitmap_file_super(world.map);
	assert_int_equal(bitmap_file_record(world.map, &super, &world.error), -EIO);
	ring_sim_disk_heal(world.sim, world.fd);
	while (ring_sim_step(world.sim) == 0)
		;
	bitmap_file_free(world.map);
	world.map = NULL;
	assert_int_equal(bitmap_file_load(&world.map, world.ring, world.fd, false, &world.error), 1);
	check_all_dirty();
	world_done();
}

/* Whoever knows better than the file says so. */
static void test_h11_a_map_that_is_not_trusted(void **state)
{
	world_init(1);
	create(false);
	world.map = bitmap_file_free(world.map);
	assert_int_equal(bitmap_file_load(&world.map, world.ring, world.fd, true, &world.error), 1);
	check_all_dirty();
	world.map = bitmap_file_free(world.map);
	assert_int_equal(bitmap_file_load(&world.map, world.ring, world.fd, false, &world.error), 0);
	check_all_dirty();
	world_done();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_kills),
	    cmocka_unit_test(test_power_cuts),
	    cmocka_unit_test(test_errors_are_tried_again),
	    cmocka_unit_test(test_merge),
	    cmocka_unit_test(test_empty),
	    cmocka_unit_test(test_note),
	    cmocka_unit_test(test_comes_back_exactly),
	    cmocka_unit_test(test_group_commit),
	    cmocka_unit_test(test_warm_regions_stay),
	    cmocka_unit_test(test_neighbours_are_logged),
	    cmocka_unit_test(test_h08_pages_are_copied),
	    cmocka_unit_test(test_damaged_bytes),
	    cmocka_unit_test(test_records_of_state),
	    cmocka_unit_test(test_h11_a_lost_map_is_given_up),
	    cmocka_unit_test(test_h11_it_is_given_up_as_soon_as_it_can_be),
	    cmocka_unit_test(test_h11_a_map_that_is_not_trusted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
