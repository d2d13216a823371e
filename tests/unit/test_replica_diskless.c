/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A primary whose disk fails: its clients go on with the other node's, and what the failed one holds never wins. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "replica_hosts.h"

#define READS  (1u << BLOCK_READ)
#define WRITES (1u << BLOCK_WRITE | 1u << BLOCK_ZERO)
#define FLUSH  (1u << BLOCK_FLUSH)
#define AT     300001u
#define LENGTH 5000u

static void begin_anew(enum replicate_ack ack, bool detach)
{
	world.options.ack = ack;
	world.options.detach = detach;
	for (unsigned i = 0; i < NODES; i++) {
		finish(&world.hosts[i]);
		begin(&world.hosts[i]);
	}
	begin_replica();
}

static void break_disk(struct host *host, unsigned ops)
{
	const struct fault_rule rule = {.ops = ops, .result = -EIO};

	fault_add(host->faulty, &rule);
}

static int ask(struct host *host, enum block_op op, void *buf)
{
	struct block_io io = {.op = op, .buf = buf, .done = wrote, .user = host};

	if (op != BLOCK_FLUSH) {
		io.offset = AT;
		io.length = LENGTH;
	}
	host->wrote = false;
	host->writes = true;
	block_submit(replica_node_block(host->node), &io);
	while (!host->wrote)
		step();
	host->writes = false;
	return host->write_res;
}

static void expect_read(struct host *host, uint8_t value)
{
	uint8_t buf[LENGTH] = {0};

	assert_int_equal(ask(host, BLOCK_READ, buf), 0);
	for (unsigned i = 0; i < LENGTH; i++)
		assert_int_equal(buf[i], value);
}

static uint8_t on_disk(const struct host *host)
{
	uint8_t byte;

	memory_peek(host->memory, AT + LENGTH / 2, &byte, 1);
	return byte;
}

static struct replica_node_status status_of(const struct host *host)
{
	struct replica_node_status status;

	replica_node_status(host->node, &status);
	return status;
}

static int order_of(struct host *host, enum replica_event_kind kind)
{
	const struct replica_event event = {.kind = kind, .lease_ms = 1000, .size = SIZE + 4096};

	order(host, &event);
	return end_of_order(host);
}

static void expect_diskless(struct host *primary, struct host *other)
{
	both(REPLICA_DISKLESS);
	assert_true(primary->serves && status_of(primary).role == REPLICA_PRIMARY);
	assert_false(status_of(primary).good || other->serves);
	assert_true(status_of(primary).peer_good && status_of(primary).disk_failed);
	assert_true(status_of(other).good && !status_of(other).peer_good && !status_of(other).disk_failed);
}

/* Its disk is mended, and gets what it lacks; and may be used again. */
static void come_back(struct host *host, struct host *other)
{
	fault_clear(host->faulty);
	assert_int_equal(command(host, REPLICA_CONNECT, false), 0);
	assert_int_equal(command(other, REPLICA_CONNECT, false), 0);
	both(REPLICA_EQUAL);
	pass(S);
	assert_true(are_equal());
	assert_false(status_of(host).disk_failed);
}

/* Which requests fail first. */
static void test_clients_go_on(void **state)
{
	static const unsigned ops[] = {READS, WRITES, FLUSH, READS | WRITES | FLUSH};

	for (unsigned i = 0; i < 4 * REPLICATE_ACKS; i++) {
		struct host *primary = &world.hosts[0], *other = &world.hosts[1];
		uint8_t value = (uint8_t)(i + 1);
		unsigned hooks;

		begin_anew((enum replicate_ack)(i / 4), true);
		hooks = primary->hooks;
		assert_int_equal(write_at(primary, AT, LENGTH, value), 0);
		break_disk(primary, ops[i % 4]);
		expect_read(primary, value);
		assert_int_equal(write_at(primary, AT, LENGTH, value | 0x80), 0);
		assert_int_equal(ask(primary, BLOCK_FLUSH, NULL), 0);
		expect_diskless(primary, other);
		assert_int_equal(primary->hooks, hooks);
		/* Not only in the other's memory. */
		assert_int_equal(write_at(primary, AT, LENGTH, value | 0x40), 0);
		assert_int_equal(on_disk(other), value | 0x40);
		assert_int_not_equal(on_disk(primary), value | 0x40);
		expect_read(primary, value | 0x40);
		assert_non_null(strstr(primary->warnings, "its clients use the other node's"));
		assert_null(strstr(primary->warnings, "the client was told so"));

		assert_int_equal(command(primary, REPLICA_MAKE_SECONDARY, false), 0);
		both(REPLICA_APART);
		assert_int_equal(command(primary, REPLICA_MAKE_PRIMARY, false), -EPERM);
		assert_int_equal(command(other, REPLICA_MAKE_PRIMARY, false), 0);
		expect_read(other, value | 0x40);
		come_back(primary, other);
		assert_int_equal(command(other, REPLICA_MAKE_SECONDARY, false), 0);
		primary->warnings[0] = '\0';
	}
}

static void test_what_is_not_to_be_done_meanwhile(void **state)
{
	struct host *primary = &world.hosts[0], *other = &world.hosts[1];

	begin_anew(REPLICATE_DURABLE, true);
	break_disk(primary, WRITES);
	assert_int_equal(write_at(primary, AT, LENGTH, 1), 0);
	expect_diskless(primary, other);
	assert_int_equal(order_of(primary, REPLICA_HAND_OVER), -EBUSY);
	assert_int_equal(order_of(primary, REPLICA_RESIZE), -EBUSY);
	assert_int_equal(order_of(primary, REPLICA_DISCONNECT), -EBUSY);
	assert_int_equal(order_of(primary, REPLICA_MAKE_PRIMARY), 0);
	assert_int_equal(order_of(other, REPLICA_MAKE_PRIMARY), -EBUSY);
	assert_int_equal(order_of(other, REPLICA_DISCONNECT), -EBUSY);
	assert_int_equal(order_of(other, REPLICA_RESIZE), -EBUSY);
	assert_int_equal(order_of(other, REPLICA_DISCARD), -EBUSY);
	assert_true(mirror_job_verify(
	                replica_node_mirror(primary->node), &(struct mirror_job_verify_options){0}) < 0);
	replica_node_pause(primary->node, true);
	replica_node_pause(primary->node, false);
	pass(5 * S);
	assert_int_equal(write_at(primary, AT, LENGTH, 2), 0);
	expect_diskless(primary, other);
	assert_int_equal(on_disk(other), 2);
}

/* What a failed flush has lost must not be copied over what the other has; also where no client asked for it. */
static void test_what_a_flush_has_lost(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		struct host *primary = &world.hosts[0], *other = &world.hosts[1];
		static const uint8_t lost[LENGTH];

		begin_anew(REPLICATE_RECEIVED, true);
		assert_int_equal(write_at(primary, AT, LENGTH, 0x55), 0);
		break_disk(primary, FLUSH);
		assert_int_equal(memory_poke(primary->memory, AT, lost, LENGTH), 0);
		if (i == 0)
			assert_int_equal(ask(primary, BLOCK_FLUSH, NULL), 0);
		else
			pass(60 * S);
		expect_diskless(primary, other);
		assert_int_equal(on_disk(other), 0x55);
		expect_read(primary, 0x55);
		assert_int_equal(command(primary, REPLICA_MAKE_SECONDARY, false), 0);
		both(REPLICA_APART);
		come_back(primary, other);
	}
}

static void test_the_link_is_lost(void **state)
{
	struct host *primary = &world.hosts[0], *other = &world.hosts[1];
	uint8_t buf[LENGTH];

	begin_anew(REPLICATE_SENT, true);
	break_disk(primary, READS | WRITES | FLUSH);
	assert_int_equal(write_at(primary, AT, LENGTH, 7), 0);
	expect_diskless(primary, other);
	cut(true);
	/* Nothing there is of any use to them. */
	assert_true(ask(primary, BLOCK_READ, buf) < 0);
	both(REPLICA_APART);
	pass(S);
	assert_false(primary->serves);
	assert_int_equal(status_of(primary).role, REPLICA_SECONDARY);
	assert_int_equal(command(primary, REPLICA_MAKE_PRIMARY, false), -EPERM);
	/* Who is there cannot know why it hears nothing. */
	assert_int_equal(command(other, REPLICA_MAKE_PRIMARY, false), -EPERM);
	assert_int_equal(command(other, REPLICA_MAKE_PRIMARY, true), 0);
	expect_read(other, 7);
	world.cut = false;
	come_back(primary, other);
}

/* Whether or not it could still record that its data are the past. */
static void test_a_restart(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		struct host *primary = &world.hosts[0], *other = &world.hosts[1];
		struct ring_sim_disk_options *map = ring_sim_disk_options(world.sim, primary->map_fd);

		begin_anew(REPLICATE_DURABLE, true);
		assert_int_equal(write_at(primary, AT, LENGTH, 1), 0);
		break_disk(primary, READS | WRITES | FLUSH);
		map->write_error_ppm = map->fsync_error_ppm = i ? 1000000 : 0;
		assert_int_equal(write_at(primary, AT, LENGTH, 2), 0);
		expect_diskless(primary, other);
		finish(primary);
		map->write_error_ppm = map->fsync_error_ppm = 0;
		begin(primary);
		if (i == 0)
			assert_int_equal(command(primary, REPLICA_MAKE_PRIMARY, false), -EPERM);
		assert_int_equal(command(primary, REPLICA_CONNECT, false), 0);
		wait_for(other, REPLICA_EQUAL);
		pass(S);
		assert_int_equal(on_disk(primary), 2);
		assert_true(are_equal());
		assert_int_equal(command(primary, REPLICA_MAKE_PRIMARY, false), 0);
		expect_read(primary, 2);
		assert_int_equal(command(primary, REPLICA_MAKE_SECONDARY, false), 0);
	}
}

/* The map may be on that disk, and be written first. */
static void test_the_map_fails(void **state)
{
	struct host *primary = &world.hosts[0], *other = &world.hosts[1];
	struct ring_sim_disk_options *map = ring_sim_disk_options(world.sim, primary->map_fd);

	begin_anew(REPLICATE_DURABLE, true);
	map->write_error_ppm = map->fsync_error_ppm = 1000000;
	assert_int_equal(write_at(primary, AT, LENGTH, 1), 0);
	expect_diskless(primary, other);
	assert_int_equal(on_disk(other), 1);
	assert_int_equal(write_at(primary, AT, LENGTH, 2), 0);
	expect_read(primary, 2);
	assert_int_equal(command(primary, REPLICA_MAKE_SECONDARY, false), 0);
	both(REPLICA_APART);
	pass(S);
	map->write_error_ppm = map->fsync_error_ppm = 0;
	/* A process that has lost its map is of no use any more. */
	assert_int_equal(command(primary, REPLICA_CONNECT, false), 0);
	pass(S);
	assert_true(status_of(primary).disk_failed);
	finish(primary);
	begin(primary);
	come_back(primary, other);
	assert_int_equal(on_disk(primary), 2);
}

/* Before the other can say that it knows: then all is as it ever was. */
static void test_the_link_is_lost_before(void **state)
{
	struct host *primary = &world.hosts[0], *other = &world.hosts[1];

	for (unsigned silent = 0; silent < 2; silent++) {
		begin_anew(REPLICATE_DURABLE, true);
		assert_int_equal(write_at(primary, AT, LENGTH, 1), 0);
		break_disk(primary, WRITES);
		/* Of the link, or of the data. */
		ring_sim_link_mute(world.sim, silent ? world.data_fd : world.link_fds[0]);
		world.cut = true;
		assert_int_equal(write_at(primary, AT, LENGTH, 2), -EIO);
		assert_true(primary->serves);
		assert_int_equal(status_of(primary).role, REPLICA_PRIMARY);
		expect_read(primary, 1);
		fault_clear(primary->faulty);
		assert_int_equal(write_at(primary, AT, LENGTH, 3), 0);
		cut(false);
		both(REPLICA_EQUAL);
		pass(S);
		assert_true(are_equal());
		assert_int_equal(on_disk(other), 3);
		assert_int_equal(command(primary, REPLICA_MAKE_SECONDARY, false), 0);
	}
}

static void test_errors_that_are_passed_on(void **state)
{
	const struct fault_rule full = {.ops = WRITES, .result = -ENOSPC, .times = 1};
	struct host *primary = &world.hosts[0];

	begin_anew(REPLICATE_DURABLE, true);
	fault_add(primary->faulty, &full);
	assert_int_equal(write_at(primary, AT, LENGTH, 1), -ENOSPC);
	pass(S);
	cut(true);
	wait_for(primary, REPLICA_APART);
	pass(S);
	break_disk(primary, WRITES);
	assert_int_equal(write_at(primary, AT, LENGTH, 1), -EIO);
	cut(false);
	begin_anew(REPLICATE_DURABLE, false);
	break_disk(primary, WRITES);
	assert_int_equal(write_at(primary, AT, LENGTH, 1), -EIO);
	assert_int_equal(status_of(primary).role, REPLICA_PRIMARY);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_clients_go_on, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_what_is_not_to_be_done_meanwhile, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_what_a_flush_has_lost, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_the_link_is_lost, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_a_restart, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_the_map_fails, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_the_link_is_lost_before, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_errors_that_are_passed_on, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
