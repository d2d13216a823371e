/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Two nodes that compare what they hold: what is found is marked, shown on both, kept, and copied when that is asked for or cannot wait. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "range/bitmap_file.h"
#include "replica/replica_note.h"
#include "replica_hosts.h"

#define REGION UINT64_C(65536)
#define PLACE  (5 * REGION + 8192)

static struct {
	bool running;
	unsigned ranges;
	uint64_t offset, length;
	int res;
	bool equal_when_told; /* some node said so when the range was told */
} found;

static struct replica_node_status status_of(unsigned i)
{
	struct replica_node_status status;

	replica_node_status(world.hosts[i].node, &status);
	return status;
}

static void differs(void *data, uint64_t offset, uint64_t length)
{
	const struct host *host = data;

	found.ranges++;
	found.offset = offset;
	found.length = length;
	found.equal_when_told |= status_of(host->index).flow == REPLICA_EQUAL;
}

static void ended(void *data, int res, uint64_t position)
{
	found.running = false;
	found.res = res;
}

static int begin_to_verify(struct host *host, bool resync)
{
	const struct mirror_job_verify_options options = {
	    .resync = resync, .differs = differs, .ended = ended, .data = host};
	int res;

	memset(&found, 0, sizeof(found));
	/* Something is being recorded: not for long. */
	for (unsigned i = 0; (res = replica_node_verify(host->node, &options)) == -EBUSY && i < 1000; i++)
		step();
	found.running = res == 0;
	return res;
}

static void verify(struct host *host, bool resync)
{
	assert_int_equal(begin_to_verify(host, resync), 0);
	while (found.running)
		step();
	assert_int_equal(found.res, 0);
}

/* As it is recorded. */
static bool is_sender(const struct host *host)
{
	struct replica_ids ids;
	struct bitmap_super super =
	    *bitmap_file_super(mirror_map(mirror_job_block(replica_node_mirror(host->node))));

	assert_int_equal(replica_note_decode(super.note, super.note_length, &ids, NULL), 0);
	return ids.sender;
}

/* Behind the node's back. */
static void spoil(struct host *host, uint64_t offset)
{
	uint8_t byte;

	memory_peek(host->memory, offset, &byte, 1);
	byte ^= 0x40;
	assert_int_equal(memory_poke(host->memory, offset, &byte, 1), 0);
}

static void check_shown(uint64_t bytes)
{
	for (unsigned i = 0; i < NODES; i++) {
		assert_int_equal(status_of(i).flow, bytes ? REPLICA_DIFFERING : REPLICA_EQUAL);
		assert_int_equal(status_of(i).differing, bytes);
	}
}

/* In sync, but for a block of the other's that the node has found and marked. */
static void mark(struct host *host)
{
	spoil(&world.hosts[1 - host->index], PLACE);
	verify(host, false);
	assert_int_equal(found.ranges, 1);
	assert_int_equal(found.offset, PLACE);
	assert_int_equal(found.length, 4096);
	assert_false(found.equal_when_told);
	pass(S);
	check_shown(REGION);
}

static void begin_with_mark(void)
{
	begin_replica();
	verify(&world.hosts[0], false);
	assert_int_equal(found.ranges, 0);
	check_shown(0);
	mark(&world.hosts[0]);
}

static void both_are_equal(void)
{
	both(REPLICA_EQUAL);
	pass(S);
	check_shown(0);
	assert_true(are_equal());
}

static void test_h07_marked_until_it_is_asked_for(void **state)
{
	struct host *primary = &world.hosts[0], *other = &world.hosts[1];

	begin_with_mark();
	/* It goes on, and what is written goes to both; but neither the time nor a write takes the mark away. */
	assert_int_equal(write_at(primary, 20 * REGION, 5000, 0x21), 0);
	assert_int_equal(write_at(primary, 5 * REGION, REGION, 0x22), 0);
	assert_true(are_equal());
	spoil(other, PLACE + 4096);
	pass(100 * S);
	check_shown(REGION);
	assert_false(are_equal());
	/* Asked again, the answer is the same. */
	verify(primary, false);
	assert_int_equal(found.ranges, 1);
	check_shown(REGION);
	assert_int_equal(replica_node_copy_marked(other->node), -EPERM);
	assert_int_equal(begin_to_verify(other, false), -EPERM);
	assert_int_equal(replica_node_copy_marked(primary->node), 0);
	both_are_equal();
	assert_int_equal(status_of(0).mirror.copied, SIZE + REGION);
	assert_int_equal(replica_node_copy_marked(other->node), 0);
}

static void test_found_and_sent_again(void **state)
{
	begin_with_mark();
	spoil(&world.hosts[1], 9 * REGION);
	verify(&world.hosts[0], true);
	assert_int_equal(found.ranges, 2);
	both_are_equal();
	assert_int_equal(status_of(0).mirror.copied, SIZE + 2 * REGION);
}

/* Either node's process ends, or the link. */
static void test_copied_when_they_meet(void **state)
{
	for (unsigned i = 0; i < 4; i++) {
		if (i == 0)
			begin_with_mark();
		else
			mark(&world.hosts[0]);
		if (i < NODES) {
			finish(&world.hosts[i]);
			pass(S);
			begin(&world.hosts[i]);
			assert_int_equal(command(&world.hosts[i], REPLICA_CONNECT, false), 0);
		} else if (i == 2) {
			cut(true);
			pass(S);
			cut(false);
		} else {
			assert_int_equal(command(&world.hosts[0], REPLICA_DISCONNECT, false), 0);
			pass(S);
			connect_both();
		}
		both_are_equal();
		if (i == 0)
			assert_int_equal(command(&world.hosts[0], REPLICA_MAKE_PRIMARY, false), 0);
		pass(S);
	}
}

static void test_roles_do_not_change_before_it_is_copied(void **state)
{
	const struct replica_event hand_over = {.kind = REPLICA_HAND_OVER, .lease_ms = 3000};
	struct host *old = &world.hosts[0], *new = &world.hosts[1];

	begin_with_mark();
	order(old, &hand_over);
	assert_int_equal(end_of_order(old), -EBUSY);
	assert_non_null(strstr(old->text, "`resync`"));
	check_shown(REGION);
	assert_int_equal(command(old, REPLICA_MAKE_SECONDARY, false), 0);
	both_are_equal();
	assert_int_equal(command(new, REPLICA_MAKE_PRIMARY, false), 0);
	mark(new);
	assert_int_equal(replica_node_copy_marked(new->node), 0);
	both_are_equal();
	order(new, &hand_over);
	while (!old->serves)
		step();
	assert_int_equal(write_at(old, 0, 512, 9), 0);
	both_are_equal();
}

/* Nobody is primary: what one of the two has marked is sent by that one, also after both were gone. */
static void test_two_secondaries(void **state)
{
	begin_replica();
	assert_int_equal(command(&world.hosts[0], REPLICA_MAKE_SECONDARY, false), 0);
	pass(S);
	assert_false(is_sender(&world.hosts[0]));
	mark(&world.hosts[0]);
	assert_true(is_sender(&world.hosts[0]));
	for (unsigned i = 0; i < NODES; i++)
		finish(&world.hosts[i]);
	for (unsigned i = 0; i < NODES; i++)
		begin(&world.hosts[i]);
	connect_both();
	both_are_equal();
	pass(5 * S);
	assert_false(is_sender(&world.hosts[0]));
	mark(&world.hosts[0]);
	assert_int_equal(replica_node_copy_marked(world.hosts[0].node), 0);
	both_are_equal();
	pass(5 * S);
	assert_false(is_sender(&world.hosts[0]));
	/* And before the other is primary. */
	mark(&world.hosts[0]);
	assert_int_equal(begin_to_verify(&world.hosts[0], false), 0);
	assert_int_equal(command(&world.hosts[1], REPLICA_MAKE_PRIMARY, false), 0);
	assert_false(found.running);
	both_are_equal();
	assert_int_equal(begin_to_verify(&world.hosts[0], false), -EPERM);
	mark(&world.hosts[1]);
}

/* It goes on serving, and clients are not kept waiting for the copy. */
static void test_a_secondary_with_marks_is_promoted(void **state)
{
	begin_replica();
	assert_int_equal(command(&world.hosts[0], REPLICA_MAKE_SECONDARY, false), 0);
	pass(S);
	mark(&world.hosts[0]);
	assert_int_equal(command(&world.hosts[0], REPLICA_MAKE_PRIMARY, false), 0);
	pass(S);
	check_shown(REGION);
	assert_int_equal(write_at(&world.hosts[0], 0, 512, 3), 0);
	assert_int_equal(replica_node_copy_marked(world.hosts[0].node), 0);
	both_are_equal();
}

static void test_the_link_is_lost_before_it_begins(void **state)
{
	const struct mirror_job_verify_options none = {0};

	begin_replica();
	assert_int_equal(command(&world.hosts[0], REPLICA_MAKE_SECONDARY, false), 0);
	pass(S);
	assert_int_equal(begin_to_verify(&world.hosts[0], false), 0);
	assert_int_equal(replica_node_verify(world.hosts[0].node, &none), -EALREADY);
	cut(true);
	while (found.running)
		step();
	assert_int_equal(found.res, -ENOTCONN);
	cut(false);
	both_are_equal();
	verify(&world.hosts[0], false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_h07_marked_until_it_is_asked_for, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_found_and_sent_again, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_copied_when_they_meet, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_roles_do_not_change_before_it_is_copied, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_two_secondaries, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_a_secondary_with_marks_is_promoted, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_the_link_is_lost_before_it_begins, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
