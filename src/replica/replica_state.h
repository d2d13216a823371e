/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One node of a replicated volume as a machine: events go in, actions come out. It has no clock, no socket and no file; whoever owns it
 * carries out the actions, in their order, and tells it what came of those that are answered. docs/replication.md has the states and
 * the conversation of two nodes.
 *
 * What it sees to: what is recorded is on stable storage before anything follows from it; nobody writes on both nodes; a resync goes
 * in the direction that replica_judge() says and in no other; no write is acknowledged that the other node lacks before that is recorded.
 */
#pragma once

#include "replica/replica_ids.h"

enum replica_role { REPLICA_SECONDARY, REPLICA_PRIMARY };

const char *replica_role_name(enum replica_role role);

/* What goes between the nodes. */
enum replica_flow {
	REPLICA_APART,     /* nothing: there is no link, or it is not wanted */
	REPLICA_MEETING,   /* they have a link, and find out how they stand to each other */
	REPLICA_REFUSED,   /* they have found out, and nothing can go between them; see `refusal` */
	REPLICA_SENDING,   /* a resync, from here; and what is written here meanwhile */
	REPLICA_RECEIVING, /* a resync, to here */
	REPLICA_EQUAL,     /* both hold the same; what is written goes to both */
	REPLICA_DISKLESS,  /* the primary's disk has failed: its clients use the secondary's */
	REPLICA_FLOWS,     /* of the machine */
	REPLICA_DIFFERING =
	    REPLICA_FLOWS, /* shown instead of EQUAL: but for what a verification has marked */
};

const char *replica_flow_name(enum replica_flow flow);

/* What nodes say to each other. */
enum replica_say {
	REPLICA_HELLO, /* ids, role, size, whether this node discards its data: first, and again when that has changed */
	REPLICA_FOLLOW,   /* source: ids; the target is to be that, once all has come */
	REPLICA_FOLLOWED, /* target: recorded, its map is empty, data may come */
	REPLICA_ARRIVED,  /* source: all has come, and is flushed on both sides */
	REPLICA_GOOD,     /* target: recorded */
	REPLICA_PROMOTE,  /* I am about to be primary */
	REPLICA_PROMOTED, /* then I shall not be, and what comes is received */
	REPLICA_DENIED,   /* no: I am, or am about to be */
	REPLICA_DEMOTED,  /* I am no primary any more; all is flushed on both sides */
	REPLICA_AHEAD,    /* I go on without you, and you are outdated from now on */
	REPLICA_OUTDATED, /* recorded */
	REPLICA_LEASE, /* primary: you may take over, and open to your clients; or, for 0 ms: take over now */
	REPLICA_LEASED,   /* opened, to be read */
	REPLICA_TAKEN,    /* I am primary now */
	REPLICA_ENLARGE,  /* this node's volume is to be larger: yours first */
	REPLICA_ENLARGED, /* it is */
	REPLICA_CANNOT,   /* it is as it was */
	REPLICA_DIFFERS,  /* who sends: so many bytes are not the same on both, by a verification */
	REPLICA_DETACH, /* primary: my disk has failed; from now on your data are those of `name`, mine are the past */
	REPLICA_DETACHED, /* recorded */
	REPLICA_SAYS,
};

const char *replica_say_name(enum replica_say say);

struct replica_message {
	enum replica_say say;
	struct replica_ids ids; /* HELLO, FOLLOW */
	enum replica_role role; /* HELLO */
	uint64_t size;          /* HELLO, ENLARGE, ENLARGED, DIFFERS: bytes */
	uint32_t region_size;   /* HELLO: bytes a bit of the map */
	/* HELLO: of the node, not the other's; the higher one wins when both want to be primary. DETACH: of the generation. */
	uint64_t name;
	bool discards;     /* HELLO */
	uint32_t lease_ms; /* LEASE */
};

enum replica_event_kind {
	/* commands */
	REPLICA_CONNECT,
	REPLICA_DISCONNECT,
	REPLICA_MAKE_PRIMARY,
	REPLICA_MAKE_SECONDARY,
	REPLICA_DISCARD,   /* when they meet, and either is to give way, this node does; until DISCONNECT */
	REPLICA_HAND_OVER, /* the other is to be primary; answered when it is */
	REPLICA_RESIZE,    /* both nodes, or this one if there is no link */
	/* what happened */
	REPLICA_LINK,        /* there is one */
	REPLICA_LOST,        /* there is none any more */
	REPLICA_HEARD,       /* a message */
	REPLICA_FENCED,      /* the other node is known to be down, or to take no writes */
	REPLICA_TAKE,        /* a client of a node that LEASE has opened wants to write */
	REPLICA_LEASE_ENDED, /* the time of the last LEASE is over. It may be told again and again. */
	REPLICA_VERIFY, /* the nodes are to be compared, by this one, which sends; -ENOTCONN, -EPERM: not possible */
	REPLICA_EVEN, /* this node sends, nothing differs and nothing is being compared. It may be told again and again. */
	/* This node's disk fails, as replica_state_can_detach() allows: clients' requests without an answer wait for DIVERT, RETURN or CLOSE. */
	REPLICA_DISK_FAILED,
	/* the end of actions; RECORDED and GROWN in any case, the others not once LOST was told */
	REPLICA_RECORDED, /* of RECORD */
	REPLICA_MERGED,   /* of MERGE */
	REPLICA_EMPTIED,  /* of EMPTY */
	REPLICA_COPIED, /* of COPY: nothing differs, and all is flushed on both sides. It may be told again and again. */
	REPLICA_SETTLED, /* of SETTLE */
	REPLICA_GROWN,   /* of GROW */
};

struct replica_event {
	enum replica_event_kind kind;
	const struct replica_message *message; /* HEARD */
	uint64_t
	    fresh; /* a number never drawn before, with each event but those of messages that need none: always set it */
	bool force;        /* MAKE_PRIMARY: also with data that may be old, or half of something */
	uint32_t lease_ms; /* HAND_OVER: how long both may be open; 0: this node closes first */
	uint64_t size;     /* RESIZE; GROWN, of the volume: bytes */
	int res; /* RECORDED (-ECANCELED: nothing was, by the user's hook; -ESTALE: see `lapses`), MERGED, EMPTIED, SETTLED, GROWN: 0 or -errno */
};

enum replica_action_kind {
	REPLICA_DO_SAY,      /* `message` */
	REPLICA_DO_RECORD,   /* `ids`: RECORDED follows, also when the link is lost meanwhile */
	REPLICA_DO_SEND_MAP, /* this node's, to the other, which MERGEs it: once a meeting at most */
	REPLICA_DO_MERGE, /* what the other's map has becomes dirty here, once that has come, durably: MERGED (all: everything; no map comes) */
	REPLICA_DO_EMPTY, /* this node's map, to the end before anything else: EMPTIED */
	REPLICA_DO_COPY,  /* send what is dirty, and what is written from now on */
	REPLICA_DO_RECEIVE, /* take what comes */
	REPLICA_DO_STOP, /* neither of these any more. Writes that the other lacks get no answer until RELEASE. */
	REPLICA_DO_RELEASE, /* they get it, and so do all from now on until the next COPY */
	REPLICA_DO_SERVE,   /* clients may come, and write; what LEASE and YIELD said of them is over */
	/*
	 * The timer of `lease_ms`, anew: LEASE_ENDED. Primary: each flush of a client is durable at the other, too. Secondary: clients may come and
	 * read; the first that writes is TAKE, and waits with all that write for SERVE or CLOSE.
	 */
	REPLICA_DO_LEASE,
	REPLICA_DO_YIELD, /* clients may not write any more; what is under way ends before SETTLE begins */
	REPLICA_DO_CLOSE, /* none may, nor is there any */
	/* Nothing is compared any more; flush both sides, copy what is marked, and clear the map; after DISK_FAILED flush the other side: SETTLED. */
	REPLICA_DO_SETTLE,
	REPLICA_DO_DIVERT, /* clients' requests go to the other node, in the stream that there is: those that wait, too */
	REPLICA_DO_RETURN, /* they go to this node's disk again, and so do its errors to clients */
	REPLICA_DO_BEAR,   /* nothing that comes is acknowledged any more before this node's disk has it */
	/*
	 * This node's map, durably, and its volume get `size` bytes, more than they have, or (but for `all`) as many of them as there is room for: GROWN. What is new is
	 * dirty, and not sent before the next COPY. Never while a primary sends.
	 */
	REPLICA_DO_GROW,
	REPLICA_DO_VERIFY, /* now: what is found may be marked in this node's map */
	REPLICA_DO_DROP,   /* the link, and seek none until SEEK. LOST follows if there was one. */
	REPLICA_DO_SEEK,   /* a link */
	REPLICA_DO_FENCE,  /* the other node, by the user's hook: FENCED if that succeeds */
	REPLICA_DO_ANSWER, /* the command under way has ended: `res`, `text` */
};

struct replica_action {
	enum replica_action_kind kind;
	struct replica_message message;
	struct replica_ids ids;
	bool all;    /* MERGE, GROW */
	bool lapses; /* RECORD: not once the link is lost, but RECORDED (-ESTALE) */
	uint32_t lease_ms;
	uint64_t size;
	int res;
	const char *text; /* lives as long as the machine */
};

enum replica_gone { REPLICA_GONE_CONTINUE, REPLICA_GONE_FREEZE };

struct replica_options {
	uint64_t name;          /* of this node, not 0 */
	uint64_t size;          /* bytes; grows */
	uint32_t region_size;   /* bytes a bit of the map */
	enum replica_gone gone; /* what a primary does when the other is gone: goes on, or waits for FENCED */
	void (*act)(void *data, const struct replica_action *action); /* must not call the machine */
	void *data;
};

enum replica_lease {
	REPLICA_LEASE_NONE,
	REPLICA_LEASE_GIVEN, /* primary: the other may take over */
	REPLICA_LEASE_HELD,  /* secondary: it may take over; its clients read */
	REPLICA_LEASE_USED,  /* the other has taken over; clients here may still read */
};

/* Why the volume grows, and how far that has come. */
enum replica_growth {
	REPLICA_GROWTH_NONE,
	REPLICA_GROWTH_ASKED,   /* by an order: the other is to be first */
	REPLICA_GROWTH_LEAVING, /* it is larger: the nodes are to part, and to meet anew */
	REPLICA_GROWTH_SECOND,  /* they have parted: now this node */
	REPLICA_GROWTH_ALONE,   /* by an order, this node */
	REPLICA_GROWTH_FIRST,   /* for the other */
	REPLICA_GROWTH_MEETING, /* because the other is larger */
};

/* What comes after a record. */
enum replica_then {
	REPLICA_THEN_NOTHING,
	REPLICA_THEN_HELLO,
	REPLICA_THEN_MEET,
	REPLICA_THEN_FOLLOW,
	REPLICA_THEN_COPY,
	REPLICA_THEN_EMPTY,
	REPLICA_THEN_GOOD,
	REPLICA_THEN_RELEASE,
	REPLICA_THEN_SERVE,
	REPLICA_THEN_PROMOTED,
	REPLICA_THEN_DEMOTED,
	REPLICA_THEN_OUTDATED,
	REPLICA_THEN_YIELDED,
	REPLICA_THEN_CEDED,
	REPLICA_THEN_GROW,
	REPLICA_THEN_VERIFY,
	REPLICA_THEN_BORNE,
	REPLICA_THEN_DIVERT,
	REPLICA_THEN_PARTED,
	REPLICA_THENS,
};

#define REPLICA_LATER 8u

/* To be read by those who show it; changed by replica_state.c alone. */
struct replica_state {
	struct replica_options options;
	struct replica_ids ids;  /* as recorded */
	struct replica_ids next; /* being recorded */
	enum replica_then then;
	bool recording;
	bool
	    unsure; /* the last record failed: it may hold all the same, and is to be written anew before anything counts on `ids` */
	struct replica_message
	    later[REPLICA_LATER]; /* that came meanwhile, or must wait for something else */
	unsigned later_count;

	enum replica_role role;
	enum replica_flow flow;
	bool wanted;                 /* a link */
	bool linked;                 /* there is one */
	bool greeted;                /* this node has said HELLO */
	bool heard;                  /* the other's HELLO has come */
	struct replica_message peer; /* that, and what is known of it since */
	bool discards;               /* this node gives way at the next meeting */
	bool offered;                /* it has said so at this one */
	bool map_sent;               /* at this one */
	bool command;                /* one is under way */
	bool promoting, demoting, leaving;
	bool settling, settled, follow_said, arrived_said;
	bool again;       /* SETTLE, when it ends: it began too early */
	bool asked;       /* PROMOTE was said on this link, and its answer has not come */
	bool handing;     /* the command is HAND_OVER */
	bool yielding;    /* to the other's PROMOTE, until that is recorded */
	bool taking;      /* over, as soon as that can be */
	bool opened;      /* LEASE_GIVEN: the other's clients may come */
	bool lease_ended; /* while what decides about it is under way */
	bool growing;     /* until GROWN */
	enum replica_growth growth;
	uint64_t grow_to;
	uint64_t differing; /* bytes, by the last DIFFERS on this link */
	bool detaching;     /* from DISK_FAILED on */
	uint64_t
	    detach_name; /* what DETACH has named, until the other is known to have it, or not; 0: nothing */
	bool left;       /* the other has recorded that this node goes on without it; on the last link */
	enum replica_lease lease;
	uint32_t lease_ms;
	bool copying, receiving;        /* since the link came */
	bool withheld;                  /* writes that the other lacks wait for their answers */
	bool frozen;                    /* until the other is fenced */
	bool fenced;                    /* it is, since it was seen last */
	enum replica_relation relation; /* of the last meeting */
	enum replica_verdict verdict;
	const char *refusal; /* why nothing can go between the nodes; NULL: something can, or nobody knows */
	uint64_t fresh;
};

/* `ids` as they were recorded last. The node begins as a secondary that seeks no link. */
void replica_state_init(
    struct replica_state *state, const struct replica_options *options, const struct replica_ids *ids);
/* Whether its clients could go on with the other node's disk, if that has all that they were told is written. */
bool replica_state_can_detach(const struct replica_state *state);
/* Whether this node's data are whole, and a replica's. */
bool replica_state_is_good(const struct replica_state *state);
/* -EBUSY: a command or VERIFY, and something else is under way. */
int replica_state_event(struct replica_state *state, const struct replica_event *event);
