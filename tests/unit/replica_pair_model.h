/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the model of two nodes knows of them: see replica_pair.h. */
#pragma once

#include "replica/replica_state.h"
#include "replica_values.h"

#include <errno.h>
#include <string.h>

#define REGIONS 5u /* to begin with */
#define MOST    9u
#define VALUES  2048u
#define QUEUE   32u

struct pair;

struct node {
	struct pair *pair;
	unsigned which;
	/* on stable storage */
	struct replica_ids ids;
	unsigned data[MOST];
	unsigned map;             /* bits */
	unsigned regions, device; /* what the volume has, and could have */
	/* lost in a crash */
	struct replica_state state;
	unsigned dirty;
	bool serving, copying, receiving, withholding, seeking;
	unsigned waiting[VALUES], waiting_count; /* writes without an answer */
	/* actions that have not ended */
	bool growing;
	unsigned grow_to;
	unsigned in_use; /* regions, by clients and by COPY */
	unsigned met;    /* regions, as this node has said */
	bool left;       /* the other knows */
	bool lapses;     /* the record under way */
	bool recording, merging, merge_all, emptying, settling, fencing;
	struct replica_ids next;
	unsigned peer_map; /* as it came */
	bool map_came, map_sent;
	unsigned served_step, linked_step; /* when it began to serve; when it was a linked secondary last */
	unsigned knew_step;                /* that, before the last record */
	bool forced;                       /* the last order to be primary */
	bool by_force;                     /* what it serves since then */
	bool was_primary;                  /* before what it is told now */
	/* hand-over */
	bool handing, timer, durable, yielded;
	bool open;           /* clients may read */
	bool told;           /* to take over at once */
	bool linked_anew;    /* since then */
	bool half_open;      /* clients may read; a write waits */
	bool held, stale;    /* one does; and somebody else may have written since */
	unsigned asked_step; /* for the hand-over */
	unsigned wrote_step, settle_step;
	/* its disk fails */
	bool keeping, diverted; /* clients wait; they use the other's */
	bool sends, verifying;
	unsigned marks; /* of `dirty`: found by a verification; what is written there goes to both */
	/* the link's end */
	bool up;      /* LINK was told, LOST was not */
	bool coming;  /* LINK is about to be told */
	bool planned; /* the last loss, to grow */
	bool fenced;
	struct replica_message inbox[QUEUE];
	unsigned inbox_count;
};

struct pair {
	struct rand rand;
	uint64_t seed, drawn;
	struct node nodes[2];
	bool link; /* data pass */
	struct value values[VALUES];
	unsigned values_count, steps, broken_step;
	unsigned marked; /* regions that a verification has found to differ, and that were not copied since */
	bool calm;       /* no faults, no orders */
	unsigned flows[REPLICA_FLOWS], refused, served, parted, verdicts[REPLICA_VERDICTS];
	bool detached; /* once: then maps need not go back as far as generations do */
	unsigned diverted, borne, returned;
	unsigned handed[2], timed_out, cut_off, retaken, grown[REPLICA_GROWTH_MEETING + 1], kept, given_up,
	    marks, marks_alone;
};

#define model_fail(pair, ...) \
	do { \
		print_message("seed %llu, step %u: ", (unsigned long long)(pair)->seed, (pair)->steps); \
		fail_msg(__VA_ARGS__); \
	} while (0)

static struct node *peer_of(struct node *node)
{
	return &node->pair->nodes[!node->which];
}

static unsigned all_of(const struct node *node)
{
	return (1u << node->regions) - 1;
}

/* Nobody looks into the map any more: then nothing may be in it, nor come into it. */
static void check_rest(const struct node *node, const struct replica_ids *next)
{
	const struct replica_ids *ids = &node->state.ids;

	if (!ids->sender || next->sender || next->current != ids->current || next->inconsistent)
		return;
	if (node->serving)
		model_fail(node->pair, "at rest, and clients may write");
	if (node->settle_step < node->wrote_step || node->map)
		model_fail(node->pair, "at rest, and not all is on both sides");
}

/* A client of a primary that freezes gets no answer before the other node can do no harm. */
static void check_part(const struct node *node, const struct replica_ids *next)
{
	const struct replica_state *state = &node->state;

	if (state->options.gone == REPLICA_GONE_FREEZE && state->ids.sender &&
	    next->current != state->ids.current && state->role == REPLICA_PRIMARY &&
	    node->waiting_count > 0 && !node->left && !node->fenced)
		model_fail(node->pair, "clients are to be answered, and nobody has fenced the other node");
}
