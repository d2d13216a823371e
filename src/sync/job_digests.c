/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Saved digests of the target: whether this run may use them, and saving them anew at its end. */
#include "sync/job_private.h"

#include "base/bytes.h"
#include "block/saved_digests.h"

#include <errno.h>

#define SENT_PIECE 65536u

static int open_saved(struct job *job)
{
	struct saved_digests_volume volume = {
	    .size = job->end, .id = job->target_facts.id, .mark = job->target_facts.mark};
	struct error why = {0};
	int res;

	if (job->options.changes == CHANGES_HASH)
		return 0;
	res = job->target ? saved_digests_open(&job->saved, job->ring, job->options.digests_path, &volume,
	                        &job->digest_key, &why)
	                  : error_set(&why, -ENOENT, "there is no target yet");
	if (res == 0 && job->options.changes_named)
		job_warn(job, "the saved digests fit: the target is not read");
	if (res == 0)
		return 0;
	job->saved = NULL;
	if (job->options.changes == CHANGES_DIGESTS)
		return error_set(&job->error, -EPERM,
		    "refused: %s; --changes=auto does so and saves digests anew", why.text);
	if (res == -ENOENT)
		job_warn(job, "there are no saved digests yet: both volumes are compared, and digests saved "
		              "at the end");
	else
		job_warn(job, "the saved digests are not used, both volumes are compared: %s", why.text);
	return 0;
}

int job_digests_begin(struct job *job)
{
	int res;

	if (!job->options.digests_path || job->options.kind != JOB_SYNC || job->opened_before)
		return 0;
	if (job->update) {
		job_warn(job,
		    "a resumed run neither uses nor saves digests; the next sync compares and saves them");
		return 0;
	}
	res = open_saved(job);
	if (res == 0 && !job->saved)
		res = digest_key_random(&job->digest_key, &job->error);
	if (res < 0 || !job_writes(job))
		return res;
	/* All of the source must be seen, also for a target that is still blank. */
	job->compare = true;
	if (job->saved)
		res = saved_digests_use(job->saved, &job->error);
	if (res == 0)
		res = digest_new(&job->sent_digest, &job->digest_key, &job->error);
	if (res == 0)
		res = saved_digests_writer_new(
		    &job->digests, job->options.digests_path, job->end, &job->digest_key, &job->error);
	return res;
}

bool job_digests_see_sent(const struct job *job)
{
	return job->digests && (job->options.allow & ALLOW_LIVE_SOURCE || !job->source_facts.mark[0]);
}

void job_digests_sending(void *data, uint64_t offset, uint64_t length, const void *bytes)
{
	uint8_t leaves[SENT_PIECE / DIGEST_LEAF * DIGEST_BYTES];
	struct job *job = data;
	const uint8_t *at = bytes;

	for (uint64_t done = 0; done < length; done += SENT_PIECE) {
		uint64_t piece = min_u64(length - done, SENT_PIECE);

		digest_leaves(job->sent_digest, at + done, piece, leaves);
		saved_digests_writer_put(job->digests, offset + done, piece, leaves);
	}
}

void job_digests_finish(struct job *job)
{
	struct block_facts facts;
	struct error error = {0};
	int res;

	if (!job->digests)
		return;
	/* They would describe what the target does not hold. */
	if (job->bad.count) {
		job_digests_end(job);
		job_warn(job, "digests are not saved: a part of the source could not be read");
		return;
	}
	res = block_facts(job->target, &facts, &error);
	if (res == 0)
		res = saved_digests_writer_finish(job->digests, facts.id, facts.mark, &error);
	job->digests = saved_digests_writer_free(job->digests);
	if (res < 0)
		job_warn(job, "the volume is in order, but its digests could not be saved: %s", error.text);
}

void job_digests_end(struct job *job)
{
	job->digests = saved_digests_writer_free(job->digests);
	job->saved = block_free(job->saved);
	job->sent_digest = digest_free(job->sent_digest);
}
