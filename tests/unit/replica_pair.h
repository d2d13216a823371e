/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two machines of replica_state.h, and a model of all that is around them: what carries out their actions, links that break and are noticed
 * late, nodes that crash while they record, clients that write.
 */
#pragma once

#include "replica_pair_model.h"

/* What was written */

static void check_loses_nothing(struct pair *pair, const struct node *source, const struct node *target)
{
	int region = find_lost(pair->values, source->data, target->data, MOST);

	if (region >= 0)
		model_fail(pair, "region %d of node %u: what was acknowledged is to be overwritten", region,
		    target->which);
}

/* What the machine is told, and what it wants */

static int tell(struct node *node, struct replica_event event)
{
	event.fresh = ++node->pair->drawn;
	node->was_primary = node->state.role == REPLICA_PRIMARY;
	return replica_state_event(&node->state, &event);
}

static void break_link(struct pair *pair)
{
	if (pair->link)
		pair->broken_step = pair->steps;
	pair->link = false;
	for (unsigned i = 0; i < 2; i++)
		pair->nodes[i].coming = false;
}

static void say(struct node *node, const struct replica_message *message)
{
	struct node *peer = peer_of(node);

	if (message->say == REPLICA_LEASE && message->lease_ms && !node->durable)
		model_fail(node->pair, "what clients flush is not on the other side yet");
	if (message->say == REPLICA_PROMOTE && !node->held && !node->told && !node->state.promoting)
		model_fail(node->pair, "node %u wants to be primary, and nobody asked it to", node->which);
	if (message->say == REPLICA_HELLO)
		node->met = node->regions;
	if (!node->pair->link || (!peer->up && !peer->coming))
		return;
	if (peer->inbox_count == QUEUE)
		model_fail(node->pair, "too many messages");
	peer->inbox[peer->inbox_count++] = *message;
}

/* Some pairs' maps do not fit. */
static uint32_t region_size(const struct node *node)
{
	return 4096u << (node->which && node->pair->seed % 7 == 0);
}

static bool maps_fit(const struct pair *pair)
{
	return region_size(&pair->nodes[0]) == region_size(&pair->nodes[1]);
}

static void send_map(struct node *node)
{
	struct node *peer = peer_of(node);

	if (node->map_sent || node->state.verdict != REPLICA_TARGET || !maps_fit(node->pair))
		model_fail(node->pair, "a map is sent that nobody waits for");
	node->map_sent = true;
	if (!node->pair->link || (!peer->up && !peer->coming))
		return;
	if (node->regions != peer->regions)
		model_fail(node->pair, "a map is sent of a volume that has another size");
	peer->peer_map = node->map;
	peer->map_came = true;
}

static void stop(struct node *node)
{
	node->withholding = node->copying;
	node->copying = node->receiving = node->sends = node->verifying = false;
	node->marks = 0;
	node->dirty = node->map;
	node->in_use = node->regions;
}

static void release(struct node *node)
{
	for (unsigned i = 0; i < node->waiting_count; i++)
		node->pair->values[node->waiting[i]].acknowledged = true;
	node->waiting_count = 0;
	node->withholding = false;
}

static void serve(struct node *node)
{
	struct node *peer = peer_of(node);
	struct pair *pair = node->pair;
	bool linked = node->state.flow == REPLICA_EQUAL || node->state.flow == REPLICA_SENDING;
	bool alone = !linked && !node->was_primary;

	if (peer->serving && !peer->by_force && !alone)
		model_fail(pair, "both nodes may write");
	if (alone && peer->serving && peer->served_step < node->knew_step && !node->forced)
		model_fail(pair, "node %u was promoted beside a primary that it knew of", node->which);
	if (!alone && node->held && node->stale)
		model_fail(pair, "clients of node %u have read what is past", node->which);
	peer->stale |= !node->was_primary || node->yielded;
	node->serving = node->open = true;
	pair->retaken += node->held && node->linked_anew;
	node->half_open = node->held = node->durable = node->yielded = false;
	if (node->was_primary)
		return;
	node->by_force = alone && node->forced;
	node->served_step = pair->steps;
	pair->served++;
}

/* None may write; `shut`: nor is there any. Whoever waits for an answer then goes without. */
static void refuse_writes(struct node *node, bool shut)
{
	node->yielded = node->state.yielding;
	node->serving = node->durable = false;
	if (!shut)
		return;
	node->keeping = node->diverted = false;
	node->open = node->half_open = node->held = false;
	node->waiting_count = 0;
}

static void lease(struct node *node)
{
	if (node->open && !node->serving && !node->half_open)
		model_fail(node->pair, "clients of a primary that was are taken for those of the next");
	node->timer = node->open = true;
	if (node->state.role == REPLICA_PRIMARY)
		node->durable = true;
	else
		node->half_open = true;
	if (node->serving != (node->state.role == REPLICA_PRIMARY))
		model_fail(node->pair, "a lease of node %u, which %s", node->which,
		    node->serving ? "serves" : "does not serve");
}

static void settle(struct node *node)
{
	if (node->settling)
		model_fail(node->pair, "to be settled twice");
	if (node->serving && (node->state.yielding || node->state.demoting))
		model_fail(node->pair, "to be settled for good, and clients may write");
	node->settling = true;
	node->verifying = false;
	node->settle_step = node->pair->steps;
}

static void answered(struct node *node, int res)
{
	const struct node *peer = peer_of(node);
	struct pair *pair = node->pair;

	if (!node->handing)
		return;
	node->handing = false;
	if (res == 0 && peer->served_step < node->asked_step)
		model_fail(pair, "handed over, and nobody has taken it");
	if (res == -ETIMEDOUT && !node->serving)
		model_fail(pair, "not handed over, and not served");
	pair->handed[node->state.lease_ms > 0] += res == 0;
	pair->timed_out += res == -ETIMEDOUT;
	pair->cut_off += res == -ENOTCONN;
}

static void look_at_meeting(struct pair *pair, const struct replica_state *state)
{
	pair->verdicts[state->verdict]++;
	if (state->relation == REPLICA_SAME_BOTH_SENT)
		model_fail(pair, "both were senders");
	if (!pair->detached &&
	    (state->relation == REPLICA_SELF_FAR_AHEAD || state->relation == REPLICA_PEER_FAR_AHEAD))
		model_fail(pair, "the maps do not go back as far as the other node's data");
}

static void grow(struct node *node, const struct replica_action *action)
{
	uint64_t size = action->size;

	if (node->growing || size <= node->regions * UINT64_C(1000))
		model_fail(node->pair, "to grow twice, or to what it has");
	if (node->settling && node->state.role == REPLICA_SECONDARY)
		model_fail(node->pair, "to grow, and to be settled, which then never ends");
	if (node->serving && node->copying)
		model_fail(node->pair, "to grow, and the clients write to both");
	node->growing = true;
	node->grow_to = (unsigned)(size / 1000);
	if (!action->all && node->grow_to > node->device && node->device > node->regions)
		node->grow_to = node->device;
}

/* What is new is this node's alone, whatever it is. */
static bool enlarge(struct node *node)
{
	unsigned old = all_of(node);

	node->growing = false;
	if (node->grow_to > node->device)
		return false;
	if (!node->ids.grown)
		model_fail(node->pair, "node %u has grown, and nobody will know", node->which);
	node->regions = node->grow_to;
	node->map |= all_of(node) & ~old;
	node->dirty |= all_of(node) & ~old;
	if (!node->copying)
		node->in_use = node->regions;
	return true;
}

static void drop(struct node *node)
{
	if (node->state.refusal && strstr(node->state.refusal, "not its turn"))
		model_fail(node->pair, "node %u is said what it was not to be said", node->which);
	node->planned = node->state.growth == REPLICA_GROWTH_LEAVING;
	node->seeking = false;
	break_link(node->pair);
	node->pair->refused += node->state.refusal != NULL;
}

static void record(struct node *node, const struct replica_action *action)
{
	check_rest(node, &action->ids);
	check_part(node, &action->ids);
	node->recording = true;
	node->lapses = action->lapses;
	node->next = action->ids;
}

static void receive(struct node *node)
{
	node->receiving = true;
	node->sends = node->verifying = false;
}

/* From now on what clients are told is written is on the other node alone. */
static void divert(struct node *node)
{
	if (!node->keeping)
		model_fail(node->pair, "clients are sent elsewhere, and the disk has not failed");
	node->keeping = false;
	node->diverted = true;
	node->pair->diverted++;
}

static void act_detach(struct node *node, enum replica_action_kind kind)
{
	if (kind == REPLICA_DO_DIVERT) {
		divert(node);
	} else if (kind == REPLICA_DO_RETURN) {
		node->pair->returned += node->keeping;
		node->keeping = node->diverted = false;
	} else if (kind == REPLICA_DO_BEAR) {
		node->pair->borne++;
	}
}

static void merge(struct node *node, const struct replica_action *action)
{
	if (action->all != (node->state.verdict == REPLICA_SOURCE_FULL || !maps_fit(node->pair)))
		model_fail(
		    node->pair, "%s is to be sent, for no reason", action->all ? "all" : "what no map knows");
	node->merging = true;
	node->merge_all = action->all;
}

static void act(void *data, const struct replica_action *action)
{
	struct node *node = data;

	switch (action->kind) {
	case REPLICA_DO_SAY:
		say(node, &action->message);
		break;
	case REPLICA_DO_RECORD:
		record(node, action);
		break;
	case REPLICA_DO_SEND_MAP:
		send_map(node);
		break;
	case REPLICA_DO_MERGE:
		merge(node, action);
		break;
	case REPLICA_DO_EMPTY:
		if (node->ids.foreign)
			model_fail(
			    node->pair, "node %u is to be overwritten, and nobody has said so", node->which);
		node->map = node->dirty = 0;
		node->emptying = true;
		break;
	case REPLICA_DO_COPY:
		node->copying = node->sends = true;
		node->in_use = node->regions;
		break;
	case REPLICA_DO_RECEIVE:
		receive(node);
		break;
	case REPLICA_DO_VERIFY:
		node->verifying = node->sends;
		break;
	case REPLICA_DO_STOP:
		stop(node);
		break;
	case REPLICA_DO_RELEASE:
		release(node);
		break;
	case REPLICA_DO_SERVE:
		serve(node);
		break;
	case REPLICA_DO_CLOSE:
		refuse_writes(node, true);
		break;
	case REPLICA_DO_YIELD:
		refuse_writes(node, false);
		break;
	case REPLICA_DO_LEASE:
		lease(node);
		break;
	case REPLICA_DO_SETTLE:
		settle(node);
		break;
	case REPLICA_DO_ANSWER:
		answered(node, action->res);
		break;
	case REPLICA_DO_DROP:
		drop(node);
		break;
	case REPLICA_DO_SEEK:
		node->seeking = true;
		break;
	case REPLICA_DO_GROW:
		grow(node, action);
		break;
	case REPLICA_DO_FENCE:
		if (node->left || node->planned)
			model_fail(node->pair, "to be fenced, and it knows that this node goes on alone");
		node->fencing = true;
		break;
	default:
		act_detach(node, action->kind);
	}
}

static void start(struct node *node)
{
	const struct replica_options options = {.name = node->which + 1,
	    .size = node->regions * UINT64_C(1000),
	    .region_size = region_size(node),
	    .gone = node->pair->seed % 3 ? REPLICA_GONE_CONTINUE : REPLICA_GONE_FREEZE,
	    .act = act,
	    .data = node};
	const struct node old = *node;

	*node = (struct node){.pair = old.pair,
	    .which = old.which,
	    .ids = old.ids,
	    .map = old.map,
	    .dirty = old.map,
	    .regions = old.regions,
	    .in_use = old.regions,
	    .device = old.device,
	    .linked_step = old.linked_step,
	    .served_step = old.served_step};
	memcpy(node->data, old.data, sizeof(node->data));
	replica_state_init(&node->state, &options, &node->ids);
}

static void take_over(struct node *node)
{
	node->pair->kept += node->ids.foreign && node->next.current;
	node->pair->given_up += node->ids.foreign && node->next.inconsistent;
	/* What it goes on with by itself, once somebody wanted that, is no other's. */
	node->knew_step = node->linked_step;
	if (node->ids.current != node->next.current)
		node->linked_step = 0;
	node->ids = node->next;
}

/* It may have been recorded all the same. */
static void crash(struct node *node)
{
	if (node->recording && chance(&node->pair->rand, 2))
		take_over(node);
	if (node->growing && chance(&node->pair->rand, 2))
		enlarge(node);
	if (node->state.role == REPLICA_SECONDARY &&
	    (node->state.flow == REPLICA_RECEIVING || node->state.flow == REPLICA_EQUAL))
		node->linked_step = node->pair->steps;
	break_link(node->pair);
	start(node);
	if (!chance(&node->pair->rand, 4))
		tell(node, (struct replica_event){.kind = REPLICA_CONNECT});
}

/* Clients */

/* Of a node whose disk has failed, or fails: then nobody is told. */
static void write_there(struct node *node, unsigned region, bool told)
{
	struct pair *pair = node->pair;
	struct node *peer = peer_of(node);
	unsigned value = pair->values_count;

	if (!pair->link || !peer->receiving)
		return;
	if (told && peer->ids.current == node->state.ids.history[0])
		model_fail(
		    pair, "written to node %u, which has not recorded that it alone has it", peer->which);
	pair->values[value] = (struct value){.parent = peer->data[region], .acknowledged = told};
	pair->values_count++;
	peer->data[region] = value;
}

/* Nothing follows from it that a write has come to one of them only. */
static void fail_disk(struct node *node)
{
	struct pair *pair = node->pair;
	unsigned region = (unsigned)rand_below(&pair->rand, node->in_use);

	if (node->dirty || !node->serving || pair->values_count == VALUES ||
	    !replica_state_can_detach(&node->state))
		return;
	node->keeping = pair->detached = true;
	node->map |= 1u << region;
	if (chance(&pair->rand, 2))
		write_there(node, region, false);
	tell(node, (struct replica_event){.kind = REPLICA_DISK_FAILED});
}

static void write_region(struct node *node)
{
	struct pair *pair = node->pair;
	struct node *peer = peer_of(node);
	unsigned region = (unsigned)rand_below(&pair->rand, node->in_use), bit = 1u << region, value;
	bool behind = node->dirty & ~node->marks & bit;

	if (node->half_open) {
		node->stale &= node->held;
		node->linked_anew &= node->held;
		node->held = true;
		tell(node, (struct replica_event){.kind = REPLICA_TAKE});
		return;
	}
	if (!node->serving || pair->values_count == VALUES || node->keeping)
		return;
	if (node->diverted) {
		write_there(node, region, true);
		return;
	}
	node->wrote_step = pair->steps;
	peer->stale |= !pair->link;
	value = pair->values_count++;
	pair->values[value] = (struct value){.parent = node->data[region]};
	node->map |= bit;
	if (!node->copying) {
		node->dirty |= bit;
		node->data[region] = value;
		if (node->withholding)
			node->waiting[node->waiting_count++] = value;
		else
			pair->values[value].acknowledged = true;
		return;
	}
	/* Either node may be the first to have it. */
	if (!behind && pair->link && peer->receiving && chance(&pair->rand, 2)) {
		peer->data[region] = value;
		if (!pair->calm && chance(&pair->rand, 30)) {
			crash(node);
			return;
		}
	}
	node->data[region] = value;
	if (behind) {
		pair->values[value].acknowledged = true;
	} else if (pair->link && peer->receiving) {
		peer->data[region] = value;
		pair->values[value].acknowledged = true;
	} else {
		node->waiting[node->waiting_count++] = value;
	}
}

static void copy_region(struct node *node)
{
	struct node *peer = peer_of(node);

	if (!node->copying || !node->pair->link || !peer->receiving)
		return;
	/* Kept, until somebody asks for it. */
	if (node->marks && !node->settling && !chance(&node->pair->rand, 30))
		return;
	for (unsigned i = 0; i < node->in_use; i++)
		if (node->dirty & 1u << i) {
			if (i >= peer->regions)
				model_fail(node->pair, "sent beyond the other node's end");
			peer->data[i] = node->data[i];
			node->dirty &= ~(1u << i);
			node->marks &= ~(1u << i);
			node->pair->marked &= ~(1u << i);
			return;
		}
	tell(node, (struct replica_event){.kind = REPLICA_COPIED});
}

/* Who sends compares; what it finds is to be known to whoever judges the two after a crash. */
static void verify_region(struct node *node)
{
	struct pair *pair = node->pair;
	unsigned bit = 1u << rand_below(&pair->rand, node->in_use);

	if (!node->verifying) {
		if (node->sends && node->dirty == 0 && node->state.flow == REPLICA_EQUAL)
			tell(node, (struct replica_event){.kind = REPLICA_EVEN});
	} else if (chance(&pair->rand, 8)) {
		node->verifying = false;
	} else if (chance(&pair->rand, 4)) {
		if (!node->ids.sender)
			model_fail(
			    pair, "node %u marks what differs, and is recorded as no sender", node->which);
		node->map |= bit;
		node->marks |= bit & ~node->dirty;
		node->dirty |= bit;
		pair->marked |= bit;
		pair->marks++;
		pair->marks_alone += node->state.role == REPLICA_SECONDARY;
	}
}

/* Ends of actions */

/* It may hold all the same. The node goes on, or whoever owns it ends it when it knows. */
static void fail_record(struct node *node)
{
	bool yields = node->state.yielding, ends = chance(&node->pair->rand, 2);

	if (chance(&node->pair->rand, 2))
		take_over(node);
	tell(node, (struct replica_event){.kind = REPLICA_RECORDED, .res = -EIO});
	if (!ends)
		return;
	if (node->up)
		tell(node, (struct replica_event){.kind = REPLICA_LOST});
	if (yields && node->serving)
		model_fail(node->pair, "nobody knows whose turn it is, and node %u serves", node->which);
	crash(node);
}

static void end_record(struct node *node)
{
	struct pair *pair = node->pair;
	const struct node *peer = peer_of(node);
	bool gives_up = node->state.then == REPLICA_THEN_DIVERT;
	bool failed = !pair->calm && chance(&pair->rand, gives_up ? 2 : 40);

	node->recording = false;
	/* The user's hook fails, or takes longer than the link lasts. */
	if (node->lapses && (!node->up || (!pair->calm && chance(&pair->rand, 20)))) {
		tell(node,
		    (struct replica_event){.kind = REPLICA_RECORDED, .res = node->up ? -ECANCELED : -ESTALE});
		return;
	}
	if (gives_up)
		check_loses_nothing(pair, peer, node);
	if (gives_up && failed) {
		/* The map is on the disk that fails. */
		if (chance(&pair->rand, 2))
			take_over(node);
		tell(node, (struct replica_event){.kind = REPLICA_RECORDED, .res = -EIO});
		return;
	}
	if (failed) {
		fail_record(node);
		return;
	}
	if (node->next.inconsistent && !node->ids.inconsistent) {
		if (node->next.current == peer->ids.current)
			check_loses_nothing(pair, peer, node);
		else if (!gives_up)
			disown(pair->values, node->data, peer->data, MOST); /* given up by an order */
	}
	if (node->ids.inconsistent && !node->next.inconsistent && node->next.full)
		memset(node->data, 0, sizeof(node->data)); /* made good by force: another line */
	pair->parted += node->next.base[0] && !node->ids.base[0];
	take_over(node);
	tell(node, (struct replica_event){.kind = REPLICA_RECORDED});
}

static void end_growth(struct node *node)
{
	enum replica_growth growth = node->state.growth;
	bool done = enlarge(node);

	node->pair->grown[growth] += done;
	tell(node,
	    (struct replica_event){
	        .kind = REPLICA_GROWN, .size = node->regions * UINT64_C(1000), .res = done ? 0 : -ENOSPC});
}

static void end_actions(struct node *node)
{
	struct pair *pair = node->pair;

	if (node->recording && chance(&pair->rand, 3)) {
		end_record(node);
	} else if (node->merging && (node->merge_all || node->map_came) && chance(&pair->rand, 3)) {
		bool fails = !pair->calm && chance(&pair->rand, 40);

		node->merging = false;
		node->dirty |= node->merge_all ? all_of(node) : node->peer_map;
		node->map |= node->dirty;
		tell(node, (struct replica_event){.kind = REPLICA_MERGED, .res = fails ? -EIO : 0});
	} else if (node->growing && chance(&pair->rand, 3)) {
		end_growth(node);
	} else if (node->emptying) {
		bool fails = !pair->calm && chance(&pair->rand, 40);

		node->emptying = false;
		tell(node, (struct replica_event){.kind = REPLICA_EMPTIED, .res = fails ? -EIO : 0});
	} else if (node->settling && pair->link && node->dirty == 0 && chance(&pair->rand, 3)) {
		if (node->yielded && node->waiting_count > 0)
			model_fail(pair, "settled, and a client waits");
		node->settling = false;
		bool fails = !pair->calm && (node->keeping || node->diverted) && chance(&pair->rand, 10);

		if (!node->keeping && node->state.flow != REPLICA_DISKLESS)
			node->map = 0;
		tell(node, (struct replica_event){.kind = REPLICA_SETTLED, .res = fails ? -EIO : 0});
	} else if (node->fencing && chance(&pair->rand, 20)) {
		node->fencing = false;
		if (pair->calm)
			return;
		crash(peer_of(node));
		node->fenced = !node->up;
		tell(node, (struct replica_event){.kind = REPLICA_FENCED});
	} else if (node->timer ? chance(&pair->rand, 40) : !pair->calm && chance(&pair->rand, 100)) {
		node->timer = false;
		tell(node, (struct replica_event){.kind = REPLICA_LEASE_ENDED});
	}
}

/* The link */

static void link_step(struct node *node)
{
	struct pair *pair = node->pair;
	struct node *peer = peer_of(node);

	if (node->coming) {
		node->coming = false;
		node->up = node->linked_anew = true;
		node->left = node->planned = false;
		tell(node, (struct replica_event){.kind = REPLICA_LINK});
	} else if (node->up && node->inbox_count > 0 && (pair->link || chance(&pair->rand, 2))) {
		const struct replica_message message = node->inbox[0];

		memmove(node->inbox, node->inbox + 1, --node->inbox_count * sizeof(message));
		node->told |= message.say == REPLICA_LEASE && !message.lease_ms;
		node->left |= message.say == REPLICA_OUTDATED && node->state.leaving;
		tell(node, (struct replica_event){.kind = REPLICA_HEARD, .message = &message});
		node->fenced &= !node->state.heard;
		if (message.say == REPLICA_DENIED && node->half_open && !node->state.asked)
			model_fail(pair, "clients of node %u wait for what was denied", node->which);
		if (message.say == REPLICA_HELLO && node->state.greeted && node->state.flow != REPLICA_APART)
			look_at_meeting(pair, &node->state);
	} else if (node->up && !pair->link) {
		if (node->state.heard && !node->recording && node->state.role == REPLICA_SECONDARY &&
		    node->state.flow != REPLICA_REFUSED)
			node->linked_step = pair->broken_step;
		node->up = node->merging = node->emptying = node->settling = node->verifying = false;
		node->map_came = node->map_sent = node->told = false;
		node->inbox_count = 0;
		tell(node, (struct replica_event){.kind = REPLICA_LOST});
	} else if (!pair->link && !node->up && !peer->up && node->seeking && peer->seeking) {
		pair->link = node->coming = peer->coming = true;
		node->map_came = peer->map_came = false;
		node->inbox_count = peer->inbox_count = 0;
	}
}
