/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One machine of replica_state.h, told step by step what happens: what is refused, and what fails, at moments that chance finds seldom. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "replica/replica_state.h"

#define ACTIONS 64u
#define NAME    UINT64_C(5) /* of the generation that both have */

static struct {
	struct replica_state state;
	struct replica_action actions[ACTIONS]; /* since the last event */
	unsigned count;
	uint64_t drawn;
} world;

static void act(void *data, const struct replica_action *action)
{
	assert_true(world.count < ACTIONS);
	world.actions[world.count++] = *action;
}

static int tell(struct replica_event event)
{
	event.fresh = ++world.drawn;
	world.count = 0;
	return replica_state_event(&world.state, &event);
}

static void happens(enum replica_event_kind kind, int res)
{
	assert_int_equal(tell((struct replica_event){.kind = kind, .res = res}), 0);
}

static void hear_message(struct replica_message message)
{
	assert_int_equal(tell((struct replica_event){.kind = REPLICA_HEARD, .message = &message}), 0);
}

static void hear(enum replica_say say)
{
	hear_message((struct replica_message){.say = say});
}

/* The last one. */
static const struct replica_action *find(enum replica_action_kind kind)
{
	for (unsigned i = world.count; i-- > 0;)
		if (world.actions[i].kind == kind)
			return &world.actions[i];
	return NULL;
}

static bool does(enum replica_action_kind kind)
{
	return find(kind) != NULL;
}

static bool says(enum replica_say say)
{
	for (unsigned i = 0; i < world.count; i++)
		if (world.actions[i].kind == REPLICA_DO_SAY && world.actions[i].message.say == say)
			return true;
	return false;
}

static int answer(void)
{
	assert_true(does(REPLICA_DO_ANSWER));
	return find(REPLICA_DO_ANSWER)->res;
}

static void hello(struct replica_ids ids, enum replica_role role)
{
	hear_message((struct replica_message){.say = REPLICA_HELLO,
	    .ids = ids,
	    .role = role,
	    .size = world.state.options.size,
	    .region_size = world.state.options.region_size,
	    .name = 2});
}

static void begin(struct replica_ids ids, enum replica_gone gone)
{
	const struct replica_options options = {
	    .name = 1, .size = 300000, .region_size = 4096, .gone = gone, .act = act};

	world.drawn = 100;
	replica_state_init(&world.state, &options, &ids);
	happens(REPLICA_CONNECT, 0);
	assert_true(does(REPLICA_DO_SEEK));
	happens(REPLICA_LINK, 0);
	assert_true(says(REPLICA_HELLO));
}

static void begin_primary(enum replica_gone gone)
{
	begin((struct replica_ids){.current = NAME}, gone);
	hello((struct replica_ids){.current = NAME}, REPLICA_SECONDARY);
	assert_int_equal(world.state.flow, REPLICA_EQUAL);
	happens(REPLICA_MAKE_PRIMARY, 0);
	hear(REPLICA_PROMOTED);
	assert_true(find(REPLICA_DO_RECORD)->ids.sender);
	assert_false(does(REPLICA_DO_SERVE));
	happens(REPLICA_RECORDED, 0);
	assert_true(does(REPLICA_DO_SERVE) && does(REPLICA_DO_COPY));
}

static void begin_secondary(void)
{
	begin((struct replica_ids){.current = NAME}, REPLICA_GONE_CONTINUE);
	hello((struct replica_ids){.current = NAME, .sender = true}, REPLICA_PRIMARY);
	assert_true(find(REPLICA_DO_RECORD)->ids.follows);
	happens(REPLICA_RECORDED, 0);
	assert_true(does(REPLICA_DO_SEND_MAP));
}

/* The other has what this node had when it lost it. */
static void meet_again(void)
{
	happens(REPLICA_LINK, 0);
	hello((struct replica_ids){.current = NAME, .follows = true}, REPLICA_SECONDARY);
	assert_true(does(REPLICA_DO_MERGE));
	happens(REPLICA_MERGED, 0);
	happens(REPLICA_RECORDED, 0);
	assert_true(says(REPLICA_FOLLOW));
	hear(REPLICA_FOLLOWED);
}

static void test_each_loss_is_fenced(void **state)
{
	begin_primary(REPLICA_GONE_FREEZE);
	for (unsigned i = 0; i < 2; i++) {
		happens(REPLICA_LOST, 0);
		assert_true(does(REPLICA_DO_FENCE));
		assert_false(does(REPLICA_DO_RECORD) || does(REPLICA_DO_RELEASE));
		/* It comes, and goes before anything was decided. */
		if (i == 0)
			happens(REPLICA_LINK, 0);
	}
	happens(REPLICA_FENCED, 0);
	assert_int_equal(find(REPLICA_DO_RECORD)->ids.base[0], NAME);
	assert_false(does(REPLICA_DO_RELEASE));
	happens(REPLICA_RECORDED, 0);
	assert_true(does(REPLICA_DO_RELEASE));
}

/* Who was told that it is left behind needs no fence; but only that once. */
static void test_who_leaves_says_so(void **state)
{
	begin_primary(REPLICA_GONE_FREEZE);
	happens(REPLICA_DISCONNECT, 0);
	assert_true(says(REPLICA_AHEAD));
	assert_false(does(REPLICA_DO_DROP));
	hear(REPLICA_OUTDATED);
	assert_true(does(REPLICA_DO_DROP));
	happens(REPLICA_LOST, 0);
	assert_false(does(REPLICA_DO_FENCE));
	happens(REPLICA_RECORDED, 0);
	assert_true(does(REPLICA_DO_RELEASE));
	happens(REPLICA_CONNECT, 0);
	meet_again();
	happens(REPLICA_RECORDED, 0);
	assert_true(does(REPLICA_DO_COPY));
	happens(REPLICA_LOST, 0);
	assert_true(does(REPLICA_DO_FENCE));
	assert_false(does(REPLICA_DO_RECORD));
}

/* Nor does it help that the other one is off: what that wrote alone is on its disk. */
static void test_who_is_left_knows_it(void **state)
{
	begin_secondary();
	hear(REPLICA_AHEAD);
	assert_true(find(REPLICA_DO_RECORD)->ids.outdated);
	assert_false(says(REPLICA_OUTDATED));
	happens(REPLICA_RECORDED, 0);
	assert_true(says(REPLICA_OUTDATED));
	happens(REPLICA_LOST, 0);
	happens(REPLICA_FENCED, 0);
	happens(REPLICA_MAKE_PRIMARY, 0);
	assert_int_equal(answer(), -EPERM);
	tell((struct replica_event){.kind = REPLICA_MAKE_PRIMARY, .force = true});
	assert_false(find(REPLICA_DO_RECORD)->ids.outdated);
}

/* What could not be recorded is known all the same. */
static void test_a_primary_that_was_met(void **state)
{
	begin((struct replica_ids){.current = NAME}, REPLICA_GONE_CONTINUE);
	hello((struct replica_ids){.current = NAME, .sender = true}, REPLICA_PRIMARY);
	happens(REPLICA_RECORDED, -EIO);
	assert_true(does(REPLICA_DO_DROP));
	happens(REPLICA_LOST, 0);
	happens(REPLICA_MAKE_PRIMARY, 0);
	assert_int_equal(answer(), -EPERM);
}

static void test_two_secondaries_forget_the_primary(void **state)
{
	begin((struct replica_ids){.current = NAME, .follows = true}, REPLICA_GONE_CONTINUE);
	hello((struct replica_ids){.current = NAME}, REPLICA_SECONDARY);
	assert_false(find(REPLICA_DO_RECORD)->ids.follows);
}

/* What was decided for the link comes to nothing; what its loss asks for comes. */
static void test_a_loss_under_a_record(void **state)
{
	uint64_t name;

	begin_primary(REPLICA_GONE_CONTINUE);
	happens(REPLICA_LOST, 0);
	happens(REPLICA_RECORDED, 0);
	name = world.state.ids.current;
	meet_again();
	assert_true(does(REPLICA_DO_RECORD));
	happens(REPLICA_LOST, 0);
	assert_false(does(REPLICA_DO_RECORD));
	happens(REPLICA_RECORDED, 0);
	assert_false(does(REPLICA_DO_COPY));
	assert_int_equal(find(REPLICA_DO_RECORD)->ids.base[0], name);
}

/* The user was told that it is none. */
static void test_a_loss_before_it_is_primary(void **state)
{
	begin((struct replica_ids){.current = NAME}, REPLICA_GONE_CONTINUE);
	hello((struct replica_ids){.current = NAME}, REPLICA_SECONDARY);
	happens(REPLICA_MAKE_PRIMARY, 0);
	hear(REPLICA_PROMOTED);
	happens(REPLICA_LOST, 0);
	assert_int_equal(answer(), -ENOTCONN);
	happens(REPLICA_RECORDED, 0);
	assert_false(does(REPLICA_DO_SERVE));
	assert_int_equal(world.state.role, REPLICA_SECONDARY);
}

static void test_maps_that_cannot_be_written(void **state)
{
	begin_primary(REPLICA_GONE_CONTINUE);
	happens(REPLICA_LOST, 0);
	happens(REPLICA_RECORDED, 0);
	happens(REPLICA_LINK, 0);
	hello((struct replica_ids){.current = NAME}, REPLICA_SECONDARY);
	happens(REPLICA_MERGED, -EIO);
	assert_true(does(REPLICA_DO_DROP));
	assert_false(does(REPLICA_DO_RECORD));
	begin_secondary();
	hear_message(
	    (struct replica_message){.say = REPLICA_FOLLOW, .ids = {.current = NAME, .sender = true}});
	happens(REPLICA_RECORDED, 0);
	assert_true(does(REPLICA_DO_EMPTY));
	happens(REPLICA_EMPTIED, -EIO);
	assert_true(does(REPLICA_DO_DROP));
	assert_false(does(REPLICA_DO_RECEIVE) || says(REPLICA_FOLLOWED));
}

/* What is nobody's good data is nothing to give one's own up for. */
static void test_discarded_for_nothing(void **state)
{
	const struct replica_ids half = {.current = 9, .inconsistent = true}, none = {0};

	for (unsigned i = 0; i < 2; i++) {
		begin((struct replica_ids){.current = NAME, .inconsistent = i == 1}, REPLICA_GONE_CONTINUE);
		happens(REPLICA_LOST, 0);
		happens(REPLICA_DISCARD, 0);
		happens(REPLICA_LINK, 0);
		hello(i ? none : half, REPLICA_SECONDARY);
		assert_false(does(REPLICA_DO_RECORD));
		assert_true(does(REPLICA_DO_DROP));
	}
}

/* A primary whose disk fails */

static void test_what_the_other_did_not_flush(void **state)
{
	begin_primary(REPLICA_GONE_CONTINUE);
	happens(REPLICA_DISK_FAILED, 0);
	assert_true(does(REPLICA_DO_SETTLE));
	happens(REPLICA_SETTLED, -EIO);
	assert_false(says(REPLICA_DETACH));
	assert_true(does(REPLICA_DO_DROP));
	happens(REPLICA_LOST, 0);
	assert_true(does(REPLICA_DO_RETURN));
}

static void test_a_diskless_primary_that_cannot_rest(void **state)
{
	begin_primary(REPLICA_GONE_CONTINUE);
	happens(REPLICA_DISK_FAILED, 0);
	happens(REPLICA_SETTLED, 0);
	assert_true(says(REPLICA_DETACH));
	hear(REPLICA_DETACHED);
	assert_int_equal(find(REPLICA_DO_RECORD)->ids.current, 0);
	assert_true(find(REPLICA_DO_RECORD)->ids.inconsistent);
	assert_false(does(REPLICA_DO_DIVERT));
	happens(REPLICA_RECORDED, 0);
	assert_true(does(REPLICA_DO_DIVERT));
	/* What the other's data are called is no business of what this node's will be. */
	assert_int_equal(world.state.detach_name, 0);
	happens(REPLICA_MAKE_SECONDARY, 0);
	assert_true(does(REPLICA_DO_CLOSE) && does(REPLICA_DO_SETTLE));
	happens(REPLICA_SETTLED, -EIO);
	assert_false(says(REPLICA_DEMOTED));
	assert_true(does(REPLICA_DO_DROP));
	happens(REPLICA_LOST, 0);
	assert_int_equal(answer(), -ENOTCONN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_each_loss_is_fenced),
	    cmocka_unit_test(test_who_leaves_says_so),
	    cmocka_unit_test(test_who_is_left_knows_it),
	    cmocka_unit_test(test_a_primary_that_was_met),
	    cmocka_unit_test(test_two_secondaries_forget_the_primary),
	    cmocka_unit_test(test_a_loss_under_a_record),
	    cmocka_unit_test(test_a_loss_before_it_is_primary),
	    cmocka_unit_test(test_maps_that_cannot_be_written),
	    cmocka_unit_test(test_discarded_for_nothing),
	    cmocka_unit_test(test_what_the_other_did_not_flush),
	    cmocka_unit_test(test_a_diskless_primary_that_cannot_rest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
