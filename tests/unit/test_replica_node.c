/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Two nodes: what users ask of them, one after the other. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "replica/replica_link.h"
#include "replica_hosts.h"

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

/* With these what it has acknowledged may have been in a process's memory. */
static void test_what_may_be_lost_is_sent_again(void **state)
{
	world.options.ack = REPLICATE_RECEIVED;
	for (unsigned i = 0; i < NODES; i++) {
		finish(&world.hosts[i]);
		snprintf(world.hosts[i].boot, sizeof(world.hosts[i].boot), "boot %u", i);
		begin(&world.hosts[i]);
	}
	begin_replica();
	assert_in_range(copied_after(20), 21, 23);
	assert_in_range(copied_after(20), 21, 23);
}

/* A stream that was late, or that nobody is to send. */
static void test_data_that_are_not_due(void **state)
{
	static const struct {
		unsigned host, link; /* how many links ago */
		int res;
	} cases[] = {{1, 1, -EINVAL}, {0, 0, -EINVAL}, {1, 0, -EBUSY}};
	struct error error;
	int fds[NODES];

	begin_replica();
	copied_after(0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct replica_node *node = world.hosts[cases[i].host].node;

		ring_sim_link_new(world.sim, world.hosts[0].ring, world.hosts[1].ring, &cable, fds);
		assert_int_equal(
		    replica_node_take_data(node, fds[cases[i].host], world.links - cases[i].link, &error),
		    cases[i].res);
	}
	assert_int_equal(write_at(&world.hosts[0], 5, 7, 9), 0);
	assert_true(are_equal());
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

/* Whose source is lost before anything of it came is as good as it was. */
static void test_a_link_that_is_lost_during_the_hook(void **state)
{
	struct host *target = &world.hosts[1];
	struct replica_node_status status;

	begin_replica();
	cut(true);
	assert_int_equal(write_at(&world.hosts[0], 5, 5, 5), 0);
	target->hook_ns = 5 * S;
	cut(false);
	while (target->hooks == 0)
		step();
	cut(true);
	pass(20 * S);
	replica_node_status(target->node, &status);
	assert_true(status.good && status.flow == REPLICA_APART && status.wanted);
	cut(false);
	both(REPLICA_EQUAL);
	assert_int_equal(target->hooks, 2);
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

/* The first write over there finds no link: it is not held up for ever, nor is what closes that node. */
static void test_a_lease_whose_link_is_lost_under_a_write(void **state)
{
	const struct replica_event hand_over = {.kind = REPLICA_HAND_OVER, .lease_ms = 3000};
	struct host *old = &world.hosts[0], *new = &world.hosts[1];

	begin_replica();
	order(old, &hand_over);
	while (!new->serves)
		step();
	cut(true);
	assert_int_equal(write_at(new, 0, 512, 1), -ESHUTDOWN);
	pass(S);
	assert_false(new->serves || is_leased(new));
	assert_true(end_of_order(old) < 0);
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

/* The device first, then, by an order, the replica. */
static void enlarge(struct host *host, uint64_t size)
{
	host->size = size;
	share_measure(host->device, size);
}

static int resize(struct host *host, uint64_t size)
{
	const struct replica_event event = {.kind = REPLICA_RESIZE, .size = size};

	order(host, &event);
	return end_of_order(host);
}

static void both_have(uint64_t size)
{
	both(REPLICA_EQUAL);
	for (unsigned i = 0; i < NODES; i++) {
		struct replica_node_status status;

		replica_node_status(world.hosts[i].node, &status);
		assert_int_equal(status.size, size);
		assert_int_equal(block_info(replica_node_block(world.hosts[i].node))->size, size);
	}
	assert_true(are_equal());
}

static void test_volumes_become_larger(void **state)
{
	struct host *primary = &world.hosts[0], *other = &world.hosts[1];

	begin_replica();
	enlarge(primary, SIZE + MORE);
	/* The other's device is as it was, and so is all. */
	assert_int_equal(resize(primary, SIZE + 4096), -ENOSPC);
	assert_non_null(strstr(other->warnings, "does not become larger"));
	both_have(SIZE);
	assert_int_equal(resize(primary, SIZE - 512), -EINVAL);
	/* As large as the smaller one. */
	enlarge(other, SIZE + 4096);
	assert_int_equal(resize(other, SIZE + 4096), -EPERM);
	assert_int_equal(resize(primary, SIZE + MORE), 0);
	assert_true(primary->serves);
	both_have(SIZE + 4096);
	assert_int_equal(write_at(primary, SIZE - 512, 4608, 0x77), 0);
	both_have(SIZE + 4096);
	pass(5 * S);
	assert_int_equal(command(primary, REPLICA_MAKE_SECONDARY, false), 0);
	pass(S);
	enlarge(other, SIZE + MORE);
	assert_int_equal(resize(other, SIZE + MORE), 0);
	both_have(SIZE + MORE);
	assert_int_equal(command(other, REPLICA_MAKE_PRIMARY, false), 0);
	assert_int_equal(write_at(other, SIZE + MORE - 1024, 1024, 0x78), 0);
	both_have(SIZE + MORE);
}

/* Each by itself; and one that only hears of it, and has not room enough at first. */
static void test_volumes_become_larger_apart(void **state)
{
	struct host *primary = &world.hosts[0], *other = &world.hosts[1];

	begin_replica();
	cut(true);
	both(REPLICA_APART);
	pass(S);
	enlarge(primary, SIZE + MORE);
	enlarge(other, SIZE + MORE - 512);
	assert_int_equal(resize(primary, SIZE + MORE), 0);
	assert_int_equal(write_at(primary, SIZE, MORE, 0x79), 0);
	cut(false);
	pass(2 * S);
	assert_non_null(strstr(other->warnings, "does not become larger"));
	wait_for(other, REPLICA_APART);
	assert_int_equal(block_info(replica_node_block(other->node))->size, SIZE);
	enlarge(other, SIZE + MORE);
	assert_int_equal(command(other, REPLICA_CONNECT, false), 0);
	both_have(SIZE + MORE);
	finish(primary);
	begin(primary);
	assert_int_equal(command(primary, REPLICA_CONNECT, false), 0);
	both_have(SIZE + MORE);
}

/* The one that has less is to get the other's map, as long as that is by now. */
static void test_the_source_becomes_larger(void **state)
{
	struct host *primary = &world.hosts[0], *other = &world.hosts[1];

	begin_replica();
	cut(true);
	both(REPLICA_APART);
	pass(S);
	enlarge(primary, SIZE + MORE);
	enlarge(other, SIZE + MORE);
	assert_int_equal(resize(other, SIZE + MORE), 0);
	assert_int_equal(write_at(primary, 0, 512, 0x7a), 0);
	cut(false);
	both_have(SIZE + MORE);
	assert_null(strstr(primary->warnings, "not due"));
}

/* A node that breaks the rules */

static void ignore_message(void *data, const struct replica_message *message)
{
}

static void ignore_map(void *data, const struct bitmap *bits)
{
}

static void note_loss(void *data, const struct error *error)
{
	*(bool *)data = true;
}

/* Its map comes before it is asked for, and then its volume is said to be larger: what is merged has the size that there is by then. */
static void test_a_map_before_its_turn(void **state)
{
	struct host *host = &world.hosts[0], *other = &world.hosts[1];
	uint32_t region = bitmap_region_size_for(SIZE);
	struct replica_message hello = {
	    .say = REPLICA_HELLO, .size = SIZE + MORE, .region_size = region, .name = 9};
	struct replica_node_status status;
	struct replica_link *liar;
	bool lost = false;
	struct replica_link_options options = {
	    .server = true, .heard = ignore_message, .map = ignore_map, .lost = note_loss, .data = &lost};
	struct bitmap bits = {0};

	begin_replica();
	replica_node_status(host->node, &status);
	hello.ids.current = status.generation;
	cut(true);
	assert_int_equal(write_at(host, 0, 4096, 0x31), 0);
	enlarge(host, SIZE + MORE);
	ring_sim_link_new(world.sim, host->ring, other->ring, &cable, world.link_fds);
	options.fd = world.link_fds[1];
	assert_int_equal(replica_node_take_link(host->node, world.link_fds[0], false, 99, NULL), 0);
	assert_int_equal(replica_link_new(&liar, other->ring, &options, NULL), 0);
	assert_int_equal(bitmap_init(&bits, (SIZE + region - 1) / region), 0);
	assert_int_equal(replica_link_send_map(liar, &bits), 0);
	pass(S);
	replica_link_say(liar, &hello);
	pass(S);
	replica_node_status(host->node, &status);
	assert_int_equal(status.size, SIZE + MORE);
	assert_false(lost);
	assert_int_equal(status.flow, REPLICA_MEETING);
	bitmap_done(&bits);
	replica_link_free(liar);
	ring_sim_link_close(world.sim, world.link_fds[1]);
	pass(S);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_first_day, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_roles_change, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_a_link_that_breaks, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_only_what_differs_is_sent, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_what_may_be_lost_is_sent_again, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_data_that_are_not_due, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_restarted_nodes, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_split_brain, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_frozen_until_fenced, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_a_hand_over_with_a_lease, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_a_lease_that_nobody_uses, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_a_lease_whose_link_is_lost_under_a_write, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_a_planned_hand_over, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_the_hook_before_a_resync, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_a_link_that_is_lost_during_the_hook, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_volumes_become_larger, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_volumes_become_larger_apart, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_the_source_becomes_larger, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_a_map_before_its_turn, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
