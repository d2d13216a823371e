/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The machine: see replica_state.h. While a record is being written nothing else is decided: what the other node says meanwhile waits
 * in `later`. A link that is lost is the exception; what is recorded then holds, but its purpose is gone.
 */
#include "replica/replica_private.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>

static const char *const flow_names[REPLICA_FLOWS + 1] = {
    "apart", "meeting", "refused", "sending", "receiving", "equal", "diskless", "differing"};

static const char *const say_names[REPLICA_SAYS] = {"HELLO", "FOLLOW", "FOLLOWED", "ARRIVED", "GOOD",
    "PROMOTE", "PROMOTED", "DENIED", "DEMOTED", "AHEAD", "OUTDATED", "LEASE", "LEASED", "TAKEN", "ENLARGE",
    "ENLARGED", "CANNOT", "DIFFERS", "DETACH", "DETACHED"};

const char *replica_role_name(enum replica_role role)
{
	return role == REPLICA_PRIMARY ? "primary" : "secondary";
}

const char *replica_flow_name(enum replica_flow flow)
{
	return flow_names[flow];
}

const char *replica_say_name(enum replica_say say)
{
	return say_names[say];
}

void replica_act(struct replica_state *state, enum replica_action_kind kind)
{
	const struct replica_action action = {.kind = kind};

	state->copying |= kind == REPLICA_DO_COPY;
	state->receiving |= kind == REPLICA_DO_RECEIVE;
	state->options.act(state->options.data, &action);
}

void replica_say(struct replica_state *state, enum replica_say what)
{
	const struct replica_action action = {.kind = REPLICA_DO_SAY,
	    .message = {.say = what,
	        .ids = state->ids,
	        .role = state->role,
	        .size = what == REPLICA_ENLARGE ? state->grow_to : state->options.size,
	        .region_size = state->options.region_size,
	        .name = what == REPLICA_DETACH ? state->detach_name : state->options.name,
	        .discards = state->discards,
	        .lease_ms = state->lease_ms}};

	state->options.act(state->options.data, &action);
}

void replica_answer(struct replica_state *state, int res, const char *text)
{
	const struct replica_action action = {.kind = REPLICA_DO_ANSWER, .res = res, .text = text};

	if (!state->command)
		return;
	state->command = state->promoting = state->demoting = state->handing = false;
	state->options.act(state->options.data, &action);
}

/* `state->next` is what is to be recorded. */
void replica_record(struct replica_state *state, enum replica_then then)
{
	const struct replica_action action = {
	    .kind = REPLICA_DO_RECORD, .ids = state->next, .lapses = then == REPLICA_THEN_EMPTY};

	assert(!state->recording);
	state->recording = true;
	state->then = then;
	state->options.act(state->options.data, &action);
}

void replica_settle(struct replica_state *state)
{
	if (state->settling)
		return;
	state->settling = true;
	replica_act(state, REPLICA_DO_SETTLE);
}

void replica_settle_last(struct replica_state *state)
{
	state->again = state->settling;
	replica_settle(state);
}

void replica_release(struct replica_state *state)
{
	if (state->withheld)
		replica_act(state, REPLICA_DO_RELEASE);
	state->withheld = state->frozen = false;
}

/* A primary without the other node: its data are from now on another generation. */
static void part(struct replica_state *state)
{
	state->frozen = false;
	state->next = state->ids;
	replica_ids_part(&state->next, state->fresh);
	replica_detach_note(state);
	replica_record(state, REPLICA_THEN_RELEASE);
}

/* What a primary owes when it has lost the other node. */
static void look_at_loss(struct replica_state *state)
{
	if (state->linked || state->role != REPLICA_PRIMARY || state->recording)
		return;
	if (!state->ids.sender) {
		replica_release(state);
	} else if (state->withheld && state->options.gone == REPLICA_GONE_FREEZE && !state->fenced &&
	           !state->left) {
		if (!state->frozen)
			replica_act(state, REPLICA_DO_FENCE);
		state->frozen = true;
	} else {
		part(state);
	}
}

void replica_refuse(struct replica_state *state, const char *why)
{
	state->refusal = why;
	state->flow = REPLICA_REFUSED;
	state->wanted = false;
	replica_act(state, REPLICA_DO_DROP);
}

/* Records that are done */

static void copy(struct replica_state *state)
{
	state->follow_said = false;
	state->detach_name = 0;
	/* The other is good for nothing until all has come: what it lacks need not wait. */
	replica_release(state);
	state->flow = REPLICA_SENDING;
	state->arrived_said = false;
	replica_act(state, REPLICA_DO_COPY);
}

static void go_on(struct replica_state *state)
{
	switch (state->then) {
	case REPLICA_THEN_HELLO:
		replica_say(state, REPLICA_HELLO);
		replica_meet(state);
		break;
	case REPLICA_THEN_MEET:
		replica_meet(state);
		break;
	case REPLICA_THEN_FOLLOW:
		state->follow_said = true;
		replica_say(state, REPLICA_FOLLOW);
		break;
	case REPLICA_THEN_COPY:
		copy(state);
		break;
	case REPLICA_THEN_EMPTY:
		replica_act(state, REPLICA_DO_EMPTY);
		break;
	case REPLICA_THEN_GOOD:
		state->flow = REPLICA_EQUAL;
		replica_say(state, REPLICA_GOOD);
		break;
	case REPLICA_THEN_RELEASE:
		replica_release(state);
		break;
	case REPLICA_THEN_SERVE:
		replica_serve(state);
		break;
	case REPLICA_THEN_PROMOTED:
		state->peer.role = REPLICA_PRIMARY;
		replica_act(state, REPLICA_DO_RECEIVE);
		replica_say(state, REPLICA_PROMOTED);
		break;
	case REPLICA_THEN_DEMOTED:
		state->role = REPLICA_SECONDARY;
		replica_say(state, REPLICA_DEMOTED);
		replica_answer(state, 0, NULL);
		break;
	case REPLICA_THEN_OUTDATED:
		replica_say(state, REPLICA_OUTDATED);
		break;
	case REPLICA_THEN_YIELDED:
		replica_yielded(state);
		break;
	case REPLICA_THEN_CEDED:
		replica_ceded(state);
		break;
	case REPLICA_THEN_GROW:
		replica_grow(state);
		break;
	case REPLICA_THEN_VERIFY:
		replica_act(state, REPLICA_DO_VERIFY);
		break;
	default:
		replica_detach_recorded(state);
		break;
	}
}

static void greet(struct replica_state *state)
{
	bool grows = state->growing || state->growth == REPLICA_GROWTH_SECOND;

	if (!state->linked || state->greeted || state->recording || grows)
		return;
	state->greeted = true;
	state->offered = state->discards;
	if (state->unsure || state->detach_name) {
		/* What the other hears is to hold after a crash, too. */
		state->next = state->ids;
		replica_detach_note(state);
		replica_record(state, REPLICA_THEN_HELLO);
		return;
	}
	replica_say(state, REPLICA_HELLO);
	replica_meet(state);
}

void replica_hear_later(struct replica_state *state, const struct replica_message *message)
{
	if (state->later_count == REPLICA_LATER)
		replica_refuse(state, "the other node says too much at once");
	else
		state->later[state->later_count++] = *message;
}

static void heard(struct replica_state *state, const struct replica_message *message)
{
	if (!state->linked || state->flow == REPLICA_REFUSED)
		return;
	/* It decides nothing, so it needs not wait; and there may be many. */
	if (message->say == REPLICA_DIFFERS && replica_is_due(state, message->say)) {
		state->differing = message->size;
	} else if (state->recording || state->growing || !state->greeted) {
		replica_hear_later(state, message);
	} else if (!replica_is_due(state, message->say)) {
		replica_refuse(state, "the other node says what is not its turn to say");
	} else {
		replica_hear(state, message);
	}
}

static void hear_later(struct replica_state *state)
{
	unsigned count = state->later_count;
	struct replica_message later[REPLICA_LATER];

	for (unsigned i = 0; i < count; i++)
		later[i] = state->later[i];
	state->later_count = 0;
	for (unsigned i = 0; i < count; i++)
		heard(state, &later[i]);
}

/* Nothing is under way to the other, and nothing is in the map. */
static void rest(struct replica_state *state)
{
	if (!state->settled || state->recording)
		return;
	state->settled = false;
	if (state->role == REPLICA_PRIMARY && !state->demoting && !state->yielding)
		return;
	if (state->flow == REPLICA_DISKLESS) {
		replica_diskless_rest(state);
		return;
	}
	state->next = state->ids;
	replica_ids_rest(&state->next);
	state->next.follows |= state->yielding;
	replica_record(state, state->demoting   ? REPLICA_THEN_DEMOTED
	                      : state->yielding ? REPLICA_THEN_YIELDED
	                                        : REPLICA_THEN_NOTHING);
}

/* With what had to wait for a record, or for the volume. */
static void catch_up(struct replica_state *state)
{
	greet(state);
	hear_later(state);
}

/* Nobody knows which of the two is recorded: nothing may follow from either. */
static void cannot_record(struct replica_state *state, int res)
{
	replica_refuse(state, res == -ECANCELED ? "this node's hook before a resync has failed"
	                                        : "the state of this node cannot be recorded");
	/* Its clients are gone, or read only. */
	if (state->demoting || state->yielding)
		state->role = REPLICA_SECONDARY;
	state->yielding = false;
	/* Of what may be the past by now, and the time of a lease may be over already. */
	if (state->role == REPLICA_SECONDARY)
		replica_lease_end(state);
	state->unsure |= res != -ECANCELED;
	/* Else GROWN would have ended it. */
	if (state->then == REPLICA_THEN_GROW) {
		state->growing = false;
		state->growth = REPLICA_GROWTH_NONE;
	}
	replica_answer(state, res, state->refusal);
}

static void recorded(struct replica_state *state, int res)
{
	assert(state->recording);
	state->recording = false;
	if (res == -ESTALE) {
		look_at_loss(state);
		catch_up(state);
		return;
	}
	if (res < 0 && state->then != REPLICA_THEN_DIVERT) {
		cannot_record(state, res);
		return;
	}
	state->unsure = res < 0;
	state->ids = state->next;
	replica_detach_noted(state);
	go_on(state);
	if (!state->recording)
		look_at_loss(state);
	rest(state);
	catch_up(state);
}

/* Links */

static void lost(struct replica_state *state)
{
	replica_diskless_lost(state);
	if (state->copying || state->receiving)
		replica_act(state, REPLICA_DO_STOP);
	state->withheld |= state->copying;
	replica_detach_lost(state);
	/* What is being recorded holds, but its reason is gone; but for those that need no other node. */
	replica_lease_lost(state);
	replica_grow_lost(state);
	state->copying = state->receiving = false;
	state->linked = state->greeted = state->heard = state->settling = state->settled = state->leaving =
	    state->follow_said = state->map_sent = state->again = false;
	state->later_count = 0;
	state->differing = 0;
	state->flow = REPLICA_APART;
	if (state->demoting) {
		state->role = REPLICA_SECONDARY;
		replica_answer(state, 0, NULL);
	} else if (state->promoting) {
		replica_answer(state, -ENOTCONN, "the other node was lost meanwhile; try again");
	}
	look_at_loss(state);
	if (state->wanted)
		replica_act(state, REPLICA_DO_SEEK);
}

/* Events */

static void merged(struct replica_state *state, int res)
{
	if (res < 0) {
		replica_refuse(state, "the map of this node cannot be written");
	} else if (state->flow == REPLICA_MEETING && !state->recording) {
		state->next = state->ids;
		replica_ids_send(&state->next, &state->peer.ids);
		replica_record(state, REPLICA_THEN_FOLLOW);
	}
}

static void emptied(struct replica_state *state, int res)
{
	if (res < 0) {
		replica_refuse(state, "the map of this node cannot be written");
	} else if (state->flow == REPLICA_MEETING) {
		state->flow = REPLICA_RECEIVING;
		replica_act(state, REPLICA_DO_RECEIVE);
		replica_say(state, REPLICA_FOLLOWED);
	}
}

static void copied(struct replica_state *state)
{
	if (state->flow != REPLICA_SENDING || state->arrived_said)
		return;
	state->arrived_said = true;
	replica_say(state, REPLICA_ARRIVED);
}

static void settled(struct replica_state *state, int res)
{
	if (!state->settling)
		return;
	state->settling = false;
	if (replica_detach_settled(state, res))
		return;
	if (state->again) {
		replica_settle_last(state);
		return;
	}
	state->settled = res == 0;
	if (res < 0)
		replica_act(state, REPLICA_DO_DROP);
	rest(state);
	/* Where nothing is recorded, because this node has become primary meanwhile, what had to wait is heard now. */
	if (!state->recording)
		catch_up(state);
}

static void linked(struct replica_state *state)
{
	state->linked = true;
	state->frozen = state->left = false;
	state->refusal = NULL;
	state->flow = REPLICA_MEETING;
	if (state->wanted)
		greet(state);
	else
		replica_act(state, REPLICA_DO_DROP);
}

void replica_state_init(
    struct replica_state *state, const struct replica_options *options, const struct replica_ids *ids)
{
	*state = (struct replica_state){.options = *options, .ids = *ids};
}

static int event_of(struct replica_state *state, const struct replica_event *event)
{
	switch (event->kind) {
	case REPLICA_LINK:
		linked(state);
		return 0;
	case REPLICA_LOST:
		lost(state);
		return 0;
	case REPLICA_HEARD:
		heard(state, event->message);
		return 0;
	case REPLICA_FENCED:
		state->fenced = !state->linked;
		look_at_loss(state);
		return 0;
	case REPLICA_RECORDED:
		recorded(state, event->res);
		return 0;
	case REPLICA_MERGED:
		merged(state, event->res);
		return 0;
	case REPLICA_EMPTIED:
		emptied(state, event->res);
		return 0;
	case REPLICA_COPIED:
		copied(state);
		return 0;
	case REPLICA_SETTLED:
		settled(state, event->res);
		return 0;
	case REPLICA_GROWN:
		replica_grown(state, event->size, event->res);
		catch_up(state);
		return 0;
	case REPLICA_TAKE:
		replica_take(state);
		return 0;
	case REPLICA_LEASE_ENDED:
		replica_lease_ended(state);
		return 0;
	case REPLICA_VERIFY:
		return replica_verify(state);
	case REPLICA_EVEN:
		replica_even(state);
		return 0;
	case REPLICA_DISK_FAILED:
		replica_disk_failed(state);
		return 0;
	default:
		return replica_command(state, event);
	}
}

int replica_state_event(struct replica_state *state, const struct replica_event *event)
{
	int res;

	state->fresh = event->fresh;
	res = event_of(state, event);
	replica_grow_second(state);
	replica_take_over(state);
	return res;
}
