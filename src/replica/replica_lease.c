/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hand-over: see replica_state.h. With a lease both nodes have clients for a while, and only those of the primary may write; the first
 * write on the other makes that one primary. Whoever yields has recorded that, with all on both sides, before the other hears of it: a link
 * that is lost meanwhile leaves one primary, or none.
 */
#include "replica/replica_private.h"

#include <errno.h>
#include <stddef.h>

static void act_lease(struct replica_state *state)
{
	const struct replica_action action = {.kind = REPLICA_DO_LEASE, .lease_ms = state->lease_ms};

	state->options.act(state->options.data, &action);
}

/* At the primary */

void replica_hand_over(struct replica_state *state, uint32_t lease_ms)
{
	if (state->role != REPLICA_PRIMARY) {
		replica_answer(state, -EPERM, "this node is not primary");
	} else if (state->flow != REPLICA_EQUAL) {
		replica_answer(state, -EBUSY, "the nodes are not in sync");
	} else {
		state->handing = true;
		state->opened = false;
		state->lease_ms = lease_ms;
		if (lease_ms) {
			state->lease = REPLICA_LEASE_GIVEN;
			act_lease(state);
		}
		replica_say(state, REPLICA_LEASE);
	}
}

/* The switch will not be: this node goes on. */
static void stay(struct replica_state *state, int res, const char *why)
{
	if (state->lease || state->yielding)
		replica_act(state, REPLICA_DO_SERVE);
	state->lease = REPLICA_LEASE_NONE;
	state->yielding = state->lease_ended = false;
	replica_answer(state, res, why);
}

bool replica_yield(struct replica_state *state)
{
	if (!state->handing || state->role != REPLICA_PRIMARY)
		return false;
	state->yielding = true;
	replica_act(state, state->lease ? REPLICA_DO_YIELD : REPLICA_DO_CLOSE);
	replica_settle_last(state);
	return true;
}

static void step_down(struct replica_state *state)
{
	state->role = REPLICA_SECONDARY;
	state->yielding = false;
	state->lease = state->lease ? REPLICA_LEASE_USED : REPLICA_LEASE_NONE;
}

void replica_yielded(struct replica_state *state)
{
	bool ended = state->lease_ended;

	step_down(state);
	state->peer.role = REPLICA_PRIMARY;
	replica_act(state, REPLICA_DO_RECEIVE);
	replica_say(state, REPLICA_PROMOTED);
	if (ended)
		replica_lease_end(state);
}

void replica_ceded(struct replica_state *state)
{
	step_down(state);
	replica_lease_end(state);
}

/* At the other */

void replica_hear_lease(struct replica_state *state, const struct replica_message *message)
{
	/* Those whose turn it is not. */
	if (state->lease == REPLICA_LEASE_USED || (message->lease_ms == 0 && !state->asked))
		replica_lease_end(state);
	if (message->lease_ms == 0) {
		state->taking = true;
		return;
	}
	state->lease = REPLICA_LEASE_HELD;
	state->lease_ms = message->lease_ms;
	state->lease_ended = false;
	act_lease(state);
	replica_say(state, REPLICA_LEASED);
}

void replica_take(struct replica_state *state)
{
	state->taking |= state->lease == REPLICA_LEASE_HELD;
}

void replica_take_over(struct replica_state *state)
{
	if (!state->taking || state->asked || state->flow != REPLICA_EQUAL || state->recording)
		return;
	state->asked = true;
	replica_say(state, REPLICA_PROMOTE);
}

/* At both */

void replica_lease_end(struct replica_state *state)
{
	if (state->lease)
		replica_act(state, REPLICA_DO_CLOSE);
	state->lease = REPLICA_LEASE_NONE;
	state->taking = state->lease_ended = false;
}

void replica_lease_ended(struct replica_state *state)
{
	if (!state->lease)
		return;
	if (state->yielding || state->asked)
		state->lease_ended = true;
	else if (state->role == REPLICA_PRIMARY)
		stay(state, -ETIMEDOUT, "nobody wrote at the other node while the lease lasted");
	else
		replica_lease_end(state);
}

void replica_lease_lost(struct replica_state *state)
{
	bool waits =
	    state->taking && state->lease == REPLICA_LEASE_HELD && !state->lease_ended && state->wanted;

	if (state->recording && state->then == REPLICA_THEN_YIELDED) {
		state->then = REPLICA_THEN_CEDED;
		replica_answer(state, -ENOTCONN, "the other node was lost while it was to be primary");
	} else if (state->recording && state->then != REPLICA_THEN_RELEASE &&
	           state->then != REPLICA_THEN_CEDED && state->then != REPLICA_THEN_GROW &&
	           state->then != REPLICA_THEN_DIVERT &&
	           (state->then != REPLICA_THEN_SERVE || state->asked)) {
		state->then = REPLICA_THEN_NOTHING;
	}
	state->asked = false;
	if (state->role == REPLICA_SECONDARY && !waits)
		replica_lease_end(state);
	if (!state->handing)
		return;
	if (state->role == REPLICA_PRIMARY)
		stay(state, -ENOTCONN, "the other node was lost before it was primary");
	else
		replica_answer(state, -ENOTCONN, "the other node was lost; it may be primary");
}
