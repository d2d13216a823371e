/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A live mirror from its begin to its end: opens legs and map, copies what is dirty, lets a lost leg come back, clears the map,
 * switches when asked, reverts, finishes. mirror_job_open() gives a volume that clients may use from then on, and after
 * mirror_job_run() has returned too; run() drives everything else, on the calling thread or in a fiber, so that several jobs can
 * share a ring. The other functions may be called from ring callbacks meanwhile. Prints nothing.
 */
#pragma once

#include "range/range_set.h"
#include "sync/budget.h"
#include "sync/cutover.h"

enum mirror_copy_mode {
	MIRROR_COPY_AUTO,          /* in the background until nearly done, then write-through */
	MIRROR_COPY_BACKGROUND,    /* until an order to cut over */
	MIRROR_COPY_WRITE_THROUGH, /* from the beginning */
};

enum mirror_late { MIRROR_LATE_DEFER, MIRROR_LATE_ABORT, MIRROR_LATE_WAIT };

struct mirror_job_options {
	bool resume;   /* from the map; else a new map, everything dirty */
	bool distrust; /* resumed: the map lacks something, but says which leg is authoritative */
	bool compare;  /* not all that is dirty differs: compare before copying, until nothing is dirty */
	/* With that key, which open_leg() may still have set; borrowed. NULL: a random one. */
	const struct digest_key *compare_key;
	/* The target may be longer than the source: its first bytes are the leg, and nothing behind them is touched. */
	bool larger_target;
	bool verify;          /* not ready before all was read from both legs and found equal */
	uint64_t nonce;       /* of a new map; anything that an earlier one there did not have */
	uint32_t region_size; /* bytes, power of two, 4 KiB to 1 MiB; 0: 64 KiB, more above 8 TiB */
	uint32_t records;     /* of a new map; 0: 256 */
	enum mirror_copy_mode copy_mode;
	struct governor_options governor; /* of the copy; min_rate is this mirror's own in any case */
	struct budget
	    *budget; /* shared with others, borrowed; then `governor` is not heeded. NULL: one of its own */
	struct budget *
	    common; /* besides, shared with others, borrowed: the copy takes no more than both allow. NULL: none */
	unsigned priority;            /* in the budget; 0: 1 */
	uint64_t follower_timeout_ns; /* 0: 10 s */
	/* How long clients wait for the authoritative leg when its link is lost; 0: 30 s. */
	uint64_t source_timeout_ns;
	/* Between clearings of the map: with no clients, and with; 0: 2 s, 30 s. */
	uint64_t settle_ns, settle_busy_ns;
	/* Bytes of clean regions that stay logged while clients are about; 0: 4 GiB, 512 MiB if remote. */
	uint64_t settle_keep;
	uint64_t stable_max;        /* as mirror_options.stable_max; 0: 16 MiB */
	uint64_t retry_ns;          /* before a lost leg is tried again, doubled up to 32 times; 0: 1 s */
	uint64_t cutover_window_ns; /* 0: 500 ms */
	enum mirror_late late;      /* when the window is not enough: try again later, give up, wait */
	bool apart;                 /* begins with the target let go: mirror_job_let_target_go() */
	bool withholds;             /* as mirror_options.withholds; mirror_give_answers() is the owner's */
	/*
	 * As bitmap_file_log_ahead(): bytes, a power of two; 0: as many as are written.
	 */
	uint64_t log_ahead;
	/*
	 * The target keeps what it acknowledged, until its machine is started anew: when it comes back only what it did not is copied.
	 */
	bool target_keeps;
	bool replica; /* the map has a note of a replica's; else such a map is refused */

	void *data;
	/* Opens a leg for writing. The job owns what it gets. */
	int (*open_leg)(void *data, enum mirror_leg_index leg, struct block **ret, struct error *error);
	/*
	 * For a new map, with both legs open and not yet used: 1 and what may differ, 0 when all may, or -errno with words. May be
	 * NULL: all.
	 */
	int (*changes)(void *data, struct block *source, struct block *target, struct range_set *ret,
	    struct error *error);
	/* A descriptor of the map, empty for a new one; it stays the caller's. Or -errno. */
	int (*open_map)(void *data, bool create);
	/* May be NULL. */
	void (*state_changed)(void *data, enum cutover_state state);
	/* The following leg was let go, and why: -errno. Must be quick. May be NULL. */
	void (*follower_lost)(void *data, int reason);
	/*
	 * After a switch: clients go on, and those that were held have their answers, but for some that take longer than a second. The
	 * order is not over before it returns. May be NULL.
	 */
	void (*switched)(void *data);
	void (*warning)(void *data, const char *text);
	/*
	 * The authoritative leg fails a client's request, or a flush, or the map fails, and nothing has followed from that yet: the target may be let go before it
	 * gets what is left there. True: it is seen to, and needs no words. From the loop. May be NULL.
	 */
	bool (*leader_failing)(void *data);
	/*
	 * The map cannot be written; before a write is acknowledged that it lacks, or that may be on another leg than it says. Whoever
	 * resumes says so, with `distrust`. Must be quick. May be NULL.
	 */
	void (*map_lost)(void *data);
};

struct mirror_job_status {
	enum cutover_state state;
	enum mirror_leg_index authoritative;
	enum mirror_mode mode;
	bool attached; /* the following leg is there */
	bool paused;
	bool let_go;          /* the target, by an order, and closed */
	bool revert_ready;    /* switched, and nothing differs */
	bool ordered;         /* an order waits, or is being carried out */
	bool marked;          /* what verifications found is not copied before mirror_job_copy_marked() */
	uint64_t size, dirty; /* bytes */
	uint64_t
	    logged; /* bytes: dirty, or the map says that they may differ: after a crash all that is copied */
	uint64_t unequal;      /* bytes: dirty, or about to be copied; none of them when it is ready */
	uint64_t copied, same; /* bytes, by this run: copied, found equal */
	bool comparing;        /* what is dirty is compared before it is copied: not all of it need differ */
	uint64_t holes;     /* bytes, by this run: they were due, and a hole in the leg that is copied from */
	uint64_t pause_ns;  /* the longest that a client waited at the last switch */
	uint64_t verified;  /* bytes of both legs compared in this pass, holes of both among them */
	uint64_t differing; /* bytes that the passes found to differ without the map's knowing */
	unsigned priority;
	uint64_t rate;              /* bytes per second that the copy may take; 0: no limit */
	uint64_t baseline_ns;       /* the clients' p99 with the copy paused; 0: not measured */
	uint64_t detached;          /* how often the follower was lost */
	uint64_t cutovers_deferred; /* for want of time */
	uint64_t away_ns;           /* for how long the authoritative leg has been away; 0: it is there */
	bool refused; /* it is back, and may have lost what was acknowledged: clients get errors */
	uint64_t read_errors, write_errors; /* of the authoritative leg, told to clients */
	/*
	 * Bytes of regions that could not be read from the authoritative leg and so not be copied, and where, for one of them: the
	 * mirror is not ready before they are. mirror_job_unreadable() says what can be done.
	 */
	uint64_t unreadable, unreadable_at;
	int unreadable_res;
	uint64_t unverified; /* bytes that it could not be asked for by the verification */
	/* Of the verification on demand that is under way, or the last one: bytes. */
	bool verifying;
	uint64_t verify_position;  /* all before it was looked at */
	uint64_t verify_differing; /* in blocks of 4 KiB */
	uint64_t
	    verify_unread; /* of ranges that one of the legs could not be asked for: neither equal nor not */
	/* Of the map, and how often the legs have changed their parts in it: together the name of the last switch. */
	uint64_t nonce, generation;
};

/* What the legs held when they were switched last, as the verification before it found them. */
struct mirror_job_digests {
	bool known; /* else nothing was verified before the switch, or there was none */
	struct digest_key key;
	uint8_t roots[MIRROR_LEGS][DIGEST_BYTES]; /* docs/formats/digests.md, "The root" */
	/* Bytes of regions that were written between their comparison and the switch. 0: the roots are those at the switch. */
	uint64_t written_since;
};

struct mirror_job_verify_options {
	uint64_t from; /* bytes; where an earlier pass has come to, or 0 */
	uint64_t rate; /* bytes per second; 0: the governor's */
	/*
	 * What differs, or the follower cannot read, is copied. Else what differs is marked: dirty, and not copied before
	 * mirror_job_copy_marked(), an order, mirror_job_clear_map(), or the follower's return.
	 */
	bool resync;
	/*
	 * From the loop. A range differs, in blocks of 4 KiB, and in no order, and is dirty, durably unless the map is lost; what is about to be
	 * copied, or being written, is none. It may stop the pass, and do nothing else to the job. May be NULL.
	 */
	void (*differs)(void *data, uint64_t offset, uint64_t length);
	/*
	 * From run(), once. 0: to the end; -ECANCELED: stopped, or run() ends, or a cutover begins; -ENOTCONN: the follower was lost or let go,
	 * or the authoritative leg was lost. `position`: from where to go on. Another pass may be begun in it. May be NULL.
	 */
	void (*ended)(void *data, int res, uint64_t position);
	void *data;
};

struct mirror_job;

int mirror_job_new(struct mirror_job **ret, struct ring *ring, const struct mirror_job_options *options,
    struct error *error);
/*
 * Opens the authoritative leg and the map (a new one: both legs). -EBADMSG: the map is missing or damaged, only a comparison says
 * what differs; -ENOTRECOVERABLE: nor can it be known which leg is the newer one; -EXDEV: another volume than the map knows; -EALREADY: the mirror has ended, see status. Control path.
 */
int mirror_job_open(struct mirror_job *job, struct error *error);
/* Bytes, as the map says, from the moment that it is known: before a leg of a resumed mirror is opened. 0: not known yet. */
uint64_t mirror_job_size(const struct mirror_job *job);
/* What clients use; between open and free. */
struct block *mirror_job_block(struct mirror_job *job);
/* Runs until an end state, or mirror_job_stop(). Returns the state: FINISHED, CANCELLED, FAILED (with words), or another if stopped. */
enum cutover_state mirror_job_run(struct mirror_job *job, struct error *error);
/* Ends run() soon and leaves the mirror as it is, for another run() or a later resume. */
void mirror_job_stop(struct mirror_job *job);
/* After run() has come to an end state: goes on looking after the one leg that is left, until mirror_job_stop(). 0 or -errno. */
int mirror_job_serve(struct mirror_job *job);
/* No request of a client may be under way. Takes NULL; returns NULL. */
struct mirror_job *mirror_job_free(struct mirror_job *job);

/*
 * Orders; 0, -EINVAL when the state has no such way, or -ENOTCONN when the authoritative leg is away: then only revert is possible,
 * if the other leg has all that was acknowledged, and abort. They are carried out by run().
 */
int mirror_job_cutover(struct mirror_job *job);
int mirror_job_revert(struct mirror_job *job);
int mirror_job_finish(struct mirror_job *job);
int mirror_job_abort(struct mirror_job *job);
/* Not paused any more, a target that was let go comes back. */
void mirror_job_pause(struct mirror_job *job, bool paused);
/*
 * Pauses, and lets the target go as if it were lost, until pause(false): what is written meanwhile is noted. It is closed some time
 * later: let_go in the status. -EINVAL: it is not the following leg, or is being switched to.
 */
int mirror_job_let_target_go(struct mirror_job *job);
/*
 * Compares the legs from `from` to the end, while clients use the mirror: by digests, made where the data are. 0, -EINVAL: it is not ready but
 * for what is marked, or there is nothing at `from`; -EBUSY: it does so already; or another -errno. What is found makes it syncing: for a while, or until what is marked
 * is copied. What is marked already is compared again, and found again; with `resync` it is copied when the pass ends.
 */
int mirror_job_verify(struct mirror_job *job, const struct mirror_job_verify_options *options);
/* ended() follows, if a pass is under way. */
void mirror_job_verify_stop(struct mirror_job *job);
/* What verifications have marked is copied. */
void mirror_job_copy_marked(struct mirror_job *job);
/*
 * From now on what is dirty is compared before it is copied, until nothing is: the map does not know what differs. Only with the target let
 * go; not while a region is still waited for that was to be copied: then all is copied. -errno with words.
 */
int mirror_job_compare(struct mirror_job *job, struct error *error);
/* Clears the map as soon as can be, and not when it pays; for those who wait until nothing is logged. */
void mirror_job_clear_map(struct mirror_job *job, bool now);
/*
 * The volume has `size` bytes from now on: clients may go so far when it returns, and what is new is copied once the target is there again,
 * which must have that size, too. The source has it already (block_measure()). The target was let go by an order and is closed (-EBUSY). -EINVAL:
 * there are more bytes now, or the source is not the one that clients use; -ENOSPC: the source has fewer; -ENOTCONN: it is away; -E2BIG: too
 * many regions; or another -errno; with words. Control path, and not run()'s callbacks'.
 */
int mirror_job_grow(struct mirror_job *job, uint64_t size, struct error *error);
/* For the switches to come. window_ns 0: 500 ms. */
void mirror_job_set_cutover(struct mirror_job *job, uint64_t window_ns, enum mirror_late late);
/* Holds for all that share the budget, but for min_rate. */
void mirror_job_govern(struct mirror_job *job, const struct governor_options *options);
/* 1..BUDGET_PRIORITY_MAX */
void mirror_job_set_priority(struct mirror_job *job, unsigned priority);
void mirror_job_status(struct mirror_job *job, struct mirror_job_status *ret);
/* Words for a status with `unreadable`. */
void mirror_job_unreadable(const struct mirror_job_status *status, struct error *ret);
const struct mirror_job_digests *mirror_job_digests(const struct mirror_job *job);
/* Reads and writes of the clients over the last seconds. */
void mirror_job_latency(struct mirror_job *job, struct histogram_figures *ret);
