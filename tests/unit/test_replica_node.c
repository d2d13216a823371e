/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Two nodes on simulated machines, with volumes in memory and maps on disks: what users ask of them, one after the other. */
#include "block/memory.h"
#include "filter/filter.h"
#include "filter/share.h"
#include "replica/replica_node.h"
#include "ring/fiber.h"
#include "ring/ring_sim.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SIZE     ((3u << 20) + 4608u)
#define MAP_SIZE (4u << 20)
#define NODES    2u
#define S        UINT64_C(1000000000)

struct host {
	unsigned index;
	struct ring *ring;
	struct block *memory; /* what survives the node */
	char boot[16];
	int map_fd;
	struct replica_node *node;
	struct fiber *fiber;
	bool seeks, serves, answered, hook_fails;
	unsigned hooks, fences;
	bool wrote;
	int res, write_res;
	char text[256], warnings[4096];
};

struct world {
	struct ring_sim *sim;
	struct host hosts[NODES];
	struct replica_node_options options;
	uint64_t names, links;
	int link_fds[NODES];
	bool cut; /* no new link */
};

static struct world world;
static const struct ring_sim_link_options cable;

/* The world goes on, and each machine's fibers. */
static void step(void)
{
	for (unsigned i = 0; i < NODES; i++)
		assert_int_equal(ring_step(world.hosts[i].ring), 0);
}

/* The owner of a node */

static void machine_submit(struct block *block, struct block_io *io)
{
	filter_forward(filter_of(block), io);
}

static int machine_facts(struct block *block, struct block_facts *ret, struct error *error)
{
	int res = filter_facts(block, ret, error);

	for (unsigned i = 0; i < NODES; i++)
		if (block->ring == world.hosts[i].ring)
			snprintf(ret->boot, sizeof(ret->boot), "%s", world.hosts[i].boot);
	return res;
}

static void machine_free(struct block *block)
{
	filter_done(filter_of(block));
	free(filter_of(block));
}

/* Says when its machine was started. */
static const struct block_driver machine_driver = {
    .name = "machine", .submit = machine_submit, .facts = machine_facts, .free = machine_free};

static int open_volume(void *data, struct block **ret, struct error *error)
{
	struct filter *filter = calloc(1, sizeof(*filter));
	struct host *host = data;
	struct block *share;

	assert_non_null(filter);
	assert_int_equal(share_new(&share, host->memory, SIZE, error), 0);
	filter_init(filter, &machine_driver, share);
	*ret = &filter->block;
	return 0;
}

static int open_map(void *data)
{
	return ((struct host *)data)->map_fd;
}

static uint64_t draw(void *data)
{
	return ++world.names;
}

static void link_now(void *data)
{
	struct host *host = data, *other = &world.hosts[1 - host->index];
	struct error error;

	if (world.cut || !world.hosts[0].seeks || !world.hosts[1].seeks)
		return;
	world.hosts[0].seeks = world.hosts[1].seeks = false;
	ring_sim_link_new(world.sim, host->ring, other->ring, &cable, world.link_fds);
	world.links++;
	assert_int_equal(
	    replica_node_take_link(host->node, world.link_fds[0], false, world.links, &error), 0);
	assert_int_equal(
	    replica_node_take_link(other->node, world.link_fds[1], true, world.links, &error), 0);
}

static void seek(void *data, bool on)
{
	((struct host *)data)->seeks = on;
	ring_sim_after(world.sim, 1000000, link_now, data);
}

static int dial(void *data, uint64_t link, int *ret_fd, struct error *error)
{
	struct host *host = data, *other = &world.hosts[1 - host->index];
	int fds[2];

	ring_sim_link_new(world.sim, host->ring, other->ring, &cable, fds);
	*ret_fd = fds[0];
	return replica_node_take_data(other->node, fds[1], link, error);
}

static void serve(void *data, bool open)
{
	((struct host *)data)->serves = open;
}

static void fence(void *data)
{
	((struct host *)data)->fences++;
}

static int before_resync(void *data, struct error *error)
{
	struct host *host = data;

	host->hooks++;
	return host->hook_fails ? error_set(error, -EIO, "the hook failed") : 0;
}

static void answer(void *data, int res, const char *text)
{
	struct host *host = data;

	host->answered = true;
	host->res = res;
	snprintf(host->text, sizeof(host->text), "%s", text ? text : "");
}

static void changed(void *data)
{
}

static void warning(void *data, const char *text)
{
	struct host *host = data;
	size_t used = strlen(host->warnings);

	snprintf(host->warnings + used, sizeof(host->warnings) - used, "%s\n", text);
}

static void run(void *data)
{
	struct host *host = data;

	replica_node_run(host->node);
}

static void begin(struct host *host)
{
	struct replica_node_options options = world.options;
	struct error error;

	options.name = host->index + 1;
	options.data = host;
	options.open_volume = open_volume;
	options.open_map = open_map;
	options.draw = draw;
	options.seek = seek;
	options.dial = dial;
	options.serve = serve;
	options.fence = fence;
	options.before_resync = before_resync;
	options.answer = answer;
	options.changed = changed;
	options.warning = warning;
	if (replica_node_new(&host->node, host->ring, &options, &error) < 0)
		fail_msg("%s", error.text);
	assert_int_equal(fiber_start(&host->fiber, host->ring, run, host, &error), 0);
}

static void finish(struct host *host)
{
	replica_node_stop(host->node);
	while (!fiber_has_ended(host->fiber))
		step();
	fiber_free(host->fiber);
	host->node = replica_node_free(host->node);
	host->seeks = host->serves = false;
}

static int setup(void **state)
{
	const struct ring_sim_disk_options disk = {.size = MAP_SIZE, .size_max = MAP_SIZE};
	static uint8_t noise[SIZE];
	struct error error;

	world = (struct world){.sim = ring_sim_new(7, 0), .options = {.ack = REPLICATE_DURABLE}};
	for (unsigned i = 0; i < NODES; i++) {
		struct host *host = &world.hosts[i];

		host->index = i;
		host->ring = ring_sim_host_new(world.sim, i ? "b" : "a");
		host->map_fd = ring_sim_disk_new(world.sim, &disk);
		assert_int_equal(memory_new(&host->memory, host->ring, SIZE, NULL, &error), 0);
		for (unsigned at = 0; at < SIZE; at++)
			noise[at] = (uint8_t)(at * 7 + at / 251 + i * 91);
		assert_int_equal(memory_poke(host->memory, 0, noise, SIZE), 0);
		if (replica_node_create(host->ring, host->map_fd, host->memory, 0, 77 + i, &error) < 0)
			fail_msg("%s", error.text);
		begin(host);
	}
	return 0;
}

static int teardown(void **state)
{
	for (unsigned i = 0; i < NODES; i++)
		finish(&world.hosts[i]);
	for (unsigned i = 0; i < NODES; i++) {
		block_free(world.hosts[i].memory);
		ring_free(world.hosts[i].ring);
	}
	ring_sim_free(world.sim);
	return 0;
}

/* What is asked, and awaited */

static void order(struct host *host, const struct replica_event *event)
{
	host->answered = false;
	assert_int_equal(replica_node_command(host->node, event), 0);
}

static int end_of_order(struct host *host)
{
	while (!host->answered)
		step();
	return host->res;
}

static int command(struct host *host, enum replica_event_kind kind, bool force)
{
	const struct replica_event event = {.kind = kind, .force = force};

	order(host, &event);
	return end_of_order(host);
}

static void wait_for(struct host *host, enum replica_flow flow)
{
	uint64_t end_ns = ring_sim_now_ns(world.sim) + 60 * S;
	struct replica_node_status status;

	for (;;) {
		replica_node_status(host->node, &status);
		if (status.flow == flow)
			return;
		if (ring_sim_now_ns(world.sim) > end_ns)
			fail_msg("node %u is %s, not %s: %s %s", host->index, replica_flow_name(status.flow),
			    replica_flow_name(flow), status.refusal ? status.refusal : "", host->warnings);
		step();
	}
}

static void pass(uint64_t ns)
{
	uint64_t until_ns = ring_sim_now_ns(world.sim) + ns;

	while (ring_sim_now_ns(world.sim) < until_ns)
		step();
}

static void both(enum replica_flow flow)
{
	wait_for(&world.hosts[0], flow);
	wait_for(&world.hosts[1], flow);
}

static void connect_both(void)
{
	assert_int_equal(command(&world.hosts[0], REPLICA_CONNECT, false), 0);
	assert_int_equal(command(&world.hosts[1], REPLICA_CONNECT, false), 0);
}

static void wrote(struct block_io *io, int res)
{
	struct host *host = io->user;

	host->wrote = true;
	host->write_res = res;
}

static int write_at(struct host *host, uint64_t offset, uint64_t length, uint8_t value)
{
	uint8_t *buf = malloc(length);
	struct block_io io = {.op = BLOCK_WRITE, .offset = offset, .length = length, .buf = buf};

	memset(buf, value, length);
	io.done = wrote;
	host->wrote = false;
	io.user = host;
	block_submit(replica_node_block(host->node), &io);
	while (!host->wrote)
		step();
	free(buf);
	return host->write_res;
}

static bool are_equal(void)
{
	static uint8_t a[SIZE], b[SIZE];

	memory_peek(world.hosts[0].memory, 0, a, SIZE);
	memory_peek(world.hosts[1].memory, 0, b, SIZE);
	return memcmp(a, b, SIZE) == 0;
}

static void cut(bool cut)
{
	world.cut = cut;
	if (cut)
		ring_sim_link_break(world.sim, world.link_fds[0], RING_SIM_BREAK_RESET);
	else
		link_now(&world.hosts[0]);
}

/* A volume's first day: one of the two is declared good, and the other gets all of it. */
static void begin_replica(void)
{
	assert_int_equal(command(&world.hosts[0], REPLICA_MAKE_PRIMARY, true), 0);
	connect_both();
	both(REPLICA_EQUAL);
	/* What was copied is known to be on stable storage after a while. */
	pass(5 * S);
}

static void test_first_day(void **state)
{
	assert_false(are_equal());
	assert_int_equal(command(&world.hosts[0], REPLICA_MAKE_PRIMARY, false), -EPERM);
	begin_replica();
	assert_true(world.hosts[0].serves);
	assert_false(world.hosts[1].serves);
	assert_true(are_equal());
	assert_int_equal(write_at(&world.hosts[0], 70001, 12345, 0x5a), 0);
	assert_true(are_equal());
	assert_int_equal(write_at(&world.hosts[1], 0, 512, 1), -ESHUTDOWN);
}

static void test_roles_change(void **state)
{
	begin_replica();
	assert_int_equal(command(&world.hosts[1], REPLICA_MAKE_PRIMARY, false), -EBUSY);
	for (unsigned i = 0; i < 4; i++) {
		struct host *old = &world.hosts[i % 2], *new = &world.hosts[1 - i % 2];

		assert_int_equal(write_at(old, i * 200001, 5000, (uint8_t)(i + 1)), 0);
		assert_int_equal(command(old, REPLICA_MAKE_SECONDARY, false), 0);
		assert_int_equal(write_at(old, 0, 512, 1), -ESHUTDOWN);
		assert_int_equal(command(new, REPLICA_MAKE_PRIMARY, false), 0);
		assert_false(old->serves);
		assert_true(new->serves);
		assert_int_equal(write_at(new, i * 200001 + 3000, 5000, (uint8_t)(i + 33)), 0);
		assert_true(are_equal());
		both(REPLICA_EQUAL);
	}
}

static void test_a_link_that_breaks(void **state)
{
	struct replica_node_status status;

	begin_replica();
	for (unsigned i = 0; i < 3; i++) {
		cut(true);
		assert_int_equal(write_at(&world.hosts[0], 1000000 + i * 65536, 3, 0xee), 0);
		wait_for(&world.hosts[0], REPLICA_APART);
		assert_false(are_equal());
		cut(false);
		both(REPLICA_EQUAL);
		assert_true(are_equal());
		replica_node_status(world.hosts[0].node, &status);
		assert_true(status.mirror.copied <= SIZE + (i + 1) * UINT64_C(3) * 65536);
	}
}

/* Regions copied while the link was gone, with so many written before and not flushed. */
static uint64_t copied_after(unsigned written)
{
	struct replica_node_status before, after;

	for (unsigned i = 0; i < written; i++)
		assert_int_equal(write_at(&world.hosts[0], i * 65536, 512, (uint8_t)i), 0);
	replica_node_status(world.hosts[0].node, &before);
	cut(true);
	assert_int_equal(write_at(&world.hosts[0], 40 * 65536, 512, 0xff), 0);
	cut(false);
	both(REPLICA_EQUAL);
	assert_true(are_equal());
	replica_node_status(world.hosts[0].node, &after);
	return (after.mirror.copied - before.mirror.copied) / 65536;
}

/* What the other has acknowledged is still there when its machine is, and need not be sent again. */
static void test_only_what_differs_is_sent(void **state)
{
	for (unsigned i = 0; i < NODES; i++)
		snprintf(world.hosts[i].boot, sizeof(world.hosts[i].boot), "boot %u", i);
	begin_replica();
	assert_in_range(copied_after(20), 1, 2);
	assert_in_range(copied_after(20), 1, 2);
	snprintf(world.hosts[1].boot, sizeof(world.hosts[1].boot), "another");
	assert_in_range(copied_after(20), 21, 23);
	world.hosts[1].boot[0] = '\0';
	assert_in_range(copied_after(20), 21, 23);
}

static void test_restarted_nodes(void **state)
{
	begin_replica();
	for (unsigned i = 0; i < NODES; i++) {
		finish(&world.hosts[i]);
		begin(&world.hosts[i]);
	}
	connect_both();
	both(REPLICA_EQUAL);
	assert_int_equal(command(&world.hosts[1], REPLICA_MAKE_PRIMARY, false), 0);
	assert_int_equal(write_at(&world.hosts[1], 5, 7, 9), 0);
	assert_true(are_equal());
}

static void test_split_brain(void **state)
{
	struct replica_node_status status;

	begin_replica();
	cut(true);
	assert_int_equal(write_at(&world.hosts[0], 0, 100, 0x11), 0);
	wait_for(&world.hosts[1], REPLICA_APART);
	assert_int_equal(command(&world.hosts[1], REPLICA_MAKE_PRIMARY, false), -EPERM);
	assert_int_equal(command(&world.hosts[1], REPLICA_MAKE_PRIMARY, true), 0);
	assert_int_equal(write_at(&world.hosts[1], 200000, 100, 0x22), 0);
	cut(false);
	both(REPLICA_REFUSED);
	replica_node_status(world.hosts[0].node, &status);
	assert_int_equal(status.verdict, REPLICA_SPLIT);
	assert_non_null(status.refusal);
	assert_int_equal(command(&world.hosts[1], REPLICA_MAKE_SECONDARY, false), 0);
	assert_int_equal(command(&world.hosts[0], REPLICA_CONNECT, false), 0);
	assert_int_equal(command(&world.hosts[1], REPLICA_DISCARD, false), 0);
	both(REPLICA_EQUAL);
	assert_true(are_equal());
	replica_node_status(world.hosts[0].node, &status);
	assert_true(status.mirror.copied <= SIZE + 4 * 65536);
}

static void test_frozen_until_fenced(void **state)
{
	struct host *host = &world.hosts[0];
	uint8_t buf[512] = {1};
	struct block_io io = {
	    .op = BLOCK_WRITE, .length = sizeof(buf), .buf = buf, .done = wrote, .user = host};

	world.options.gone = REPLICA_GONE_FREEZE;
	for (unsigned i = 0; i < NODES; i++) {
		finish(&world.hosts[i]);
		begin(&world.hosts[i]);
	}
	begin_replica();
	cut(true);
	wait_for(host, REPLICA_APART);
	pass(S);
	assert_int_equal(host->fences, 1);
	block_submit(replica_node_block(host->node), &io);
	pass(20 * S);
	assert_false(gate_is_idle(replica_node_block(host->node)));
	replica_node_fenced(host->node);
	while (!gate_is_idle(replica_node_block(host->node)))
		step();
}

static void test_the_hook_before_a_resync(void **state)
{
	world.hosts[1].hook_fails = true;
	begin_replica();
	assert_int_equal(world.hosts[1].hooks, 0);
	cut(true);
	assert_int_equal(write_at(&world.hosts[0], 5, 5, 5), 0);
	cut(false);
	wait_for(&world.hosts[1], REPLICA_REFUSED);
	assert_int_equal(world.hosts[1].hooks, 1);
	world.hosts[1].hook_fails = false;
	connect_both();
	both(REPLICA_EQUAL);
	assert_int_equal(world.hosts[1].hooks, 2);
	assert_true(are_equal());
}

static bool is_leased(const struct host *host)
{
	struct replica_node_status status;

	replica_node_status(host->node, &status);
	return status.leased;
}

/* As a VM's live migration does it: both sides are open, then the new one writes. */
static void test_a_hand_over_with_a_lease(void **state)
{
	const struct replica_event hand_over = {.kind = REPLICA_HAND_OVER, .lease_ms = 10000};

	for (unsigned ack = 0; ack < REPLICATE_ACKS; ack++) {
		struct host *old = &world.hosts[0], *new = &world.hosts[1];

		world.options.ack = ack;
		for (unsigned i = 0; i < NODES; i++) {
			finish(&world.hosts[i]);
			begin(&world.hosts[i]);
		}
		begin_replica();
		assert_int_equal(write_at(old, 100, 5000, 0x31), 0);
		order(old, &hand_over);
		while (!new->serves)
			step();
		assert_int_equal(write_at(old, 200, 5000, 0x32), 0);
		assert_false(old->answered);
		assert_true(is_leased(old) && is_leased(new));
		assert_int_equal(write_at(new, 300, 5000, 0x33), 0);
		assert_int_equal(end_of_order(old), 0);
		assert_int_equal(write_at(old, 0, 512, 1), -EPERM);
		pass(20 * S);
		assert_false(old->serves || is_leased(old) || is_leased(new));
		assert_true(new->serves);
		assert_int_equal(write_at(new, 400, 5000, 0x34), 0);
		pass(S);
		assert_true(are_equal());
		assert_int_equal(command(new, REPLICA_MAKE_SECONDARY, false), 0);
		assert_int_equal(command(old, REPLICA_MAKE_PRIMARY, false), 0);
		assert_int_equal(command(old, REPLICA_MAKE_SECONDARY, false), 0);
	}
}

static void test_a_lease_that_nobody_uses(void **state)
{
	const struct replica_event hand_over = {.kind = REPLICA_HAND_OVER, .lease_ms = 3000};
	struct host *old = &world.hosts[0], *new = &world.hosts[1];

	begin_replica();
	order(old, &hand_over);
	assert_int_equal(end_of_order(old), -ETIMEDOUT);
	pass(S);
	assert_false(new->serves);
	assert_int_equal(write_at(new, 0, 512, 1), -ESHUTDOWN);
	assert_int_equal(write_at(old, 0, 512, 1), 0);
	/* The link breaks in its midst. */
	order(old, &hand_over);
	while (!new->serves)
		step();
	cut(true);
	assert_true(end_of_order(old) < 0);
	pass(S);
	assert_false(new->serves);
	assert_int_equal(write_at(old, 700, 512, 2), 0);
	cut(false);
	both(REPLICA_EQUAL);
	assert_true(are_equal());
}

static void test_a_planned_hand_over(void **state)
{
	const struct replica_event hand_over = {.kind = REPLICA_HAND_OVER};

	begin_replica();
	for (unsigned i = 0; i < 3; i++) {
		struct host *old = &world.hosts[i % 2], *new = &world.hosts[1 - i % 2];

		assert_int_equal(write_at(old, 65536 * i, 70000, (uint8_t)(i + 1)), 0);
		order(old, &hand_over);
		assert_int_equal(end_of_order(old), 0);
		while (!new->serves)
			step();
		assert_false(old->serves);
		assert_int_equal(write_at(new, 65536 * i + 5, 70000, (uint8_t)(i + 50)), 0);
		assert_true(are_equal());
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_first_day, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_roles_change, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_a_link_that_breaks, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_only_what_differs_is_sent, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_restarted_nodes, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_split_brain, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_frozen_until_fenced, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_a_hand_over_with_a_lease, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_a_lease_that_nobody_uses, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_a_planned_hand_over, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_the_hook_before_a_resync, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
