/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether a device may become the store of a plain device's snapshots: where it lies, who uses it, what it carries. */
#include "base/cleanup.h"
#include "block/inspect.h"
#include "snapshot/snapshot_private.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define SIGNATURE "DM_snapshot_cow" /* libblkid's word for a store that was used before */

/* Its first bytes are overwritten at once: it must not be what is read or written by the job, nor lie on that. */
static int judge_place(const struct snapshot *snapshot, int store_fd, struct error *error)
{
	const char *const others[] = {snapshot->options.source, snapshot->options.target_path};
	struct block_facts store, other;
	int res = inspect_where(store_fd, &store, error);

	for (unsigned i = 0; i < sizeof(others) / sizeof(others[0]) && res == 0; i++) {
		_cleanup_(cleanup_close) int fd =
		    others[i] ? open(others[i], O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
		const struct block_place *place = NULL;

		/* A target may be yet to be made. */
		if (fd < 0 && i == 0)
			return error_set(error, -errno, "cannot open %s: %s", others[i], strerror(errno));
		if (fd >= 0 && inspect_where(fd, &other, NULL) == 0)
			place = inspect_common(&store, &other);
		if (place)
			res = error_set(error, -EPERM,
			    "the store %s and %s have bytes in common (of %s), which would be overwritten; "
			    "name "
			    "another store",
			    snapshot->options.store, others[i], place->id);
	}
	return res;
}

/* What it carries. */
static int judge_store(const char *store, int fd, struct error *error)
{
	struct block_facts facts;
	int res = inspect_fd(fd, &facts, error);

	if (res < 0)
		return res;
	if (facts.mounted[0])
		return error_set(
		    error, -EPERM, "the store %s is mounted at %s; name another", store, facts.mounted);
	if (facts.held[0] || facts.writer[0])
		return error_set(error, -EPERM, "the store %s is in use by %s; name another", store,
		    facts.held[0] ? facts.held : facts.writer);
	if (facts.signature[0] && strncmp(facts.signature, SIGNATURE, strlen(SIGNATURE)))
		return error_set(error, -EPERM,
		    "the store %s carries %s, which would be lost; `wipefs -a %s` first, if that may be",
		    store, facts.signature, store);
	return 0;
}

int snapshot_store_judge(const struct snapshot *snapshot, int fd, bool ours, struct error *error)
{
	int res = judge_place(snapshot, fd, error);

	return res < 0 || ours ? res : judge_store(snapshot->options.store, fd, error);
}
