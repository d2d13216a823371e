/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A volume over two legs that hold, or will hold, the same. One leg is authoritative, the leader: reads come from it, and its errors
 * are the client's; while its link is lost, requests wait for it. The other follows: its errors and its slowness are nobody's but its own, it is let go and what it may lack
 * is dirty in the map. In the background mode only the authoritative leg is written and the region is dirty; in the
 * write-through mode both are, from one stable copy of the data, before the acknowledgement.
 *
 * Legs and map are borrowed: whoever owns them attaches and detaches. A TRIM is passed on as a ZERO, so that both legs read the
 * same afterwards. Ring thread only.
 */
#pragma once

#include "base/histogram.h"
#include "block/block.h"
#include "range/bitmap_file.h"
#include "range/range_lock.h"

enum mirror_leg_index { MIRROR_SOURCE, MIRROR_TARGET, MIRROR_LEGS };
enum mirror_mode { MIRROR_BACKGROUND, MIRROR_WRITE_THROUGH };

/* Kinds of range locks: a write to both legs, one to the authoritative leg alone, a copy from leg to leg. */
enum mirror_lock { MIRROR_LOCK_THROUGH, MIRROR_LOCK_BEHIND, MIRROR_LOCK_COPY };

enum mirror_event {
	MIRROR_DETACHED,    /* the following leg failed, but for reading, or took too long, and was let go */
	MIRROR_DIRTIED,     /* more is dirty than before */
	MIRROR_DRAINED,     /* held, and nothing is under way */
	MIRROR_LEADER_LOST, /* its link broke: clients wait */
	MIRROR_LEADER_OVERDUE, /* it was not given back in time: clients get -EIO until it is */
	MIRROR_LEADER_FAILING, /* it fails a client's request, or a flush, or the map fails, and nothing has followed from that yet */
	MIRROR_LEADER_FAILED, /* it failed a client's request: see counts */
	MIRROR_MAP_LOST,      /* the map cannot be written: the follower was let go for good */
};

struct mirror_options {
	struct bitmap_file *map;
	uint64_t follower_timeout_ns; /* of one request to the following leg; 0: 10 s */
	uint64_t leader_timeout_ns;   /* how long clients wait for a leader whose link is lost; 0: 30 s */
	/* Bytes of data held for both legs at once; 0: 16 MiB. Beyond it writes wait for their turn; a longer one goes alone. */
	uint64_t stable_max;
	/*
	 * From the moment that the follower is let go, writes and flushes get no answer until mirror_give_answers(): who has to make something
	 * durable before anything is acknowledged that the follower lacks.
	 */
	bool withholds;
	/* What the follower has acknowledged need not be dirty when it is let go: mirror_attach() may be told that it is still there. */
	bool doubts_late;
	/* From the loop; it may call everything here but block_free(). */
	void (*event)(void *data, enum mirror_event event);
	void *data;
};

struct mirror_counts {
	uint64_t written_through, written_behind; /* requests */
	uint64_t detached;                        /* how often the follower was let go */
	uint64_t held;                            /* requests that a hold kept waiting */
	uint64_t leader_lost;                     /* how often its link was lost */
	uint64_t read_errors, write_errors;       /* of the leader, told to clients; flushes are writes */
	enum block_op error_op;                   /* the last of them */
	uint64_t error_offset;
	int error_res;
	uint64_t reads_writes, slow; /* requests of clients; those that took too long */
};

/*
 * The authoritative leg (the map says which) must be there, the other may be NULL: attached later. Both have the map's size. The
 * volume begins in the background mode.
 */
int mirror_new(struct block **ret, struct block *const legs[MIRROR_LEGS],
    const struct mirror_options *options, struct error *error);

void mirror_set_mode(struct block *mirror, enum mirror_mode mode);
enum mirror_mode mirror_mode(const struct block *mirror);
enum mirror_leg_index mirror_authoritative(const struct block *mirror);

/*
 * The following leg comes (back); all that is logged is dirty, unless it is known to hold all that it ever acknowledged: `kept`. Not while requests of an earlier life are under way. -EINVAL with
 * words if its size is another one, or it cannot do what clients were told that they may ask for.
 */
int mirror_attach(struct block *mirror, struct block *leg, bool kept, struct error *error);
/* With `withholds`, as if the follower had been let go now. */
void mirror_withhold(struct block *mirror);
/*
 * The volume has `size` bytes from now on, no fewer than before; what is new, and the region of the old end, is dirty in the map. The
 * leader has that size already; the follower was let go, and has it when it comes. 0, or -errno with words: it has the old size, or the map is lost. Control path.
 */
int mirror_grow(struct block *mirror, uint64_t size, struct error *error);
/* The follower was let go, and that is seen to: the answers that wait for it are given, and so are all others. */
void mirror_give_answers(struct block *mirror);
/* Instead of that: those that wait, or would, get -ESHUTDOWN, until that is taken back. */
void mirror_refuse_answers(struct block *mirror, bool on);
/* Lets the following leg go now. Its block may be freed once mirror_leg_idle(). */
void mirror_detach(struct block *mirror);
bool mirror_attached(const struct block *mirror);
/* A write is under way that the follower does not get: what it writes is dirty when it ends. */
bool mirror_writes_behind(const struct block *mirror);
/*
 * The mirror has ended: the follower is let go for good, and from now on the volume is the authoritative leg and nothing more. Writes
 * need no lock and are not noted any more; the map must say that it has ended.
 */
void mirror_end(struct block *mirror);
/* Why the follower was let go last: -errno. */
int mirror_detach_reason(const struct block *mirror);
/*
 * The leader. A request that it ends with -ENOTCONN, or mirror_leader_lose(), means that its link is lost: MIRROR_LEADER_LOST. Its
 * block is to be freed once mirror_leg_idle(), opened again, and given back by mirror_leader_return(); then all that waited goes on,
 * or goes to the leader once more, and all that is logged is dirty. Or the other leg takes its part: mirror_swap().
 */
bool mirror_leader_here(const struct block *mirror);
void mirror_leader_lose(struct block *mirror);
/* For how long it has been away; 0: it is here. */
uint64_t mirror_leader_away_ns(const struct block *mirror);
/* Clients need not wait any longer. From the loop. */
void mirror_leader_give_up(struct block *mirror);
/* Regions with writes that the leader has acknowledged and, as far as is known, not flushed. While it is away and idle. */
const struct bitmap *mirror_unflushed(struct block *mirror);
/*
 * -EINVAL with words as mirror_attach(). Whoever gives it back has made sure that it holds all that it ever acknowledged. From the
 * loop, or from control paths.
 */
int mirror_leader_return(struct block *mirror, struct block *leg, struct error *error);
/* No request to that leg is under way. */
bool mirror_leg_idle(const struct block *mirror, enum mirror_leg_index leg);

/*
 * The authoritative leg and the follower, whichever they are, for the copy of regions, below what clients do: hold a
 * MIRROR_LOCK_COPY and a claim. Requests to the follower count for its timeout. Valid as long as the mirror.
 */
struct block *mirror_copy_source(struct block *mirror);
struct block *mirror_copy_target(struct block *mirror);
/*
 * Whether a port's leg was written to at `offset` since it came, and up to where that is so. What a leg with trusted holes calls a
 * hole reads as zero if nobody wrote to it since: no file system is relied upon to tell of dirty data. What was zeroed counts
 * as not written. In steps of some regions: more may count as written than was.
 */
bool mirror_leg_written(const struct block *port, uint64_t offset, uint64_t *ret_end);
/* Another number whenever a port's leg came anew. What it said in an earlier life, it did not say of what it holds now. */
unsigned mirror_leg_life(const struct block *port);
/*
 * Notes from now on which regions are written or zeroed, on either leg, beginning with none of [offset, offset + length), which is whole
 * regions.
 */
void mirror_forget_changed(struct block *mirror, uint64_t offset, uint64_t length);
/* Bytes of those that were, since they were forgotten. */
uint64_t mirror_changed(const struct block *mirror);
struct range_locks *mirror_locks(struct block *mirror);
struct bitmap_file *mirror_map(struct block *mirror);
/* What follows when the map cannot be written, at once: the follower is let go for good, MIRROR_MAP_LOST. `res`: why. */
void mirror_lose_map(struct block *mirror, int res);

/* Keeps new requests waiting; MIRROR_DRAINED follows when the others have ended. */
void mirror_hold(struct block *mirror);
bool mirror_drained(const struct block *mirror);
/* Lets them go, in the order of their coming. */
void mirror_release(struct block *mirror);
/*
 * The follower becomes authoritative. Held, drained, attached, nothing dirty, flushed, and recorded in the map. When the leader is away
 * it is the follower that was let go, and what waited for it goes to the new one.
 */
void mirror_swap(struct block *mirror);
/*
 * Flushes both legs; done(data, 0) if both did, or the follower alone if the leader is away and `without_leader`. One at a time:
 * mirror_flushing() tells. The follower's failure detaches it. Not with both away.
 */
void mirror_flush_legs(
    struct block *mirror, bool without_leader, void (*done)(void *data, int res), void *data);
bool mirror_flushing(const struct block *mirror);

const struct mirror_counts *mirror_counts(const struct block *mirror);
/* Reads and writes of the clients, over the last seconds. */
void mirror_latency(struct block *mirror, struct histogram_figures *ret);
/* The same over the last one or two seconds: for those who steer by it. */
void mirror_latency_recent(struct block *mirror, struct histogram_figures *ret);
/* From now on those that take longer are counted as slow; 0: none. */
void mirror_set_slow(struct block *mirror, uint64_t slow_ns);
/* The longest that a held request took from its coming to its end since the last call; ns. */
uint64_t mirror_pause_ns(struct block *mirror);
/* All that were held have ended: the pause is known. */
bool mirror_pause_is_over(const struct block *mirror);
