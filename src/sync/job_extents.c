/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The extents of a job, wrapped so that the job learns what became of each. */
#include "sync/job_private.h"

#include "base/bytes.h"
#include "block/saved_digests.h"
#include "filter/throttle.h"
#include "sync/all_extents.h"
#include "sync/changed_extents.h"
#include "sync/hash_extents.h"

#include <errno.h>
#include <stdlib.h>

struct tracked {
	struct extents extents;
	struct extents *inner;
	struct job *job;
};

static struct tracked *to_tracked(struct extents *extents)
{
	return container_of(extents, struct tracked, extents);
}

static void note(struct job *job, uint64_t offset, uint64_t length)
{
	struct range_set *set = job_writes(job) ? &job->fresh : &job->done;

	/* Without memory to note it the range is merely not known to be done. */
	if (length)
		(void)range_set_add(set, offset, length);
}

static int tracked_next(struct extents *extents, uint64_t length_max, struct extent *ret)
{
	return extents_next(to_tracked(extents)->inner, length_max, ret);
}

/* What could not be read is never done: a resumed run tries it again, and lists it again. */
static void note_readable(struct job *job, const struct extent *extent)
{
	uint64_t at = extent->offset, end = extent->offset + extent->length;
	struct range good;

	while (at < end && range_set_gap(&job->bad, at, end, &good)) {
		note(job, good.offset, good.length);
		at = good.offset + good.length;
	}
}

static void note_moved(struct job *job, const struct extent *extent)
{
	if (job->options.verify_sent && range_set_add(&job->moved, extent->offset, extent->length) < 0)
		job->moved_lost = true;
}

static void tracked_finish(struct extents *extents, const struct extent *extent, int res)
{
	struct tracked *tracked = to_tracked(extents);

	note_moved(tracked->job, extent);
	if (res == 0)
		note_readable(tracked->job, extent);
	extents_finish(tracked->inner, extent, res);
}

static void tracked_free(struct extents *extents)
{
	struct tracked *tracked = to_tracked(extents);

	extents_free(tracked->inner);
	free(tracked);
}

static void inner_wakes(void *data)
{
	extents_wake(data);
}

static const struct extents_ops tracked_ops = {
    .next = tracked_next,
    .finish = tracked_finish,
    .free = tracked_free,
};

static void found_same(void *data, uint64_t offset, uint64_t length)
{
	struct job *job = data;

	job->same += length;
	note(job, offset, length);
}

/* All that did not change is the same, though nobody looked. */
static void note_unchanged(struct job *job)
{
	uint64_t at = 0, from;
	struct range gap, todo;

	for (; range_set_gap(&job->changed, at, job->end, &gap); at = gap.offset + gap.length)
		for (from = gap.offset; range_set_gap(&job->done, from, gap.offset + gap.length, &todo);
		     from = todo.offset + todo.length)
			found_same(job, todo.offset, todo.length);
}

static int make_changed(struct extents **ret, struct job *job, struct range_set *skip)
{
	struct changed_extents_options options = {.end = job->end,
	    .changed = &job->changed,
	    .done = skip,
	    .ignore_holes = job->options.ignore_holes};

	note_unchanged(job);
	return changed_extents_new(ret, job->source, &options, &job->error);
}

static int make_inner(struct extents **ret, struct job *job, struct range_set *skip)
{
	int res = 0;

	if (block_info(job->source)->stream)
		return stream_extents_new(ret, &job->error);
	if (job->tracked)
		return make_changed(ret, job, skip);
	if (!job->compare) {
		struct all_extents_options all = {
		    .end = job->end, .done = skip, .ignore_holes = job->options.ignore_holes};

		return all_extents_new(ret, job->source, &all, &job->error);
	}
	/* Saved digests have a key of their own, old or new. */
	if (!job->saved && !job->digests)
		res = digest_key_random(&job->digest_key, &job->error);
	if (res < 0)
		return res;
	struct block *compare = job->saved ? job->saved : job->target;
	struct hash_extents_options hash = {.end = min_u64(job->end, block_info(compare)->size),
	    .done = skip,
	    .ignore_holes = job->options.ignore_holes,
	    .trust_holes = job->options.trust_holes,
	    .key = &job->digest_key,
	    .top_granularity = job->options.top_granularity,
	    .give_unreadable = job->options.list_read_errors,
	    .same = found_same,
	    .same_data = job,
	    .leaves = job->digests ? saved_digests_writer_put : NULL,
	    .leaves_data = job->digests};

	return hash_extents_new(ret, job->source, compare, &hash, &job->error);
}

int job_extents_new(struct extents **ret, struct job *job, struct range_set *skip)
{
	struct tracked *tracked = calloc(1, sizeof(*tracked));
	int res;

	if (!tracked)
		return error_set(&job->error, -ENOMEM, "out of memory");
	res = make_inner(&tracked->inner, job, skip);
	if (res < 0) {
		free(tracked);
		return res;
	}
	tracked->extents.ops = &tracked_ops;
	tracked->job = job;
	tracked->inner->wake = inner_wakes;
	tracked->inner->wake_data = &tracked->extents;
	*ret = &tracked->extents;
	return 0;
}

void job_let_go(struct job *job)
{
	throttle_set_rate(job->source, 0);
	throttle_go_on(job->source);
}

void job_extents_free(struct job *job, struct extents *extents)
{
	if (!extents)
		return;
	job_let_go(job);
	extents_free(extents);
	throttle_set_rate(job->source, job->rate);
	if (job->paused)
		throttle_pause(job->source);
}
