/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the copy of a mirror cannot read of the authoritative leg: counted, tried again, and said, with what can be done. */
#include "sync/mirror_job_private.h"

#include <string.h>

#define TELL_NS 5000000000u

void mirror_bad_range(void *data, uint64_t offset, uint64_t length, int res)
{
	struct mirror_job *job = data;

	job->bad_offset = offset;
	job->bad_res = res;
}

void mirror_unread_status(const struct mirror_job *job, struct mirror_job_status *ret)
{
	ret->unreadable = dirty_extents_unreadable(job->extents);
	ret->unreadable_at = job->bad_offset;
	ret->unreadable_res = job->bad_res;
}

void mirror_job_unreadable(const struct mirror_job_status *status, struct error *ret)
{
	bool leads = status->authoritative == MIRROR_SOURCE;

	error_set(ret, status->unreadable_res,
	    "the %s cannot be read at byte %llu: %s; regions of %llu bytes in all are not copied for that, "
	    "and the "
	    "mirror %s before they are. They are tried again and again: mend the %s, or have such places "
	    "written "
	    "anew through the mirror, by who uses them or from a backup",
	    mirror_leg_names[status->authoritative], (unsigned long long)status->unreadable_at,
	    strerror(-status->unreadable_res), (unsigned long long)status->unreadable,
	    leads ? "is not ready" : "cannot be reverted", mirror_leg_names[status->authoritative]);
}

void mirror_look_after_unread(struct mirror_job *job)
{
	uint64_t bytes = dirty_extents_unreadable(job->extents), now_ns = ring_now_ns(job->ring);
	struct mirror_job_status status;
	struct error error;

	if (bytes > 0)
		dirty_extents_look(job->extents);
	if (bytes == job->told_unread) {
		job->tell_unread_ns = 0;
		return;
	}
	/* It takes some tries to know how much it is. */
	if (job->tell_unread_ns == 0)
		job->tell_unread_ns = now_ns + TELL_NS;
	if (now_ns < job->tell_unread_ns)
		return;
	job->told_unread = bytes;
	job->tell_unread_ns = 0;
	mirror_job_status(job, &status);
	if (bytes > 0)
		mirror_job_unreadable(&status, &error);
	else
		error_set(&error, 0, "what could not be read from the %s was read and copied",
		    mirror_leg_names[status.authoritative]);
	mirror_job_warn(job, &error);
}
