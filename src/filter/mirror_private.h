/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of the mirror share: mirror.c (the whole), mirror_swap.c, mirror_grow.c, mirror_io.c (clients' requests), mirror_leg.c (legs, time-outs). */
#pragma once

#include "block/driver.h"
#include "filter/mirror.h"

struct mirror;
struct mirror_leg;

/* A request to a leg. Its end is told even when the leg was let go before: only then is its memory free. */
struct mirror_leg_io {
	struct block_io io;
	struct mirror_leg *leg;
	struct list_node node; /* in leg->under_way, oldest first */
	uint64_t start_ns;
	void (*done)(struct mirror_leg_io *leg_io, int res);
	bool active;
	bool notes; /* a flush of the leader that says what is flushed */
};

struct mirror_leg {
	struct mirror *mirror;
	struct block *block; /* NULL: detached */
	struct list_node under_way;
	unsigned life; /* grows as it comes */
	struct bitmap
	    written; /* granules that were written to since it came, and not zeroed since; or that may be */
};

/* What copies use: the leg that has this part now. */
struct mirror_port {
	struct block block;
	struct mirror *mirror;
	bool follower;
};

struct mirror_io {
	struct mirror *mirror;
	struct list_node node;   /* in mirror->under_way, or ->spare */
	struct list_node parked; /* in mirror->parked: waits for the leader */
	struct block_io *parent;
	struct range_lock lock;
	struct bitmap_claim claim;
	struct mirror_leg_io legs[MIRROR_LEGS];
	uint64_t start_ns;
	void *stable;          /* the data, for both legs */
	uint64_t stable_bytes; /* that may be held, from begin to end */
	bool was_held;
	bool locked, claimed;
	bool through;    /* both legs are asked */
	bool asked;      /* before the leader was lost */
	bool abandoned;  /* the leader did not come back in time */
	bool auth_ended; /* with `res` */
	bool followed;   /* the follower did it, too */
	bool parted;     /* it was let go since: another one does not get this */
	bool answered;
	int res;
};

struct mirror_flush {
	struct mirror_leg_io legs[MIRROR_LEGS];
	unsigned pending;
	int res;
	void (*done)(void *data, int res);
	void *data;
};

struct mirror {
	struct block block;
	struct mirror_options options;
	struct bitmap_file *map;
	struct range_locks locks;
	struct mirror_leg legs[MIRROR_LEGS];
	struct mirror_port ports[MIRROR_LEGS];
	struct list_node spare_ports;
	enum mirror_leg_index authoritative;
	enum mirror_mode mode;
	int detach_reason;
	bool map_lost;
	bool alone; /* for good */
	bool withholding, refusing;

	struct list_node under_way, spare, held;
	struct list_node turns; /* writes to both legs that wait until there is room for their data */
	unsigned in_flight;     /* clients' requests that were begun and not answered */
	unsigned let_in;        /* of these, those that a hold kept waiting */
	bool holding;
	uint64_t stable_bytes;
	uint64_t granule;      /* of legs[].written; bytes */
	struct bitmap changed; /* regions */
	bool notes_changed;
	struct mirror_flush flush;
	struct ring_op watch; /* the follower's oldest request */
	struct ring_op drained;

	struct mirror_counts counts;
	struct histogram latency, recent;
	uint64_t pause_ns, slow_ns;
	/* mirror_leader.c */
	struct list_node parked;
	uint64_t away_since_ns;
	bool overdue; /* nobody waits for the leader any more */
	bool linked;  /* it can be lost */
	bool noting;
	struct ring_op patience;
	struct bitmap unflushed,
	    flushing; /* regions with writes that the leader has acknowledged; while a flush runs, those that it covers */

	int owed; /* a flush of the mirror's own failed on the authoritative leg: the next client that flushes is told */
};

/* mirror_leg.c */
/* How much one bit of legs[].written stands for; bytes. */
uint64_t mirror_granule(uint64_t region_size, uint64_t size);
/* 0 or -ENOMEM; either way mirror_ports_done() frees what there is. */
int mirror_ports_init(struct mirror *mirror);
/* A leg that was opened just now. */
void mirror_leg_came(struct mirror_leg *leg, struct block *block);
/* After a leg came or the parts changed. */
void mirror_ports_set_info(struct mirror *mirror);
void mirror_ports_done(struct mirror *mirror);
/* op, range, buf and done are set. The leg is there. */
void mirror_leg_submit(struct mirror_leg *leg, struct mirror_leg_io *leg_io);
static inline struct mirror_leg *mirror_follower(struct mirror *mirror)
{
	return &mirror->legs[MIRROR_LEGS - 1 - mirror->authoritative];
}

/* mirror_leader.c */
static inline bool mirror_is_away(const struct mirror *mirror)
{
	return !mirror->legs[mirror->authoritative].block;
}
/* The leader's link is lost. */
void mirror_leader_gone(struct mirror *mirror);
/* The request waits for the leader, or is abandoned. */
void mirror_park(struct mirror_io *mio);
void mirror_unpark(struct mirror *mirror);
/* Requests of the leader: what it has flushed. */
void mirror_note_submit(struct mirror *mirror, struct mirror_leg_io *leg_io);
void mirror_note_end(struct mirror *mirror, struct mirror_leg_io *leg_io, int res);
/* Another leg leads, with everything flushed. */
void mirror_note_swap(struct mirror *mirror);

/* mirror_io.c */
/* It has waited for the leader: goes on; ends with -EIO. */
void mirror_io_resume(struct mirror_io *mio);
void mirror_io_abandon(struct mirror_io *mio);
void mirror_io_submit(struct mirror *mirror, struct block_io *io);
/* Writes that wait for their turn wait for the release, too. */
void mirror_io_hold(struct mirror *mirror);
void mirror_io_release(struct mirror *mirror);
/* The follower was let go: nobody waits for it any more. */
void mirror_io_let_go(struct mirror *mirror);
/* A write that goes to the leader alone, and has no answer yet. */
bool mirror_io_is_behind(const struct mirror_io *mio);
/* Those that waited for mirror_give_answers(), or get -ESHUTDOWN instead of it. */
void mirror_io_answer(struct mirror *mirror);
/* Begins writes that wait for their turn, as far as there is room now, or none is needed any more. */
void mirror_io_give_turns(struct mirror *mirror);
void mirror_look_drained(struct mirror *mirror);
/* All that was begun has ended, or waits for the leader. */
bool mirror_is_quiet(const struct mirror *mirror);

/* mirror.c */
/* What clients are told, by what the legs have. */
void mirror_set_info(struct mirror *mirror);
struct mirror *mirror_of(struct block *block);
const struct mirror *mirror_const_of(const struct block *block);
void mirror_tell(struct mirror *mirror, enum mirror_event event);
int mirror_check_leg(const struct mirror *mirror, const struct block *leg, struct error *error);
/* The follower failed, or the user lets it go. */
void mirror_let_go(struct mirror *mirror, int res);
void mirror_map_was_lost(struct mirror *mirror);
/* A flush of the authoritative leg failed. */
void mirror_flush_failed(struct mirror *mirror);
