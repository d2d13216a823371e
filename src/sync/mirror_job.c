/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of a mirror: run() looks at everything when something happened or time has passed, and does what is due: the copy, the
 * mode, the state, the clearing of the map, orders. What must not wait (a state that is not true any more) is done in the event.
 */
#include "sync/mirror_job_private.h"

#include "base/bytes.h"
#include "base/plant.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TICK_NS        50000000u
#define WINDOW_NS      500000000u
#define SETTLE_NS      2000000000u
#define SETTLE_BUSY_NS 30000000000u
#define UNSTEADY       20u /* settle_busy_ns: a follower that stays for longer is taken for one that stays */
#define SETTLE_REST    20u /* that part of the time at most goes into flushes */
#define KEEP           (4ull << 30)
#define KEEP_REMOTE    (512ull << 20)
#define NEARLY_DONE    64u /* a part of the volume */
#define NEARLY_REGIONS 16u

const char *const mirror_leg_names[MIRROR_LEGS] = {"source", "target"};

uint64_t mirror_job_dirty(const struct mirror_job *job)
{
	const struct bitmap_super *super = bitmap_file_super(job->map);

	return min_u64(bitmap_file_dirty(job->map)->count * super->region_size, super->size);
}

bool mirror_job_is_equal(const struct mirror_job *job)
{
	return mirror_attached(job->mirror) && mirror_job_dirty(job) == 0 &&
	       dirty_extents_active(job->extents) == 0;
}

void mirror_job_warn(struct mirror_job *job, const struct error *error)
{
	if (job->options.warning)
		job->options.warning(job->options.data, error->text);
}

void mirror_job_set_state(struct mirror_job *job, enum cutover_state state)
{
	if (job->state == state)
		return;
	cutover_state_set(&job->state, state);
	/* What is said to be ready is: one fact, not two. */
	assert(state != CUTOVER_READY || (mirror_attached(job->mirror) && mirror_job_dirty(job) == 0));
	if (job->options.state_changed)
		job->options.state_changed(job->options.data, state);
}

static void follower_lost(struct mirror_job *job)
{
	struct error error;
	int reason = mirror_detach_reason(job->mirror);

	job->lost_ns = ring_now_ns(job->ring);
	dirty_extents_abandon(job->extents);
	mirror_verify_doubt(job);
	/* When it comes back there may be much to copy, again without holding anybody up. */
	mirror_set_mode(job->mirror, MIRROR_BACKGROUND);
	job->retry_ns = job->options.retry_ns;
	job->attach_after_ns = ring_now_ns(job->ring) + job->retry_ns;
	if (job->options.follower_lost)
		job->options.follower_lost(job->options.data, reason);
	if (reason != -ECANCELED && !job->told_lost) {
		error_set(&error, reason,
		    "the following leg was let go: %s; what is written goes on without it",
		    strerror(-reason));
		mirror_job_warn(job, &error);
		job->told_lost = true;
	}
}

void mirror_job_event(void *data, enum mirror_event event)
{
	struct mirror_job *job = data;

	job->wake = true;
	mirror_leader_event(job, event);
	if (event == MIRROR_MAP_LOST && job->options.map_lost)
		job->options.map_lost(job->options.data);
	if (event == MIRROR_DETACHED)
		follower_lost(job);
	if (job->state == CUTOVER_READY &&
	    (event == MIRROR_DETACHED || event == MIRROR_LEADER_LOST || mirror_job_dirty(job) > 0))
		mirror_job_set_state(job, CUTOVER_SYNCING);
	if (event == MIRROR_DIRTIED)
		dirty_extents_look(job->extents);
}

static void copy_done(void *data, int res)
{
	struct mirror_job *job = data;

	job->copying = false;
	job->wake = true;
	job->copy_after_ns = ring_now_ns(job->ring) + job->options.retry_ns;
	/* What was given and not copied is dirty again; no lock stays. */
	dirty_extents_abandon(job->extents);
	if (res < 0 && res != -ECANCELED && mirror_attached(job->mirror) && mirror_leader_here(job->mirror))
		mirror_job_warn(job, copy_error(job->copy));
}

static void look_after_copy(struct mirror_job *job)
{
	bool wanted =
	    mirror_attached(job->mirror) && mirror_leader_here(job->mirror) && !cutover_is_end(job->state);

	if (job->copying && !wanted)
		copy_stop(job->copy);
	if (job->copying || !wanted || ring_now_ns(job->ring) < job->copy_after_ns)
		return;
	job->copying = true;
	copy_start(job->copy, copy_done, job);
}

uint64_t mirror_job_done(const struct mirror_job *job)
{
	return dirty_extents_copied(job->extents) + dirty_extents_same(job->extents) +
	       dirty_extents_holes(job->extents);
}

/* In the background each region is copied once; what is left then would never get less by that. */
static bool nearly_done(const struct mirror_job *job)
{
	const struct bitmap_super *super = bitmap_file_super(job->map);
	uint64_t little = max_u64(super->size / NEARLY_DONE, NEARLY_REGIONS * (uint64_t)super->region_size);

	return mirror_job_dirty(job) <= little ||
	       mirror_job_done(job) - job->attach_done >= job->attach_dirty;
}

static void look_at_mode(struct mirror_job *job)
{
	enum mirror_mode mode = MIRROR_BACKGROUND;

	if (!mirror_attached(job->mirror))
		return;
	if (job->options.copy_mode == MIRROR_COPY_WRITE_THROUGH ||
	    ((job->options.copy_mode == MIRROR_COPY_AUTO || job->order != ORDER_NONE) && nearly_done(job)))
		mode = MIRROR_WRITE_THROUGH;
	/* No way back but by losing the follower: else it might go to and fro for ever. */
	if (mode == MIRROR_WRITE_THROUGH && mirror_mode(job->mirror) == MIRROR_BACKGROUND) {
		mirror_set_mode(job->mirror, mode);
		mirror_apply_limits(job);
	}
}

static void look_at_state(struct mirror_job *job)
{
	bool equal = mirror_job_is_equal(job) && mirror_leader_here(job->mirror);

	if (equal)
		mirror_verify_forget(job);
	if (equal && job->options.compare) {
		/* From now on what is dirty was written. */
		job->options.compare = false;
		dirty_extents_compare(job->extents, NULL);
	}
	if (job->state == CUTOVER_SYNCING && equal && mirror_mode(job->mirror) == MIRROR_WRITE_THROUGH) {
		if (job->verified)
			mirror_job_set_state(job, CUTOVER_READY);
		else
			mirror_verify_before_ready(job);
	}
}

static void settled(void *data, int res)
{
	struct mirror_job *job = data;
	uint64_t now_ns = ring_now_ns(job->ring), took_ns = now_ns - job->settled_ns;

	job->settling = false;
	bitmap_file_settle_end(job->map, res == 0);
	/* Where a flush takes long, clients feel it. */
	job->settle_after_ns = max_u64(job->settle_after_ns, now_ns + took_ns * SETTLE_REST);
}

/* For a while after each loss. */
static bool is_unsteady(const struct mirror_job *job, uint64_t now_ns)
{
	return job->lost_ns && now_ns < job->lost_ns + UNSTEADY * job->options.settle_busy_ns;
}

/*
 * While clients are about, a region that is logged already is worth something to them: a write to it costs no record. So they are
 * cleared only when there are many, which would all be copied again after a crash; but what a follower has not flushed is copied
 * again whenever it comes back, and with one that comes and goes that would be without end.
 */
static bool is_time_to_settle(const struct mirror_job *job, uint64_t now_ns)
{
	const struct mirror_job_options *options = &job->options;
	uint64_t clean = bitmap_file_logged(job->map)->count - bitmap_file_dirty(job->map)->count;
	uint64_t keep = options->settle_keep, wait_ns = options->settle_ns;

	if (job->clears)
		return true;
	if (!keep)
		keep = block_info(job->legs[mirror_job_follower(job)])->remote ? KEEP_REMOTE : KEEP;
	if (job->busy && !is_unsteady(job, now_ns)) {
		if (clean * bitmap_file_super(job->map)->region_size < keep)
			return false;
		wait_ns = options->settle_busy_ns;
	}
	return now_ns >= job->settled_ns + wait_ns && now_ns >= job->settle_after_ns;
}

/* Bits are cleared on the disk once both legs were flushed: what the source loses, the target must not keep, and vice versa. */
static void look_after_map(struct mirror_job *job)
{
	uint64_t now_ns = ring_now_ns(job->ring);

	if (job->settling || !mirror_attached(job->mirror) || mirror_flushing(job->mirror) ||
	    !mirror_leader_here(job->mirror) || !is_time_to_settle(job, now_ns))
		return;
	job->settled_ns = now_ns;
	if (!bitmap_file_settle_begin(job->map))
		return;
	if (PLANTED(PLANTED_CLEAR_EARLY)) {
		bitmap_file_settle_end(job->map, true);
		return;
	}
	job->settling = true;
	mirror_flush_legs(job->mirror, false, settled, job);
}

static void look_at_lost_map(struct mirror_job *job)
{
	if (!bitmap_file_lost(job->map) || job->error.code)
		return;
	error_set(&job->error, bitmap_file_lost(job->map),
	    "the map cannot be written: %s; the %s goes on alone, the other leg is not usable without a "
	    "comparison: look after the disk that the map is on, %s",
	    strerror(-bitmap_file_lost(job->map)), mirror_leg_names[mirror_authoritative(job->mirror)],
	    cutover_may_follow(job->state, CUTOVER_FAILED)
	        ? "then begin another mirror when this one's process has ended"
	        : "then stop the mirror and resume it (--resume)");
	mirror_job_warn(job, &job->error);
	if (cutover_may_follow(job->state, CUTOVER_FAILED)) {
		/* Whoever waits for one hears of it. */
		job->order = ORDER_NONE;
		mirror_job_set_state(job, CUTOVER_FAILED);
	}
}

static void tick(void *data)
{
	((struct mirror_job *)data)->wake = true;
}

enum cutover_state mirror_job_run(struct mirror_job *job, struct error *error)
{
	ticker_start(&job->ticker, job->ring, TICK_NS, tick, job);
	while (!job->stopping) {
		job->wake = false;
		look_at_lost_map(job);
		if (cutover_is_end(job->state) && !job->copying)
			break;
		mirror_look_after_leader(job);
		mirror_look_after_follower(job);
		look_after_copy(job);
		mirror_look_after_unread(job);
		look_at_mode(job);
		look_at_state(job);
		mirror_carry_out(job);
		mirror_look_after_verify(job);
		look_after_map(job);
		mirror_look_at_speed(job);
		if (!job->stopping && ring_run_until(job->ring, &job->wake) < 0)
			break;
	}
	ticker_stop(&job->ticker);
	mirror_verify_end(job);
	/* Nobody is left to open it again. */
	if (job->stopping)
		mirror_leader_give_up(job->mirror);
	job->stopping = false;
	if (job->state == CUTOVER_FAILED)
		*error = job->error;
	return job->state;
}

int mirror_job_serve(struct mirror_job *job)
{
	int res = 0;

	assert(cutover_is_end(job->state));
	ticker_start(&job->ticker, job->ring, TICK_NS, tick, job);
	while (res == 0 && !job->stopping) {
		job->wake = false;
		mirror_look_after_leader(job);
		mirror_look_after_follower(job);
		if (!job->stopping)
			res = ring_run_until(job->ring, &job->wake);
	}
	ticker_stop(&job->ticker);
	mirror_leader_give_up(job->mirror);
	job->stopping = false;
	return res;
}

void mirror_job_stop(struct mirror_job *job)
{
	job->stopping = job->wake = true;
}

int mirror_job_new(
    struct mirror_job **ret, struct ring *ring, const struct mirror_job_options *options, struct error *error)
{
	struct mirror_job *job = calloc(1, sizeof(*job));

	if (!job)
		return error_set(error, -ENOMEM, "cannot begin the mirror: out of memory");
	job->ring = ring;
	job->options = *options;
	if (!job->options.settle_ns)
		job->options.settle_ns = SETTLE_NS;
	if (!job->options.settle_busy_ns)
		job->options.settle_busy_ns = SETTLE_BUSY_NS;
	if (!job->options.retry_ns)
		job->options.retry_ns = 1000000000;
	if (!job->options.cutover_window_ns)
		job->options.cutover_window_ns = WINDOW_NS;
	job->retry_ns = job->options.retry_ns;
	job->apart = job->paused = options->apart;
	budget_init(&job->own_budget, &options->governor, ring_now_ns(ring));
	job->member.priority = options->priority ? options->priority : 1;
	job->member.min_rate = options->governor.min_rate;
	budget_join(options->budget ? options->budget : &job->own_budget, &job->member, ring_now_ns(ring));
	job->common.priority = job->member.priority;
	job->common.min_rate = job->member.min_rate;
	if (options->common)
		budget_join(options->common, &job->common, ring_now_ns(ring));
	*ret = job;
	return 0;
}

struct block *mirror_job_block(struct mirror_job *job)
{
	return job->mirror;
}

uint64_t mirror_job_size(const struct mirror_job *job)
{
	return job->map ? bitmap_file_super(job->map)->size : 0;
}

void mirror_job_clear_map(struct mirror_job *job, bool now)
{
	job->clears = now;
	job->wake = true;
	mirror_apply_limits(job);
}

struct mirror_job *mirror_job_free(struct mirror_job *job)
{
	if (!job)
		return NULL;
	if (job->mirror && mirror_attached(job->mirror))
		mirror_detach(job->mirror);
	if (job->copying)
		copy_stop(job->copy);
	while (job->copying || job->settling)
		if (ring_step(job->ring) < 0)
			break;
	budget_leave(&job->member);
	budget_leave(&job->common);
	/* What is freed after it runs the ring, and a leg may be lost then. */
	job->verify = live_verify_free(job->verify);
	job->check = live_verify_free(job->check);
	copy_free(job->copy);
	extents_free(job->extents);
	block_free(job->mirror);
	bitmap_file_free(job->map);
	for (unsigned i = 0; i < MIRROR_LEGS; i++)
		block_free(job->legs[i]);
	free(job);
	return NULL;
}

void mirror_job_set_cutover(struct mirror_job *job, uint64_t window_ns, enum mirror_late late)
{
	job->options.cutover_window_ns = window_ns ? window_ns : WINDOW_NS;
	job->options.late = late;
}

void mirror_job_status(struct mirror_job *job, struct mirror_job_status *ret)
{
	*ret = (struct mirror_job_status){.state = job->state};
	if (!job->mirror)
		return;
	job->pause_ns = max_u64(job->pause_ns, mirror_pause_ns(job->mirror));
	ret->authoritative = mirror_authoritative(job->mirror);
	ret->mode = mirror_mode(job->mirror);
	ret->attached = mirror_attached(job->mirror);
	ret->paused = job->paused;
	ret->let_go =
	    job->apart && !job->attaching && !job->legs[MIRROR_TARGET] && !cutover_is_end(job->state);
	ret->ordered = job->order != ORDER_NONE;
	ret->size = bitmap_file_super(job->map)->size;
	ret->nonce = bitmap_file_super(job->map)->nonce;
	ret->generation = bitmap_file_super(job->map)->generation;
	ret->dirty = mirror_job_dirty(job);
	ret->logged = min_u64(
	    bitmap_file_logged(job->map)->count * bitmap_file_super(job->map)->region_size, ret->size);
	ret->unequal = min_u64(ret->dirty + dirty_extents_taken(job->extents), ret->size);
	ret->marked = mirror_verify_keeps(job);
	/* One fact, not two: the follower is lost, and run() has not come to it yet. */
	if (ret->state == CUTOVER_READY && ret->unequal > 0)
		ret->state = CUTOVER_SYNCING;
	ret->revert_ready = job->state == CUTOVER_SWITCHED && mirror_job_is_equal(job);
	ret->comparing = job->options.compare;
	ret->copied = dirty_extents_copied(job->extents);
	ret->holes = dirty_extents_holes(job->extents);
	ret->priority = job->member.priority;
	ret->rate = job->limits.rate;
	ret->baseline_ns = job->member.budget->governor.baseline_ns;
	mirror_verify_status(job, ret);
	ret->same = dirty_extents_same(job->extents);
	ret->pause_ns = job->pause_ns;
	ret->detached = mirror_counts(job->mirror)->detached;
	ret->cutovers_deferred = job->deferred;
	ret->away_ns = mirror_leader_away_ns(job->mirror);
	ret->refused = job->refused;
	ret->read_errors = mirror_counts(job->mirror)->read_errors;
	ret->write_errors = mirror_counts(job->mirror)->write_errors;
	mirror_unread_status(job, ret);
}

void mirror_job_latency(struct mirror_job *job, struct histogram_figures *ret)
{
	mirror_latency(job->mirror, ret);
}
