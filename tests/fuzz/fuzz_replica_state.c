/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target: one node of a replica (replica/replica_state.h) whose other node says whatever it likes, whenever it likes. This one's actions are carried out as its
 * owner does, in their order; its users are honest. Whatever comes, nothing is served that a secondary has, nothing is received over what is served, what is recorded
 * can be read again; and once the link is gone every order has had its answer, and every write its own.
 */
#include "base/bytes.h"
#include "replica/replica_note.h"
#include "replica/replica_state.h"

#include <assert.h>
#include <string.h>

#define DEEDS 128u
#define UNIT  UINT64_C(65536)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct deed {
	struct replica_action action;
	unsigned link;
};

struct node {
	const uint8_t *data;
	size_t left;
	struct replica_state state;
	struct deed deeds[DEEDS];
	unsigned first, count;
	unsigned link, links; /* the number of the one that there is, or 0; and of the last */
	uint64_t drawn, size;
	bool serving, copying, receiving, recording, withholding, full;
	bool failed; /* a record: then writes may wait for ever */
};

static uint8_t next(struct node *node)
{
	if (!node->left)
		return 0;
	node->left--;
	return *node->data++;
}

/* One of few, so that what two sides say may be the same. */
static uint64_t a_name(struct node *node)
{
	uint8_t byte = next(node);

	return byte < 128 ? byte % 8 : node->drawn - byte % 4;
}

static void act(void *data, const struct replica_action *action)
{
	struct node *node = data;
	uint8_t note[REPLICA_NOTE_BYTES];
	struct replica_ids again;

	if (action->kind == REPLICA_DO_SERVE)
		assert(node->state.role == REPLICA_PRIMARY);
	if (action->kind == REPLICA_DO_RECEIVE)
		assert(node->state.role == REPLICA_SECONDARY);
	if (action->kind == REPLICA_DO_COPY)
		assert(!node->state.ids.inconsistent);
	if (action->kind == REPLICA_DO_RECORD) {
		assert(!node->recording);
		node->recording = true;
		replica_note_encode(&action->ids, note);
		assert(replica_note_decode(note, sizeof(note), &again, NULL) == 0);
	}
	if (node->count == DEEDS) {
		node->full = true;
		return;
	}
	node->deeds[(node->first + node->count++) % DEEDS] = (struct deed){*action, node->link};
}

static int tell(struct node *node, struct replica_event event)
{
	event.fresh = ++node->drawn;
	return replica_state_event(&node->state, &event);
}

static void happened(struct node *node, enum replica_event_kind kind, int res)
{
	tell(node, (struct replica_event){.kind = kind, .res = res});
}

static void lose_link(struct node *node)
{
	if (!node->link)
		return;
	node->link = 0;
	happened(node, REPLICA_LOST, 0);
}

static void grow(struct node *node, const struct replica_action *action, bool fails)
{
	if (!fails)
		node->size = max_u64(node->size, action->size);
	tell(node, (struct replica_event){.kind = REPLICA_GROWN, .size = node->size, .res = fails ? -28 : 0});
}

/* What needs the link that it was decided for. */
static void do_linked(struct node *node, enum replica_action_kind kind, bool fails)
{
	int res = fails ? -5 : 0;

	if (kind == REPLICA_DO_MERGE)
		happened(node, REPLICA_MERGED, res);
	else if (kind == REPLICA_DO_EMPTY)
		happened(node, REPLICA_EMPTIED, res);
	else if (kind == REPLICA_DO_SETTLE)
		happened(node, REPLICA_SETTLED, 0);
	else if (kind == REPLICA_DO_RECEIVE) {
		assert(!node->serving);
		node->receiving = true;
		node->copying = false;
	} else if (kind == REPLICA_DO_COPY) {
		node->copying = true;
		node->receiving = node->withholding = false;
	}
}

static void carry_out(struct node *node, const struct deed *deed, bool fails)
{
	switch (deed->action.kind) {
	case REPLICA_DO_RECORD:
		node->recording = false;
		node->failed |= fails;
		happened(node, REPLICA_RECORDED, fails ? -5 : 0);
		break;
	case REPLICA_DO_SERVE:
		node->receiving = false;
		node->serving = true;
		break;
	case REPLICA_DO_YIELD:
	case REPLICA_DO_CLOSE:
		node->serving = false;
		break;
	case REPLICA_DO_STOP:
		node->withholding = node->copying;
		node->copying = node->receiving = false;
		break;
	case REPLICA_DO_RELEASE:
		node->withholding = false;
		break;
	case REPLICA_DO_DROP:
		if (deed->link == node->link)
			lose_link(node);
		break;
	case REPLICA_DO_GROW:
		grow(node, &deed->action, fails);
		break;
	default:
		if (node->link && deed->link == node->link)
			do_linked(node, deed->action.kind, fails);
	}
}

static bool do_one(struct node *node, bool fails)
{
	struct deed deed;

	if (!node->count)
		return false;
	deed = node->deeds[node->first];
	node->first = (node->first + 1) % DEEDS;
	node->count--;
	carry_out(node, &deed, fails);
	return true;
}

/* As replica_message_parse() lets it pass. */
static void hear(struct node *node)
{
	struct replica_message message = {.say = (enum replica_say)(next(node) % REPLICA_SAYS)};
	uint8_t flags = next(node), note[REPLICA_NOTE_BYTES];
	struct replica_ids *ids = &message.ids, checked;

	ids->current = a_name(node);
	ids->base[0] = a_name(node);
	ids->base[1] = ids->base[0] ? a_name(node) : 0;
	ids->history[0] = a_name(node);
	ids->history[1] = ids->history[0] ? a_name(node) : 0;
	ids->sender = flags & 1;
	ids->inconsistent = flags & 2;
	ids->outdated = flags & 4;
	ids->follows = flags & 8;
	ids->full = flags & 16;
	ids->grown = flags & 32;
	message.role = flags & 64 ? REPLICA_PRIMARY : REPLICA_SECONDARY;
	message.discards = flags & 128;
	flags = next(node);
	message.size = flags & 1 ? flags * UNIT : node->size;
	message.region_size = flags & 2 ? 4096 : 65536;
	message.name = flags & 4 ? 1 : 3;
	message.lease_ms = flags & 8 ? 0 : flags * 100;
	replica_note_encode(ids, note);
	if (replica_note_decode(note, sizeof(note), &checked, NULL) < 0 ||
	    (message.say == REPLICA_FOLLOW && (!ids->current || ids->inconsistent)))
		return;
	if (node->link)
		tell(node, (struct replica_event){.kind = REPLICA_HEARD, .message = &message});
}

static void order(struct node *node, uint8_t which)
{
	struct replica_event event = {.kind = (enum replica_event_kind)(which % (REPLICA_RESIZE + 1)),
	    .force = which & 64,
	    .lease_ms = which & 128 ? 1000 : 0,
	    .size = node->size + which % 3 * UNIT};

	tell(node, event);
}

static void step(struct node *node)
{
	static const enum replica_event_kind by_itself[] = {
	    REPLICA_FENCED, REPLICA_TAKE, REPLICA_LEASE_ENDED, REPLICA_COPIED};
	uint8_t what = next(node);

	if (what < 96)
		do_one(node, what == 1);
	else if (what < 192)
		hear(node);
	else if (what < 208)
		order(node, next(node));
	else if (what < 224 && node->state.wanted && !node->link) {
		node->link = ++node->links;
		happened(node, REPLICA_LINK, 0);
	} else if (what < 232)
		lose_link(node);
	else if (by_itself[what % 4] != REPLICA_COPIED || node->state.flow == REPLICA_SENDING)
		happened(node, by_itself[what % 4], 0);
}

/* The other node is gone, and everything else comes to its end. */
static void end(struct node *node)
{
	tell(node, (struct replica_event){.kind = REPLICA_DISCONNECT});
	lose_link(node);
	for (unsigned i = 0; i < 4; i++) {
		while (do_one(node, false))
			;
		lose_link(node);
		happened(node, REPLICA_FENCED, 0);
		happened(node, REPLICA_LEASE_ENDED, 0);
	}
	assert(!node->state.recording && !node->state.command && !node->state.later_count);
	assert(!node->receiving);
	assert(!node->serving || !node->withholding || node->failed);
	assert(!node->serving || node->state.role == REPLICA_PRIMARY);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct node node = {.data = data, .left = size, .drawn = 100, .size = 16 * UNIT};
	struct replica_options options = {
	    .name = 2, .size = node.size, .region_size = 65536, .act = act, .data = &node};
	struct replica_ids ids = {0};

	options.gone = next(&node) & 1 ? REPLICA_GONE_FREEZE : REPLICA_GONE_CONTINUE;
	if (next(&node) & 1)
		replica_ids_begin(&ids, 1);
	replica_state_init(&node.state, &options, &ids);
	while (node.left && !node.full)
		step(&node);
	if (!node.full)
		end(&node);
	return 0;
}
