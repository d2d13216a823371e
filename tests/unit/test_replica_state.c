/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two nodes, any order at any time, crashes, links that break (replica_pair.h). What must hold is checked after each step; at the end
 * the nodes must find together, or say why not.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "replica_pair.h"

#define STEPS  1500u
#define ENOUGH 6000u

/* Users and faults */

static void hand_over(struct node *node, unsigned lease_ms)
{
	bool was = node->handing;

	node->handing = true;
	node->asked_step = was ? node->asked_step : node->pair->steps;
	if (tell(node, (struct replica_event){.kind = REPLICA_HAND_OVER, .lease_ms = lease_ms}) < 0)
		node->handing = was;
}

/* To what the device has become, or what the other's has. */
static void resize(struct node *node)
{
	struct pair *pair = node->pair;
	unsigned regions = node->regions + (unsigned)rand_below(&pair->rand, 3);

	if (chance(&pair->rand, 3) && node->device < MOST)
		node->device++;
	if (chance(&pair->rand, 3))
		peer_of(node)->device = node->device;
	if (chance(&pair->rand, 3) && regions < peer_of(node)->device)
		regions = peer_of(node)->device;
	tell(node, (struct replica_event){
	               .kind = REPLICA_RESIZE, .size = (regions < MOST ? regions : MOST) * UINT64_C(1000)});
}

static void order(struct node *node)
{
	static const enum replica_event_kind orders[] = {REPLICA_CONNECT, REPLICA_CONNECT, REPLICA_CONNECT,
	    REPLICA_CONNECT, REPLICA_MAKE_PRIMARY, REPLICA_MAKE_PRIMARY, REPLICA_MAKE_SECONDARY,
	    REPLICA_MAKE_SECONDARY, REPLICA_HAND_OVER, REPLICA_HAND_OVER, REPLICA_DISCONNECT, REPLICA_DISCARD,
	    REPLICA_RESIZE, REPLICA_RESIZE};
	struct pair *pair = node->pair;
	enum replica_event_kind kind = orders[rand_below(&pair->rand, sizeof(orders) / sizeof(orders[0]))];

	if (node->sends && !node->verifying && chance(&pair->rand, 3)) {
		tell(node, (struct replica_event){.kind = REPLICA_VERIFY});
		return;
	}
	if (node->state.refusal && chance(&pair->rand, 2)) {
		/* Somebody comes to their help. */
		tell(node, (struct replica_event){.kind = REPLICA_MAKE_SECONDARY});
		tell(node, (struct replica_event){.kind = REPLICA_DISCARD});
		tell(peer_of(node), (struct replica_event){.kind = REPLICA_CONNECT});
		return;
	}
	if (node->state.flow == REPLICA_MEETING && chance(&pair->rand, 6))
		kind = REPLICA_DISCARD;
	if (node->state.role == REPLICA_PRIMARY && node->state.flow == REPLICA_EQUAL &&
	    chance(&pair->rand, 2))
		kind = REPLICA_HAND_OVER;
	if (pair->seed % 2 && kind == REPLICA_DISCONNECT && !chance(&pair->rand, 4))
		kind = REPLICA_CONNECT;
	if ((kind == REPLICA_DISCONNECT || kind == REPLICA_DISCARD) && !chance(&pair->rand, 3))
		return;
	if (kind == REPLICA_MAKE_PRIMARY && !node->state.command && !node->state.recording)
		node->forced = chance(&pair->rand, 4);
	if (kind == REPLICA_RESIZE)
		resize(node);
	else if (kind == REPLICA_HAND_OVER)
		hand_over(node, (unsigned)rand_below(&pair->rand, 2) * 1000);
	else
		tell(node, (struct replica_event){.kind = kind, .force = node->forced});
}

/* More of them where two nodes depend on each other. */
static void fault(struct node *node)
{
	struct pair *pair = node->pair;
	bool switching = node->state.detaching || node->state.flow == REPLICA_DISKLESS ||
	                 node->state.yielding || node->state.taking || node->handing;

	/* Half of the pairs have quiet times, too. */
	if (pair->calm || (!switching && pair->seed % 2 && !chance(&pair->rand, 6)))
		return;
	if (chance(&pair->rand, switching || node->state.detaching ? 30 : 60))
		crash(node);
	else if (pair->seed / 2 % 3 && chance(&pair->rand, 2))
		fail_disk(node);
	else if (chance(&pair->rand, switching ? 8 : 30))
		break_link(pair);
}

/* A primary is recorded as that, but for the moment that it needs. */
static void check_primary(struct pair *pair, const struct node *node)
{
	const struct replica_state *state = &node->state;

	if (node->serving && state->role != REPLICA_PRIMARY)
		model_fail(pair, "a secondary's clients may write");
	if (state->role == REPLICA_PRIMARY && state->flow == REPLICA_EQUAL &&
	    state->peer.role == REPLICA_PRIMARY)
		model_fail(pair, "node %u is primary, and takes the other for that", node->which);
	if (state->role == REPLICA_PRIMARY && state->discards)
		model_fail(pair, "node %u is primary, and gives way", node->which);
	if (state->role == REPLICA_PRIMARY && state->flow == REPLICA_EQUAL && !state->recording &&
	    !node->ids.sender)
		model_fail(pair, "node %u is primary, and recorded as none", node->which);
}

/* Those that may only read do so for a time, and of data that stay good. */
static void check_readers(struct pair *pair, const struct node *node)
{
	const struct replica_state *state = &node->state;

	if (state->lease && !node->timer && !state->yielding && !state->asked)
		model_fail(pair, "nothing ends the lease of node %u", node->which);
	if (node->durable && state->lease != REPLICA_LEASE_GIVEN)
		model_fail(pair, "flushes of node %u stay slow", node->which);
	if (!node->open || state->role == REPLICA_PRIMARY)
		return;
	if (!state->lease || (!state->wanted && !state->linked) || state->flow == REPLICA_RECEIVING)
		model_fail(pair, "clients of node %u read, and it is %s", node->which,
		    replica_flow_name(state->flow));
	if (!node->held && !state->asked &&
	    (state->flow != REPLICA_EQUAL || state->peer.role != REPLICA_PRIMARY))
		model_fail(pair, "clients of node %u read, and there is no primary", node->which);
	if (node->held && state->flow == REPLICA_EQUAL && state->verdict == REPLICA_TARGET &&
	    node->linked_anew)
		model_fail(pair, "clients of node %u have read what was changed behind them", node->which);
}

/* H07: what is known to differ is in a map that somebody will look into. */
static void check_marks(struct pair *pair, bool equal)
{
	const struct node *a = &pair->nodes[0], *b = &pair->nodes[1];

	if (replica_judge(&a->ids, &b->ids) == REPLICA_IN_SYNC && pair->marked)
		model_fail(pair, "in sync by what is recorded, and something is known to differ");
	if (equal && pair->marked & ~(a->dirty | b->dirty))
		model_fail(pair, "equal, and what is known to differ is not to be copied");
}

static void check(struct pair *pair)
{
	const struct node *a = &pair->nodes[0], *b = &pair->nodes[1];
	bool equal = pair->link && a->state.flow == REPLICA_EQUAL && b->state.flow == REPLICA_EQUAL;

	pair->flows[a->state.flow]++;
	for (unsigned i = 0; i < 2; i++) {
		check_primary(pair, &pair->nodes[i]);
		check_readers(pair, &pair->nodes[i]);
	}
	check_marks(pair, equal);
	if (!equal)
		return;
	if (a->state.role == REPLICA_PRIMARY && b->state.role == REPLICA_PRIMARY)
		model_fail(pair, "both are primary");
	if (a->serving && b->serving)
		model_fail(pair, "clients of both may write");
	if (a->keeping || b->keeping)
		return;
	if (memcmp(a->data, b->data, (a->met < b->met ? a->met : b->met) * sizeof(a->data[0])) != 0)
		model_fail(pair, "equal, and different");
	if (a->ids.current != b->ids.current || a->ids.inconsistent || b->ids.inconsistent)
		model_fail(pair, "equal, and of different names");
	if (a->met != b->met)
		model_fail(pair, "equal, and of different sizes");
}

static void one_step(struct pair *pair)
{
	struct node *node = &pair->nodes[rand_below(&pair->rand, 2)];

	pair->steps++;
	switch (rand_below(&pair->rand, 8)) {
	case 0:
	case 1:
		end_actions(node);
		break;
	case 2:
	case 3:
		link_step(node);
		break;
	case 4:
		if (node->verifying || chance(&pair->rand, 4))
			verify_region(node);
		copy_region(node);
		break;
	case 5:
		write_region(node);
		break;
	case 6:
		if (!pair->calm && chance(&pair->rand, 6))
			order(node);
		break;
	default:
		fault(node);
	}
	check(pair);
}

static bool are_together(const struct pair *pair)
{
	return pair->link && pair->nodes[0].state.flow == REPLICA_EQUAL &&
	       pair->nodes[1].state.flow == REPLICA_EQUAL;
}

static void command(struct node *node, struct replica_event event)
{
	for (unsigned i = 0; i < ENOUGH && tell(node, event) == -EBUSY; i++)
		one_step(node->pair);
}

static void check_clients(struct pair *pair)
{
	for (unsigned i = 0; i < 2; i++)
		if (pair->nodes[i].waiting_count > 0)
			model_fail(pair, "clients of node %u still wait", i);
}

/* To the other node, and by itself back to this one's clients when nobody takes over. */
static void check_hand_over(struct node *node, unsigned lease_ms)
{
	struct pair *pair = node->pair;
	struct node *peer = peer_of(node);

	for (unsigned i = 0; i < 100 * ENOUGH && !peer->serving; i++) {
		if (!node->handing)
			hand_over(node, lease_ms);
		one_step(pair);
	}
	for (unsigned i = 0; i < ENOUGH && (node->handing || node->timer || peer->timer); i++)
		one_step(pair);
	if (!peer->serving || node->serving || node->handing)
		model_fail(pair, "node %u does not hand over", node->which);
	if (node->half_open || peer->half_open || node->state.lease || peer->state.lease)
		model_fail(pair, "a lease does not end");
}

/* By the one that may order it; and both find together again, as large. */
static void check_resize(struct node *node, unsigned regions)
{
	struct pair *pair = node->pair;
	struct node *peer = peer_of(node);
	bool more = regions > node->regions;

	if (regions > MOST || regions < node->regions)
		return;
	for (unsigned i = 0; i < ENOUGH && node->regions < regions; i++) {
		struct node *teller = peer->state.role == REPLICA_PRIMARY ? peer : node;

		if (are_together(pair) && !teller->state.command)
			tell(teller,
			    (struct replica_event){.kind = REPLICA_RESIZE, .size = regions * UINT64_C(1000)});
		one_step(pair);
	}
	for (unsigned i = 0;
	     i < ENOUGH && (node->state.command || peer->state.command || !are_together(pair)); i++)
		one_step(pair);
	/* An order of before may have made it larger still. */
	if (!are_together(pair) || node->regions < regions || peer->regions != node->regions ||
	    memcmp(node->data, peer->data, node->regions * sizeof(node->data[0])) != 0 ||
	    (more && (node->ids.grown || peer->ids.grown)))
		model_fail(pair, "node %u does not become larger, or not the same as the other", node->which);
}

/* A lease lasts, or is on its way. */
static bool is_open(const struct pair *pair)
{
	return pair->nodes[0].timer || pair->nodes[1].timer || pair->nodes[0].inbox_count ||
	       pair->nodes[1].inbox_count;
}

/* Each may be primary in its turn. */
static void take_turns(struct pair *pair)
{
	for (unsigned i = 0; i < ENOUGH && is_open(pair); i++)
		one_step(pair);
	for (unsigned i = 0; i < 2; i++)
		command(&pair->nodes[i], (struct replica_event){.kind = REPLICA_MAKE_SECONDARY});
	/* One of them has failed to become as large as the other. */
	for (unsigned i = 0; i < 2; i++)
		check_resize(&pair->nodes[i], pair->nodes[!i].regions);
	check_resize(&pair->nodes[pair->seed % 2], pair->nodes[0].regions + 1);
	for (unsigned i = 0; i < 2; i++) {
		struct node *node = &pair->nodes[i];

		for (unsigned j = 0; j < ENOUGH && !node->serving; j++) {
			if (are_together(pair) && !peer_of(node)->state.command)
				tell(node, (struct replica_event){.kind = REPLICA_MAKE_PRIMARY});
			one_step(pair);
		}
		if (!node->serving)
			model_fail(pair, "node %u does not become primary", i);
		check_resize(node, node->regions + i);
		check_hand_over(node, i * 1000);
		check_hand_over(peer_of(node), !i * 1000);
		command(node, (struct replica_event){.kind = REPLICA_MAKE_SECONDARY});
	}
}

static bool is_good(const struct node *node)
{
	return node->ids.current && !node->ids.inconsistent;
}

/* A primary without a disk is to give that up, and then to get one. */
static void end_diskless(struct pair *pair)
{
	for (unsigned i = 0; i < 2; i++) {
		struct node *node = &pair->nodes[i];
		bool linked;

		for (unsigned j = 0; j < ENOUGH && node->state.detaching; j++)
			one_step(pair);
		linked = pair->link;
		if (!node->diverted)
			continue;
		command(node, (struct replica_event){.kind = REPLICA_MAKE_SECONDARY});
		for (unsigned j = 0; j < ENOUGH && (node->up || peer_of(node)->up); j++)
			one_step(pair);
		if (node->serving || (linked && peer_of(node)->ids.follows))
			model_fail(pair, "node %u has no disk, and does not give up its role", i);
	}
}

/* Whatever has happened: the nodes find together; if a user must choose first, he can. */
static void come_to_rest(struct pair *pair)
{
	pair->calm = true;
	end_diskless(pair);
	for (unsigned i = 0; i < 2; i++)
		pair->nodes[i].device = MOST;
	for (unsigned attempt = 0; attempt < 3; attempt++) {
		struct node *loser =
		    &pair->nodes[pair->nodes[1].ids.inconsistent || !pair->nodes[1].ids.current];

		for (unsigned i = 0; i < 2; i++)
			command(&pair->nodes[i], (struct replica_event){.kind = REPLICA_CONNECT});
		for (unsigned i = 0; i < ENOUGH && !are_together(pair); i++)
			one_step(pair);
		if (are_together(pair)) {
			check_clients(pair);
			take_turns(pair);
			return;
		}
		if (!pair->nodes[0].state.refusal && !pair->nodes[1].state.refusal)
			model_fail(pair, "they are %s and %s, and nothing says why",
			    replica_flow_name(pair->nodes[0].state.flow),
			    replica_flow_name(pair->nodes[1].state.flow));
		for (unsigned i = 0; i < 2; i++) {
			struct node *node = &pair->nodes[i];

			command(node, (struct replica_event){.kind = REPLICA_MAKE_SECONDARY});
			if (!is_good(node) && !is_good(peer_of(node))) {
				command(node,
				    (struct replica_event){.kind = REPLICA_MAKE_PRIMARY, .force = true});
				loser = peer_of(node);
			}
		}
		loser = &pair->nodes[!(pair->nodes[0].ids.inconsistent || !pair->nodes[0].ids.current)];
		command(peer_of(loser), (struct replica_event){.kind = REPLICA_DISCONNECT});
		command(loser, (struct replica_event){.kind = REPLICA_DISCARD});
	}
	model_fail(pair, "they do not find together: %s, %s",
	    pair->nodes[0].state.refusal ? pair->nodes[0].state.refusal : "-",
	    pair->nodes[1].state.refusal ? pair->nodes[1].state.refusal : "-");
}

/* Some volumes have data that are nobody's to overwrite unasked. */
static void begin_ids(struct pair *pair)
{
	if (pair->seed % 11)
		replica_ids_begin(&pair->nodes[0].ids, ++pair->drawn);
	for (unsigned i = 0; i < 2; i++) {
		struct node *node = &pair->nodes[i];

		node->ids.foreign = !node->ids.current && (pair->seed >> i) % 4 == 1;
		for (unsigned j = 0; j < REGIONS && node->ids.foreign; j++) {
			node->data[j] = pair->values_count++;
			pair->values[node->data[j]].acknowledged = true;
		}
	}
}

static void run_pair(uint64_t seed, struct pair *sums)
{
	struct pair *pair = calloc(1, sizeof(*pair));

	assert_non_null(pair);
	pair->seed = seed;
	pair->values_count = 1;
	rand_init(&pair->rand, seed);
	for (unsigned i = 0; i < 2; i++) {
		pair->nodes[i].pair = pair;
		pair->nodes[i].which = i;
		pair->nodes[i].regions = REGIONS;
		pair->nodes[i].device = REGIONS + (unsigned)(seed / 2 % 2);
		/* What is behind the end. */
		for (unsigned j = REGIONS; j < MOST; j++)
			pair->nodes[i].data[j] = pair->values_count++;
	}
	begin_ids(pair);
	for (unsigned i = 0; i < 2; i++)
		start(&pair->nodes[i]);
	for (unsigned i = 0; i < STEPS; i++)
		one_step(pair);
	come_to_rest(pair);
	for (unsigned i = 0; i < REPLICA_FLOWS; i++)
		sums->flows[i] += pair->flows[i];
	sums->refused += pair->refused;
	sums->served += pair->served;
	sums->parted += pair->parted;
	for (unsigned i = 0; i < 2; i++)
		sums->handed[i] += pair->handed[i];
	sums->timed_out += pair->timed_out;
	sums->kept += pair->kept;
	sums->given_up += pair->given_up;
	sums->marks += pair->marks;
	sums->marks_alone += pair->marks_alone;
	sums->diverted += pair->diverted;
	sums->borne += pair->borne;
	sums->returned += pair->returned;
	sums->cut_off += pair->cut_off;
	sums->retaken += pair->retaken;
	for (unsigned i = 0; i <= REPLICA_GROWTH_MEETING; i++)
		sums->grown[i] += pair->grown[i];
	free(pair);
}

static void test_pairs(void **state)
{
	const char *replay = getenv("BLKMOVE_SEED"), *many = getenv("BLKMOVE_SEEDS");
	static struct pair sums;
	uint64_t first = replay ? strtoull(replay, NULL, 10) : 1;
	uint64_t last = replay ? first : many ? strtoull(many, NULL, 10) : 6000;

	for (uint64_t seed = first; seed <= last; seed++)
		run_pair(seed, &sums);
	print_message("%u times served, %u parted, %u refused; %u handed over at once, %u by a write, %u "
	              "after a loss, %u not in time, %u cut off; %u grown for another, %u alone, %u to meet; "
	              "%u disks failed "
	              "and were borne, %u diverted, %u returned; steps",
	    sums.served, sums.parted, sums.refused, sums.handed[0], sums.handed[1], sums.retaken,
	    sums.timed_out, sums.cut_off, sums.grown[REPLICA_GROWTH_FIRST], sums.grown[REPLICA_GROWTH_ALONE],
	    sums.grown[REPLICA_GROWTH_MEETING], sums.borne, sums.diverted, sums.returned);
	for (unsigned i = 0; i < REPLICA_FLOWS; i++)
		print_message(" %s %u", replica_flow_name((enum replica_flow)i), sums.flows[i]);
	print_message("; foreign data: %u kept, %u given up; %u marks, %u by secondaries\n", sums.kept,
	    sums.given_up, sums.marks, sums.marks_alone);
	if (replay)
		return;
	assert_true(sums.kept && sums.given_up);
	assert_true(sums.marks > sums.marks_alone && sums.marks_alone);
	for (unsigned i = 0; i < REPLICA_FLOWS; i++)
		assert_true(sums.flows[i] > 0);
	assert_true(sums.grown[REPLICA_GROWTH_FIRST] && sums.grown[REPLICA_GROWTH_ALONE] &&
	            sums.grown[REPLICA_GROWTH_MEETING]);
	assert_true(sums.diverted && sums.borne > sums.diverted && sums.returned);
	assert_true(sums.handed[0] && sums.handed[1] && sums.retaken && sums.timed_out && sums.cut_off);
}

/* A node by itself: how the last order ended, and 1 for a record. */
static void note_end(void *data, const struct replica_action *action)
{
	if (action->kind == REPLICA_DO_ANSWER)
		*(int *)data = action->res;
	else if (action->kind == REPLICA_DO_RECORD)
		*(int *)data = 1;
}

static int ask_to_be_primary(bool outdated, bool follows, bool fenced, bool force)
{
	const struct replica_ids ids = {.current = 7, .outdated = outdated, .follows = follows};
	const struct replica_event fence = {.kind = REPLICA_FENCED, .fresh = 8},
	                           order = {.kind = REPLICA_MAKE_PRIMARY, .fresh = 9, .force = force};
	struct replica_state state;
	int end = 0;
	const struct replica_options options = {
	    .name = 1, .size = 1 << 20, .region_size = 1 << 16, .act = note_end, .data = &end};

	replica_state_init(&state, &options, &ids);
	if (fenced)
		replica_state_event(&state, &fence);
	assert_int_equal(replica_state_event(&state, &order), 0);
	return end;
}

/* That the other node is off does not make old data new. */
static void test_who_may_be_primary_alone(void **state)
{
	assert_int_equal(ask_to_be_primary(false, false, false, false), 1);
	assert_int_equal(ask_to_be_primary(false, true, false, false), -EPERM);
	assert_int_equal(ask_to_be_primary(false, true, true, false), 1);
	assert_int_equal(ask_to_be_primary(true, false, false, false), -EPERM);
	assert_int_equal(ask_to_be_primary(true, false, true, false), -EPERM);
	assert_int_equal(ask_to_be_primary(true, true, true, false), -EPERM);
	assert_int_equal(ask_to_be_primary(true, true, false, true), 1);
}

/* What such a node says it is, it can be ordered to change. */
static void test_a_hand_over_that_cannot_be_recorded(void **state)
{
	const struct replica_ids ids = {.current = 7, .sender = true};
	const struct replica_event failed = {.kind = REPLICA_RECORDED, .fresh = 8, .res = -EIO},
	                           lost = {.kind = REPLICA_LOST, .fresh = 9},
	                           order = {.kind = REPLICA_MAKE_PRIMARY, .fresh = 10};
	struct replica_state node;
	int end = 0;
	const struct replica_options options = {
	    .name = 1, .size = 1 << 20, .region_size = 1 << 16, .act = note_end, .data = &end};

	replica_state_init(&node, &options, &ids);
	node.role = REPLICA_PRIMARY;
	node.flow = REPLICA_EQUAL;
	node.wanted = node.linked = node.greeted = node.heard = node.copying = true;
	node.command = node.handing = node.yielding = node.recording = true;
	node.then = REPLICA_THEN_YIELDED;
	node.next = (struct replica_ids){.current = 7, .follows = true};
	replica_state_event(&node, &failed);
	assert_int_equal(end, -EIO);
	replica_state_event(&node, &lost);
	assert_int_equal(node.role, REPLICA_SECONDARY);
	assert_false(node.yielding || node.recording);
	assert_int_equal(replica_state_event(&node, &order), 0);
	assert_int_equal(end, 1);
}

/* A copy of this node's state, or a node that lies. */
static void test_two_primaries_of_the_same_data(void **state)
{
	const struct replica_ids ids = {.current = 7};
	const struct replica_message hello = {.say = REPLICA_HELLO,
	    .ids = ids,
	    .role = REPLICA_PRIMARY,
	    .size = 1 << 20,
	    .region_size = 1 << 16,
	    .name = 2};
	const struct replica_event heard = {.kind = REPLICA_HEARD, .fresh = 8, .message = &hello};
	struct replica_state node;
	int end = 0;
	const struct replica_options options = {
	    .name = 1, .size = 1 << 20, .region_size = 1 << 16, .act = note_end, .data = &end};

	replica_state_init(&node, &options, &ids);
	node.role = REPLICA_PRIMARY;
	node.flow = REPLICA_MEETING;
	node.wanted = node.linked = node.greeted = true;
	replica_state_event(&node, &heard);
	assert_int_equal(node.flow, REPLICA_REFUSED);
	assert_false(node.receiving);
}

static void note_say(void *data, const struct replica_action *action)
{
	if (action->kind == REPLICA_DO_SAY)
		*(enum replica_say *)data = action->message.say;
}

static void hear(struct replica_state *node, enum replica_say what)
{
	const struct replica_message message = {.say = what};

	replica_state_event(
	    node, &(struct replica_event){.kind = REPLICA_HEARD, .fresh = 8, .message = &message});
}

/* Two secondaries, one of which has compared: while that comes to its end both are told to be primary. The one that is too late hears so. */
static void test_who_asks_in_vain_has_an_answer(void **state)
{
	const struct replica_ids ids = {.current = 7, .sender = true};
	const struct replica_event order = {.kind = REPLICA_MAKE_PRIMARY, .fresh = 9},
	                           settled = {.kind = REPLICA_SETTLED, .fresh = 10};
	enum replica_say said = REPLICA_HELLO;
	const struct replica_options options = {
	    .name = 1, .size = 1 << 20, .region_size = 1 << 16, .act = note_say, .data = &said};
	struct replica_state node;

	replica_state_init(&node, &options, &ids);
	node.flow = REPLICA_EQUAL;
	node.wanted = node.linked = node.greeted = node.heard = node.copying = true;
	hear(&node, REPLICA_PROMOTE);
	assert_true(node.settling);
	assert_int_equal(replica_state_event(&node, &order), 0);
	hear(&node, REPLICA_PROMOTED);
	assert_int_equal(node.role, REPLICA_PRIMARY);
	assert_int_equal(said, REPLICA_TAKEN);
	replica_state_event(&node, &settled);
	assert_int_equal(said, REPLICA_DENIED);
}

/* It waits for somebody to fence the other, which may have taken the name that this node gave it; and they meet again. */
static void test_a_name_that_nobody_has_confirmed(void **state)
{
	const struct replica_ids ids = {.current = 7, .sender = true};
	const struct replica_message hello = {.say = REPLICA_HELLO,
	    .ids = {.current = 9, .history = {7}, .follows = true},
	    .size = 1 << 20,
	    .region_size = 1 << 16,
	    .name = 2};
	enum replica_say said = REPLICA_DETACH;
	const struct replica_options options = {.name = 1,
	    .size = 1 << 20,
	    .region_size = 1 << 16,
	    .gone = REPLICA_GONE_FREEZE,
	    .act = note_say,
	    .data = &said};
	struct replica_state node;

	replica_state_init(&node, &options, &ids);
	node.role = REPLICA_PRIMARY;
	node.wanted = node.withheld = node.frozen = true;
	node.detach_name = 9;
	replica_state_event(&node, &(struct replica_event){.kind = REPLICA_LINK, .fresh = 10});
	assert_true(node.recording);
	assert_int_equal(said, REPLICA_DETACH);
	replica_state_event(&node, &(struct replica_event){.kind = REPLICA_RECORDED, .fresh = 11});
	assert_int_equal(said, REPLICA_HELLO);
	replica_state_event(
	    &node, &(struct replica_event){.kind = REPLICA_HEARD, .fresh = 12, .message = &hello});
	assert_int_equal(node.flow, REPLICA_MEETING);
	assert_int_equal(node.verdict, REPLICA_SOURCE);
	assert_int_equal(replica_judge(&hello.ids, &node.ids), REPLICA_TARGET);
	assert_true(node.withheld);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_who_may_be_primary_alone),
	    cmocka_unit_test(test_a_hand_over_that_cannot_be_recorded),
	    cmocka_unit_test(test_two_primaries_of_the_same_data),
	    cmocka_unit_test(test_who_asks_in_vain_has_an_answer),
	    cmocka_unit_test(test_a_name_that_nobody_has_confirmed),
	    cmocka_unit_test(test_pairs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
