/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of a mirror's job share: mirror_job.c (its life), mirror_open.c (legs and map), mirror_switch.c (orders). */
#pragma once

#include "ring/ticker.h"
#include "sync/copy.h"
#include "sync/dirty_extents.h"
#include "sync/live_verify.h"
#include "sync/mirror_job.h"

enum mirror_order { ORDER_NONE, ORDER_CUTOVER, ORDER_REVERT, ORDER_FINISH, ORDER_ABORT };

struct mirror_job {
	/* set at the start */
	struct ring *ring;
	struct mirror_job_options options;

	/* set by open */
	struct bitmap_file *map;
	struct block *legs[MIRROR_LEGS]; /* owned; the follower's also for a while after it was let go */
	struct block *mirror;
	struct extents *extents;
	struct copy *copy;
	struct live_verify *verify; /* before it is ready; NULL: not asked for */
	struct live_verify *check;  /* on demand; NULL: never yet */
	struct cutover cutover;
	struct budget own_budget; /* where none is shared */
	struct budget_member member;
	struct budget_member common; /* in the options' `common`; else it has not joined */
	bool common_binds;           /* it is `common` that keeps the copy from more */

	/* ring thread only */
	enum cutover_state state;
	enum mirror_order order;
	uint64_t order_after_ns;  /* a cutover that was deferred */
	uint64_t decide_after_ns; /* when the map is told again that a switch is over */
	bool wake, stopping, paused, copying, settling;
	bool apart;              /* the target is let go, and not opened while that is wanted */
	bool attaching, growing; /* a control path waits in it */
	bool clears;             /* the map, as soon as can be */
	bool keeps;              /* what is dirty was marked by a verification, and is not to be copied yet */
	bool held;               /* clients wait for the copy */
	uint64_t copy_after_ns, attach_after_ns, retry_ns, settled_ns, settle_after_ns;
	uint64_t lost_ns;                   /* the follower, the last time; 0: never */
	uint64_t attach_dirty, attach_done; /* bytes: how things stood when the follower came */
	uint64_t govern_after_ns, governed_copied;
	struct mirror_counts governed_counts;
	struct governor_limits limits;
	uint64_t quickest_ns; /* that a piece was copied lately; 0: not known */
	bool busy;            /* clients asked for something lately: */
	uint64_t busy_ns;
	struct mirror_job_digests digests;
	bool verified; /* as far as it was asked for */
	struct mirror_job_verify_options check_options;
	bool checking;   /* ended() is owed */
	bool check_over; /* with `check_res`, as soon as nothing of it is under way */
	bool found;      /* by a pass on demand, since the one before it was ready */
	int check_res;
	uint64_t differing, verify_after_ns;
	bool told_lost;
	/* mirror_leader.c */
	uint64_t leader_after_ns, leader_retry_ns; /* when the authoritative leg is opened again */
	bool told_away, told_reopen, tell_overdue, tell_failed;
	bool excused; /* the leader's last failure is the owner's to tell */
	bool refused; /* it may have lost something that nobody else has */
	uint64_t tell_after_ns;
	/* mirror_unread.c */
	uint64_t bad_offset;
	int bad_res;
	uint64_t told_unread, tell_unread_ns; /* bytes; 0: nothing new */
	char boot[MIRROR_LEGS][sizeof(
	    ((struct block_facts *)0)->boot)]; /* of the legs' machines, when they were opened last */
	uint64_t pause_ns, deferred;
	struct ticker ticker;
	struct error error;
};

/* mirror_open.c */
int mirror_open_leg(
    struct mirror_job *job, enum mirror_leg_index leg, struct block **ret, struct error *error);
/* Frees what was let go, and tries to get a lost follower back when its time has come. */
void mirror_look_after_follower(struct mirror_job *job);

/* mirror_leader.c */
/* Notices that the authoritative leg's link is lost, and opens it again. */
void mirror_look_after_leader(struct mirror_job *job);
void mirror_leader_event(struct mirror_job *job, enum mirror_event event);
bool mirror_follower_has_all(const struct mirror_job *job);

/* mirror_switch.c */
void mirror_carry_out(struct mirror_job *job);
void mirror_swapped(void *data, enum cutover_state to);
int mirror_hindered(void *data);

/* mirror_govern.c */
/* Measures, and sets what the copy may take, when its time has come. */
void mirror_look_at_speed(struct mirror_job *job);
/* The limits of now, in the mode of now. */
void mirror_apply_limits(struct mirror_job *job);
/* What the budgets have allowed last. */
void mirror_take_limits(struct mirror_job *job);

/* mirror_unread.c */
/* For the copy: a place that cannot be read. */
void mirror_bad_range(void *data, uint64_t offset, uint64_t length, int res);
/* Has what could not be read tried again, and says how much it is, now and then. */
void mirror_look_after_unread(struct mirror_job *job);
/* For the status. */
void mirror_unread_status(const struct mirror_job *job, struct mirror_job_status *ret);

/* While clients are held, nothing else holds up the copy. */
void mirror_held(void *data, bool held);

/* mirror_verify.c */
int mirror_verify_open(struct mirror_job *job, struct error *error);
/* A pass is due: begins one when its time has come. */
void mirror_verify_before_ready(struct mirror_job *job);
/* A leg went: what comes back may not be what was verified. */
void mirror_verify_doubt(struct mirror_job *job);
/* The volume has another size. Nothing of a pass is under way. */
void mirror_verify_measure(struct mirror_job *job);
/* Nothing asks the legs. */
bool mirror_verify_idle(const struct mirror_job *job);
/* What is dirty stays so for now. */
bool mirror_verify_keeps(const struct mirror_job *job);
/* There is nothing to keep any more. */
void mirror_verify_forget(struct mirror_job *job);
/* A pass on demand that is over is told; or ended, because nobody would tell later. */
void mirror_look_after_verify(struct mirror_job *job);
void mirror_verify_end(struct mirror_job *job);
/* Of passes that take the governor's rate. */
void mirror_verify_apply_limits(struct mirror_job *job);
uint64_t mirror_verify_governed(const struct mirror_job *job); /* bytes */
bool mirror_verify_wanting(const struct mirror_job *job);
bool mirror_verify_limited(struct mirror_job *job);
void mirror_verify_status(const struct mirror_job *job, struct mirror_job_status *ret);

/* mirror_job.c */
extern const char *const mirror_leg_names[MIRROR_LEGS]; /* for words */
void mirror_job_set_state(struct mirror_job *job, enum cutover_state state);
void mirror_job_event(void *data, enum mirror_event event);
void mirror_job_warn(struct mirror_job *job, const struct error *error);
uint64_t mirror_job_dirty(const struct mirror_job *job);
/* Nothing differs, as far as the copy is concerned. */
bool mirror_job_is_equal(const struct mirror_job *job);
/* Bytes copied, found equal, or holes. */
uint64_t mirror_job_done(const struct mirror_job *job);
static inline enum mirror_leg_index mirror_job_follower(const struct mirror_job *job)
{
	return MIRROR_LEGS - 1 - mirror_authoritative(job->mirror);
}
