/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One seed's world for a replicated volume: two hosts with a disk and a map each, which outlive every crash; a real node on either; a network
 * that is this file's friend replica_net.c; clients on whichever node serves; faults and orders. It ends in peace: all is mended, the
 * nodes are led together, and their disks are compared.
 */
#pragma once

#include "base/plant.h"
#include "replica/replica_node.h"
#include "replica_ledger.h"
#include "ring/fiber.h"
#include "ring/ring_sim.h"
#include "sim_story.h"

#define REPLICA_CLIENTS 6u
#define REPLICA_LINKS   8u
#define REPLICA_PARCELS 64u
#define REPLICA_SUPERS  8192u /* bytes of a map's superblocks */

struct replica_world;

struct replica_client {
	struct replica_world *world;
	struct block_io io;
	uint8_t buf[LEDGER_SPAN * LEDGER_SECTOR];
	bool busy;
	unsigned node;
	uint64_t life; /* of the node's process */
	uint32_t first, count;
	uint32_t write;              /* its number; 0: none */
	bool primary;                /* its node was, when it was submitted */
	uint32_t floor[LEDGER_SPAN]; /* a read: what it must see at least */
	struct ledger_set set;       /* a flush: the node's line when it was submitted */
	/* The other node when it was submitted. */
	uint64_t peer_life, peer_losses;
	uint64_t losses; /* of its node, then */
	bool leased;     /* a flush: both nodes have clients, and it lasts on both */
};

/* What a seed decides. */
struct replica_scenario {
	unsigned sectors, clients;
	uint32_t region_size[LEDGER_NODES], records;
	uint64_t log_ahead;
	enum replicate_ack ack;
	enum replica_gone gone;
	uint64_t queue_max;
	bool pull_ahead, compare, detach;
	bool foreign[LEDGER_NODES]; /* its volume carries something when its map is made */
	bool quarrels;              /* its users promote both nodes now and then */
	bool migrates;              /* its primary moves to and fro */
	bool forgets;               /* maps are lost now and then */
	bool hooks;                 /* before a resync a hook runs, or fails */
	bool grows;                 /* its disks become larger, and so may the volume */
	bool dies;                  /* its primaries' disks fail where their clients need not hear of it */
	bool
	    weak; /* who follows is killed, or loses its power, again and again, and is soon back; who leads lives on */
	uint32_t idle, order_every, fault_every; /* steps */
	uint64_t chaos_steps;
	unsigned span;
	struct governor_options governor;
	struct ring_sim_link_options link;
};

/* replica_scrub.c */
enum replica_scrub_step { SCRUB_NONE, SCRUB_PLANTED, SCRUB_ENDING, SCRUB_DONE };

struct replica_scrub {
	enum replica_scrub_step step;
	uint32_t sector;
	unsigned sender;
	bool resync, told;
	uint64_t passes, marked;
};

enum replica_map { MAP_GOOD, MAP_LOST, MAP_RENEWED /* perhaps: it was begun */ };

struct replica_host {
	struct replica_world *world;
	unsigned index;
	int disk_fd, map_fd;

	/* one process */
	struct ring *ring;
	struct fiber *fiber;
	struct replica_node *node; /* NULL: it is not open, or not any more */
	bool running, dying, ended;
	uint64_t life;
	bool serving, forced; /* `forced`: what it was told at last */
	bool reigns;          /* its clients may write; with a lease those of both may read */
	unsigned in_flight;
	uint64_t answers, told_answers; /* to its clients; and when patience began, at `patient_step` */
	uint64_t patient_step;
	bool refuses; /* a client was told that this is the end of its service */
	bool seeks;
	bool asks_to_fence; /* since its link came last */
	bool verifies;      /* ended() is owed */
	bool commanded;     /* a command has no answer yet */
	int answer;         /* of the last one */
	uint64_t link;      /* the last one that it took */
	uint64_t begin_ns;  /* when it is started again */
	bool map_fails;     /* now and then, or did when it began */
	bool prepared;      /* the hook has allowed a resync */
	bool off;           /* its disks have no power */
	bool damaged;       /* its map will be, before it begins again */
	uint32_t device;    /* sectors of its disk */
	bool dead;          /* its disk fails for good, that is until somebody puts in another */
	bool map_dies;      /* with it, once its clients wait; while this is all that happens */
	uint64_t
	    rotten_step; /* since then its flushes fail, and lose what they were to make last; 0: they do not */

	/* what the world knows of it */
	struct replica_ids ids; /* on stable storage */
	uint8_t supers[REPLICA_SUPERS];
	uint32_t sectors;        /* of the replica, likewise */
	uint32_t shown;          /* to clients, at last */
	uint64_t cuts;           /* losses of power */
	unsigned disk_failures;  /* that its processes were told of */
	uint64_t losses;         /* these, and flushes that failed */
	uint64_t flushes_failed; /* as its disk counts them */
	enum replica_map map;
	bool anew;        /* its data are nobody's since its map was lost */
	uint64_t carried; /* by its volume, then: bytes, and their sum */
	uint32_t carried_crc;
	bool discards; /* was told to since it was good last */
	bool fenced;   /* the other is known to be down, or was when it was told */
	bool knows;    /* that the other is primary */
	bool
	    excused; /* it may go on alone: nothing went to both since its link came last, or the other is down since */
	bool given_up;                     /* what its volume carried, by an order */
	bool shaky;                        /* its disk failed: what was in memory may be gone */
	uint32_t promised[LEDGER_SECTORS]; /* when it began to follow: what it will have */
};

/* Something on its way to a node. */
struct replica_parcel {
	struct replica_world *world;
	unsigned to;
	uint64_t life, link;
	int fd;
	bool used, data, server;
};

struct replica_world {
	uint64_t seed;
	struct sim_story story;
	uint64_t watch; /* a sector whose fate is told */
	uint32_t watched[LEDGER_NODES][2];
	struct replica_scenario scenario;
	struct ring_sim *sim;
	struct rand rand;
	struct replica_host hosts[LEDGER_NODES];
	struct ledger ledger;
	struct replica_client clients[REPLICA_CLIENTS];
	unsigned in_flight;
	uint64_t names; /* drawn */

	/* replica_net.c */
	bool cut; /* nothing new can be made */
	int fds[REPLICA_LINKS];
	unsigned fds_count;
	struct replica_parcel parcels[REPLICA_PARCELS];

	/* replica_faults.c */
	uint64_t mend_step, strike_step;

	struct replica_scrub scrub;

	/* the end */
	bool peace, over;
	unsigned stage; /* replica_finale.c */
	uint64_t peace_step, stage_step;
	bool quiet; /* no new requests */
	uint32_t tries;

	uint64_t requests, acknowledged, faults, kills, cuts, links, resyncs, promotions, forced, splits,
	    discards, checked, leases, handed, resizes, grown, foreign, given_up, hooks, maps_lost,
	    flushes_failed, borne, diverted, given_over;
};

#define replica_world_say(world, ...)  sim_say(&(world)->story, __VA_ARGS__)
#define replica_world_fail(world, ...) sim_fail(&(world)->story, __VA_ARGS__)

static inline struct replica_host *replica_host_other(struct replica_host *host)
{
	return &host->world->hosts[1 - host->index];
}

/* Its process runs, and may be talked to. */
static inline bool replica_host_is_up(const struct replica_host *host)
{
	return host->running && !host->dying && !host->ended;
}

/* replica_world.c */
void replica_world_init(struct replica_world *world, uint64_t seed, bool verbose, uint64_t watch);
bool replica_world_run(struct replica_world *world);
void replica_world_done(struct replica_world *world);
/* A fiber of it waits. */
void replica_host_pass(struct replica_host *host, uint64_t ns);
/* Its process ends in peace. */
void replica_host_stop(struct replica_host *host);
void replica_host_kill(struct replica_host *host, bool power);
void replica_host_begin(struct replica_host *host);
/* 0 when it was heard; its answer is in host->answer later. */
int replica_host_command(struct replica_host *host, enum replica_event_kind kind, bool force);
int replica_host_resize(struct replica_host *host, uint64_t size);

/* replica_net.c */
void replica_net_seek(void *data, bool on);
int replica_net_dial(void *data, uint64_t link, int *ret_fd, struct error *error);
void replica_net_step(struct replica_world *world);
void replica_net_break(struct replica_world *world);
void replica_net_begin(struct replica_world *world);

/* replica_clients.c */
void replica_clients_step(struct replica_world *world);
/* The node has this, and may have had more: who reads now may see it. */
void replica_clients_lower(struct replica_host *host, const uint32_t *seen);

/* replica_promises.c */
/* After each step, and whenever something depends on it: what is recorded by now. */
void replica_promise_notes(struct replica_world *world);
/* A client's write was acknowledged. */
void replica_promise_acknowledged(struct replica_world *world, const struct replica_client *client);
void replica_promise_flushed(struct replica_world *world, const struct replica_client *client);
/* Its clients use the other's disk. */
bool replica_promise_is_diskless(const struct replica_host *host);
/* Whether a node that serves is primary by now. */
void replica_promise_look_at_role(struct replica_host *host);
void replica_promise_power_lost(struct replica_host *host);
/* Its disk did not flush: what is not stable may be gone, for readers, too. */
void replica_promise_flush_failed(struct replica_host *host);
void replica_promise_memory_lost(struct replica_host *host);
/* Who knows whom as primary; often. */
void replica_promise_look(struct replica_world *world);
/* All that must hold now. */
void replica_promise_check(struct replica_world *world);

/* replica_promise_maps.c */
/* Where the disks differ, or would after a loss of power now, the maps say so, or what the nodes know besides. */
void replica_promise_check_maps(struct replica_world *world);
void replica_promise_check_doubts(struct replica_host *host);
/* The map of the node that acknowledges a write has it, on stable storage. */
void replica_promise_check_intent(struct replica_host *host, const struct replica_client *client);
void replica_promise_check_sizes(struct replica_world *world);

/* replica_patience.c */
/* Often: nobody who could have an answer waits for ever. */
void replica_patience_look(struct replica_world *world);
/* A primary without the other node has recorded a new generation: with `freeze` not before it may. */
void replica_patience_check_parting(struct replica_host *host);
/* The other is down, and it hears so. */
void replica_host_is_told(struct replica_host *host);

/* replica_faults.c */
void replica_faults_step(struct replica_world *world);
/* The user's hook before a resync: takes its time, and fails now and then. */
int replica_faults_before_resync(void *data, struct error *error);
/* Perhaps something strikes soon. */
void replica_faults_soon(struct replica_world *world);
void replica_faults_now(struct replica_world *world);
void replica_faults_mend(struct replica_world *world);

/* replica_sizes.c */
/* Its disk gets so many sectors; never fewer than it had. */
void replica_sizes_enlarge(struct replica_host *host, uint32_t sectors);
/* Somebody sees to it that there is more room, or orders that it be used. */
void replica_sizes_order(struct replica_world *world);
/* The node's volume is to be as large as its disk. True: it is. */
bool replica_sizes_fill(struct replica_host *host);
/* Which node's disk is too small for what the other has; NULL: neither's. */
struct replica_host *replica_sizes_short(struct replica_world *world);

/* replica_maps.c */
/* Whatever was there before. 0 or -errno. */
int replica_map_make(
    struct replica_host *host, struct ring *ring, uint32_t sectors, uint32_t region_size, uint64_t nonce);
/* The node is down. */
void replica_map_damage(struct replica_host *host);
/* In its fiber. */
int replica_map_renew(struct replica_host *host);
/* A new one, if all of it is there. */
void replica_map_found(struct replica_host *host);
/* What its volume carried is there, as long as nobody has given it up. */
void replica_map_check_foreign(struct replica_host *host);
/* Its record is about to be that: what it says of that must have been ordered. */
void replica_map_noted(struct replica_host *host, const struct replica_ids *ids);

/* replica_scrub.c */
/* Perhaps one is ordered, or stopped. */
void replica_scrub_strike(struct replica_world *world);
/* After each step in peace. */
void replica_scrub_check(struct replica_world *world);
/* In peace, while nobody writes and both are up. True: that is all. */
bool replica_scrub_go_on(struct replica_world *world, const struct replica_node_status *status);
void replica_scrub_give_up(struct replica_world *world);
/* The disks do not hold what was promised, and that is known. */
bool replica_scrub_hides(const struct replica_world *world);

/* replica_finale.c */
void replica_finale_step(struct replica_world *world);
