/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of a job share: job.c (life), job_open.c, job_journal.c, job_checkpoint.c, job_transfer.c,
 * job_compare.c. */
#pragma once

#include "sync/copy.h"
#include "sync/job.h"
#include "sync/journal.h"

#include <jansson.h>

struct job {
	/* set at the start */
	struct ring *ring;
	struct job_options options;
	uint64_t session; /* whose writes these are, for an agent's note */

	/* set by the first open; checked by every later one */
	bool opened_before;
	struct block_facts source_facts, target_facts;
	uint64_t source_size, target_size;
	uint64_t end;         /* bytes of the source to move */
	bool blank;           /* this job made the target, and nothing was written to it before */
	bool restart_journal; /* the journal is not to be trusted: a new one replaces it */
	bool compare;         /* find what differs instead of copying all */
	bool update;          /* the target may carry what an earlier run wrote */

	/* saved digests */
	struct block *saved;                  /* stands for the target when comparing; or NULL */
	struct saved_digests_writer *digests; /* the new ones; or NULL */
	struct digest_key digest_key;
	struct digest *sent_digest; /* with that key */

	/* changes that a tracker names */
	bool tracked; /* only `changed` is moved */
	struct range_set changed;
	json_t *points;      /* what the target will hold, for the next run; or NULL */
	json_t *base_points; /* what it holds but for `changed`, whenever this run ends; or NULL */
	bool noted_partial;  /* the record says so */
	enum job_holds holds;

	/* ring thread only */
	enum job_state state;
	struct block *source, *target; /* the source with its throttle on top */
	struct range_set done;         /* on the target's stable storage */
	struct range_set fresh;        /* acknowledged by the target */
	struct range_set flushing;     /* being made durable */
	struct range_set bad, differences;
	struct range_set moved; /* for verify_sent: what may have been written */
	bool moved_lost;        /* there was no memory for it: all is verified */
	bool bad_lost;          /* there was no memory for a bad range */
	uint64_t differing_ranges, differing_bytes;
	bool committing;  /* of an atomic run: the target may be written to from now on */
	bool commit_told; /* it failed, and what was said of that says what the target is */
	bool wrote;       /* the target may have been written to */
	struct journal *journal;
	int journal_fd;
	struct copy *copy;          /* while data moves */
	struct copy_counts earlier; /* of engines before a lost link */
	uint64_t same, resumed, verified;
	uint64_t position_max;
	unsigned retries, retries_in_a_row;
	bool cancelled, paused;
	uint64_t rate;
	bool *wake_wait; /* a wait that a cancel ends early */

	/* checkpoint */
	struct ring_op timer;
	bool timer_wanted;
	bool checkpoint_busy;
	struct block_io flush;
	int checkpoint_res;

	struct error error;
};

/* job_open.c: opens what is not open, judges, and on later times insists on the same volumes. */
int job_open(struct job *job);
/* Closes what lost its link. What did not stays open, and with it its lock: nobody else gets in meanwhile. */
void job_close_lost(struct job *job);
/* Facts once more: -ESTALE with words when the source was written since the first look. */
int job_check_source_mark(struct job *job);

/* Sets job->error to how a link broke, if one did. */
bool job_link_broken(struct job *job);

/* Forgets what is done: everything is compared, and a new journal begins. */
void job_distrust(struct job *job);

/* job_journal.c. On resume, before the judgement: takes an earlier run's journal and fills job->done. */
int job_journal_load(struct job *job);
/* After the judgement, before the first write: begins a journal where none goes on. */
int job_journal_create(struct job *job);
/* Before the target is cut: that a journal can be made. */
int job_journal_check(struct job *job);
/* At the end of a run that did not complete: lets the next one see whether the target was written in between. */
void job_journal_note_end(struct job *job);
void job_journal_end(struct job *job, bool remove);

/* job_digests.c: saved digests; the volume to compare with is job->saved where they fit. */
int job_digests_begin(struct job *job);
/*
 * A source that may be written meanwhile may have been another thing when it was compared than when it was sent: then the digests of what
 * was sent are saved. What was found to be the same is in the target, whatever became of the source.
 */
bool job_digests_see_sent(const struct job *job);
void job_digests_sending(void *data, uint64_t offset, uint64_t length, const void *bytes);
/* After all is flushed. What fails is a warning: the data is in order. */
void job_digests_finish(struct job *job);
void job_digests_end(struct job *job);

/* job_changes.c: what a tracker knows; sets job->tracked. */
int job_changes_begin(struct job *job);
/* Before the target is changed: what was noted of it is no longer true. */
void job_changes_forget(struct job *job);
/* Anything may have been written: nothing is known any more. */
void job_changes_distrust(struct job *job);
/* After all is flushed: notes what the target holds. What fails is a warning. */
void job_changes_finish(struct job *job);
/* After a run that did not complete: notes what is true of the target even so, if anything is. */
void job_changes_note_end(struct job *job);
void job_changes_end(struct job *job);

/* job_checkpoint.c: makes what was written durable, now and then, and notes it in the journal. */
void job_checkpoint_start(struct job *job);
/* Ends the timer, waits for what is under way. */
void job_checkpoint_stop(struct job *job);
/* Flushes and notes all that is fresh. Control path. */
int job_checkpoint_now(struct job *job);

/* job_extents.c: the extents of this job, and what became of them. */
int job_extents_new(struct extents **ret, struct job *job, struct range_set *skip);
/* Waits for their requests, which a paused or slow throttle may hold: it lets go meanwhile. */
void job_extents_free(struct job *job, struct extents *extents);
/* Ends what the throttle holds back. */
void job_let_go(struct job *job);

/* job_transfer.c: moves the data once over; job_compare.c: verifies once over. */
int job_transfer(struct job *job);
/* --size-mismatch=truncate: before the journal names the target's size. */
int job_set_target_size(struct job *job);
int job_compare(struct job *job);
/* Of an atomic run: what was staged becomes the target. */
int job_commit(struct job *job);

void job_set_state(struct job *job, enum job_state state);
void job_warn(struct job *job, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Runs the ring until *done, or until the job is cancelled (-ECANCELED). */
int job_wait_for(struct job *job, bool *done);
static inline bool job_writes(const struct job *job)
{
	return job->options.kind != JOB_VERIFY && !job->options.dry_run;
}
