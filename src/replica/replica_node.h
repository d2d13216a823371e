/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One node of a replicated volume: carries out what its machine (replica_state.h) decides. It owns the local volume, the map, the mirror
 * over both (sync/mirror_job.h; the volume is its source, the other node's its target), the link and what the other node sends.
 * replica_node_run() drives all in a fiber, so that many nodes share a ring. It neither listens nor dials nor serves clients: its owner
 * does, by the callbacks. docs/replication.md has the states.
 *
 * Two streams are between two nodes: the link, over which they talk, which either of them may have made; and, while one sends, the data,
 * made by the sender, with the link's number. When one breaks, both are given up.
 */
#pragma once

#include "filter/gate.h"
#include "filter/replicate.h"
#include "replica/replica_state.h"
#include "sync/mirror_job.h"

struct replica_node;

struct replica_node_options {
	uint64_t name;          /* as replica_options.name */
	enum replica_gone gone; /* as replica_options.gone */
	enum replicate_ack ack;
	uint64_t queue_max; /* bytes, with REPLICATE_SENT; 0: 16 MiB */
	bool pull_ahead; /* a queue that is full breaks the link off, and what is written waits in the map */
	bool compare;    /* what the maps say may differ is compared before it is sent */
	/*
	 * This node's disk fails a write that came from the other: the link is not sought again. Or it fails as that of a primary, and the nodes are
	 * equal: its clients use the other's.
	 */
	bool detach;
	bool compress;                /* the data, where that makes them less */
	unsigned timeout_ms;          /* longest silence of the other node; 0: 30,000 */
	uint64_t retry_ns;            /* as mirror_job_options.retry_ns */
	uint64_t follower_timeout_ns; /* as mirror_job_options.follower_timeout_ns */
	uint64_t log_ahead;           /* as mirror_job_options.log_ahead; 0: 4 MiB */
	unsigned
	    disk_failures; /* how often earlier runs called disk_failed(), since this machine was started */
	bool distrust;     /* the map could not be written at the end of an earlier run: see map_lost() */
	struct governor_options governor;
	struct budget *common; /* as mirror_job_options.common */

	void *data;
	/* The local volume, for writing; the node owns what it gets. In replica_node_new(). */
	int (*open_volume)(void *data, struct block **ret, struct error *error);
	/* A descriptor of the map; it stays the owner's. Or -errno. */
	int (*open_map)(void *data);
	/* A number never drawn before, from 1 to REPLICA_NAME_MAX. */
	uint64_t (*draw)(void *data);
	/* Whether a link is wanted now: on, the owner dials or listens until replica_node_take_link(). From the loop; must not wait. */
	void (*seek)(void *data, bool on);
	/* A stream to the other node for the data, whose replica_node_take_data() gets the other end. May wait. */
	int (*dial)(void *data, uint64_t link, int *ret_fd, struct error *error);
	/* Clients may come to replica_node_block(), or are to be gone when this returns. May wait. */
	void (*serve)(void *data, bool open);
	/* Runs the user's hook: replica_node_fenced() when the other node is known to take no writes. Must not wait. NULL: there is none. */
	void (*fence)(void *data);
	/* What this node holds is about to become inconsistent. May wait. -errno with words: then nothing is received. May be NULL. */
	int (*before_resync)(void *data, struct error *error);
	/* The end of a command. `text` lives as long as the node. */
	void (*answer)(void *data, int res, const char *text);
	/* Something that replica_node_status() tells may be another. From the loop. */
	void (*changed)(void *data);
	void (*warning)(void *data, const char *text);
	/* This node's disk has failed what came from the other, who will hear of it: one more for `disk_failures`. From the loop. May be NULL. */
	void (*disk_failed)(void *data);
	/* As mirror_job_options.map_lost. May be NULL. */
	void (*map_lost)(void *data);
};

struct replica_node_status {
	enum replica_role role, peer_role;
	enum replica_flow flow; /* EQUAL: nothing is known to differ; else DIFFERING */
	bool linked;            /* there is a link */
	bool wanted;            /* it is sought */
	bool serving;           /* clients may come */
	bool good;              /* this node's data are: not half of something */
	bool outdated;          /* the other node is known to have gone on */
	bool foreign;           /* as replica_ids.foreign */
	bool peer_good;         /* as it was told last */
	bool frozen;            /* clients wait until the other is fenced */
	bool ahead;             /* the link was broken off because the queue was full */
	bool disk_failed;    /* see `detach`; or the map cannot be written: nothing goes between the nodes */
	bool leased;         /* a hand-over is under way */
	bool paused;         /* the resync, by an order */
	uint64_t generation; /* the current one */
	uint64_t size;       /* bytes */
	uint64_t queued;     /* bytes sent and not answered */
	uint64_t differing;  /* DIFFERING: bytes, as the node that sends knows it, or has told */
	const char *refusal; /* as replica_state.refusal */
	enum replica_relation relation;
	enum replica_verdict verdict;
	struct mirror_job_status mirror; /* dirty, copied, same, rate ... */
};

struct replica_node_birth {
	uint64_t size; /* of the volume, its first bytes; 0: all of it */
	uint32_t
	    region_size; /* bytes a bit of the map, a power of two from 4 KiB to 1 MiB; 0: 64 KiB, more above 8 TiB */
	bool foreign;   /* the data are somebody's: see replica_ids.foreign; else nobody's yet */
	uint64_t nonce; /* anything that an earlier map there did not have */
};

/* A new map in `fd` (borrowed), whatever was in it before, for a volume that was never a replica's: everything differs. Control path. */
int replica_node_create(struct ring *ring, int fd, struct block *volume,
    const struct replica_node_birth *birth, struct error *error);

/*
 * Opens volume and map, begins as a secondary that seeks no link. -EBADMSG: the map is damaged; -EXDEV: it is another volume's. Control path.
 */
int replica_node_new(struct replica_node **ret, struct ring *ring, const struct replica_node_options *options,
    struct error *error);
/* In a fiber; until replica_node_stop(). Clients must be gone before the end. 0 or -errno of the loop. */
int replica_node_run(struct replica_node *node);
void replica_node_stop(struct replica_node *node);
/* run() has returned, or never began. Takes NULL; returns NULL. Runs the ring. */
struct replica_node *replica_node_free(struct replica_node *node);
/* What clients use; as long as the node. */
struct block *replica_node_block(struct replica_node *node);

/* A command (enum replica_event_kind's first ones): answer() follows, perhaps before this returns. -EBUSY: another one is under way. */
int replica_node_command(struct replica_node *node, const struct replica_event *command);
/* How many bytes the volume has by now, and could be replicated: see REPLICA_RESIZE. 0 or -errno with words. Control path. */
int replica_node_room(struct replica_node *node, uint64_t *ret, struct error *error);
/* The other node is known to take no writes. */
void replica_node_fenced(struct replica_node *node);
/*
 * A stream to the other node, whose end was given to its replica_node_take_link() with the same number. `server`: the other one dialled.
 * Takes the descriptor, also on failure. -EBUSY: none is wanted, or there is one.
 */
int replica_node_take_link(
    struct replica_node *node, int fd, bool server, uint64_t link, struct error *error);
/* What the other node's dial() made. -EINVAL: it is of another link, or nothing is received now. */
int replica_node_take_data(struct replica_node *node, int fd, uint64_t link, struct error *error);
/* Holds the resync, or lets it go on. */
void replica_node_pause(struct replica_node *node, bool paused);
void replica_node_govern(struct replica_node *node, const struct governor_options *options);
/*
 * As mirror_job_verify(); what it finds outlasts a crash of either node, but that of a node that is given up. Whatever ends the link, and who is to be
 * primary next, end it; ended() follows in any case if 0 is returned. Else -EALREADY: one is under way; -ENOTCONN: the nodes are not
 * equal; -EPERM: the other sends, or none; -EINVAL: there is nothing at `from`; -EBUSY: not now; or another -errno.
 */
int replica_node_verify(struct replica_node *node, const struct mirror_job_verify_options *options);
void replica_node_verify_stop(struct replica_node *node);
/* What verifications have marked is copied: as at the next meeting of the nodes, and before a role changes. -EPERM: the other sends. */
int replica_node_copy_marked(struct replica_node *node);
/* The mirror over this node's volume and the other's: for latency, priority. */
struct mirror_job *replica_node_mirror(struct replica_node *node);
void replica_node_status(struct replica_node *node, struct replica_node_status *ret);
