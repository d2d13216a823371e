/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How replicas lost data elsewhere: each test has the hazard's number in its name. Crashes at any moment are sim_replica's. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "replica_hosts.h"

static void status_of(const struct host *host, struct replica_node_status *ret)
{
	replica_node_status(host->node, ret);
}

static bool says_equal(const struct host *host)
{
	struct replica_node_status status;

	status_of(host, &status);
	return status.flow == REPLICA_EQUAL;
}

static void wait_refused(const struct host *host)
{
	uint64_t end_ns = ring_sim_now_ns(world.sim) + 60 * S;
	struct replica_node_status status;

	do {
		step();
		status_of(host, &status);
	} while ((!status.refusal || status.linked) && ring_sim_now_ns(world.sim) < end_ns);
	assert_non_null(status.refusal);
}

static void restart(struct host *host)
{
	finish(host);
	begin(host);
}

/* What one node shows of both. */
static void check_shown(const struct host *host)
{
	struct replica_node_status status;

	status_of(host, &status);
	if (status.flow == REPLICA_SENDING)
		assert_false(status.peer_good);
	if (status.flow == REPLICA_RECEIVING)
		assert_true(!status.good && status.peer_good);
	if (status.flow == REPLICA_EQUAL)
		assert_true(status.good && status.peer_good);
}

/* So many steps, and equality is never shown while something differs. */
static void steps(unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		step();
		check_shown(&world.hosts[0]);
		check_shown(&world.hosts[1]);
		if (says_equal(&world.hosts[0]) && says_equal(&world.hosts[1]))
			assert_true(are_equal());
	}
}

/* Written while they are apart, and met again only to be broken off at one point after the other. */
static void test_h06_h07_a_resync_that_is_broken_off_clears_nothing(void **state)
{
	begin_replica();
	for (unsigned broken = 10; broken < 600; broken += 37) {
		cut(true);
		for (unsigned i = 0; i < 5; i++)
			assert_int_equal(
			    write_at(&world.hosts[0], (broken * 7919 + i * 300007) % (SIZE - 4096), 4096,
			        (uint8_t)broken),
			    0);
		cut(false);
		steps(broken);
	}
	both(REPLICA_EQUAL);
	assert_true(are_equal());
}

static void test_h11_what_was_written_before_a_restart_is_known_after_it(void **state)
{
	begin_replica();
	for (unsigned i = 0; i < 3; i++) {
		cut(true);
		assert_int_equal(write_at(&world.hosts[0], 100000 * i, 3000, (uint8_t)(i + 1)), 0);
		wait_for(&world.hosts[1], REPLICA_APART);
		restart(&world.hosts[0]);
		world.cut = false;
		connect_both();
		both(REPLICA_EQUAL);
		assert_true(are_equal());
		assert_int_equal(command(&world.hosts[0], REPLICA_MAKE_PRIMARY, false), 0);
	}
}

/* A map that is not to be trusted: somebody changed the volume, and it does not say so. */
static void test_h14_doubt_leads_to_a_full_comparison(void **state)
{
	static const uint8_t changed[512] = {7};

	begin_replica();
	pass(20 * S);
	for (unsigned i = 0; i < NODES; i++)
		finish(&world.hosts[i]);
	assert_int_equal(memory_poke(world.hosts[0].memory, 2 << 20, changed, sizeof(changed)), 0);
	world.options.distrust = true;
	begin(&world.hosts[0]);
	world.options.distrust = false;
	begin(&world.hosts[1]);
	connect_both();
	both(REPLICA_EQUAL);
	assert_true(are_equal());
}

/* Its disk fails to flush, and may have lost what it had; and the link breaks before the primary hears of it. */
static void lose_a_flush_unheard(bool restarts)
{
	const struct fault_rule rule = {.ops = 1u << BLOCK_FLUSH, .result = -EIO, .times = 1};
	struct host *primary = &world.hosts[0], *secondary = &world.hosts[1];
	struct block_io flush = {.op = BLOCK_FLUSH, .done = wrote, .user = primary};
	uint8_t lost[512];

	snprintf(secondary->boot, sizeof(secondary->boot), "the first");
	begin_replica();
	memory_peek(secondary->memory, 0, lost, sizeof(lost));
	assert_int_equal(write_at(primary, 0, sizeof(lost), 0xa0), 0);
	fault_add(secondary->faulty, &rule);
	primary->wrote = false;
	block_submit(replica_node_block(primary->node), &flush);
	while (fault_hits(secondary->faulty) == 0)
		step();
	ring_sim_link_break(world.sim, world.data_fd, RING_SIM_BREAK_RESET);
	cut(true);
	assert_int_equal(memory_poke(secondary->memory, 0, lost, sizeof(lost)), 0);
	while (!primary->wrote)
		step();
	assert_int_equal(primary->write_res, 0);
	if (restarts) {
		restart(secondary);
		assert_int_equal(command(secondary, REPLICA_CONNECT, false), 0);
	}
	cut(false);
	both(REPLICA_EQUAL);
	assert_true(are_equal());
}

/* What was received is in no hole, whatever a file system says that has not written it out. */
static void test_h14_holes_of_what_was_received(void **state)
{
	struct host *old = &world.hosts[0], *new = &world.hosts[1];

	begin_replica();
	new->late_holes = true;
	assert_int_equal(write_at(old, 4096, 4096, 0xb1), 0);
	finish(old);
	wait_for(new, REPLICA_APART);
	assert_int_equal(command(new, REPLICA_MAKE_PRIMARY, true), 0);
	begin(old);
	assert_int_equal(command(old, REPLICA_CONNECT, false), 0);
	both(REPLICA_EQUAL);
	assert_true(are_equal());
}

static void test_h14_a_flush_that_failed_unheard(void **state)
{
	lose_a_flush_unheard(false);
}

static void test_h14_a_flush_that_failed_before_a_restart(void **state)
{
	lose_a_flush_unheard(true);
}

/* It lost what it had not flushed, and went on alone: also the node that gives its data up knows where they differ from that. */
static void test_h07_what_the_other_lost_before_a_split_brain(void **state)
{
	struct host *one = &world.hosts[0], *other = &world.hosts[1];
	uint8_t lost[512];

	for (unsigned i = 0; i < NODES; i++)
		snprintf(world.hosts[i].boot, sizeof(world.hosts[i].boot), "boot %u", i);
	begin_replica();
	memory_peek(other->memory, 0, lost, sizeof(lost));
	assert_int_equal(write_at(one, 0, sizeof(lost), 0xa0), 0);
	cut(true);
	assert_int_equal(write_at(one, 300000, 100, 0xa1), 0);
	assert_int_equal(memory_poke(other->memory, 0, lost, sizeof(lost)), 0);
	snprintf(other->boot, sizeof(other->boot), "another");
	restart(other);
	assert_int_equal(command(other, REPLICA_MAKE_PRIMARY, true), 0);
	assert_int_equal(write_at(other, 500000, 100, 0xb0), 0);
	assert_int_equal(command(one, REPLICA_MAKE_SECONDARY, false), 0);
	assert_int_equal(command(one, REPLICA_DISCARD, false), 0);
	world.cut = false;
	connect_both();
	both(REPLICA_EQUAL);
	assert_true(are_equal());
}

/* Both went on alone: nothing is sent, whoever asks how often, until one is told by its user to give way; that one, and no other, loses. */
static void test_h16_nobody_loses_unasked(void **state)
{
	uint8_t kept[512], want[512];

	begin_replica();
	cut(true);
	wait_for(&world.hosts[1], REPLICA_APART);
	assert_int_equal(command(&world.hosts[1], REPLICA_MAKE_PRIMARY, true), 0);
	assert_int_equal(write_at(&world.hosts[0], 0, 512, 0xa0), 0);
	assert_int_equal(write_at(&world.hosts[1], 0, 512, 0xb1), 0);
	cut(false);
	for (unsigned i = 0; i < 3; i++) {
		connect_both();
		wait_refused(&world.hosts[0]);
		assert_false(are_equal());
	}
	assert_int_equal(command(&world.hosts[0], REPLICA_DISCARD, false), -EPERM);
	assert_int_equal(command(&world.hosts[0], REPLICA_MAKE_SECONDARY, false), 0);
	assert_int_equal(command(&world.hosts[1], REPLICA_CONNECT, false), 0);
	assert_int_equal(command(&world.hosts[0], REPLICA_DISCARD, false), 0);
	both(REPLICA_EQUAL);
	memset(want, 0xb1, sizeof(want));
	memory_peek(world.hosts[0].memory, 0, kept, sizeof(kept));
	assert_memory_equal(kept, want, sizeof(kept));
	assert_true(are_equal());
}

static void test_h17_strangers_are_not_attached(void **state)
{
	struct replica_node_status status;

	for (unsigned i = 0; i < NODES; i++) {
		assert_int_equal(command(&world.hosts[i], REPLICA_MAKE_PRIMARY, true), 0);
		assert_int_equal(command(&world.hosts[i], REPLICA_MAKE_SECONDARY, false), 0);
	}
	connect_both();
	wait_refused(&world.hosts[0]);
	status_of(&world.hosts[0], &status);
	assert_int_equal(status.verdict, REPLICA_STRANGERS);
	assert_false(are_equal());
}

/* A volume that carries something when it becomes a replica's. */
static void become_foreign(struct host *host)
{
	struct error error;

	finish(host);
	assert_int_equal(
	    replica_node_create(host->ring, host->map_fd, host->memory,
	        &(struct replica_node_birth){.size = SIZE, .foreign = true, .nonce = 98}, &error),
	    0);
	begin(host);
}

static void keep(const struct host *host, uint8_t ret[SIZE])
{
	memory_peek(host->memory, 0, ret, SIZE);
}

/* Who finds out first hangs up. */
static enum replica_relation relation_of_refusal(struct host *a, struct host *b)
{
	struct replica_node_status one, other;

	do {
		step();
		status_of(a, &one);
		status_of(b, &other);
	} while ((!one.refusal && !other.refusal) || one.linked || other.linked);
	if (!one.refusal)
		return other.relation == REPLICA_PEER_FOREIGN ? REPLICA_SELF_FOREIGN : other.relation;
	return one.relation;
}

/* However often they meet, whichever process ends: nothing is written there before somebody gives it up, and then for good. */
static void test_h17_what_a_new_volume_carries_is_kept(void **state)
{
	struct host *good = &world.hosts[0], *foreign = &world.hosts[1];
	static uint8_t before[SIZE], now[SIZE];
	struct replica_node_status status;

	become_foreign(foreign);
	keep(foreign, before);
	assert_int_equal(command(good, REPLICA_MAKE_PRIMARY, true), 0);
	for (unsigned i = 0; i < 3; i++) {
		connect_both();
		assert_int_equal(relation_of_refusal(foreign, good), REPLICA_SELF_FOREIGN);
		keep(foreign, now);
		assert_memory_equal(now, before, SIZE);
		restart(foreign);
		status_of(foreign, &status);
		assert_true(status.foreign);
	}
	assert_int_equal(command(good, REPLICA_CONNECT, false), 0);
	assert_int_equal(command(foreign, REPLICA_DISCARD, false), 0);
	wait_for(foreign, REPLICA_RECEIVING);
	restart(foreign);
	assert_int_equal(command(foreign, REPLICA_CONNECT, false), 0);
	both(REPLICA_EQUAL);
	assert_true(are_equal());
}

/* It is how a replica of a volume in use begins: its data count, by the order that says so of any new one. */
static void test_h17_what_a_new_volume_carries_may_count(void **state)
{
	struct host *other = &world.hosts[0], *foreign = &world.hosts[1];
	static uint8_t before[SIZE], now[SIZE];
	struct replica_node_status status;

	become_foreign(foreign);
	keep(foreign, before);
	connect_both();
	assert_int_equal(relation_of_refusal(foreign, other), REPLICA_BOTH_NEW);
	assert_int_equal(command(foreign, REPLICA_MAKE_PRIMARY, true), 0);
	status_of(foreign, &status);
	assert_false(status.foreign);
	connect_both();
	both(REPLICA_EQUAL);
	keep(other, now);
	assert_memory_equal(now, before, SIZE);
	assert_true(are_equal());
}

/* The same volume in name, and half of it. */
static void test_h18_other_sizes_are_not_equal(void **state)
{
	struct host *small = &world.hosts[1];
	struct error error;

	finish(small);
	assert_int_equal(replica_node_create(small->ring, small->map_fd, small->memory,
	                     &(struct replica_node_birth){.size = 1 << 20, .nonce = 99}, &error),
	    0);
	small->size = 1 << 20;
	begin(small);
	assert_int_equal(command(&world.hosts[0], REPLICA_MAKE_PRIMARY, true), 0);
	connect_both();
	wait_refused(small);
	assert_false(are_equal());
}

/* Both are asked at the same moment; or one while the other is. */
static void test_h20_one_writer(void **state)
{
	const struct replica_event promote = {.kind = REPLICA_MAKE_PRIMARY};
	struct host *a = &world.hosts[0], *b = &world.hosts[1];

	begin_replica();
	assert_int_equal(command(b, REPLICA_MAKE_PRIMARY, false), -EBUSY);
	assert_int_equal(command(b, REPLICA_MAKE_PRIMARY, true), -EBUSY);
	assert_int_equal(command(a, REPLICA_MAKE_SECONDARY, false), 0);
	for (unsigned delay = 0; delay < 60; delay += 3) {
		order(a, &promote);
		for (unsigned i = 0; i < delay; i++) {
			step();
			assert_false(a->serves && b->serves);
		}
		order(b, &promote);
		while (!a->answered || !b->answered) {
			step();
			assert_false(a->serves && b->serves);
		}
		assert_true((a->res == 0) != (b->res == 0));
		assert_int_equal(command(a->res == 0 ? a : b, REPLICA_MAKE_SECONDARY, false), 0);
	}
	assert_true(are_equal());
}

/* Silence, and no error: the other may be there or not. */
static void test_h24_a_silent_line_fails_nobody(void **state)
{
	uint64_t begun_ns;

	begin_replica();
	world.cut = true;
	ring_sim_link_break(world.sim, world.link_fds[0], RING_SIM_BREAK_STALL);
	ring_sim_link_break(world.sim, world.data_fd, RING_SIM_BREAK_STALL);
	begun_ns = ring_sim_now_ns(world.sim);
	assert_int_equal(write_at(&world.hosts[0], 5, 512, 9), 0);
	assert_true(ring_sim_now_ns(world.sim) - begun_ns < 60 * S);
	world.cut = false;
	pass(S);
	link_now(&world.hosts[0]);
	both(REPLICA_EQUAL);
	assert_true(are_equal());
}

/* The old primary's, or the new one's, process ends at each point of a hand-over: one of the two can go on, with all that was written. */
static void test_h25_a_hand_over_that_ends_half_way(void **state)
{
	const struct replica_event hand_over = {.kind = REPLICA_HAND_OVER};

	begin_replica();
	for (unsigned point = 0; point < 90; point += 3) {
		struct host *old = &world.hosts[0], *new = &world.hosts[1], *victim = &world.hosts[point % 2];

		assert_int_equal(write_at(old, point * 1000, 800, (uint8_t)(point + 1)), 0);
		order(old, &hand_over);
		for (unsigned i = 0; i < point; i++) {
			step();
			assert_false(old->serves && new->serves);
		}
		restart(victim);
		assert_int_equal(command(victim, REPLICA_CONNECT, false), 0);
		both(REPLICA_EQUAL);
		assert_true(are_equal());
		assert_int_equal(command(new, REPLICA_MAKE_SECONDARY, false), 0);
		assert_int_equal(command(old, REPLICA_MAKE_PRIMARY, false), 0);
		assert_true(old->serves && !new->serves);
	}
}

/* It goes on where it was, however often somebody looks, asks, or the line breaks. */
static void test_h29_a_resync_makes_progress(void **state)
{
	struct replica_node_status status;
	unsigned broken = 0;

	assert_int_equal(command(&world.hosts[0], REPLICA_MAKE_PRIMARY, true), 0);
	connect_both();
	while (!says_equal(&world.hosts[0])) {
		status_of(&world.hosts[0], &status);
		if (status.flow == REPLICA_SENDING)
			assert_int_equal(command(&world.hosts[0], REPLICA_CONNECT, false), 0);
		step();
		if (status.flow == REPLICA_SENDING && status.mirror.copied > (broken + 1) * (SIZE / 4) &&
		    broken < 3) {
			broken++;
			cut(true);
			wait_for(&world.hosts[0], REPLICA_APART);
			cut(false);
		}
	}
	status_of(&world.hosts[0], &status);
	assert_true(broken >= 2);
	assert_true(status.mirror.copied < SIZE * UINT64_C(2));
	assert_true(are_equal());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(
	        test_h06_h07_a_resync_that_is_broken_off_clears_nothing, setup, teardown),
	    cmocka_unit_test_setup_teardown(
	        test_h11_what_was_written_before_a_restart_is_known_after_it, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_h14_doubt_leads_to_a_full_comparison, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_h14_holes_of_what_was_received, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_h14_a_flush_that_failed_unheard, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_h14_a_flush_that_failed_before_a_restart, setup, teardown),
	    cmocka_unit_test_setup_teardown(
	        test_h07_what_the_other_lost_before_a_split_brain, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_h16_nobody_loses_unasked, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_h17_strangers_are_not_attached, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_h17_what_a_new_volume_carries_is_kept, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_h17_what_a_new_volume_carries_may_count, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_h18_other_sizes_are_not_equal, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_h20_one_writer, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_h24_a_silent_line_fails_nobody, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_h25_a_hand_over_that_ends_half_way, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_h29_a_resync_makes_progress, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
