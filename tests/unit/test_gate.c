/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The gate before a volume's clients, and handles of a part of a volume. */
#include "block/memory.h"
#include "filter/delay.h"
#include "filter/fault.h"
#include "filter/gate.h"
#include "filter/share.h"
#include "ring/ring_sim.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define SIZE 12289u
#define MS   UINT64_C(1000000)

struct world {
	struct ring_sim *sim;
	struct ring *ring;
	struct block *memory, *faulty, *gate;
	unsigned wanted, idle, astray;
};

struct request {
	struct block_io io;
	uint8_t buf[512];
	bool ended;
	int res;
};

static void wanted(void *data)
{
	((struct world *)data)->wanted++;
}

static void idle(void *data)
{
	((struct world *)data)->idle++;
}

static void astray(void *data, int res)
{
	((struct world *)data)->astray++;
}

static int set_up(void **state)
{
	static struct world world;
	const struct gate_options options = {
	    .wanted = wanted, .idle = idle, .keeps = true, .astray = astray, .data = &world};
	struct block *delay;

	world = (struct world){.sim = ring_sim_new(3, 0)};
	world.ring = ring_sim_host_new(world.sim, "host");
	assert_int_equal(memory_new(&world.memory, world.ring, SIZE, NULL, NULL), 0);
	assert_int_equal(fault_new(&world.faulty, world.memory, 1, NULL), 0);
	assert_int_equal(
	    delay_new(&delay, world.faulty, &(struct delay_options){.min_ns = MS, .max_ns = 2 * MS}, NULL),
	    0);
	assert_int_equal(gate_new(&world.gate, delay, &options, NULL), 0);
	*state = &world;
	return 0;
}

static int tear_down(void **state)
{
	struct world *world = *state;

	block_free(world->gate);
	ring_free(world->ring);
	ring_sim_free(world->sim);
	return 0;
}

static void ended(struct block_io *io, int res)
{
	struct request *request = io->user;

	request->ended = true;
	request->res = res;
}

static void begin(struct world *world, struct request *request, enum block_op op, uint64_t offset)
{
	*request = (struct request){.io = {.op = op,
	                                .offset = op == BLOCK_FLUSH ? 0 : offset,
	                                .length = op == BLOCK_FLUSH ? 0 : sizeof(request->buf),
	                                .done = ended}};
	request->io.user = request;
	request->io.buf = request->buf;
	memset(request->buf, 0x77, sizeof(request->buf));
	block_submit(world->gate, &request->io);
}

static int end(struct world *world, struct request *request)
{
	assert_int_equal(ring_run_until(world->ring, &request->ended), 0);
	return request->res;
}

static int once(struct world *world, enum block_op op)
{
	struct request request;

	begin(world, &request, op, 512);
	return end(world, &request);
}

static void test_modes(void **state)
{
	static const struct {
		enum gate_mode mode;
		int read, write, flush;
	} rows[] = {{GATE_SHUT, -ESHUTDOWN, -ESHUTDOWN, -ESHUTDOWN}, {GATE_READ, 0, -EPERM, 0},
	    {GATE_OPEN, 0, 0, 0}, {GATE_DURABLE, 0, 0, 0}};
	struct world *world = *state;

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		gate_set(world->gate, rows[i].mode);
		assert_int_equal(gate_mode(world->gate), rows[i].mode);
		assert_int_equal(once(world, BLOCK_READ), rows[i].read);
		assert_int_equal(once(world, BLOCK_WRITE), rows[i].write);
		assert_int_equal(once(world, BLOCK_ZERO), rows[i].write);
		assert_int_equal(once(world, BLOCK_TRIM), rows[i].write);
		assert_int_equal(once(world, BLOCK_FLUSH), rows[i].flush);
	}
	assert_int_equal(world->wanted, 0);
}

static void test_writes_wait(void **state)
{
	struct world *world = *state;
	struct request writes[3], refused, reading;

	gate_set(world->gate, GATE_WAIT);
	assert_int_equal(once(world, BLOCK_READ), 0);
	assert_int_equal(once(world, BLOCK_FLUSH), 0);
	assert_int_equal(world->wanted, 0);
	for (unsigned i = 0; i < 3; i++)
		begin(world, &writes[i], BLOCK_WRITE, i * 512);
	assert_int_equal(once(world, BLOCK_READ), 0);
	assert_int_equal(world->wanted, 1);
	assert_true(gate_is_idle(world->gate));
	assert_false(writes[0].ended || writes[1].ended || writes[2].ended);
	gate_set(world->gate, GATE_OPEN);
	assert_false(gate_is_idle(world->gate));
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(end(world, &writes[i]), 0);
	assert_true(gate_is_idle(world->gate) && world->idle > 0);
	/* Those who read go on: nobody waits for them. */
	gate_set(world->gate, GATE_READ);
	begin(world, &reading, BLOCK_READ, 0);
	assert_true(gate_is_idle(world->gate));
	assert_int_equal(end(world, &reading), 0);
	/* Or in vain. */
	gate_set(world->gate, GATE_WAIT);
	begin(world, &refused, BLOCK_WRITE, 0);
	gate_set(world->gate, GATE_SHUT);
	assert_int_equal(end(world, &refused), -ESHUTDOWN);
}

static void test_a_share(void **state)
{
	struct world *world = *state;
	struct block *share;
	uint8_t buf[1024];
	struct block_io io = {.op = BLOCK_READ, .offset = 4096 - 512, .length = 512, .buf = buf};

	assert_int_equal(share_new(&share, world->memory, 4096, NULL), 0);
	assert_int_equal(block_info(share)->size, 4096);
	assert_int_equal(block_wait(share, &io), 0);
	io.length = 1024;
	assert_true(block_wait(share, &io) < 0);
	share_measure(share, SIZE);
	assert_int_equal(block_wait(share, &io), 0);
	block_free(share);
	gate_set(world->gate, GATE_OPEN);
	assert_int_equal(once(world, BLOCK_WRITE), 0);
}

static void fail_all(struct world *world)
{
	const struct fault_rule rule = {
	    .ops = 1u << BLOCK_READ | 1u << BLOCK_WRITE | 1u << BLOCK_ZERO | 1u << BLOCK_FLUSH,
	    .result = -EIO};

	fault_add(world->faulty, &rule);
}

static void wait_idle(struct world *world)
{
	while (!gate_is_idle(world->gate))
		assert_int_equal(ring_step(world->ring), 0);
}

#define KEPT 4

/* What was under way when the volume failed, and what came later. */
static void begin_kept(struct world *world, struct request requests[KEPT])
{
	static const enum block_op ops[KEPT] = {BLOCK_WRITE, BLOCK_FLUSH, BLOCK_READ, BLOCK_WRITE};

	gate_set(world->gate, GATE_OPEN);
	fail_all(world);
	for (unsigned i = 0; i < KEPT; i++) {
		if (i == 2)
			gate_keep(world->gate);
		begin(world, &requests[i], ops[i], 512 * (uint64_t)i);
	}
	wait_idle(world);
	for (unsigned i = 0; i < KEPT; i++)
		assert_false(requests[i].ended);
}

static void test_another_volume(void **state)
{
	struct world *world = *state;
	const struct fault_rule rule = {.ops = 1u << BLOCK_READ, .result = -EREMOTEIO, .times = 1};
	struct request requests[KEPT], late;
	struct block *other, *faulty;
	uint8_t buf[2 * 512];

	assert_int_equal(memory_new(&other, world->ring, SIZE, NULL, NULL), 0);
	assert_int_equal(fault_new(&faulty, other, 1, NULL), 0);
	begin_kept(world, requests);
	gate_divert(world->gate, faulty);
	for (unsigned i = 0; i < KEPT; i++)
		assert_int_equal(end(world, &requests[i]), 0);
	memory_peek(other, 0, buf, 512);
	memory_peek(other, 3 * 512, buf + 512, 512);
	for (unsigned i = 0; i < sizeof(buf); i++)
		assert_int_equal(buf[i], 0x77);
	assert_int_equal(once(world, BLOCK_TRIM), 0);
	assert_int_equal(world->astray, 0);
	/* Its errors are the clients'. */
	fault_add(faulty, &rule);
	assert_int_equal(once(world, BLOCK_READ), -EREMOTEIO);
	assert_int_equal(world->astray, 1);
	assert_int_equal(once(world, BLOCK_READ), 0);
	gate_divert(world->gate, NULL);
	begin(world, &late, BLOCK_READ, 0);
	assert_int_equal(end(world, &late), -EIO);
	wait_idle(world);
	block_free(faulty);
}

/* What is under way below when the others have gone elsewhere follows them. */
static void test_one_that_is_late(void **state)
{
	struct world *world = *state;
	const struct fault_rule rule = {.ops = 1u << BLOCK_WRITE, .result = -EIO};
	struct request late, read;
	struct block *other;

	assert_int_equal(memory_new(&other, world->ring, SIZE, NULL, NULL), 0);
	gate_set(world->gate, GATE_OPEN);
	assert_int_equal(memory_poke(world->memory, 512, (uint8_t[512]){1}, 512), 0);
	/* Also a read that succeeds: what was written last may be in none of its disks but the other one. */
	begin(world, &read, BLOCK_READ, 512);
	fault_add(world->faulty, &rule);
	begin(world, &late, BLOCK_WRITE, 0);
	gate_keep(world->gate);
	gate_divert(world->gate, other);
	assert_int_equal(end(world, &late), 0);
	assert_int_equal(end(world, &read), 0);
	assert_int_equal(read.buf[0], 0);
	wait_idle(world);
	gate_divert(world->gate, NULL);
	block_free(other);
}

static void test_no_other_volume(void **state)
{
	struct world *world = *state;
	struct request requests[KEPT];

	begin_kept(world, requests);
	/* A flush that has failed is not tried again: what it was to make last may be gone. */
	fault_clear(world->faulty);
	gate_divert(world->gate, NULL);
	assert_int_equal(end(world, &requests[0]), -EIO);
	assert_int_equal(end(world, &requests[1]), -EIO);
	assert_int_equal(end(world, &requests[2]), 0);
	assert_int_equal(end(world, &requests[3]), 0);
	begin_kept(world, requests);
	gate_set(world->gate, GATE_SHUT);
	for (unsigned i = 0; i < KEPT; i++)
		assert_int_equal(end(world, &requests[i]), -ESHUTDOWN);
	gate_divert(world->gate, NULL);
	/* Nor does one wait that comes back when nobody is let in any more. */
	gate_set(world->gate, GATE_OPEN);
	begin(world, &requests[0], BLOCK_WRITE, 0);
	gate_keep(world->gate);
	gate_set(world->gate, GATE_SHUT);
	assert_int_equal(end(world, &requests[0]), -EIO);
	gate_divert(world->gate, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_modes, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_writes_wait, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_a_share, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_another_volume, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_one_that_is_late, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_no_other_volume, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
