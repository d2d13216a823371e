/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The authoritative leg when its link is lost: it is opened again, and given back to clients once it is sure that it holds all that
 * it ever acknowledged. What its machine may have lost since the last flush is taken from the follower if that has it; else clients
 * get errors rather than older data.
 */
#include "sync/mirror_job_private.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/plant.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK        (1u << 20)
#define RETRY_FACTOR 4u
#define TELL_NS      10000000000u /* between two words about errors */

static uint64_t seconds(uint64_t ns)
{
	return (ns + 500000000) / 1000000000;
}

/* Nothing that clients were told is written would be missing if the follower took over. */
bool mirror_follower_has_all(const struct mirror_job *job)
{
	return mirror_job_is_equal(job) && mirror_mode(job->mirror) == MIRROR_WRITE_THROUGH;
}

void mirror_leader_event(struct mirror_job *job, enum mirror_event event)
{
	if (event == MIRROR_LEADER_LOST) {
		job->leader_after_ns = ring_now_ns(job->ring);
		job->leader_retry_ns = job->options.retry_ns;
		job->told_away = false;
		mirror_verify_doubt(job);
	}
	/* Words take a while to find: run() looks for them. */
	job->tell_overdue |= event == MIRROR_LEADER_OVERDUE;
	if (event == MIRROR_LEADER_FAILING)
		job->excused = job->options.leader_failing && job->options.leader_failing(job->options.data);
	job->tell_failed |= event == MIRROR_LEADER_FAILED && !job->excused;
}

static void tell_failed(struct mirror_job *job)
{
	static const char *const words[] = {[BLOCK_READ] = "reading from",
	    [BLOCK_WRITE] = "writing to",
	    [BLOCK_ZERO] = "writing zeros to",
	    [BLOCK_TRIM] = "trimming",
	    [BLOCK_FLUSH] = "flushing"};
	const struct mirror_counts *counts = mirror_counts(job->mirror);
	const char *what =
	    counts->error_op < sizeof(words) / sizeof(words[0]) ? words[counts->error_op] : NULL;
	uint64_t now_ns = ring_now_ns(job->ring);
	struct error error;

	if (!job->tell_failed || now_ns < job->tell_after_ns)
		return;
	job->tell_failed = false;
	job->tell_after_ns = now_ns + TELL_NS;
	error_set(&error, counts->error_res,
	    "%s the %s failed at byte %llu: %s; the client was told so (%llu reads and %llu writes failed "
	    "until now)",
	    what ? what : "asking", mirror_leg_names[mirror_authoritative(job->mirror)],
	    (unsigned long long)counts->error_offset, strerror(-counts->error_res),
	    (unsigned long long)counts->read_errors, (unsigned long long)counts->write_errors);
	mirror_job_warn(job, &error);
}

static void tell_overdue(struct mirror_job *job)
{
	enum mirror_leg_index leader = mirror_authoritative(job->mirror);
	struct error error;

	if (!job->tell_overdue)
		return;
	job->tell_overdue = false;
	error_set(&error, -ENOTCONN,
	    "the %s has been away for %llu s: clients get I/O errors until it is back",
	    mirror_leg_names[leader], (unsigned long long)seconds(mirror_leader_away_ns(job->mirror)));
	if (job->state == CUTOVER_SWITCHED)
		error_set(&error, -ENOTCONN,
		    "the target has been away for %llu s: clients get I/O errors until it is back%s",
		    (unsigned long long)seconds(mirror_leader_away_ns(job->mirror)),
		    mirror_follower_has_all(job)
		        ? "; the source has all that was acknowledged: `blkmove revert` makes it the volume "
		          "again"
		        : ", and the source lacks some of what was acknowledged: it cannot take over");
	mirror_job_warn(job, &error);
}

/* Says once why it went; its block is freed when nothing of it is under way. */
static bool is_put_away(struct mirror_job *job)
{
	enum mirror_leg_index leader = mirror_authoritative(job->mirror);
	struct error error = {0};

	if (!job->legs[leader])
		return true;
	if (!job->told_away) {
		job->told_away = true;
		if (block_link_error(job->legs[leader], &error) == 0)
			error_set(&error, -ENOTCONN, "the link to the %s broke", mirror_leg_names[leader]);
		error_prefix(&error, "clients wait for the %s", mirror_leg_names[leader]);
		mirror_job_warn(job, &error);
	}
	if (!mirror_leg_idle(job->mirror, leader) || job->copying || mirror_flushing(job->mirror) ||
	    !mirror_verify_idle(job))
		return false;
	job->legs[leader] = block_free(job->legs[leader]);
	return true;
}

static int copy_back(struct mirror_job *job, struct block *to, uint64_t offset, uint64_t length, void *buf)
{
	struct block_io io = {.op = BLOCK_READ, .offset = offset, .length = length, .buf = buf};
	int res = block_wait(mirror_copy_target(job->mirror), &io);

	if (res < 0)
		return -ESTALE;
	io = (struct block_io){.op = BLOCK_WRITE, .offset = offset, .length = length, .buf = buf};
	return block_wait(to, &io);
}

/* From the follower, which has what was acknowledged. -ESTALE: it has not. */
static int restore(struct mirror_job *job, struct block *to)
{
	_cleanup_(cleanup_free) void *buf = aligned_alloc(4096, CHUNK);
	const struct bitmap *unflushed = mirror_unflushed(job->mirror), *dirty = bitmap_file_dirty(job->map);
	const struct bitmap_super *super = bitmap_file_super(job->map);
	struct block_io flush = {.op = BLOCK_FLUSH};
	int res = buf ? 0 : -ENOMEM;

	for (uint64_t at = bitmap_next_set(unflushed, 0); res == 0 && at < unflushed->bits;
	     at = bitmap_next_set(unflushed, at + 1)) {
		uint64_t offset = at * super->region_size;

		res =
		    bitmap_test(dirty, at) || !mirror_attached(job->mirror)
		        ? -ESTALE
		        : copy_back(job, to, offset, min_u64(super->region_size, super->size - offset), buf);
	}
	return res < 0 ? res : block_wait(to, &flush);
}

/* Whether the leg holds all that it ever acknowledged; if it may not, it is made so. -ESTALE: that cannot be. */
static int make_sure(struct mirror_job *job, struct block *leader, const char *boot, struct error *error)
{
	enum mirror_leg_index leg = mirror_authoritative(job->mirror);
	uint64_t bytes = mirror_unflushed(job->mirror)->count * bitmap_file_super(job->map)->region_size;
	struct error told;
	int res;

	if (bytes == 0 || PLANTED(PLANTED_NO_RESTORE) || (boot[0] && !strcmp(boot, job->boot[leg])))
		return 0;
	res = restore(job, leader);
	if (res == -ESTALE)
		return error_set(error, res,
		    "the machine of the %s was started anew, or that cannot be known, and up to %llu bytes "
		    "that "
		    "it had acknowledged and not flushed may be gone; the other leg lacks them, too: clients "
		    "get I/O errors. Look at the data; %s to go on with what the %s holds",
		    mirror_leg_names[leg], (unsigned long long)bytes,
		    cutover_is_end(job->state) ? "the mirror has ended: stop it, and `blkmove serve` that leg"
		                               : "stop the mirror and resume it",
		    mirror_leg_names[leg]);
	if (res < 0)
		return error_set(error, res, "cannot write to the %s what it may have lost: %s",
		    mirror_leg_names[leg], strerror(-res));
	error_set(&told, 0,
	    "the %s may have lost what it had not flushed; %llu bytes were written to it from the other leg",
	    mirror_leg_names[leg], (unsigned long long)bytes);
	mirror_job_warn(job, &told);
	return 0;
}

static void reopen(struct mirror_job *job)
{
	enum mirror_leg_index leg = mirror_authoritative(job->mirror);
	char boot[sizeof(job->boot[leg])];
	struct block *block = NULL;
	struct error error = {0};
	int res;

	memcpy(boot, job->boot[leg], sizeof(boot));
	res = mirror_open_leg(job, leg, &block, &error);
	if (res == 0)
		res = make_sure(job, block, boot, &error);
	/* What was asked of it before it went is not believed of what has come. */
	dirty_extents_abandon(job->extents);
	if (res == 0)
		res = mirror_leader_return(job->mirror, block, &error);
	if (res == 0) {
		job->legs[leg] = block;
		error_set(&error, 0, "the %s is back", mirror_leg_names[leg]);
		mirror_job_warn(job, &error);
		job->attach_dirty = mirror_job_dirty(job);
		job->attach_done = mirror_job_done(job);
		return;
	}
	block_free(block);
	/* What was known of it must not be taken for what is. */
	memcpy(job->boot[leg], boot, sizeof(boot));
	job->refused = res == -ESTALE;
	if (job->refused)
		mirror_leader_give_up(job->mirror);
	job->leader_after_ns = ring_now_ns(job->ring) + job->leader_retry_ns;
	job->leader_retry_ns = min_u64(job->leader_retry_ns * 2, job->options.retry_ns * RETRY_FACTOR);
	if (job->refused || !job->told_reopen)
		mirror_job_warn(job, &error);
	job->told_reopen = true;
}

void mirror_look_after_leader(struct mirror_job *job)
{
	enum mirror_leg_index leader = mirror_authoritative(job->mirror);
	struct error ignored;

	tell_failed(job);
	if (mirror_leader_here(job->mirror)) {
		job->told_reopen = false;
		/* Without clients nobody else would notice. */
		if (block_link_error(job->legs[leader], &ignored) == 0)
			return;
		mirror_leader_lose(job->mirror);
	}
	tell_overdue(job);
	if (is_put_away(job) && !job->refused && !job->stopping &&
	    ring_now_ns(job->ring) >= job->leader_after_ns)
		reopen(job);
}
