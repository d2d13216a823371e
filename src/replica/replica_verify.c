/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Comparing the nodes while they are used: see replica_state.h. What is found to differ is in the map of the node that sends. That one is
 * recorded as sender as long as it may have such marks, also between two secondaries: so no crash lets the nodes take each other for equal.
 */
#include "replica/replica_private.h"

#include <errno.h>

/* Something else is being decided, which may be about who sends. */
static bool is_busy(const struct replica_state *state)
{
	return state->recording || state->settling || state->settled || state->command || state->asked ||
	       state->growth != REPLICA_GROWTH_NONE || state->yielding || state->detaching;
}

int replica_verify(struct replica_state *state)
{
	if (state->flow != REPLICA_EQUAL)
		return -ENOTCONN;
	if (state->role == REPLICA_SECONDARY && state->peer.role == REPLICA_PRIMARY)
		return -EPERM;
	if (is_busy(state))
		return -EBUSY;
	if (state->ids.sender) {
		replica_act(state, REPLICA_DO_VERIFY);
		return 0;
	}
	state->next = state->ids;
	replica_ids_send(&state->next, &state->peer.ids);
	replica_record(state, REPLICA_THEN_VERIFY);
	return 0;
}

void replica_even(struct replica_state *state)
{
	if (state->role == REPLICA_SECONDARY && state->peer.role == REPLICA_SECONDARY &&
	    state->flow == REPLICA_EQUAL && state->ids.sender && !is_busy(state))
		replica_settle(state);
}
