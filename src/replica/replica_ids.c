/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who has the newer data: the table, and the steps that change generations. See replica_ids.h. */
#include "replica/replica_ids.h"

#include "base/plant.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

static const struct {
	const char *name;
	enum replica_verdict verdict; /* if the maps can be trusted and the source's data are good */
	const char *words;
} relations[REPLICA_RELATIONS] = {
    [REPLICA_BOTH_NEW] = {"both-new", REPLICA_STRANGERS, "neither node's data were ever replicated"},
    [REPLICA_SELF_FOREIGN] = {"self-foreign", REPLICA_STRANGERS,
        "this node's volume carried data when its map was made, and they are kept until somebody says here "
        "what they are: `resolve --discard-mine`, or `primary --force` if they are to count"},
    [REPLICA_PEER_FOREIGN] = {"peer-foreign", REPLICA_STRANGERS,
        "the other node's volume carried data when its map was made, and they are kept until somebody says "
        "there what they are: `resolve --discard-mine`, or `primary --force` if they are to count"},
    [REPLICA_SELF_NEW] = {"self-new", REPLICA_TARGET_FULL,
        "this node's data were never replicated, or were given up; the other's are"},
    [REPLICA_PEER_NEW] = {"peer-new", REPLICA_SOURCE_FULL,
        "the other node's data were never replicated, or were given up"},
    [REPLICA_SAME] = {"same", REPLICA_IN_SYNC, "both nodes have the same data, and nobody was writing"},
    [REPLICA_SAME_SELF_SENT] = {"same-self-sent", REPLICA_SOURCE,
        "both nodes have the same generation, and this one was writing"},
    [REPLICA_SAME_PEER_SENT] = {"same-peer-sent", REPLICA_TARGET,
        "both nodes have the same generation, and the other was writing"},
    [REPLICA_SAME_BOTH_SENT] = {"same-both-sent", REPLICA_SPLIT,
        "both nodes were writing to the same generation"},
    [REPLICA_SELF_AHEAD] = {"self-ahead", REPLICA_SOURCE, "this node went on from what the other has"},
    [REPLICA_PEER_AHEAD] = {"peer-ahead", REPLICA_TARGET, "the other node went on from what this one has"},
    [REPLICA_PARTED] = {"parted", REPLICA_SPLIT, "both nodes went on, each by itself, from the same data"},
    [REPLICA_SELF_FAR_AHEAD] = {"self-far-ahead", REPLICA_SOURCE_FULL,
        "the other node has what this one had before its map began"},
    [REPLICA_PEER_FAR_AHEAD] = {"peer-far-ahead", REPLICA_TARGET_FULL,
        "this node has what the other had before its map began"},
    [REPLICA_PARTED_LONG_AGO] = {"parted-long-ago", REPLICA_SPLIT,
        "both nodes went on, each by itself, from data that they had before their maps began"},
    [REPLICA_UNRELATED] = {"unrelated", REPLICA_STRANGERS, "the two nodes never had the same data"},
};

static const struct {
	const char *name;
	enum replica_verdict flip;
	enum replica_verdict full; /* when a map is not to be trusted */
} verdicts[REPLICA_VERDICTS] = {
    [REPLICA_IN_SYNC] = {"in-sync", REPLICA_IN_SYNC, REPLICA_IN_SYNC},
    [REPLICA_SOURCE] = {"source", REPLICA_TARGET, REPLICA_SOURCE_FULL},
    [REPLICA_TARGET] = {"target", REPLICA_SOURCE, REPLICA_TARGET_FULL},
    [REPLICA_SOURCE_FULL] = {"source-full", REPLICA_TARGET_FULL, REPLICA_SOURCE_FULL},
    [REPLICA_TARGET_FULL] = {"target-full", REPLICA_SOURCE_FULL, REPLICA_TARGET_FULL},
    [REPLICA_SPLIT] = {"split", REPLICA_SPLIT, REPLICA_SPLIT},
    [REPLICA_STRANGERS] = {"strangers", REPLICA_STRANGERS, REPLICA_STRANGERS},
    [REPLICA_NO_GOOD] = {"no-good", REPLICA_NO_GOOD, REPLICA_NO_GOOD},
};

const char *replica_relation_name(enum replica_relation relation)
{
	return relations[relation].name;
}

const char *replica_relation_words(enum replica_relation relation)
{
	return relations[relation].words;
}

const char *replica_verdict_name(enum replica_verdict verdict)
{
	return verdicts[verdict].name;
}

enum replica_verdict replica_verdict_flip(enum replica_verdict verdict)
{
	return verdicts[verdict].flip;
}

static bool has(const uint64_t *ids, size_t count, uint64_t id)
{
	for (size_t i = 0; i < count; i++)
		if (id && ids[i] == id)
			return true;
	return false;
}

static bool is_base(const struct replica_ids *ids, uint64_t id)
{
	return has(ids->base, REPLICA_BASES, id);
}

static bool is_past(const struct replica_ids *ids, uint64_t id)
{
	return is_base(ids, id) || has(ids->history, REPLICA_HISTORY, id);
}

static bool share_base(const struct replica_ids *self, const struct replica_ids *peer)
{
	return is_base(self, peer->base[0]) || is_base(self, peer->base[1]);
}

static bool share_past(const struct replica_ids *self, const struct replica_ids *peer)
{
	for (size_t i = 0; i < REPLICA_HISTORY; i++)
		if (is_past(self, peer->history[i]))
			return true;
	return share_base(self, peer) || is_past(self, peer->base[0]) || is_past(self, peer->base[1]);
}

static enum replica_relation relate_same(const struct replica_ids *self, const struct replica_ids *peer)
{
	if (self->sender && peer->sender)
		return REPLICA_SAME_BOTH_SENT;
	if (self->sender)
		return REPLICA_SAME_SELF_SENT;
	return peer->sender ? REPLICA_SAME_PEER_SENT : REPLICA_SAME;
}

enum replica_relation replica_relate(const struct replica_ids *self, const struct replica_ids *peer)
{
	if (!self->current && !peer->current)
		return REPLICA_BOTH_NEW;
	if (self->foreign)
		return REPLICA_SELF_FOREIGN;
	if (peer->foreign)
		return REPLICA_PEER_FOREIGN;
	if (!self->current)
		return REPLICA_SELF_NEW;
	if (!peer->current)
		return REPLICA_PEER_NEW;
	if (self->current == peer->current)
		return relate_same(self, peer);
	if (is_base(self, peer->current))
		return REPLICA_SELF_AHEAD;
	if (is_base(peer, self->current))
		return REPLICA_PEER_AHEAD;
	if (share_base(self, peer))
		return REPLICA_PARTED;
	if (is_past(self, peer->current))
		return REPLICA_SELF_FAR_AHEAD;
	if (is_past(peer, self->current))
		return REPLICA_PEER_FAR_AHEAD;
	return share_past(self, peer) ? REPLICA_PARTED_LONG_AGO : REPLICA_UNRELATED;
}

/* Who gives the data. */
static bool is_good(const struct replica_ids *source)
{
	return !source->inconsistent;
}

enum replica_verdict replica_judge(const struct replica_ids *self, const struct replica_ids *peer)
{
	enum replica_verdict verdict = relations[replica_relate(self, peer)].verdict;

	if (PLANTED(PLANTED_WRONG_SOURCE) && verdict == REPLICA_SPLIT)
		verdict = self->current > peer->current ? REPLICA_SOURCE : REPLICA_TARGET;
	if (self->full || peer->full)
		verdict = verdicts[verdict].full;
	switch (verdict) {
	case REPLICA_IN_SYNC:
		return is_good(self) && is_good(peer) ? verdict : REPLICA_NO_GOOD;
	case REPLICA_SOURCE:
	case REPLICA_SOURCE_FULL:
		return is_good(self) ? verdict : REPLICA_NO_GOOD;
	case REPLICA_TARGET:
	case REPLICA_TARGET_FULL:
		return is_good(peer) ? verdict : REPLICA_NO_GOOD;
	default:
		return verdict;
	}
}

static void remember(struct replica_ids *ids, uint64_t id)
{
	if (!id || has(ids->history, REPLICA_HISTORY, id))
		return;
	memmove(ids->history + 1, ids->history, sizeof(ids->history) - sizeof(ids->history[0]));
	ids->history[0] = id;
}

static void forget_bases(struct replica_ids *ids)
{
	for (size_t i = REPLICA_BASES; i-- > 0;) {
		remember(ids, ids->base[i]);
		ids->base[i] = 0;
	}
}

void replica_ids_begin(struct replica_ids *ids, uint64_t fresh)
{
	assert(!ids->current);
	replica_ids_force(ids, fresh);
}

void replica_ids_part(struct replica_ids *ids, uint64_t fresh)
{
	assert(ids->current && !ids->inconsistent && fresh);
	/* The other may have `current` by now, or still what it had when this node began to send: see replica_ids_send(). */
	if (ids->sender || !ids->base[0]) {
		assert(!ids->base[1]);
		ids->base[1] = ids->base[0];
		ids->base[0] = PLANTED(PLANTED_NO_BASE) ? 0 : ids->current;
	} else {
		remember(ids, ids->current);
	}
	ids->current = fresh;
	ids->sender = ids->outdated = ids->follows = false;
}

void replica_ids_force(struct replica_ids *ids, uint64_t fresh)
{
	assert(fresh && (!ids->current || ids->inconsistent));
	/* What half arrived was never this node's. */
	forget_bases(ids);
	ids->current = fresh;
	ids->sender = ids->inconsistent = ids->outdated = ids->follows = ids->foreign = false;
	ids->full = true;
}

void replica_ids_send(struct replica_ids *ids, const struct replica_ids *target)
{
	assert(ids->current && !ids->inconsistent);
	forget_bases(ids);
	if (target->current != ids->current)
		ids->base[0] = target->current;
	ids->sender = true;
	ids->full = ids->grown = ids->outdated = ids->follows = false;
}

void replica_ids_follow(struct replica_ids *ids, const struct replica_ids *source)
{
	/* Its past is the source's, too. What this node had, the source had once, or it was given up. */
	*ids = *source;
	forget_bases(ids);
	ids->sender = ids->full = ids->grown = ids->outdated = ids->foreign = false;
	ids->inconsistent = true;
}

void replica_ids_followed(struct replica_ids *ids)
{
	assert(ids->sender);
	forget_bases(ids);
}

void replica_ids_arrived(struct replica_ids *ids)
{
	assert(ids->inconsistent);
	ids->inconsistent = false;
}

void replica_ids_bear(struct replica_ids *ids, uint64_t name)
{
	assert(ids->current && !ids->inconsistent && name);
	forget_bases(ids);
	remember(ids, ids->current);
	ids->current = name;
	ids->sender = false;
}

void replica_ids_give_up(struct replica_ids *ids)
{
	forget_bases(ids);
	remember(ids, ids->current);
	ids->current = 0;
	ids->sender = false;
	ids->inconsistent = true;
}

void replica_ids_was_named(struct replica_ids *ids, uint64_t name)
{
	if (ids->base[1])
		remember(ids, name);
	else
		ids->base[ids->base[0] != 0] = name;
}

void replica_ids_grow(struct replica_ids *ids)
{
	ids->grown = true;
}

void replica_ids_rest(struct replica_ids *ids)
{
	ids->sender = false;
}

void replica_ids_discard(struct replica_ids *ids, const struct replica_ids *peer)
{
	uint64_t common = 0;

	for (size_t i = 0; i < REPLICA_BASES; i++)
		if (is_base(peer, ids->base[i]))
			common = ids->base[i];
	if (ids->current == peer->current)
		common = ids->current;
	forget_bases(ids);
	ids->current = common;
	ids->sender = ids->foreign = false;
	ids->inconsistent = true;
}
