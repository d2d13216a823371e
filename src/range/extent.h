/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What remains to be copied. Every job of the system is the copy engine fed by a different source of extents.
 * A source belongs to the ring of its job and is used from that thread alone.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum extent_kind {
	EXTENT_DATA, /* may hold anything */
	EXTENT_ZERO, /* reads as zero */
};

struct extent {
	uint64_t offset, length; /* bytes; length > 0 */
	enum extent_kind kind;
};

struct extents;

struct extents_ops {
	/*
	 * 1: *ret is the next extent; a DATA extent is at most length_max long (a ZERO extent may be longer); 0: none yet,
	 * wake() follows; 2: the end; negative: -errno, the source is broken. After 2 it may give more only if a failed
	 * extent came back by finish().
	 */
	int (*next)(struct extents *extents, uint64_t length_max, struct extent *ret);
	/* Tells what became of an extent from next() (or of a part of one): 0, or -errno. */
	void (*finish)(struct extents *extents, const struct extent *extent, int res);
	void (*free)(struct extents *extents);
};

/* Every source begins with this. The user of the source sets wake before the first next(). */
struct extents {
	const struct extents_ops *ops;
	void (*wake)(
	    void *data); /* may be called from within ring callbacks only, never from within next() */
	void *wake_data;
};

static inline int extents_next(struct extents *extents, uint64_t length_max, struct extent *ret)
{
	return extents->ops->next(extents, length_max, ret);
}

static inline void extents_finish(struct extents *extents, const struct extent *extent, int res)
{
	extents->ops->finish(extents, extent, res);
}

static inline struct extents *extents_free(struct extents *extents)
{
	if (extents)
		extents->ops->free(extents);
	return NULL;
}

static inline void extents_wake(struct extents *extents)
{
	if (extents->wake)
		extents->wake(extents->wake_data);
}
