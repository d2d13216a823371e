/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reads both volumes back and compares them: the verify of a copy and the verify command. */
#include "sync/job_private.h"

#include "base/bytes.h"
#include "sync/hash_extents.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DIFFERENCES_MAX (1u << 19) /* ranges that are kept; 8 MiB */

static void woken(void *data)
{
	*(bool *)data = true;
}

static void found_same(void *data, uint64_t offset, uint64_t length)
{
	struct job *job = data;

	job->verified += length;
	if (job->options.kind == JOB_VERIFY)
		job->same += length;
}

static int note_difference(struct job *job, const struct extent *extent)
{
	size_t before = job->differences.count;
	int res = 0;

	job->verified += extent->length;
	job->differing_bytes += extent->length;
	/* Whoever controls the contents must not control our memory. */
	if (before < DIFFERENCES_MAX)
		res = range_set_add(&job->differences, extent->offset, extent->length);
	job->differing_ranges += before < DIFFERENCES_MAX ? job->differences.count - before : 1;
	return res;
}

static int drain(struct job *job, struct extents *extents)
{
	for (;;) {
		bool awake = false;
		struct extent extent;
		int res;

		extents->wake = woken;
		extents->wake_data = &awake;
		res = extents_next(extents, DIGEST_CHUNK, &extent);
		if (job->cancelled)
			return -ECANCELED;
		if (res == 1) {
			res = note_difference(job, &extent);
			extents_finish(extents, &extent, 0);
		} else if (res == 0) {
			res = job_wait_for(job, &awake);
		} else if (res == 2) {
			return 0;
		} else {
			job->error = *hash_extents_error(extents);
		}
		if (res < 0)
			return res;
	}
}

/* Behind the source's end the target must be zero where that was asked for. */
static int compare_tail(struct job *job)
{
	static const uint32_t piece = 1u << 20;
	uint64_t at = job->end, size = block_info(job->target)->size;
	void *buf = NULL;
	int res = 0;

	if (job->options.kind == JOB_VERIFY || job->options.size_mismatch != SIZE_ZERO_TAIL || at >= size)
		return 0;
	if (posix_memalign(&buf, 4096, piece))
		return error_set(&job->error, -ENOMEM, "out of memory");
	while (res == 0 && at < size && !job->cancelled) {
		struct block_io io = {
		    .op = BLOCK_READ, .offset = at, .length = min_u64(piece, size - at), .buf = buf};

		res = block_wait(job->target, &io);
		if (res == 0 && !bytes_are_zero(buf, io.length))
			res = note_difference(job, &(struct extent){.offset = at, .length = io.length});
		at += io.length;
	}
	free(buf);
	if (res < 0)
		error_set(&job->error, res, "cannot read back %s: %s", block_info(job->target)->name,
		    strerror(-res));
	return job->cancelled ? -ECANCELED : res;
}

/* What is not read back: what cannot be read, and what this run has not written if that is all that is asked for. */
static int add_gaps(struct range_set *to, const struct range_set *set, uint64_t end)
{
	struct range gap;
	uint64_t at = 0;
	int res = 0;

	for (; res == 0 && range_set_gap(set, at, end, &gap); at = gap.offset + gap.length)
		res = range_set_add(to, gap.offset, gap.length);
	return res;
}

static int make_passed(struct job *job, struct range_set *ret)
{
	int res;

	range_set_init(ret);
	if (job->options.kind == JOB_VERIFY)
		return 0;
	res = range_set_add_all(ret, &job->bad);
	if (res == 0 && job->options.verify_sent && !job->moved_lost)
		res = add_gaps(ret, &job->moved, job->end);
	if (res < 0)
		range_set_done(ret);
	return res < 0 ? error_set(&job->error, res, "out of memory") : 0;
}

static int compare(struct job *job, struct hash_extents_options *options)
{
	struct extents *extents;
	int res = hash_extents_new(&extents, job->source, job->target, options, &job->error);

	if (res < 0)
		return res;
	res = drain(job, extents);
	job_extents_free(job, extents);
	return res < 0 ? res : compare_tail(job);
}

int job_compare(struct job *job)
{
	struct hash_extents_options options = {
	    .end = job->end,
	    .ignore_holes = !job->options.trust_holes,
	    .trust_holes = true,
	    .same = found_same,
	    .same_data = job,
	};
	struct range_set passed;
	struct digest_key key;
	int res = digest_key_random(&key, &job->error);

	if (res == 0)
		res = make_passed(job, &passed);
	if (res < 0)
		return res;
	job_set_state(job, job->options.kind == JOB_VERIFY ? JOB_RUNNING : JOB_VERIFYING);
	options.key = &key;
	options.done = &passed;
	job->verified = job->options.verify_sent ? passed.bytes : 0;
	if (job->options.kind == JOB_VERIFY)
		job->same = 0;
	range_set_done(&job->differences);
	job->differing_ranges = job->differing_bytes = 0;
	res = compare(job, &options);
	range_set_done(&passed);
	return res < 0 && res != -ECANCELED && job_link_broken(job) ? -ENOTCONN : res;
}
