/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Orders to a mirror: cut over, revert, finish, abort. Each is carried out by run(), in its turn. */
#include "sync/mirror_job_private.h"

#include <errno.h>
#include <string.h>

#define DEFER_NS  1000000000u
#define ANSWER_NS 1000000000u
#define NO_WINDOW (365ull * 86400 * 1000000000)

#define OF_SOURCE \
	(1u << CUTOVER_SYNCING | 1u << CUTOVER_READY | 1u << CUTOVER_CUTTING | 1u << CUTOVER_REVERTED)
#define OF_TARGET (1u << CUTOVER_SWITCHED)

/* The states in which an order can be given and carried out. */
static const unsigned order_states[] = {
    [ORDER_NONE] = ~0u,
    [ORDER_CUTOVER] = OF_SOURCE,
    [ORDER_REVERT] = OF_TARGET,
    [ORDER_FINISH] = OF_TARGET,
    [ORDER_ABORT] = OF_SOURCE,
};

static bool is_possible(const struct mirror_job *job, enum mirror_order what)
{
	return 1u << job->state & order_states[what];
}

/* A cutover that stands, and may be under way. */
static bool takes_back(const struct mirror_job *job, enum mirror_order what)
{
	return what == ORDER_REVERT && 1u << job->state & OF_SOURCE &&
	       (job->order == ORDER_CUTOVER || job->order == ORDER_REVERT);
}

static int order(struct mirror_job *job, enum mirror_order what)
{
	bool back = takes_back(job, what);

	if (!back && !is_possible(job, what))
		return -EINVAL;
	if (!back && !mirror_leader_here(job->mirror) && what != ORDER_ABORT &&
	    (what != ORDER_REVERT || !mirror_follower_has_all(job)))
		return -ENOTCONN;
	/* A switch under way goes back, if it still can. */
	job->cutover.give_up = back || what == ORDER_ABORT;
	job->order = what;
	job->order_after_ns = 0;
	job->wake = true;
	return 0;
}

int mirror_job_cutover(struct mirror_job *job)
{
	return order(job, ORDER_CUTOVER);
}

int mirror_job_revert(struct mirror_job *job)
{
	return order(job, ORDER_REVERT);
}

int mirror_job_finish(struct mirror_job *job)
{
	return order(job, ORDER_FINISH);
}

int mirror_job_abort(struct mirror_job *job)
{
	return order(job, ORDER_ABORT);
}

static void was_late(struct mirror_job *job, const struct error *error)
{
	job->deferred++;
	mirror_job_warn(job, error);
	/* Without a map there is no other leg any more. */
	if (job->options.late == MIRROR_LATE_ABORT || bitmap_file_lost(job->map))
		job->order = ORDER_NONE;
	else
		job->order_after_ns = ring_now_ns(job->ring) + DEFER_NS;
}

/* No request is under way: what is known of the legs now is known of the switch. */
static void note_digests(struct mirror_job *job)
{
	struct mirror_job_digests *digests = &job->digests;
	struct live_verify_roots roots;

	*digests = (struct mirror_job_digests){.known = job->verify && job->verified && !job->found};
	if (!digests->known)
		return;
	live_verify_roots(job->verify, &roots);
	digests->key = roots.key;
	memcpy(digests->roots, roots.roots, sizeof(roots.roots));
	digests->written_since = mirror_changed(job->mirror);
}

void mirror_swapped(void *data, enum cutover_state to)
{
	struct mirror_job *job = data;

	note_digests(job);
	mirror_job_set_state(job, to);
	/* What follows a revert is what follows the begin. */
	if (to == CUTOVER_REVERTED)
		mirror_job_set_state(job, CUTOVER_SYNCING);
}

int mirror_hindered(void *data)
{
	const struct mirror_job *job = data;

	if (job->stopping)
		return -EINTR;
	/* It ended with an error, and is begun again only when clients go on; or it cannot read what is dirty. */
	if (job->held &&
	    ((!job->copying && mirror_job_dirty(job) > 0) || dirty_extents_unreadable(job->extents) > 0))
		return -EAGAIN;
	return 0;
}

/* From then on the map is believed in any case. */
static void note_decided(struct mirror_job *job)
{
	struct error ignored;
	uint64_t now_ns = ring_now_ns(job->ring);

	if (!bitmap_file_lost(job->map) && now_ns >= job->decide_after_ns &&
	    cutover_decided(job->map, &ignored) < 0)
		job->decide_after_ns = now_ns + DEFER_NS;
}

/* How long clients waited they know who have their answers. The ticker goes on meanwhile: no step takes longer than that. */
static void tell_switched(struct mirror_job *job)
{
	uint64_t end_ns = ring_now_ns(job->ring) + ANSWER_NS;

	if (!job->options.switched)
		return;
	while (!mirror_pause_is_over(job->mirror) && !job->stopping && ring_now_ns(job->ring) < end_ns)
		if (ring_step(job->ring) < 0)
			break;
	job->options.switched(job->options.data);
}

static void switch_to(struct mirror_job *job, enum cutover_state to)
{
	enum mirror_order mine = job->order;
	struct error error = {0};
	int res;

	job->cutover.window_ns =
	    job->options.late == MIRROR_LATE_WAIT ? NO_WINDOW : job->options.cutover_window_ns;
	job->cutover.give_up = false;
	job->cutover.without_leader = to == CUTOVER_REVERTED;
	mirror_pause_ns(job->mirror);
	job->pause_ns = 0;
	res = cutover_switch(&job->cutover, to, &error);
	if (res == 0)
		tell_switched(job);
	/* Another order may have come meanwhile; it stands. */
	if (res == 0 && job->order == mine)
		job->order = ORDER_NONE;
	else if (res < 0 && job->order == mine)
		was_late(job, &error);
}

static void cut_over(struct mirror_job *job)
{
	if (job->state != CUTOVER_READY || job->paused || !mirror_leader_here(job->mirror))
		return;
	mirror_job_verify_stop(job);
	mirror_job_set_state(job, CUTOVER_CUTTING);
	switch_to(job, CUTOVER_SWITCHED);
	if (job->state == CUTOVER_CUTTING)
		mirror_job_set_state(job, mirror_job_is_equal(job) && mirror_leader_here(job->mirror)
		                              ? CUTOVER_READY
		                              : CUTOVER_SYNCING);
}

static void revert(struct mirror_job *job)
{
	if (!job->paused && mirror_follower_has_all(job))
		switch_to(job, CUTOVER_REVERTED);
}

/* Recorded, then done: the other leg is let go for good. What cannot be recorded is said, and may be ordered again. */
static void end_as(struct mirror_job *job, enum cutover_state state)
{
	enum mirror_order mine = job->order;
	struct error error = {0};

	if (cutover_record(job->map, state, &error) < 0) {
		mirror_job_warn(job, &error);
		if (job->order == mine)
			job->order = ORDER_NONE;
		return;
	}
	job->order = ORDER_NONE;
	mirror_job_set_state(job, state);
	mirror_end(job->mirror);
}

void mirror_carry_out(struct mirror_job *job)
{
	struct error error;

	if (job->stopping)
		return;
	note_decided(job);
	if (ring_now_ns(job->ring) < job->order_after_ns)
		return;
	/* It was not carried out. */
	if (takes_back(job, job->order))
		job->order = ORDER_NONE;
	if (!is_possible(job, job->order)) {
		/* It came while the legs were being switched, and was too late. */
		error_set(&error, -EINVAL, "an order was too late and is forgotten: the mirror is %s now",
		    cutover_state_name(job->state));
		mirror_job_warn(job, &error);
		job->order = ORDER_NONE;
	}
	switch (job->order) {
	case ORDER_CUTOVER:
		cut_over(job);
		break;
	case ORDER_REVERT:
		revert(job);
		break;
	case ORDER_FINISH:
		if (mirror_leader_here(job->mirror))
			end_as(job, CUTOVER_FINISHED);
		break;
	case ORDER_ABORT:
		end_as(job, CUTOVER_CANCELLED);
		break;
	case ORDER_NONE:
		break;
	}
}

const struct mirror_job_digests *mirror_job_digests(const struct mirror_job *job)
{
	return &job->digests;
}
