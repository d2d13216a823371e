/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the models of a replicated volume's two nodes know of each write: what was there before it, and whether somebody was told that it is done. */
#pragma once

#include "base/rand.h"

#include <stdbool.h>

struct value {
	unsigned parent; /* 0: nothing */
	bool acknowledged;
};

static inline bool chance(struct rand *rand, unsigned one_in)
{
	return rand_below(rand, one_in) == 0;
}

static inline bool is_ancestor(const struct value *values, unsigned old, unsigned new)
{
	for (; new != old &&new; new = values[new].parent)
		;
	return new == old;
}

/* The last write in a region that somebody was told of. */
static inline unsigned acknowledged(const struct value *values, unsigned value)
{
	while (value && !values[value].acknowledged)
		value = values[value].parent;
	return value;
}

/* A region in which `target` has what somebody was told of and `source` lacks; -1: there is none. */
static inline int find_lost(
    const struct value *values, const unsigned *source, const unsigned *target, unsigned regions)
{
	for (unsigned i = 0; i < regions; i++)
		if (!is_ancestor(values, acknowledged(values, target[i]), source[i]))
			return (int)i;
	return -1;
}

/* What `data` has and `other` has not is nobody's any more. */
static inline void disown(struct value *values, const unsigned *data, const unsigned *other, unsigned regions)
{
	for (unsigned i = 0; i < regions; i++)
		for (unsigned v = data[i]; v && !is_ancestor(values, v, other[i]); v = values[v].parent)
			values[v].acknowledged = false;
}
