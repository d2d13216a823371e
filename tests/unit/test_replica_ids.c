/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The generations of two nodes: the table row by row, and a model of a pair with crashes at every step that says after each meeting
 * whether the verdict was true.
 */
#include "replica/replica_ids.h"
#include "replica/replica_note.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "replica_values.h"

#define REGIONS 6u
#define VALUES  4096u

/* The table */

static const struct {
	const char *what;
	struct replica_ids self, peer;
	enum replica_relation relation;
	enum replica_verdict verdict;
} rows[] = {
    {"both new", {0}, {0}, REPLICA_BOTH_NEW, REPLICA_STRANGERS},
    {"a new disk", {0}, {.current = 7}, REPLICA_SELF_NEW, REPLICA_TARGET_FULL},
    {"a disk with something else on it", {.foreign = true}, {.current = 7}, REPLICA_SELF_FOREIGN,
        REPLICA_STRANGERS},
    {"the same, and the other is half of something", {.foreign = true}, {.current = 7, .inconsistent = true},
        REPLICA_SELF_FOREIGN, REPLICA_STRANGERS},
    {"the same, and no map knows anything", {.foreign = true}, {.current = 7, .full = true},
        REPLICA_SELF_FOREIGN, REPLICA_STRANGERS},
    {"both new, one with something on it", {.foreign = true}, {0}, REPLICA_BOTH_NEW, REPLICA_STRANGERS},
    {"both new, with something on both", {.foreign = true}, {.foreign = true}, REPLICA_BOTH_NEW,
        REPLICA_STRANGERS},
    {"two lines", {.current = 7}, {.current = 8}, REPLICA_UNRELATED, REPLICA_STRANGERS},
    {"at rest", {.current = 7}, {.current = 7}, REPLICA_SAME, REPLICA_IN_SYNC},
    {"at rest, maps lost", {.current = 7, .full = true}, {.current = 7}, REPLICA_SAME, REPLICA_IN_SYNC},
    {"the primary crashed", {.current = 7, .sender = true}, {.current = 7}, REPLICA_SAME_SELF_SENT,
        REPLICA_SOURCE},
    {"it crashed, and lost its map", {.current = 7, .sender = true, .full = true}, {.current = 7},
        REPLICA_SAME_SELF_SENT, REPLICA_SOURCE_FULL},
    {"both wrote", {.current = 7, .sender = true}, {.current = 7, .sender = true}, REPLICA_SAME_BOTH_SENT,
        REPLICA_SPLIT},
    {"a link was lost", {.current = 8, .base = {7}}, {.current = 7}, REPLICA_SELF_AHEAD, REPLICA_SOURCE},
    {"it had asked the target to follow", {.current = 9, .base = {8, 7}}, {.current = 7}, REPLICA_SELF_AHEAD,
        REPLICA_SOURCE},
    {"the source is half of something", {.current = 8, .base = {7}, .inconsistent = true}, {.current = 7},
        REPLICA_SELF_AHEAD, REPLICA_NO_GOOD},
    {"promoted while the primary was down", {.current = 8, .base = {7}}, {.current = 7, .sender = true},
        REPLICA_SELF_AHEAD, REPLICA_SOURCE},
    {"both promoted", {.current = 8, .base = {7}}, {.current = 9, .base = {7}}, REPLICA_PARTED,
        REPLICA_SPLIT},
    {"a node restored from a backup", {.current = 9, .history = {8, 7}}, {.current = 7},
        REPLICA_SELF_FAR_AHEAD, REPLICA_SOURCE_FULL},
    {"both promoted, long ago", {.current = 9, .base = {5}, .history = {4}},
        {.current = 8, .base = {3}, .history = {4}}, REPLICA_PARTED_LONG_AGO, REPLICA_SPLIT},
    {"its clients used the other's disk, and its own is back", {.current = 7, .sender = true},
        {.current = 8, .history = {7}, .follows = true}, REPLICA_PEER_FAR_AHEAD, REPLICA_TARGET_FULL},
    {"both went on, one of them from what it had before it was to be a target",
        {.current = 9, .base = {7, 5}}, {.current = 8, .base = {5}}, REPLICA_PARTED, REPLICA_SPLIT},
    {"they never came there", {.current = 9, .base = {7, 8}}, {.current = 8, .history = {7}, .follows = true},
        REPLICA_SELF_AHEAD, REPLICA_SOURCE},
};

static void test_table(void **state)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		enum replica_verdict verdict = replica_judge(&rows[i].self, &rows[i].peer);

		if (replica_relate(&rows[i].self, &rows[i].peer) != rows[i].relation ||
		    verdict != rows[i].verdict)
			fail_msg("%s: %s, %s", rows[i].what,
			    replica_relation_name(replica_relate(&rows[i].self, &rows[i].peer)),
			    replica_verdict_name(verdict));
		assert_int_equal(replica_judge(&rows[i].peer, &rows[i].self), replica_verdict_flip(verdict));
		if (rows[i].relation == REPLICA_PARTED)
			assert_int_equal(replica_relate(&rows[i].peer, &rows[i].self), REPLICA_PARTED);
	}
}

/* What was true of a node before it went on, or sent, is not any more. */
static void test_flags_end(void **state)
{
	const struct replica_ids begin = {
	    .current = 7, .base = {5}, .history = {6}, .outdated = true, .follows = true, .grown = true};
	struct replica_ids ids = begin;

	replica_ids_part(&ids, 9);
	assert_false(ids.outdated || ids.follows);
	assert_true(ids.grown);
	ids = begin;
	ids.full = true;
	replica_ids_send(&ids, &(struct replica_ids){.current = 4});
	assert_false(ids.outdated || ids.follows || ids.grown || ids.full);
	assert_true(ids.sender);
	/* Nothing is there twice: it would push out what was earlier. */
	assert_int_equal(ids.base[0], 4);
	replica_ids_followed(&ids);
	ids.base[0] = 6;
	replica_ids_followed(&ids);
	assert_memory_equal(ids.history, ((uint64_t[REPLICA_HISTORY]){4, 5, 6}), sizeof(ids.history));
	ids = begin;
	ids.inconsistent = true;
	replica_ids_force(&ids, 9);
	assert_false(ids.outdated || ids.follows || ids.inconsistent || ids.base[0]);
	assert_true(ids.full);
	replica_ids_give_up(&ids);
	assert_true(ids.inconsistent && !ids.current);
}

/* Each step that says what such data are ends it, and no other does. */
static void test_foreign(void **state)
{
	const struct replica_ids source = {.current = 7};
	struct replica_ids ids = {.foreign = true}, other = ids;

	replica_ids_grow(&ids);
	assert_true(ids.foreign);
	replica_ids_discard(&ids, &source);
	assert_false(ids.foreign || ids.current);
	assert_int_equal(replica_judge(&ids, &source), REPLICA_TARGET_FULL);
	replica_ids_force(&other, 8);
	assert_false(other.foreign);
	assert_int_equal(replica_judge(&other, &(struct replica_ids){0}), REPLICA_SOURCE_FULL);
	assert_int_equal(replica_judge(&other, &(struct replica_ids){.foreign = true}), REPLICA_STRANGERS);
}

/* As bytes */

static void test_note(void **state)
{
	uint8_t note[REPLICA_NOTE_BYTES], damaged[REPLICA_NOTE_BYTES];
	struct replica_ids ids = {.current = 1, .base = {2, 3}, .history = {4, 5, 6, 7, 8, 9, 10, 11}}, back;
	struct error error;

	for (unsigned flags = 0; flags < 128; flags++) {
		ids.sender = flags & 1;
		ids.inconsistent = flags & 2;
		ids.outdated = flags & 4;
		ids.follows = flags & 8;
		ids.full = flags & 16;
		ids.grown = flags & 32;
		ids.foreign = flags & 64;
		ids.current = !ids.foreign;
		replica_note_encode(&ids, note);
		if (ids.inconsistent ? ids.sender || ids.foreign : ids.sender && ids.foreign) {
			assert_int_equal(replica_note_decode(note, sizeof(note), &back, &error), -EBADMSG);
			continue;
		}
		memset(&back, 0, sizeof(back));
		assert_int_equal(replica_note_decode(note, sizeof(note), &back, &error), 0);
		assert_memory_equal(&back, &ids, offsetof(struct replica_ids, sender));
		replica_note_encode(&back, damaged);
		assert_memory_equal(damaged, note, sizeof(note));
	}
	assert_int_equal(replica_note_decode(note, sizeof(note) - 1, &back, &error), -EBADMSG);
	for (unsigned i = 0; i < 8; i++) {
		memcpy(damaged, note, sizeof(note));
		damaged[i] ^= 1;
		assert_int_equal(replica_note_decode(damaged, sizeof(note), &back, &error), -EBADMSG);
	}
	memcpy(damaged, note, sizeof(note));
	damaged[96] |= 128;
	assert_int_equal(replica_note_decode(damaged, sizeof(note), &back, &error), -EBADMSG);
	ids.current = 1; /* what is a replica's is nobody else's */
	ids.sender = ids.inconsistent = false;
	replica_note_encode(&ids, note);
	assert_int_equal(replica_note_decode(note, sizeof(note), &back, &error), -EBADMSG);
	ids.foreign = false;
	ids.base[0] = 0;
	ids.sender = ids.inconsistent = false;
	replica_note_encode(&ids, note);
	assert_int_equal(replica_note_decode(note, sizeof(note), &back, &error), -EBADMSG);
}

/* The model */

struct node {
	/* on stable storage */
	struct replica_ids ids;
	unsigned data[REGIONS];
	unsigned map; /* bits */
	/* lost in a crash */
	bool primary, alone; /* alone: writes need not go to the other */
};

struct pair {
	struct rand rand;
	uint64_t seed, drawn;
	struct node nodes[2];
	struct value values[VALUES];
	unsigned values_count;
	bool linked; /* data may flow */
	int source;  /* of a resync under way; -1: none */
	bool in_sync;
	unsigned meetings[REPLICA_VERDICTS], steps, kept, given_up, detached;
	bool verbose;
};

#define model_fail(pair, ...) \
	do { \
		print_message("seed %llu, step %u: ", (unsigned long long)(pair)->seed, (pair)->steps); \
		fail_msg(__VA_ARGS__); \
	} while (0)

static uint64_t fresh(struct pair *pair)
{
	return ++pair->drawn;
}

/* Whether `target` has nothing that somebody was told of and `source` lacks. */
static void check_loses_nothing(struct pair *pair, const struct node *source, const struct node *target)
{
	int region = find_lost(pair->values, source->data, target->data, REGIONS);

	if (region >= 0)
		model_fail(pair, "region %d: what was acknowledged is to be overwritten", region);
}

static unsigned differing(const struct pair *pair)
{
	unsigned bits = 0;

	for (unsigned i = 0; i < REGIONS; i++)
		if (pair->nodes[0].data[i] != pair->nodes[1].data[i])
			bits |= 1u << i;
	return bits;
}

static void unlink_nodes(struct pair *pair)
{
	pair->linked = pair->in_sync = false;
	pair->source = -1;
}

static void crash(struct pair *pair, unsigned which)
{
	pair->nodes[which].primary = pair->nodes[which].alone = false;
	unlink_nodes(pair);
}

/* True: one of the two is no more, here. */
static bool cut_off(struct pair *pair)
{
	if (!chance(&pair->rand, 12))
		return false;
	if (chance(&pair->rand, 2))
		unlink_nodes(pair);
	else
		crash(pair, (unsigned)rand_below(&pair->rand, 2));
	return true;
}

/* A resync's begin: each line may be the last. */
static void begin_resync(struct pair *pair, unsigned source, bool full)
{
	struct node *from = &pair->nodes[source], *to = &pair->nodes[!source];

	from->map |= full ? (1u << REGIONS) - 1 : to->map;
	if (cut_off(pair))
		return;
	replica_ids_send(&from->ids, &to->ids);
	if (cut_off(pair))
		return;
	replica_ids_follow(&to->ids, &from->ids);
	to->alone = false;
	if (cut_off(pair))
		return;
	to->map = 0;
	if (cut_off(pair))
		return;
	replica_ids_followed(&from->ids);
	from->alone = false;
	pair->linked = true;
	pair->source = (int)source;
}

static void step_resync(struct pair *pair)
{
	struct node *from = &pair->nodes[pair->source], *to = &pair->nodes[!pair->source];

	for (unsigned i = 0; i < REGIONS; i++)
		if (from->map & 1u << i) {
			to->data[i] = from->data[i];
			from->map &= ~(1u << i);
			return;
		}
	replica_ids_arrived(&to->ids);
	if (cut_off(pair))
		return;
	pair->in_sync = true;
	if (!from->primary)
		replica_ids_rest(&from->ids);
	pair->source = -1;
}

static void discard(struct pair *pair)
{
	unsigned loser = (unsigned)rand_below(&pair->rand, 2);
	struct node *node = &pair->nodes[loser];

	if (pair->nodes[!loser].ids.inconsistent || !pair->nodes[!loser].ids.current)
		return;
	node->primary = false;
	pair->given_up += node->ids.foreign;
	replica_ids_discard(&node->ids, &pair->nodes[!loser].ids);
	disown(pair->values, node->data, pair->nodes[!loser].data, REGIONS);
}

static void meet(struct pair *pair)
{
	struct node *nodes = pair->nodes;
	enum replica_verdict verdict = replica_judge(&nodes[0].ids, &nodes[1].ids);
	unsigned source = verdict == REPLICA_TARGET || verdict == REPLICA_TARGET_FULL;

	pair->meetings[verdict]++;
	if (replica_judge(&nodes[1].ids, &nodes[0].ids) != replica_verdict_flip(verdict))
		model_fail(pair, "the nodes do not agree");
	switch (verdict) {
	case REPLICA_IN_SYNC:
		if (differing(pair))
			model_fail(pair, "in sync, and different");
		pair->linked = pair->in_sync = true;
		nodes[0].map = nodes[1].map = 0;
		for (unsigned i = 0; i < 2; i++)
			if (nodes[i].primary) /* it has not written yet, or would have parted */
				replica_ids_send(&nodes[i].ids, &nodes[!i].ids);
		return;
	case REPLICA_SOURCE:
	case REPLICA_TARGET:
		if (differing(pair) & ~(nodes[0].map | nodes[1].map))
			model_fail(pair, "something differs and is in no map");
		/* fall through */
	case REPLICA_SOURCE_FULL:
	case REPLICA_TARGET_FULL:
		if (nodes[!source].primary)
			return; /* refused: it would change under those who use it */
		if (!nodes[!source].ids.inconsistent)
			check_loses_nothing(pair, &nodes[source], &nodes[!source]);
		begin_resync(pair, source, verdict == REPLICA_SOURCE_FULL || verdict == REPLICA_TARGET_FULL);
		return;
	default:
		if (chance(&pair->rand, 3))
			discard(pair);
	}
}

static void promote(struct pair *pair, unsigned which)
{
	struct node *node = &pair->nodes[which], *peer = &pair->nodes[!which];

	if (node->primary || (pair->linked && peer->primary))
		return;
	if (!node->ids.current || node->ids.inconsistent) {
		if (pair->linked || !chance(&pair->rand, 20))
			return;
		pair->kept += node->ids.foreign;
		for (unsigned i = 0; i < REGIONS && !node->ids.foreign; i++)
			node->data[i] = 0; /* whatever it holds is another line now */
		replica_ids_force(&node->ids, fresh(pair));
		node->alone = true;
	} else if (pair->in_sync) {
		replica_ids_send(&node->ids, &peer->ids);
	} else if (pair->linked) {
		if (pair->source != (int)which)
			return;
	} else {
		replica_ids_part(&node->ids, fresh(pair));
		node->alone = true;
	}
	node->primary = true;
}

static void demote(struct pair *pair, unsigned which)
{
	struct node *node = &pair->nodes[which];

	if (pair->in_sync && pair->linked && node->primary) {
		node->map = 0;
		replica_ids_rest(&node->ids);
	}
	node->primary = false;
}

static void write_region(struct pair *pair, unsigned which)
{
	struct node *node = &pair->nodes[which], *peer = &pair->nodes[!which];
	unsigned region = (unsigned)rand_below(&pair->rand, REGIONS), value,
	         order = (unsigned)rand_below(&pair->rand, 2);

	if (!node->primary || pair->values_count == VALUES)
		return;
	node->map |= 1u << region;
	value = pair->values_count++;
	pair->values[value] = (struct value){.parent = node->data[region]};
	for (unsigned i = 0; i < 2; i++) {
		if (i == order)
			node->data[region] = value;
		else if (pair->linked && !node->alone)
			peer->data[region] = value;
		if (cut_off(pair) && !node->primary)
			return;
	}
	if (!pair->linked && !node->alone) {
		replica_ids_part(&node->ids, fresh(pair));
		node->alone = true;
	}
	pair->values[value].acknowledged = true;
}

/* The primary's disk fails: its clients use the other's, and then they go, and it is none any more. Each line may be the last. */
static void detach(struct pair *pair, unsigned which)
{
	struct node *node = &pair->nodes[which], *peer = &pair->nodes[!which];
	uint64_t name = fresh(pair);

	if (!node->primary || !pair->in_sync || !pair->linked)
		return;
	replica_ids_bear(&peer->ids, name);
	if (cut_off(pair)) {
		if (!node->primary)
			return;
		replica_ids_part(&node->ids, fresh(pair));
		replica_ids_was_named(&node->ids, name);
		node->alone = true;
		return;
	}
	check_loses_nothing(pair, peer, node);
	/* Its map may be on that disk. */
	if (!chance(&pair->rand, 3))
		replica_ids_give_up(&node->ids);
	for (unsigned i = 0; i < 3 && pair->values_count < VALUES; i++) {
		unsigned region = (unsigned)rand_below(&pair->rand, REGIONS), value = pair->values_count++;

		pair->values[value] = (struct value){.parent = peer->data[region], .acknowledged = true};
		peer->data[region] = value;
		if (cut_off(pair))
			break;
	}
	crash(pair, which);
	pair->detached++;
}

static void one_step(struct pair *pair)
{
	unsigned which = (unsigned)rand_below(&pair->rand, 2);

	pair->steps++;
	switch (rand_below(&pair->rand, 11)) {
	case 0:
		if (!pair->linked)
			meet(pair);
		break;
	case 1:
		promote(pair, which);
		break;
	case 2:
		demote(pair, which);
		break;
	case 3:
		if (chance(&pair->rand, 8))
			crash(pair, which);
		break;
	case 4:
		if (chance(&pair->rand, 8))
			unlink_nodes(pair);
		break;
	case 5:
		if (pair->in_sync && pair->linked) /* everything is flushed, and the map cleared */
			pair->nodes[0].map = pair->nodes[1].map = 0;
		break;
	case 6:
	case 7:
		if (pair->source >= 0)
			step_resync(pair);
		break;
	case 8:
		if (chance(&pair->rand, 8))
			detach(pair, which);
		break;
	default:
		write_region(pair, which);
	}
	if (pair->in_sync && differing(pair))
		model_fail(pair, "in sync, and different");
}

/* A file system, say, that no replica knows of. */
static void put_foreign(struct pair *pair, unsigned which)
{
	pair->nodes[which].ids.foreign = true;
	for (unsigned i = 0; i < REGIONS; i++) {
		pair->nodes[which].data[i] = pair->values_count;
		pair->values[pair->values_count++].acknowledged = true;
	}
}

static void run_pair(uint64_t seed, struct pair *sums)
{
	struct pair *pair = calloc(1, sizeof(*pair));

	assert_non_null(pair);
	pair->seed = seed;
	pair->source = -1;
	pair->values_count = 1;
	rand_init(&pair->rand, seed);
	/* In some worlds both are new. */
	if (seed % 5)
		replica_ids_begin(&pair->nodes[0].ids, fresh(pair));
	for (unsigned i = 0; i < 2; i++)
		if (!pair->nodes[i].ids.current && (seed >> i) % 2)
			put_foreign(pair, i);
	for (unsigned i = 0; i < 2000; i++)
		one_step(pair);
	for (unsigned i = 0; i < REPLICA_VERDICTS; i++)
		sums->meetings[i] += pair->meetings[i];
	sums->kept += pair->kept;
	sums->given_up += pair->given_up;
	sums->detached += pair->detached;
	free(pair);
}

static void test_pairs(void **state)
{
	const char *replay = getenv("BLKMOVE_SEED");
	static struct pair sums;
	uint64_t first = replay ? strtoull(replay, NULL, 10) : 1, last = replay ? first : 3000;

	for (uint64_t seed = first; seed <= last; seed++)
		run_pair(seed, &sums);
	print_message("%u times foreign data were kept, %u given up\n", sums.kept, sums.given_up);
	assert_true(replay || (sums.kept && sums.given_up));
	for (unsigned i = 0; i < REPLICA_VERDICTS; i++) {
		print_message("%s %u\n", replica_verdict_name((enum replica_verdict)i), sums.meetings[i]);
		if (!replay)
			assert_true(sums.meetings[i] > 0 || i == REPLICA_NO_GOOD);
	}
	print_message("%u disks failed\n", sums.detached);
	assert_true(replay || sums.detached);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_table),
	    cmocka_unit_test(test_flags_end),
	    cmocka_unit_test(test_foreign),
	    cmocka_unit_test(test_note),
	    cmocka_unit_test(test_pairs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
