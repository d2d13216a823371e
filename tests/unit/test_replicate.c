/* SPDX-License-Identifier: GPL-2.0-or-later */
/* When a replica's writes are acknowledged, and what a full queue, a stuck link and a disk that fails make of them. */
#include "block/memory.h"
#include "block/remote.h"
#include "export/agent_server.h"
#include "filter/delay.h"
#include "filter/fault.h"
#include "filter/replicate.h"
#include "ring/ring_sim.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SIZE    (1u << 20)
#define MS      UINT64_C(1000000)
#define WAY_MS  100u /* of the link, one way */
#define DISK_MS 10u  /* a write or a flush */
#define PIECE   4096u
#define QUEUE   (4 * PIECE)

struct world {
	struct ring_sim *sim;
	struct ring *sender, *receiver;
	enum replicate_ack ack;
	struct agent_server *agent;
	struct block *memory, *faulty, *top;
	bool agent_ended;
	unsigned congested, failed;
	int fds[2];
};

static int open_far(void *data, struct block **ret, struct ring *ring, const char *path,
    const struct block_open_options *options, struct error *error)
{
	struct world *world = data;
	const struct delay_options delay = {
	    .min_ns = DISK_MS * MS, .max_ns = DISK_MS * MS, .ops = 1u << BLOCK_WRITE | 1u << BLOCK_FLUSH};
	const struct replicate_receive_options receive = {.ack = world->ack};
	struct block *slow;

	assert_int_equal(memory_new(&world->memory, ring, SIZE, NULL, error), 0);
	assert_int_equal(fault_new(&world->faulty, world->memory, 1, error), 0);
	assert_int_equal(delay_new(&slow, world->faulty, &delay, error), 0);
	return replicate_receive_new(ret, slow, &receive, error);
}

static void agent_over(void *data, int res)
{
	((struct world *)data)->agent_ended = true;
}

static void on_congested(void *data)
{
	((struct world *)data)->congested++;
}

static void on_failed(void *data, int res)
{
	((struct world *)data)->failed++;
}

static void world_init(struct world *world, enum replicate_ack ack)
{
	const struct ring_sim_link_options link = {.delay_ns = WAY_MS * MS, .capacity = SIZE};
	const struct block_open_options options = {.write = true, .link.timeout_ms = 60000};
	struct replicate_send_options send = {
	    .ack = ack, .queue_max = QUEUE, .congested = on_congested, .failed = on_failed, .data = world};
	struct agent_server_options agent = {.timeout_ms = 60000, .open = open_far, .open_data = world};
	struct block *remote;

	*world = (struct world){.sim = ring_sim_new(1, 0), .ack = ack};
	world->sender = ring_sim_host_new(world->sim, "sender");
	world->receiver = ring_sim_host_new(world->sim, "receiver");
	ring_sim_link_new(world->sim, world->sender, world->receiver, &link, world->fds);
	agent.fd_in = agent.fd_out = world->fds[1];
	assert_int_equal(agent_server_new(&world->agent, world->receiver, &agent, NULL), 0);
	agent_server_start(world->agent, agent_over, world);
	assert_int_equal(
	    remote_new(&remote, world->sender, world->fds[0], world->fds[0], "far", "disk", &options, NULL),
	    0);
	assert_int_equal(replicate_send_new(&world->top, remote, &send, NULL), 0);
}

static void world_done(struct world *world)
{
	block_free(world->top);
	ring_sim_link_close(world->sim, world->fds[0]);
	while (!world->agent_ended)
		assert_int_equal(ring_step(world->receiver), 0);
	agent_server_free(world->agent);
	ring_free(world->sender);
	ring_free(world->receiver);
	ring_sim_free(world->sim);
}

static uint64_t took_ms(struct world *world, enum block_op op, uint32_t flags, int expected)
{
	static uint8_t buf[PIECE];
	uint64_t start_ns = ring_now_ns(world->sender);
	struct block_io io = {.op = op, .flags = flags, .length = op == BLOCK_FLUSH ? 0 : PIECE, .buf = buf};

	assert_int_equal(block_wait(world->top, &io), expected);
	return (ring_now_ns(world->sender) - start_ns) / MS;
}

static void test_when(void **state)
{
	static const struct {
		enum block_op op;
		uint32_t flags;
		unsigned least_ms[REPLICATE_ACKS];
	} rows[] = {
	    {BLOCK_WRITE, 0, {0, 2 * WAY_MS, 2 * WAY_MS + DISK_MS}},
	    /* The write and its flush take one way to and fro together. */
	    {BLOCK_WRITE, BLOCK_FUA, {0, 2 * WAY_MS, 2 * WAY_MS + 2 * DISK_MS}},
	    {BLOCK_FLUSH, 0, {0, 0, 2 * WAY_MS + DISK_MS}},
	    {BLOCK_FLUSH, BLOCK_DURABLE, {2 * WAY_MS + DISK_MS, 2 * WAY_MS + DISK_MS, 2 * WAY_MS + DISK_MS}},
	};

	for (int ack = 0; ack < REPLICATE_ACKS; ack++)
		for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
			struct world world;
			uint64_t ms;

			world_init(&world, (enum replicate_ack)ack);
			ms = took_ms(&world, rows[i].op, rows[i].flags, 0);
			if (ms < rows[i].least_ms[ack] || ms > rows[i].least_ms[ack] + DISK_MS / 2)
				fail_msg("%s, row %zu: %llu ms", replicate_ack_name((enum replicate_ack)ack),
				    i, (unsigned long long)ms);
			world_done(&world);
		}
}

struct counted {
	struct block_io io;
	bool ended;
	int res;
};

static void counted_done(struct block_io *io, int res)
{
	struct counted *counted = container_of(io, struct counted, io);

	counted->ended = true;
	counted->res = res;
}

static void run_for(struct world *world, uint64_t ms)
{
	struct ring_op timer = {.opcode = RING_TIMER, .deadline_ns = ring_now_ns(world->sender) + ms * MS};

	ring_wait(world->sender, &timer);
}

static void test_congestion(void **state)
{
	static uint8_t buf[PIECE];
	struct counted writes[8] = {0};
	struct world world;

	world_init(&world, REPLICATE_SENT);
	for (unsigned i = 0; i < 8; i++) {
		writes[i].io = (struct block_io){.op = BLOCK_WRITE,
		    .offset = i * PIECE,
		    .length = PIECE,
		    .buf = buf,
		    .done = counted_done};
		block_submit(world.top, &writes[i].io);
	}
	run_for(&world, 1);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(writes[i].ended, i < 4);
	assert_int_equal(world.congested, 1);
	assert_int_equal(replicate_send_queued(world.top), QUEUE);
	/* What waits is the first thing to go, and a flush behind it stays behind it. */
	assert_int_equal(took_ms(&world, BLOCK_FLUSH, BLOCK_DURABLE, 0) / WAY_MS, 4);
	for (unsigned i = 0; i < 8; i++)
		assert_true(writes[i].ended && writes[i].res == 0);
	assert_int_equal(replicate_send_queued(world.top), 0);
	world_done(&world);
}

#define BARE (4096 + 8) /* eight more than may be in the queue */

/* Zeroes and flushes take no room in the queue's bytes, and are not to be without end. */
static void test_requests_without_data_are_bounded(void **state)
{
	struct counted *zeroes = calloc(BARE, sizeof(*zeroes));
	unsigned answered = 0;
	struct world world;

	world_init(&world, REPLICATE_SENT);
	assert_non_null(zeroes);
	for (unsigned i = 0; i < BARE; i++) {
		zeroes[i].io = (struct block_io){.op = BLOCK_ZERO, .length = PIECE, .done = counted_done};
		block_submit(world.top, &zeroes[i].io);
	}
	run_for(&world, 1);
	for (unsigned i = 0; i < BARE; i++)
		answered += zeroes[i].ended;
	assert_int_equal(answered, BARE - 8);
	assert_int_equal(world.congested, 1);
	took_ms(&world, BLOCK_FLUSH, BLOCK_DURABLE, 0);
	for (unsigned i = 0; i < BARE; i++)
		assert_true(zeroes[i].ended && zeroes[i].res == 0);
	world_done(&world);
	free(zeroes);
}

static void test_a_failure_stays(void **state)
{
	for (int ack = REPLICATE_SENT; ack <= REPLICATE_RECEIVED; ack++) {
		struct world world;
		const struct fault_rule rule = {.ops = 1u << BLOCK_WRITE, .result = -EIO, .times = 1};

		world_init(&world, (enum replicate_ack)ack);
		fault_add(world.faulty, &rule);
		took_ms(&world, BLOCK_WRITE, 0, 0);
		took_ms(&world, BLOCK_FLUSH, BLOCK_DURABLE, -EIO);
		took_ms(&world, BLOCK_WRITE, 0, -EIO);
		took_ms(&world, BLOCK_FLUSH, BLOCK_DURABLE, -EIO);
		assert_int_equal(world.failed, ack == REPLICATE_SENT);
		world_done(&world);
	}
}

static void test_a_link_that_is_lost(void **state)
{
	struct world world;

	world_init(&world, REPLICATE_SENT);
	took_ms(&world, BLOCK_WRITE, 0, 0);
	ring_sim_link_break(world.sim, world.fds[0], RING_SIM_BREAK_RESET);
	took_ms(&world, BLOCK_FLUSH, BLOCK_DURABLE, -ENOTCONN);
	assert_int_equal(world.failed, 1);
	assert_int_equal(block_link_error(world.top, &(struct error){0}), -ENOTCONN);
	took_ms(&world, BLOCK_WRITE, 0, -ENOTCONN);
	assert_true(replicate_send_idle(world.top));
	world_done(&world);
}

/* How many there are is the answer's result. */
static void test_extents_are_told(void **state)
{
	static uint8_t buf[PIECE] = {1};
	struct extent extents[8];
	struct block_io write = {.op = BLOCK_WRITE, .offset = PIECE, .length = PIECE, .buf = buf},
	                ask = {.op = BLOCK_EXTENTS, .length = SIZE, .extents = extents, .extents_max = 8};

	for (unsigned ack = 0; ack < REPLICATE_ACKS; ack++) {
		struct world world;

		world_init(&world, ack);
		assert_int_equal(block_wait(world.top, &write), 0);
		assert_int_equal(took_ms(&world, BLOCK_FLUSH, BLOCK_DURABLE, 0) > 0, true);
		assert_int_equal(block_wait(world.top, &ask), 3);
		assert_int_equal(extents[1].offset, PIECE);
		assert_int_equal(extents[1].kind, EXTENT_DATA);
		world_done(&world);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_extents_are_told),
	    cmocka_unit_test(test_when),
	    cmocka_unit_test(test_congestion),
	    cmocka_unit_test(test_requests_without_data_are_bounded),
	    cmocka_unit_test(test_a_failure_stays),
	    cmocka_unit_test(test_a_link_that_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
