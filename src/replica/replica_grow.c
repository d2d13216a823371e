/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Volumes that become larger: see replica_state.h. What a volume has got at its end is nobody's data, and not the same on the two nodes. It is dirty in the
 * map, and recorded before (`grown`), so that the nodes never take each other for equal before it was copied. By an order the other
 * node grows first: if it cannot, nothing has happened.
 */
#include "replica/replica_private.h"

#include "base/plant.h"

#include <errno.h>
#include <stddef.h>

void replica_grow(struct replica_state *state)
{
	const struct replica_action action = {
	    .kind = REPLICA_DO_GROW, .size = state->grow_to, .all = state->growth != REPLICA_GROWTH_FIRST};

	state->options.act(state->options.data, &action);
}

static void begin(struct replica_state *state, enum replica_growth why, uint64_t size)
{
	state->growth = why;
	state->grow_to = size;
	state->growing = true;
	state->next = state->ids;
	if (!PLANTED(PLANTED_NO_GROWN))
		replica_ids_grow(&state->next);
	if (state->next.grown != state->ids.grown || state->unsure)
		replica_record(state, REPLICA_THEN_GROW);
	else
		replica_grow(state);
}

void replica_resize(struct replica_state *state, uint64_t size)
{
	if (size < state->options.size) {
		replica_answer(state, -EINVAL, "a replicated volume cannot become smaller");
	} else if (size == state->options.size) {
		replica_answer(state, 0, NULL);
	} else if (!state->linked) {
		begin(state, REPLICA_GROWTH_ALONE, size);
	} else if (state->flow != REPLICA_EQUAL) {
		replica_answer(state, -EBUSY, "the nodes are not in sync");
	} else if (state->role == REPLICA_SECONDARY && state->peer.role == REPLICA_PRIMARY) {
		replica_answer(state, -EPERM, "the other node is primary: the order is to be given there");
	} else {
		state->growth = REPLICA_GROWTH_ASKED;
		state->grow_to = size;
		replica_say(state, REPLICA_ENLARGE);
	}
}

void replica_hear_enlarge(struct replica_state *state, const struct replica_message *message)
{
	/* It may have waited until this node was primary. */
	bool late = state->role == REPLICA_PRIMARY || state->flow != REPLICA_EQUAL;

	if (late || state->growth || state->asked || message->size < state->options.size) {
		replica_say(state, REPLICA_CANNOT);
	} else if (state->ids.sender) {
		/* Whoever grows is not to be asked later who wrote. */
		replica_hear_later(state, message);
		replica_settle(state);
	} else if (message->size == state->options.size) {
		replica_say(state, REPLICA_ENLARGED);
	} else {
		begin(state, REPLICA_GROWTH_FIRST, message->size);
	}
}

/* What is new can be sent only when the nodes meet anew. */
static void leave(struct replica_state *state)
{
	state->growth = REPLICA_GROWTH_LEAVING;
	if (state->role == REPLICA_PRIMARY) {
		state->leaving = true;
		replica_say(state, REPLICA_AHEAD);
	} else {
		replica_act(state, REPLICA_DO_DROP);
	}
}

void replica_hear_enlarged(struct replica_state *state, const struct replica_message *message)
{
	uint64_t size = message->say == REPLICA_ENLARGED ? message->size : 0;

	if (size > state->options.size && size <= state->grow_to) {
		state->grow_to = size; /* it may have less room */
		leave(state);
	} else {
		state->growth = REPLICA_GROWTH_NONE;
		replica_answer(
		    state, -ENOSPC, "the other node's volume cannot be made that large, or not now");
	}
}

void replica_grow_to_meet(struct replica_state *state)
{
	/* The one that is smaller does, and says HELLO again. */
	if (state->options.size < state->peer.size)
		begin(state, REPLICA_GROWTH_MEETING, state->peer.size);
}

void replica_grown(struct replica_state *state, uint64_t size, int res)
{
	enum replica_growth growth = state->growth;

	state->growing = false;
	state->growth = REPLICA_GROWTH_NONE;
	if (res == 0)
		state->options.size = size;
	switch (growth) {
	case REPLICA_GROWTH_ALONE:
		replica_answer(state, res, res < 0 ? "this node's volume cannot be made that large" : NULL);
		break;
	case REPLICA_GROWTH_FIRST:
		replica_say(state, res < 0 ? REPLICA_CANNOT : REPLICA_ENLARGED);
		break;
	case REPLICA_GROWTH_MEETING:
		if (res < 0) {
			replica_refuse(
			    state, "this node's volume is smaller than the other's; enlarge its device");
		} else {
			replica_say(state, REPLICA_HELLO);
			replica_meet(state);
		}
		break;
	default:
		break;
	}
}

void replica_grow_lost(struct replica_state *state)
{
	enum replica_growth growth = state->growth;

	state->growth = REPLICA_GROWTH_NONE;
	if (growth == REPLICA_GROWTH_ASKED)
		replica_answer(state, -ENOTCONN, "the other node was lost meanwhile; try again");
	else if (growth == REPLICA_GROWTH_LEAVING)
		state->growth = REPLICA_GROWTH_SECOND;
	else if (growth == REPLICA_GROWTH_SECOND || growth == REPLICA_GROWTH_ALONE)
		state->growth = growth;
}

void replica_grow_second(struct replica_state *state)
{
	if (state->growth == REPLICA_GROWTH_SECOND && !state->recording)
		begin(state, REPLICA_GROWTH_ALONE, state->grow_to);
}
