/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A primary whose disk fails: see replica_state.h. While the nodes are equal its clients need not hear of it. All that they were told is flushed
 * at the other node, which records a new generation, named by this one, for what it holds; then this node gives its own data up, and sends its
 * clients there. So whatever is interrupted, the failed disk's data are known as the past, or nothing has gone past them.
 */
#include "replica/replica_private.h"

#include "base/plant.h"

#include <errno.h>
#include <stddef.h>

bool replica_state_can_detach(const struct replica_state *state)
{
	bool busy = state->recording || state->command || state->leaving || state->growth || state->growing ||
	            state->lease || state->settling || state->yielding || state->asked;

	return state->role == REPLICA_PRIMARY && state->flow == REPLICA_EQUAL && state->ids.sender && !busy &&
	       !state->detaching;
}

/* At the primary */

void replica_disk_failed(struct replica_state *state)
{
	if (!replica_state_can_detach(state)) {
		replica_act(state, REPLICA_DO_RETURN);
		return;
	}
	state->detaching = true;
	/* What was acknowledged before it was sent is not to be the past's alone. */
	replica_settle(state);
}

bool replica_detach_settled(struct replica_state *state, int res)
{
	if (!state->detaching)
		return false;
	if (res < 0) {
		replica_act(state, REPLICA_DO_DROP);
		return true;
	}
	state->detach_name = state->fresh;
	replica_say(state, REPLICA_DETACH);
	if (PLANTED(PLANTED_EARLY_DIVERT))
		replica_act(state, REPLICA_DO_DIVERT);
	return true;
}

static void hear_detached(struct replica_state *state)
{
	replica_ids_give_up(&state->next);
	replica_record(state, REPLICA_THEN_DIVERT);
}

/* The other has recorded that it has all, and this node that it has nothing; or it could not. */
static void divert(struct replica_state *state)
{
	if (!state->detaching)
		return;
	state->detaching = false;
	state->detach_name = 0;
	state->flow = REPLICA_DISKLESS;
	replica_act(state, REPLICA_DO_DIVERT);
}

void replica_diskless_rest(struct replica_state *state)
{
	state->role = REPLICA_SECONDARY;
	replica_say(state, REPLICA_DEMOTED);
	/* The other hangs up when it has recorded that. */
	state->flow = REPLICA_REFUSED;
	replica_answer(state, 0, NULL);
}

/* Nobody has its clients' data any more, or will have them before the other is back. */
void replica_diskless_lost(struct replica_state *state)
{
	bool given = state->recording && state->then == REPLICA_THEN_DIVERT;

	if (state->role != REPLICA_PRIMARY || (state->flow != REPLICA_DISKLESS && !given))
		return;
	replica_act(state, REPLICA_DO_CLOSE);
	state->role = REPLICA_SECONDARY;
	state->detaching = false;
	state->detach_name = 0;
	if (state->demoting)
		replica_answer(state, -ENOTCONN, "the other node was lost, which has the data");
}

void replica_detach_lost(struct replica_state *state)
{
	if (state->detaching)
		replica_act(state, REPLICA_DO_RETURN);
	state->detaching = false;
}

void replica_detach_note(struct replica_state *state)
{
	if (state->detach_name)
		replica_ids_was_named(&state->next, state->detach_name);
}

void replica_detach_noted(struct replica_state *state)
{
	const struct replica_ids *ids = &state->ids;
	uint64_t name = state->detach_name;

	if (ids->base[0] == name || ids->base[1] == name || ids->history[0] == name)
		state->detach_name = 0;
}

/* At the other */

static void hear_detach(struct replica_state *state, uint64_t name)
{
	replica_ids_bear(&state->next, name);
	replica_record(state, REPLICA_THEN_BORNE);
}

static void bear(struct replica_state *state)
{
	/* Nobody takes over now. */
	replica_lease_end(state);
	state->flow = REPLICA_DISKLESS;
	replica_act(state, REPLICA_DO_BEAR);
	replica_say(state, REPLICA_DETACHED);
}

/* At both */

void replica_hear_detach(struct replica_state *state, const struct replica_message *message)
{
	if (message->say == REPLICA_DETACH)
		hear_detach(state, message->name);
	else if (message->say == REPLICA_DETACHED)
		hear_detached(state);
}

void replica_detach_recorded(struct replica_state *state)
{
	if (state->then == REPLICA_THEN_BORNE)
		bear(state);
	else if (state->then == REPLICA_THEN_DIVERT)
		divert(state);
	else if (state->then == REPLICA_THEN_PARTED)
		replica_act(state, REPLICA_DO_DROP);
}

bool replica_diskless_denies(struct replica_state *state, enum replica_event_kind order)
{
	bool primary = state->role == REPLICA_PRIMARY;

	if (state->flow != REPLICA_DISKLESS || order == REPLICA_CONNECT || order == REPLICA_MAKE_SECONDARY ||
	    (primary && order == REPLICA_MAKE_PRIMARY))
		return false;
	replica_answer(state, -EBUSY,
	    primary
	        ? "this node's disk has failed, and its clients use the other node's: make it secondary first"
	        : "the other node's disk has failed, and its clients use this node's");
	return true;
}
