/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A mirror that becomes larger while clients use it: with the target let go, so that nothing but the source and the map has to do with it. */
#include "sync/mirror_job_private.h"

#include <errno.h>
#include <string.h>

static int check_job(const struct mirror_job *job, struct error *error)
{
	if (cutover_is_end(job->state) || job->state == CUTOVER_CUTTING ||
	    mirror_authoritative(job->mirror) != MIRROR_SOURCE)
		return error_set(error, -EINVAL, "it is %s", cutover_state_name(job->state));
	if (job->growing || job->attaching || !job->apart || job->legs[MIRROR_TARGET])
		return error_set(error, -EBUSY, "the target is in use: let it go first");
	if (!mirror_leader_here(job->mirror))
		return error_set(error, -ENOTCONN, "the source is away");
	return 0;
}

static int check_size(const struct mirror_job *job, uint64_t size, struct error *error)
{
	const struct block_info *source = block_info(job->legs[MIRROR_SOURCE]);

	if (size < mirror_job_size(job))
		return error_set(error, -EINVAL, "it has %llu bytes, and cannot be made smaller",
		    (unsigned long long)mirror_job_size(job));
	if (source->size != size)
		return error_set(error, source->size < size ? -ENOSPC : -EINVAL,
		    "%s has %llu bytes, the mirror is to have %llu", source->name,
		    (unsigned long long)source->size, (unsigned long long)size);
	return 0;
}

static int grow(struct mirror_job *job, uint64_t size, struct error *error)
{
	int res = dirty_extents_reserve(job->extents, size);

	if (res < 0)
		return error_set(error, res, "out of memory");
	job->growing = true;
	/* What the source was asked last, for a copy or a verification that is over. */
	while (res == 0 && (dirty_extents_active(job->extents) > 0 || !mirror_verify_idle(job)))
		res = ring_step(job->ring);
	res = res < 0 ? error_set(error, res, "the event loop failed: %s", strerror(-res))
	              : mirror_grow(job->mirror, size, error);
	job->growing = false;
	job->wake = true;
	if (res < 0)
		return res;
	dirty_extents_measure(job->extents);
	mirror_verify_measure(job);
	return 0;
}

int mirror_job_grow(struct mirror_job *job, uint64_t size, struct error *error)
{
	int res = check_job(job, error);

	if (res == 0)
		res = check_size(job, size, error);
	if (res == 0)
		res = grow(job, size, error);
	return res < 0 ? error_prefix(error, "cannot grow the mirror") : 0;
}
