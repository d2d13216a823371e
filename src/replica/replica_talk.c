/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a node makes of what the other says: see replica_state.h. */
#include "replica/replica_private.h"

#include "base/plant.h"

#include <errno.h>
#include <stddef.h>

/* Meeting */

/* Nothing differs. */
static void be_equal(struct replica_state *state)
{
	state->flow = REPLICA_EQUAL;
	state->peer.ids.current = state->ids.current;
	state->peer.ids.inconsistent = false;
	state->detach_name = 0;
	replica_release(state);
	if (state->peer.role == REPLICA_PRIMARY) {
		replica_act(state, REPLICA_DO_RECEIVE);
	} else if (state->ids.follows) {
		state->next = state->ids;
		state->next.follows = false;
		replica_record(state, REPLICA_THEN_NOTHING);
	} else if (state->role == REPLICA_SECONDARY && state->ids.sender) {
		replica_settle(state);
	}
}

/* What the two maps say can be laid over each other. */
static bool maps_fit(const struct replica_state *state)
{
	return state->peer.region_size == state->options.region_size;
}

static void merge(struct replica_state *state)
{
	const struct replica_action action = {
	    .kind = REPLICA_DO_MERGE, .all = state->verdict == REPLICA_SOURCE_FULL || !maps_fit(state)};

	state->options.act(state->options.data, &action);
}

/* The source waits for it. */
static void send_map(struct replica_state *state)
{
	if (state->verdict != REPLICA_TARGET || !maps_fit(state) || state->map_sent)
		return;
	state->map_sent = true;
	replica_act(state, REPLICA_DO_SEND_MAP);
}

/* Nothing goes on by itself: one of the two gives way, or it ends here. */
static void disagree(struct replica_state *state)
{
	const struct replica_message *peer = &state->peer;

	if (state->offered && !peer->discards && peer->ids.current && !peer->ids.inconsistent) {
		state->discards = state->offered = false;
		state->next = state->ids;
		replica_ids_discard(&state->next, &peer->ids);
		replica_record(state, REPLICA_THEN_HELLO);
	} else if (peer->discards && state->offered) {
		state->discards = false;
		replica_refuse(state, "both nodes were told to discard their data");
	} else if (!peer->discards || !state->ids.current || state->ids.inconsistent) {
		state->discards = false;
		replica_refuse(state, replica_relation_words(state->relation));
	}
}

/* As the table says; but nothing is in sync whose end nobody has compared. */
static enum replica_verdict judge(const struct replica_state *state)
{
	const struct replica_ids *ids = &state->ids, *peer = &state->peer.ids;
	enum replica_verdict verdict = replica_judge(ids, peer);

	if (verdict != REPLICA_IN_SYNC || (!ids->grown && !peer->grown))
		return verdict;
	verdict = ids->full || peer->full ? REPLICA_SOURCE_FULL : REPLICA_SOURCE;
	return state->options.name > state->peer.name ? verdict : replica_verdict_flip(verdict);
}

/* This node's data stay as they are. */
static bool gives(enum replica_verdict verdict)
{
	return verdict == REPLICA_IN_SYNC || verdict == REPLICA_SOURCE || verdict == REPLICA_SOURCE_FULL;
}

void replica_meet(struct replica_state *state)
{
	const struct replica_message *peer = &state->peer;

	if (!state->greeted || !state->heard)
		return;
	state->relation = replica_relate(&state->ids, &peer->ids);
	state->verdict = judge(state);
	if (state->role == REPLICA_SECONDARY && !gives(state->verdict))
		replica_lease_end(state); /* its clients have read what is the other's past */
	if (peer->name == state->options.name) {
		replica_refuse(state, "the other node has this node's name");
		return;
	}
	switch (state->verdict) {
	case REPLICA_IN_SYNC:
		/* Two that go by the rules never meet like that. */
		if (peer->role == REPLICA_PRIMARY && state->role == REPLICA_PRIMARY)
			replica_refuse(state, "both nodes are primary, of the same data");
		else
			be_equal(state);
		return;
	case REPLICA_SOURCE:
	case REPLICA_SOURCE_FULL:
		if (peer->role == REPLICA_PRIMARY)
			replica_refuse(state, "the other node is primary, and this one has newer data");
		else if (peer->size != state->options.size)
			replica_grow_to_meet(state);
		else
			merge(state);
		return;
	case REPLICA_TARGET:
	case REPLICA_TARGET_FULL:
		if (state->role == REPLICA_PRIMARY)
			replica_refuse(state, "this node is primary, and the other has newer data");
		else if (peer->size != state->options.size)
			replica_grow_to_meet(state);
		else
			send_map(state);
		return;
	default:
		disagree(state);
	}
}

void replica_serve(struct replica_state *state)
{
	state->role = REPLICA_PRIMARY;
	state->discards = false;
	state->lease = REPLICA_LEASE_NONE;
	state->taking = state->lease_ended = false;
	if (state->asked)
		replica_say(state, REPLICA_TAKEN);
	state->asked = false;
	if (state->flow == REPLICA_EQUAL)
		replica_act(state, REPLICA_DO_COPY);
	else if (state->flow == REPLICA_APART)
		replica_release(state);
	replica_act(state, REPLICA_DO_SERVE);
	replica_answer(state, 0, NULL);
}

/* What the other says */

static void hear_promote(struct replica_state *state, const struct replica_message *message)
{
	bool mine =
	    state->role == REPLICA_PRIMARY || (state->asked && state->options.name > state->peer.name);

	if (replica_yield(state))
		return;
	if (mine || (state->flow != REPLICA_EQUAL && state->flow != REPLICA_RECEIVING)) {
		replica_say(state, REPLICA_DENIED);
		return;
	}
	if (state->ids.sender) {
		/* With two senders nobody could say later who wrote. */
		replica_hear_later(state, message);
		replica_settle(state);
		return;
	}
	state->next = state->ids;
	state->next.follows = !PLANTED(PLANTED_NO_FOLLOWS);
	replica_record(state, REPLICA_THEN_PROMOTED);
}

static void hear_promoted(struct replica_state *state)
{
	state->peer.role = REPLICA_SECONDARY;
	if (state->ids.sender || PLANTED(PLANTED_EARLY_SERVE)) {
		replica_serve(state);
		return;
	}
	state->next = state->ids;
	replica_ids_send(&state->next, &state->peer.ids);
	replica_record(state, REPLICA_THEN_SERVE);
}

static void hear_denied(struct replica_state *state)
{
	state->asked = false;
	replica_lease_end(state);
	if (state->promoting)
		replica_answer(state, -EBUSY, "the other node is primary, or about to be");
}

static void hear_demoted(struct replica_state *state)
{
	state->peer.role = REPLICA_SECONDARY;
	if (!state->asked)
		replica_lease_end(state);
	state->next.follows = false;
	replica_record(state, state->flow == REPLICA_DISKLESS ? REPLICA_THEN_PARTED : REPLICA_THEN_NOTHING);
}

static void hear_hello(struct replica_state *state, const struct replica_message *message)
{
	state->peer = *message;
	state->heard = true;
	state->fenced = false;
	if (message->role == REPLICA_PRIMARY && !state->ids.follows && state->role == REPLICA_SECONDARY) {
		/* Also after a crash this node is not to write beside it. */
		state->next.follows = !PLANTED(PLANTED_NO_FOLLOWS);
		replica_record(state, REPLICA_THEN_MEET);
	} else {
		replica_meet(state);
	}
}

static void hear_follow(struct replica_state *state, const struct replica_message *message)
{
	replica_ids_follow(&state->next, &message->ids);
	state->next.follows = state->peer.role == REPLICA_PRIMARY;
	replica_record(state, REPLICA_THEN_EMPTY);
}

static void hear_followed(struct replica_state *state)
{
	state->peer.ids.current = state->ids.current;
	state->peer.ids.inconsistent = true;
	replica_ids_followed(&state->next);
	replica_record(state, REPLICA_THEN_COPY);
}

static void hear_outdated(struct replica_state *state)
{
	state->left = state->leaving;
	if (state->leaving)
		replica_act(state, REPLICA_DO_DROP);
}

static void hear_taken(struct replica_state *state)
{
	if (state->handing)
		replica_answer(state, 0, NULL);
}

void replica_hear(struct replica_state *state, const struct replica_message *message)
{
	state->next = state->ids;
	switch (message->say) {
	case REPLICA_HELLO:
		hear_hello(state, message);
		break;
	case REPLICA_FOLLOW:
		hear_follow(state, message);
		break;
	case REPLICA_FOLLOWED:
		hear_followed(state);
		break;
	case REPLICA_ARRIVED:
		replica_ids_arrived(&state->next);
		replica_record(state, REPLICA_THEN_GOOD);
		break;
	case REPLICA_GOOD:
		be_equal(state);
		break;
	case REPLICA_PROMOTE:
		hear_promote(state, message);
		break;
	case REPLICA_PROMOTED:
		hear_promoted(state);
		break;
	case REPLICA_DENIED:
		hear_denied(state);
		break;
	case REPLICA_DEMOTED:
		hear_demoted(state);
		break;
	case REPLICA_AHEAD:
		state->next.outdated = !PLANTED(PLANTED_NO_OUTDATED);
		replica_record(state, REPLICA_THEN_OUTDATED);
		break;
	case REPLICA_OUTDATED:
		hear_outdated(state);
		break;
	case REPLICA_LEASE:
		replica_hear_lease(state, message);
		break;
	case REPLICA_LEASED:
		state->opened = state->lease == REPLICA_LEASE_GIVEN;
		break;
	case REPLICA_TAKEN:
		hear_taken(state);
		break;
	case REPLICA_ENLARGE:
		replica_hear_enlarge(state, message);
		break;
	case REPLICA_ENLARGED:
	case REPLICA_CANNOT:
		replica_hear_enlarged(state, message);
		break;
	default:
		replica_hear_detach(state, message);
		break;
	}
}

static bool is_behind_primary(const struct replica_state *state)
{
	return state->role == REPLICA_SECONDARY && state->peer.role == REPLICA_PRIMARY;
}

/* What this node knows of the other is to change: it gives its data up, or becomes as large. */
static bool is_to_greet_again(const struct replica_state *state)
{
	bool settled = state->verdict == REPLICA_SOURCE || state->verdict == REPLICA_SOURCE_FULL ||
	               state->verdict == REPLICA_TARGET || state->verdict == REPLICA_TARGET_FULL;

	return settled ? state->peer.size < state->options.size : state->peer.discards;
}

/* Whether it may be said now. A node that says anything else is broken, or not of this release. */
bool replica_is_due(const struct replica_state *state, enum replica_say what)
{
	bool target = state->verdict == REPLICA_TARGET || state->verdict == REPLICA_TARGET_FULL;

	if (!state->heard)
		return what == REPLICA_HELLO;
	switch (what) {
	case REPLICA_HELLO:
		return state->flow == REPLICA_MEETING && is_to_greet_again(state);
	case REPLICA_FOLLOW:
		return state->flow == REPLICA_MEETING && target && state->role == REPLICA_SECONDARY;
	case REPLICA_FOLLOWED:
		return state->flow == REPLICA_MEETING && state->follow_said;
	case REPLICA_ARRIVED:
		return state->flow == REPLICA_RECEIVING && state->ids.inconsistent;
	case REPLICA_GOOD:
		return state->flow == REPLICA_SENDING && state->arrived_said;
	case REPLICA_DEMOTED:
	case REPLICA_AHEAD:
		return state->role == REPLICA_SECONDARY;
	case REPLICA_PROMOTE:
		return !state->yielding;
	case REPLICA_PROMOTED:
	case REPLICA_DENIED:
		return state->asked;
	case REPLICA_LEASE:
	case REPLICA_DETACH:
		return state->flow == REPLICA_EQUAL && is_behind_primary(state);
	case REPLICA_DETACHED:
		return state->detaching && state->detach_name && state->flow == REPLICA_EQUAL;
	case REPLICA_ENLARGE:
		return state->flow == REPLICA_EQUAL || state->flow == REPLICA_DISKLESS;
	case REPLICA_ENLARGED:
	case REPLICA_CANNOT:
		return state->growth == REPLICA_GROWTH_ASKED;
	case REPLICA_DIFFERS:
		return state->flow == REPLICA_EQUAL;
	case REPLICA_TAKEN:
		return is_behind_primary(state);
	default:
		return true;
	}
}
