/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What users order a node to do: see replica_state.h. */
#include "replica/replica_private.h"

#include <errno.h>
#include <stddef.h>

bool replica_state_is_good(const struct replica_state *state)
{
	return state->ids.current != 0 && !state->ids.inconsistent;
}

static void make_primary(struct replica_state *state, bool force)
{
	const struct replica_ids *ids = &state->ids;
	bool good = replica_state_is_good(state);

	state->discards = false;
	if (state->role == REPLICA_PRIMARY) {
		replica_answer(state, 0, NULL);
	} else if (state->linked && (state->flow == REPLICA_EQUAL || state->flow == REPLICA_SENDING)) {
		state->promoting = state->asked = true;
		replica_say(state, REPLICA_PROMOTE);
	} else if (state->linked) {
		replica_answer(state, -EBUSY, "the nodes are not in sync yet");
	} else if (!good && !force) {
		replica_answer(state, -EPERM, "this node's data are not good");
	} else if (ids->outdated && !force) {
		/* Nor if the other is off: then it has what it wrote alone on its disk. */
		replica_answer(state, -EPERM, "the other node went on alone, and has newer data");
	} else if ((ids->follows || state->peer.role == REPLICA_PRIMARY) && !force && !state->fenced) {
		replica_answer(state, -EPERM, "the other node may have newer data");
	} else {
		state->next = *ids;
		if (good)
			replica_ids_part(&state->next, state->fresh);
		else
			replica_ids_force(&state->next, state->fresh);
		replica_record(state, REPLICA_THEN_SERVE);
	}
}

static void make_secondary(struct replica_state *state)
{
	if (state->role == REPLICA_SECONDARY) {
		replica_lease_end(state);
		replica_answer(state, 0, NULL);
		return;
	}
	replica_act(state, REPLICA_DO_CLOSE);
	if (state->flow == REPLICA_EQUAL || state->flow == REPLICA_DISKLESS) {
		state->demoting = true;
		replica_settle_last(state);
		return;
	}
	state->role = REPLICA_SECONDARY;
	state->frozen = false;
	if (state->linked && state->greeted)
		replica_say(state, REPLICA_DEMOTED);
	replica_answer(state, 0, NULL);
}

static void disconnect(struct replica_state *state)
{
	state->wanted = state->discards = false;
	if (state->role == REPLICA_PRIMARY &&
	    (state->flow == REPLICA_EQUAL || state->flow == REPLICA_SENDING)) {
		state->leaving = true;
		replica_say(state, REPLICA_AHEAD);
	} else {
		if (state->role == REPLICA_SECONDARY)
			replica_lease_end(state);
		replica_act(state, REPLICA_DO_DROP);
	}
	replica_answer(state, 0, NULL);
}

static void seek(struct replica_state *state)
{
	state->wanted = true;
	state->refusal = NULL;
	if (!state->linked)
		replica_act(state, REPLICA_DO_SEEK);
	replica_answer(state, 0, NULL);
}

int replica_command(struct replica_state *state, const struct replica_event *event)
{
	/* One that asks whether it may be primary is that in a moment. */
	if (state->command || state->recording || state->asked || state->growing || state->detaching)
		return -EBUSY;
	state->command = true;
	if (replica_diskless_denies(state, event->kind))
		return 0;
	switch (event->kind) {
	case REPLICA_CONNECT:
		seek(state);
		break;
	case REPLICA_DISCONNECT:
		disconnect(state);
		break;
	case REPLICA_MAKE_PRIMARY:
		make_primary(state, event->force);
		break;
	case REPLICA_MAKE_SECONDARY:
		make_secondary(state);
		break;
	case REPLICA_RESIZE:
		replica_resize(state, event->size);
		break;
	case REPLICA_HAND_OVER:
		replica_hand_over(state, event->lease_ms);
		break;
	default:
		if (state->role == REPLICA_PRIMARY) {
			replica_answer(state, -EPERM, "this node is primary");
			break;
		}
		state->discards = true;
		/* What was not said in the HELLO the other does not know of. */
		if (state->linked && state->flow == REPLICA_MEETING)
			replica_act(state, REPLICA_DO_DROP);
		seek(state);
	}
	return 0;
}
