/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening legs and map. A leg is checked each time it is opened: the size must be the map's, and it must be the volume that
 * the map knows, as far as that can be told.
 */
#include "sync/mirror_job_private.h"

#include "base/bytes.h"
#include "base/plant.h"
#include "filter/share.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define LARGE_MAX    16u /* MiB under way are enough beside clients; the map takes memory, too */
#define RETRY_FACTOR 32u

/* What of a target that may be longer is the leg. Frees it when it fails. */
static int cut_target(struct mirror_job *job, struct block **target, struct error *error)
{
	uint64_t size =
	    job->map ? bitmap_file_super(job->map)->size : block_info(job->legs[MIRROR_SOURCE])->size;

	if (!job->options.larger_target || block_info(*target)->size <= size)
		return 0;
	return share_take(target, *target, size, error);
}

int mirror_open_leg(
    struct mirror_job *job, enum mirror_leg_index leg, struct block **ret, struct error *error)
{
	struct block_facts facts;
	struct block *block;
	int res = job->options.open_leg(job->options.data, leg, &block, error);

	if (res < 0)
		return error_prefix(error, "cannot open the %s", mirror_leg_names[leg]);
	if (leg == MIRROR_TARGET)
		res = cut_target(job, &block, error);
	if (res < 0)
		return error_prefix(error, "cannot use the %s", mirror_leg_names[leg]);
	res = block_facts(block, &facts, error);
	if (res == 0 && job->map) {
		const struct bitmap_super *super = bitmap_file_super(job->map);

		if (block_info(block)->size != super->size)
			res = error_set(error, -EXDEV, "%s has %llu bytes, the mirror has %llu",
			    block_info(block)->name, (unsigned long long)block_info(block)->size,
			    (unsigned long long)super->size);
		else if (super->ids[leg][0] && facts.id[0] &&
		         strncmp(super->ids[leg], facts.id, BITMAP_ID_MAX - 1))
			res = error_set(error, -EXDEV,
			    "%s is another volume (%s) than the mirror's %s (%s); put the right one there",
			    block_info(block)->name, facts.id, mirror_leg_names[leg], super->ids[leg]);
	}
	if (res < 0) {
		block_free(block);
		return error_prefix(error, "cannot use the %s", mirror_leg_names[leg]);
	}
	snprintf(job->boot[leg], sizeof(job->boot[leg]), "%s", facts.boot);
	*ret = block;
	return 0;
}

static int note_id(struct block *block, char *ret, struct error *error)
{
	struct block_facts facts;
	int res = block_facts(block, &facts, error);

	if (res == 0)
		snprintf(ret, BITMAP_ID_MAX, "%s", facts.id);
	return res;
}

/* The regions of what may differ. Returns 1 with *ret made, 0: all may, or -errno. */
static int find_dirty(
    struct mirror_job *job, const struct bitmap_super *super, struct bitmap *ret, struct error *error)
{
	struct range_set changes;
	int res;

	range_set_init(&changes);
	res = job->options.changes ? job->options.changes(job->options.data, job->legs[MIRROR_SOURCE],
	                                 job->legs[MIRROR_TARGET], &changes, error)
	                           : 0;
	if (res == 1 && bitmap_init(ret, (super->size + super->region_size - 1) / super->region_size) < 0)
		res = error_set(error, -ENOMEM, "out of memory");
	for (size_t i = 0; res == 1 && i < changes.count; i++) {
		uint64_t first = changes.ranges[i].offset / super->region_size;
		uint64_t last =
		    (changes.ranges[i].offset + changes.ranges[i].length - 1) / super->region_size;

		bitmap_set(ret, first, last - first + 1);
	}
	range_set_done(&changes);
	return res;
}

static int create_map(struct mirror_job *job, struct error *error)
{
	const struct mirror_job_options *options = &job->options;
	struct bitmap_super super = {.nonce = options->nonce,
	    .records = options->records ? options->records : BITMAP_RECORDS,
	    .state = CUTOVER_SYNCING,
	    .authoritative = MIRROR_SOURCE};
	struct bitmap dirty = {0};
	int res = 0, fd, known;

	for (unsigned i = 0; res == 0 && i < MIRROR_LEGS; i++) {
		res = mirror_open_leg(job, i, &job->legs[i], error);
		if (res == 0)
			res = note_id(job->legs[i], super.ids[i], error);
	}
	if (res < 0)
		return res;
	super.size = block_info(job->legs[MIRROR_SOURCE])->size;
	super.region_size = options->region_size ? options->region_size : bitmap_region_size_for(super.size);
	if (block_info(job->legs[MIRROR_TARGET])->size != super.size)
		return error_set(error, -EINVAL,
		    "cannot mirror: %s has %llu bytes and %s has %llu; make the target as large as the "
		    "source",
		    block_info(job->legs[MIRROR_SOURCE])->name, (unsigned long long)super.size,
		    block_info(job->legs[MIRROR_TARGET])->name,
		    (unsigned long long)block_info(job->legs[MIRROR_TARGET])->size);
	/* There is nothing in it that could be the same. */
	if (block_info(job->legs[MIRROR_TARGET])->zeroed)
		job->options.compare = false;
	known = find_dirty(job, &super, &dirty, error);
	if (known < 0)
		return known;
	fd = options->open_map(options->data, true);
	res = fd < 0 ? error_set(error, fd, "cannot make the map: %s", strerror(-fd))
	             : bitmap_file_create(&job->map, job->ring, fd, &super, known ? &dirty : NULL, error);
	bitmap_done(&dirty);
	return res;
}

/*
 * What an earlier run wrote to another machine, and did not flush, nobody has noted any more: should that machine be started anew
 * later, this run could not know that it is missing.
 */
static int flush_earlier(struct mirror_job *job, enum mirror_leg_index leg, struct error *error)
{
	struct block_io flush = {.op = BLOCK_FLUSH};
	int res = block_info(job->legs[leg])->linked ? block_wait(job->legs[leg], &flush) : 0;

	return res < 0 ? error_set(error, res, "cannot flush the %s: %s; look after it, then resume",
	                     mirror_leg_names[leg], strerror(-res))
	               : 0;
}

static int load_map(struct mirror_job *job, struct error *error)
{
	int fd = job->options.open_map(job->options.data, false);
	const struct bitmap_super *super;
	int res;

	if (fd < 0)
		return error_set(
		    error, fd == -ENOENT ? -EBADMSG : fd, "cannot open the map: %s", strerror(-fd));
	res = bitmap_file_load(&job->map, job->ring, fd, job->options.distrust, error);
	if (res < 0)
		return res;
	if (res > 0) {
		struct error told;

		error_set(&told, -EBADMSG,
		    "the map could not be written any more, and does not say what differs: comparing all of "
		    "both legs");
		mirror_job_warn(job, &told);
		job->options.compare = true;
	}
	super = bitmap_file_super(job->map);
	if ((super->note_length > 0) != job->options.replica)
		return error_set(error, -EINVAL, "the map is %s",
		    job->options.replica ? "a mirror's, not a replica's"
		                         : "a replica's, not a mirror's: see blkmove-replicate(1)");
	if (super->state >= CUTOVER_STATES || super->authoritative != cutover_authority(super->state))
		return error_set(error, -EBADMSG, "the map's state (%u, leg %u) makes no sense", super->state,
		    super->authoritative);
	job->state = super->state;
	if (cutover_is_end(job->state))
		return error_set(
		    error, -EALREADY, "this mirror has ended: it was %s", cutover_state_name(job->state));
	/* What happened after the revert is what happens after the begin. */
	if (job->state == CUTOVER_REVERTED)
		job->state = CUTOVER_SYNCING;
	res = mirror_open_leg(job, super->authoritative, &job->legs[super->authoritative], error);
	return res == 0 ? flush_earlier(job, super->authoritative, error) : res;
}

static bool is_quiet(void *data)
{
	struct mirror_job *job = data;

	return dirty_extents_active(job->extents) == 0 && mirror_verify_idle(job);
}

static int begin_to_compare(struct mirror_job *job, struct error *error)
{
	const struct digest_key *key = job->options.compare_key;
	struct digest_key drawn;
	int res = 0;

	if (!job->options.compare)
		return 0;
	if (!key)
		res = digest_key_random(&drawn, error);
	if (res == 0)
		dirty_extents_compare(job->extents, key ? key : &drawn);
	return res;
}

int mirror_job_compare(struct mirror_job *job, struct error *error)
{
	assert(job->apart);
	/* A region that waits for a client's write may wait as long as that has no answer. */
	if (dirty_extents_active(job->extents) > 0)
		return 0;
	job->options.compare = true;
	return begin_to_compare(job, error);
}

int mirror_job_open(struct mirror_job *job, struct error *error)
{
	const struct copy_options copy_options = {.detect_zeroes = true,
	    .large_max = LARGE_MAX,
	    .bad_range = mirror_bad_range,
	    .bad_range_data = job,
	    .keep_bad = true};
	struct mirror_options options = {.follower_timeout_ns = job->options.follower_timeout_ns,
	    .leader_timeout_ns = job->options.source_timeout_ns,
	    .stable_max = job->options.stable_max,
	    .withholds = job->options.withholds,
	    .doubts_late = job->options.target_keeps,
	    .event = mirror_job_event,
	    .data = job};
	int res = job->options.resume ? load_map(job, error) : create_map(job, error);

	if (res < 0)
		return error_prefix(error, "cannot begin the mirror");
	if (job->options.log_ahead > bitmap_file_super(job->map)->region_size)
		res = bitmap_file_log_ahead(
		    job->map, job->options.log_ahead / bitmap_file_super(job->map)->region_size);
	if (res < 0)
		return error_set(error, res, "cannot begin the mirror: out of memory");
	options.map = job->map;
	res = mirror_new(&job->mirror, job->legs, &options, error);
	if (res == 0)
		res = dirty_extents_new(&job->extents, job->mirror, error);
	if (res == 0)
		res = begin_to_compare(job, error);
	job->verified = !job->options.verify;
	if (res == 0 && job->options.verify)
		res = mirror_verify_open(job, error);
	if (res == 0)
		res = copy_new(&job->copy, mirror_copy_source(job->mirror), mirror_copy_target(job->mirror),
		    job->extents, &copy_options, error);
	if (res < 0)
		return error_prefix(error, "cannot begin the mirror");
	job->cutover = (struct cutover){.ring = job->ring,
	    .mirror = job->mirror,
	    .window_ns = job->options.cutover_window_ns,
	    .quiet = is_quiet,
	    .swapped = mirror_swapped,
	    .held = mirror_held,
	    .hindered = mirror_hindered,
	    .data = job};
	mirror_take_limits(job);
	job->attach_dirty = mirror_job_dirty(job);
	return 0;
}

/* A follower that has failed something else than its link may have lost more than that. */
static bool is_kept(const struct mirror_job *job, const char *boot)
{
	int reason = mirror_detach_reason(job->mirror);

	return job->options.target_keeps && boot[0] &&
	       (!strcmp(boot, job->boot[MIRROR_TARGET]) || PLANTED(PLANTED_ANY_BOOT)) &&
	       (reason == -ENOTCONN || reason == -ETIMEDOUT || reason == -ECANCELED) &&
	       mirror_job_follower(job) == MIRROR_TARGET;
}

static void attach(struct mirror_job *job)
{
	enum mirror_leg_index leg = mirror_job_follower(job);
	char boot[sizeof(job->boot[leg])];
	struct error error;
	int res;

	memcpy(boot, job->boot[leg], sizeof(boot));
	job->attaching = true;
	res = mirror_open_leg(job, leg, &job->legs[leg], &error);
	job->attaching = false;
	/* It was let go meanwhile: it is closed. */
	if (res == 0 && job->apart)
		return;
	if (res == 0)
		res = mirror_attach(job->mirror, job->legs[leg], is_kept(job, boot), &error);
	if (res < 0) {
		job->attach_after_ns = ring_now_ns(job->ring) + job->retry_ns;
		job->retry_ns = min_u64(job->retry_ns * 2, job->options.retry_ns * RETRY_FACTOR);
		/* Once; then it is tried again and again in silence. */
		if (!job->told_lost)
			mirror_job_warn(job, &error);
		job->told_lost = true;
		return;
	}
	job->told_lost = false;
	job->attach_dirty = mirror_job_dirty(job);
	job->attach_done = mirror_job_done(job);
}

void mirror_look_after_follower(struct mirror_job *job)
{
	enum mirror_leg_index leg = mirror_job_follower(job);

	if (mirror_attached(job->mirror) || !mirror_leg_idle(job->mirror, leg) || job->copying)
		return;
	job->legs[leg] = block_free(job->legs[leg]);
	/* It would be filled from the leader. */
	if (job->apart || job->growing || !mirror_leader_here(job->mirror))
		return;
	if (!cutover_is_end(job->state) && !bitmap_file_lost(job->map) && !job->stopping &&
	    ring_now_ns(job->ring) >= job->attach_after_ns)
		attach(job);
}
