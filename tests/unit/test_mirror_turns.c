/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Writes to both legs of a mirror for whose data there is no room: they wait for their turn, and each comes to it. */
#include "base/bytes.h"
#include "block/memory.h"
#include "filter/delay.h"
#include "filter/fault.h"
#include "filter/mirror.h"
#include "ring/ring_sim.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define REGION     4096u
#define CLIENTS    8u
#define SIZE       (4u * CLIENTS * REGION + 1536u)
#define TIMEOUT_NS 1000000000u
#define MS         1000000u
#define ROUNDS     50u

struct client {
	struct block_io io;
	uint8_t buf[4 * REGION];
	unsigned ended, rounds;
	int res;
	uint64_t ended_ns;
};

struct world {
	struct ring_sim *sim;
	struct ring *ring;
	struct block *memory[MIRROR_LEGS], *faults[MIRROR_LEGS], *legs[MIRROR_LEGS], *mirror;
	struct bitmap_file *map;
	struct client clients[CLIENTS];
	unsigned drained;
};

static struct world world;

static void event(void *data, enum mirror_event what)
{
	world.drained += what == MIRROR_DRAINED;
}

/* Each request to a leg takes 1 ms. */
static void world_init(uint64_t stable_max)
{
	const struct ring_sim_disk_options disk = {.size_max = 64 * BITMAP_BLOCK};
	const struct bitmap_super super = {.nonce = 7, .size = SIZE, .region_size = REGION, .records = 8};
	const struct delay_options delay = {.min_ns = MS, .max_ns = MS};
	struct mirror_options options = {.follower_timeout_ns = TIMEOUT_NS,
	    .leader_timeout_ns = TIMEOUT_NS,
	    .stable_max = stable_max,
	    .event = event};
	struct bitmap none;

	world = (struct world){.sim = ring_sim_new(1, 0)};
	world.ring = ring_sim_host_new(world.sim, "host");
	for (unsigned i = 0; i < MIRROR_LEGS; i++) {
		assert_int_equal(memory_new(&world.memory[i], world.ring, SIZE, NULL, NULL), 0);
		assert_int_equal(fault_new(&world.faults[i], world.memory[i], 1, NULL), 0);
		assert_int_equal(delay_new(&world.legs[i], world.faults[i], &delay, NULL), 0);
	}
	assert_int_equal(bitmap_init(&none, bitmap_super_regions(&super)), 0);
	assert_int_equal(bitmap_file_create(&world.map, world.ring, ring_sim_disk_new(world.sim, &disk),
	                     &super, &none, NULL),
	    0);
	bitmap_done(&none);
	options.map = world.map;
	assert_int_equal(mirror_new(&world.mirror, world.legs, &options, NULL), 0);
	mirror_set_mode(world.mirror, MIRROR_WRITE_THROUGH);
}

static void world_done(void)
{
	block_free(world.mirror);
	bitmap_file_free(world.map);
	for (unsigned i = 0; i < MIRROR_LEGS; i++)
		block_free(world.legs[i]);
	ring_free(world.ring);
	ring_sim_free(world.sim);
}

static uint64_t dirty(void)
{
	return bitmap_file_dirty(world.map)->count;
}

static void run_for(uint64_t ns)
{
	struct ring_op timer = {.opcode = RING_TIMER, .deadline_ns = ring_now_ns(world.ring) + ns};

	ring_wait(world.ring, &timer);
}

static void submit(struct client *client)
{
	rand_bytes(ring_sim_rand(world.sim), client->buf, client->io.length);
	block_submit(world.mirror, &client->io);
}

static void client_done(struct block_io *io, int res)
{
	struct client *client = container_of(io, struct client, io);

	client->ended++;
	client->res = res;
	client->ended_ns = ring_now_ns(world.ring);
	if (client->ended < client->rounds)
		submit(client);
}

/* All write, each to a place of its own, and again as soon as that has ended; the last one as much as `last`. */
static void begin_all(uint64_t length, uint64_t last, unsigned rounds)
{
	for (unsigned i = 0; i < CLIENTS; i++) {
		struct client *client = &world.clients[i];

		*client = (struct client){.rounds = rounds};
		client->io = (struct block_io){.op = BLOCK_WRITE,
		    .offset = 4 * i * REGION,
		    .length = i == CLIENTS - 1 ? last : length,
		    .buf = client->buf,
		    .done = client_done};
		submit(client);
	}
}

static unsigned ended(void)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < CLIENTS; i++)
		sum += world.clients[i].ended;
	return sum;
}

/* All have come to their end, with that result, in the order of their coming but for those that went together. */
static void check_ended(int res)
{
	for (unsigned i = 0; i < CLIENTS; i++) {
		assert_int_equal(world.clients[i].ended, world.clients[i].rounds);
		assert_int_equal(world.clients[i].res, res);
		assert_true(i == 0 || world.clients[i].ended_ns + MS / 2 >= world.clients[i - 1].ended_ns);
	}
}

static void check_legs(void)
{
	static uint8_t held[4 * REGION];

	for (unsigned i = 0; i < CLIENTS; i++)
		for (unsigned leg = 0; leg < MIRROR_LEGS; leg++) {
			const struct block_io *io = &world.clients[i].io;

			memory_peek(world.memory[leg], io->offset, held, io->length);
			assert_memory_equal(held, world.clients[i].buf, io->length);
		}
}

/* However much clients write, both legs get it: nothing is ever left for the copy. */
static void test_a_load_that_goes_on_leaves_nothing_dirty(void **state)
{
	uint64_t start_ns;

	world_init(2 * REGION + 100);
	start_ns = ring_now_ns(world.ring);
	begin_all(REGION, REGION, ROUNDS);
	while (ended() < CLIENTS * ROUNDS) {
		assert_int_equal(ring_sim_step(world.sim), 0);
		assert_int_equal(dirty(), 0);
	}
	check_ended(0);
	check_legs();
	assert_int_equal(mirror_counts(world.mirror)->written_through, CLIENTS * ROUNDS);
	assert_int_equal(mirror_counts(world.mirror)->written_behind, 0);
	/* Two at a time: the memory is bounded. */
	assert_true(ring_now_ns(world.ring) - start_ns >= CLIENTS * ROUNDS / 2 * MS);
	world_done();
}

/* One that is longer than all the room goes alone, and is not overtaken for ever by those that would fit. */
static void test_a_long_one_comes_to_its_turn(void **state)
{
	struct client *client = &world.clients[CLIENTS - 1];

	world_init(2 * REGION);
	begin_all(REGION / 2, 4 * REGION, 10 * ROUNDS);
	while (client->ended < 10)
		assert_int_equal(ring_sim_step(world.sim), 0);
	assert_in_range(world.clients[0].ended, 10, 12);
	run_for(20 * CLIENTS * ROUNDS * MS);
	check_ended(0);
	check_legs();
	assert_int_equal(dirty(), 0);
	world_done();
}

static void test_held_while_they_wait(void **state)
{
	struct bitmap_super super;

	world_init(REGION);
	begin_all(REGION, REGION, 1);
	mirror_hold(world.mirror);
	run_for(20 * MS);
	/* Of those under way only the first has begun. */
	assert_true(mirror_drained(world.mirror) && world.drained == 1);
	assert_int_equal(ended(), 1);
	assert_int_equal(mirror_counts(world.mirror)->held, CLIENTS - 1);
	super = *bitmap_file_super(world.map);
	super.authoritative = MIRROR_TARGET;
	assert_int_equal(bitmap_file_record(world.map, &super, NULL), 0);
	mirror_swap(world.mirror);
	mirror_release(world.mirror);
	while (ended() < CLIENTS) {
		assert_false(mirror_pause_is_over(world.mirror));
		assert_int_equal(ring_sim_step(world.sim), 0);
	}
	assert_true(mirror_pause_is_over(world.mirror));
	check_ended(0);
	check_legs();
	assert_in_range(mirror_pause_ns(world.mirror), 20 * MS, 50 * MS);
	world_done();
}

/* H24: a follower that hangs keeps what it has, and holds up nobody for longer than one time-out. */
static void test_h24_the_follower_hangs_while_they_wait(void **state)
{
	world_init(REGION);
	delay_set(world.legs[1],
	    &(struct delay_options){.min_ns = 9 * (uint64_t)TIMEOUT_NS, .max_ns = 9 * (uint64_t)TIMEOUT_NS});
	begin_all(REGION, REGION, 2);
	run_for(TIMEOUT_NS + 20 * MS);
	check_ended(0);
	assert_int_equal(mirror_detach_reason(world.mirror), -ETIMEDOUT);
	assert_int_equal(dirty(), CLIENTS);
	world_done();
}

/* Once it is back, they have as much room as before. */
static void test_the_follower_fails_while_they_wait(void **state)
{
	const struct fault_rule rule = {
	    .kind = FAULT_ERROR, .result = -EIO, .ops = 1u << BLOCK_WRITE, .times = 1};

	world_init(REGION);
	for (unsigned i = 0; i < 3; i++) {
		fault_add(world.faults[1], &rule);
		/* It fails when the leader has ended, or about then. */
		delay_set(world.legs[1 - i % 2], &(struct delay_options){.min_ns = 2 * MS, .max_ns = 2 * MS});
		begin_all(REGION, REGION, 2);
		run_for(20 * MS);
		check_ended(0);
		assert_int_equal(mirror_detach_reason(world.mirror), -EIO);
		assert_int_equal(mirror_attach(world.mirror, world.legs[1], false, NULL), 0);
		begin_all(REGION, REGION, 2);
		run_for(60 * MS);
		check_ended(0);
		check_legs();
	}
	world_done();
}

/* H24: they wait for the leader, too, and no longer than it is waited for. */
static void test_h24_the_leader_is_lost_while_they_wait(void **state)
{
	world_init(REGION);
	mirror_leader_lose(world.mirror);
	begin_all(REGION, REGION, 1);
	run_for(20 * MS);
	assert_int_equal(ended(), 0);
	assert_int_equal(mirror_leader_return(world.mirror, world.legs[0], NULL), 0);
	run_for(20 * MS);
	check_ended(0);
	check_legs();
	mirror_leader_lose(world.mirror);
	begin_all(REGION, REGION, 1);
	run_for(TIMEOUT_NS + MS);
	check_ended(-EIO);
	assert_int_equal(mirror_leader_return(world.mirror, world.legs[0], NULL), 0);
	begin_all(REGION, REGION, 2);
	run_for(50 * MS);
	check_ended(0);
	world_done();
}

static void test_the_mirror_ends_while_they_wait(void **state)
{
	world_init(REGION);
	begin_all(REGION, REGION, 2);
	mirror_end(world.mirror);
	run_for(5 * MS);
	check_ended(0);
	world_done();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_a_load_that_goes_on_leaves_nothing_dirty),
	    cmocka_unit_test(test_a_long_one_comes_to_its_turn),
	    cmocka_unit_test(test_held_while_they_wait),
	    cmocka_unit_test(test_h24_the_follower_hangs_while_they_wait),
	    cmocka_unit_test(test_the_follower_fails_while_they_wait),
	    cmocka_unit_test(test_h24_the_leader_is_lost_while_they_wait),
	    cmocka_unit_test(test_the_mirror_ends_while_they_wait),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
