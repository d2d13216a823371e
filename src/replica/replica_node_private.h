/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the parts of a node share: replica_node.c (its life, commands, what it shows), replica_deeds.c (the machine's actions, one after the
 * other), replica_streams.c (the link, and the data both ways), replica_diskless.c (a primary whose disk fails).
 */
#pragma once

#include "base/list.h"
#include "export/agent_server.h"
#include "range/bitmap.h"
#include "replica/replica_link.h"
#include "replica/replica_node.h"
#include "ring/fiber.h"
#include "ring/ticker.h"

/* An action of the machine that waits for its turn. */
struct replica_deed {
	struct list_node node;
	struct replica_action action;
	uint64_t link; /* that there was when it was decided; 0: none */
};

struct replica_node {
	/* set at open */
	struct ring *ring;
	struct replica_node_options options;
	struct block *volume; /* owned; others have shares of it */
	struct block *own;    /* the mirror's share, which the mirror owns */
	struct mirror_job *job;
	struct block *gate;  /* over a share of the mirror */
	struct block *shown; /* that share, which the gate owns */

	/* ring thread only */
	struct replica_state state;
	struct list_node deeds;
	unsigned deeds_count;
	struct fiber *job_fiber;
	struct ticker ticker;
	bool wake, stopping, running;
	bool broken; /* out of memory for what is to be done: it can go no further */
	bool paused, ahead, disk_failed, serving, sought;
	uint64_t lease_ends_ns; /* 0: no timer */
	/* replica_marks.c */
	struct mirror_job_verify_options verify_options;
	bool verify_waits;       /* it is ordered, and not begun: ended() is owed */
	uint64_t told_differing; /* bytes, to the other on this link */
	uint64_t tell_after_ns;
	bool copied_flush; /* under way, before the other is told that all has arrived */

	/* replica_streams.c */
	struct replica_link *link;
	uint64_t link_number; /* 0: there is none, or it is lost */
	bool link_lost;       /* `link` is to be freed */
	struct bitmap peer_map;
	bool have_peer_map;
	bool sends, receives;
	struct block *remote; /* the other node's volume while the mirror has it, or had it last */
	struct block *sender; /* the filter over it; owned, the mirror has shares of it */
	struct agent_server *agent;
	bool agent_over;
	unsigned disk_failures; /* of what was received */
	struct block *received; /* what the agent writes to */

	/* replica_diskless.c */
	bool keeping;  /* this node's disk fails: clients' requests wait */
	bool diverted; /* they go to the other node */
	bool given_up; /* the disk, until an order to connect */
};

/* replica_node.c */
/* Tells the machine. */
int replica_node_event(struct replica_node *node, struct replica_event event);
void replica_node_happened(struct replica_node *node, enum replica_event_kind kind, int res);
void replica_node_wake(struct replica_node *node);
void replica_node_warn(struct replica_node *node, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
struct bitmap_file *replica_node_map(struct replica_node *node);
/* All is on both sides, and what is written goes to both. */
bool replica_node_is_ready(struct replica_node *node);
/* What is written goes to both, and all is on both sides but for what a verification has marked. */
bool replica_node_writes_to_both(struct replica_node *node);

/* replica_marks.c */
/* Bytes that are not the same on both nodes, by a verification, or about to be copied; where the nodes are taken for equal. */
uint64_t replica_node_differing(struct replica_node *node);
/* The other hears it, if that has changed. */
void replica_node_tell_marks(struct replica_node *node);
void replica_node_look_at_marks(struct replica_node *node);
/* What a verification finds outlasts a crash from now on. */
void replica_node_verify_begin(struct replica_node *node);
/* The link is lost. */
void replica_node_verify_lost(struct replica_node *node);

/* replica_deeds.c */
#define REPLICA_DEEDS_MAX 256u /* that wait, before the other node is not listened to any more */

/* For replica_options.act. */
void replica_deed_add(void *data, const struct replica_action *action);
/* Carries out the oldest, in run()'s fiber. False: there is none. */
bool replica_deed_do(struct replica_node *node);
void replica_deeds_done(struct replica_node *node);
void replica_node_close_clients(struct replica_node *node);

/* replica_streams.c */
/* For mirror_job_options.open_leg, of the target. In the mirror's fiber. */
int replica_node_open_target(struct replica_node *node, struct block **ret, struct error *error);
/* For mirror_job_options.follower_lost. */
void replica_node_follower_lost(void *data, int reason);
/* From now on data may go to the other; or come from it. */
void replica_node_begin_to_send(struct replica_node *node);
void replica_node_begin_to_receive(struct replica_node *node);
/* Waits until nothing goes there any more. */
void replica_node_stop_sending(struct replica_node *node);
/* Waits until all that came is on the disk. */
void replica_node_stop_receiving(struct replica_node *node);
/* LOST follows, if there is a link. */
void replica_node_drop(struct replica_node *node, const char *why);
/* The other node's map, once it comes, is of this one's size. */
int replica_node_expect_map(struct replica_node *node);
/* Frees what is over. In run()'s fiber. */
void replica_node_look_after_streams(struct replica_node *node);

/* replica_diskless.c */
/* For mirror_job_options.leader_failing. */
bool replica_node_disk_fails(void *data);
/* For gate_options.astray. */
void replica_node_went_astray(void *data, int res);
static inline bool replica_node_is_diskless(const struct replica_node *node)
{
	return node->keeping || node->diverted;
}
/* For SETTLE: what went to the other is on its disk. 0 or -errno. */
int replica_node_flush_other(struct replica_node *node);
void replica_node_divert(struct replica_node *node);
/* Clients use this node's disk again. */
void replica_node_return(struct replica_node *node);
/* They are gone. */
void replica_node_give_up_disk(struct replica_node *node);
