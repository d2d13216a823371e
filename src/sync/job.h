/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A whole run of copy, sync or verify: opens both volumes, judges whether it may, moves the data, keeps the
 * journal, waits for lost links, flushes, verifies. job_run() does it all on the calling thread and runs the
 * ring; the other functions may be called from ring callbacks meanwhile. Prints nothing: events and the
 * result say what happened.
 */
#pragma once

#include "block/open.h"
#include "filter/stage_view.h"
#include "range/range_set.h"
#include "sync/job_state.h"
#include "sync/known_changes.h"
#include "sync/preflight.h"

enum job_kind { JOB_COPY, JOB_SYNC, JOB_VERIFY };

/* Also the exit codes of the program. */
enum job_result {
	JOB_OK = 0,          /* completed; verify: the volumes are equal */
	JOB_DIFFERS = 1,     /* verify: they differ */
	JOB_TROUBLE = 2,     /* failed */
	JOB_REFUSED = 3,     /* preflight said no; nothing was written */
	JOB_INTERRUPTED = 4, /* stopped by the user; --resume goes on */
	JOB_BAD_RANGES = 5,  /* all done but for unreadable ranges, which are listed and zero on the target */
	JOB_LINK_LOST = 6,   /* the link stayed away; --resume goes on */
	JOB_LOCKED = 7,      /* another blkmove writes to this target */
	JOB_DIVERGES = 8,    /* rounds do not get short enough; the source was not stopped */
	JOB_NOT_STOPPED = 9, /* rounds: the source could not be stopped, or is in use all the same */
};

/* Where things stand. Byte counts; `position` never goes backwards. */
struct job_progress {
	enum job_state state;
	uint64_t source_size, target_size;
	uint64_t total;    /* bytes to decide about; 0: not known (a stream) */
	uint64_t position; /* decided: same, sent or zeroed */
	uint64_t resumed;  /* of these, by an earlier run */
	uint64_t same, sent, zeroed, bad;
	uint64_t verified; /* of total, while verifying */
	bool paused;
	unsigned retries;                           /* links lost and found again */
	bool wrote;                                 /* the target may have been written to */
	bool tracked;                               /* a tracker has named what changed: */
	uint64_t changed;                           /* so much */
	uint64_t differing_ranges, differing_bytes; /* found by a verify */
};

/* What is noted of the target once a run has ended: whether its base is known (sync/base_record.h). */
enum job_holds {
	JOB_HOLDS_AS_BEFORE, /* it was not written to, or what was noted before is true still */
	JOB_HOLDS_UNKNOWN,   /* it was written to, and nothing is noted */
	JOB_HOLDS_SOURCE,    /* it is noted that it holds what the source was */
};

struct job_options {
	enum job_kind kind;
	const struct endpoint *source, *target; /* borrowed */
	struct link_options link;
	enum cache_mode cache;
	uint64_t session; /* SESSION_FIRST...SESSION_MAX; 0: drawn at random */
	bool dry_run, verify, resume;
	bool verify_sent; /* with verify: only what this run wrote is read back */
	bool
	    trust_holes; /* verify: what both sides say is a hole is not read; sync: nor what any target does */
	bool list_read_errors; /* --on-read-error=list */
	bool ignore_holes;     /* read what is said to be a hole, too */
	bool assume_unchanged; /* resume: trust although it cannot be seen that the source was not written */
	bool detect_zeroes;
	enum size_mismatch size_mismatch;
	unsigned allow; /* set of preflight_allow */
	const char *overwrite;
	uint64_t rate; /* bytes per second; 0: no limit */
	enum job_changes changes;
	bool changes_named; /* by the user: whatever is chosen is said, and why */
	const char
	    *base; /* a tracker's base, which the target holds; NULL: the one that an earlier run noted */
	/*
	 * Writes are staged beside the target, and applied at the end: after a crash it is the old point or the new one (filter/stage_view.h). No journal is
	 * kept: with `resume`, what an interrupted run has staged is kept, and all is compared with it.
	 */
	bool atomic;
	const char *stage_dir;    /* where the stage lies, on the target's machine; NULL: chosen */
	unsigned keep_points;     /* of an LVM thin volume; 0: none are made */
	stage_points *points;     /* makes them, where the target is on this machine */
	const char *digests_path; /* saved digests, read and renewed; or NULL */
	uint32_t top_granularity; /* sync: first block size compared; 0: chosen */
	const char *state_dir;    /* where journals lie; NULL: no journal, no resume */
	bool no_journal;          /* keep none; an earlier one of this target is removed */
	bool no_resume;           /* words do not offer --resume: the command does not take it */
	unsigned retries;         /* how often in a row a lost link is tried again without progress */
	uint64_t checkpoint_ns;   /* 0: 2 s */

	/* All may be NULL. */
	void *data;
	void (*state_changed)(void *data, enum job_state state);
	void (*warning)(void *data, const char *text); /* the run goes on; the user should know */
	/*
	 * Asked when all was read, before anything is noted of the target, or committed: whether the source was one all the time. -errno with words ends the
	 * run, and the target is no copy. Has its own data.
	 */
	int (*check_source)(void *check_data, struct error *error);
	void *check_data;
	/* Simulations open their own volumes and journals. */
	int (*open_block)(void *data, bool target, const struct block_open_options *options,
	    struct block **ret, struct error *error);
	int (*open_journal)(void *data, bool create); /* a descriptor, which stays the caller's, or -errno */
	void (*remove_journal)(void *data);
};

struct job;

/* Strings and endpoints are borrowed until job_free(). */
int job_new(struct job **ret, struct ring *ring, const struct job_options *options, struct error *error);
struct job *job_free(struct job *job);
/* Runs to an end state. Words are in `error` for every result but JOB_OK and JOB_DIFFERS. */
enum job_result job_run(struct job *job, struct error *error);
/*
 * What earlier runs noted of a target with this identity (block_facts.id) is no longer true: somebody else writes to it. Its journal
 * and what base it holds are removed. An empty identity has none.
 */
void job_journal_forget(const char *state_dir, const char *id);
/* Ends soon, in a state that resume continues: JOB_CANCELLED. */
void job_cancel(struct job *job);
void job_pause(struct job *job, bool paused);
void job_set_rate(struct job *job, uint64_t rate);
void job_progress(struct job *job, struct job_progress *ret);
/* After job_run(), before job_free(): closes both volumes, for who has to remove one of them. */
void job_close(struct job *job);
/* After job_run(). */
enum job_holds job_holds(const struct job *job);
/* Unreadable ranges so far. */
const struct range_set *job_bad_ranges(const struct job *job);
/* What differs, found by a verify: the first ranges; job_progress has their full count. */
const struct range_set *job_differences(const struct job *job);
