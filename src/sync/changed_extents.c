/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A full copy to which all that did not change is already done. */
#include "sync/changed_extents.h"

#include "base/bytes.h"
#include "sync/all_extents.h"

#include <errno.h>
#include <stdlib.h>

struct changed_extents {
	struct extents extents;
	struct extents *all;
	struct range_set skip;
};

static struct changed_extents *to_changed(struct extents *extents)
{
	return container_of(extents, struct changed_extents, extents);
}

static int changed_next(struct extents *extents, uint64_t length_max, struct extent *ret)
{
	return extents_next(to_changed(extents)->all, length_max, ret);
}

static void changed_finish(struct extents *extents, const struct extent *extent, int res)
{
	extents_finish(to_changed(extents)->all, extent, res);
}

static void changed_free(struct extents *extents)
{
	struct changed_extents *changed = to_changed(extents);

	extents_free(changed->all);
	range_set_done(&changed->skip);
	free(changed);
}

static const struct extents_ops changed_ops = {
    .next = changed_next,
    .finish = changed_finish,
    .free = changed_free,
};

static void all_wakes(void *data)
{
	extents_wake(data);
}

/* All that is done or did not change, in order of offset. */
static int find_skip(struct range_set *skip, const struct changed_extents_options *options)
{
	static const struct range_set nothing;
	const struct range_set *done = options->done ? options->done : &nothing;
	uint64_t at = 0, from = 0;
	struct range todo;

	for (size_t i = 0; i < options->changed->count; i++) {
		const struct range *range = &options->changed->ranges[i];
		uint64_t end = min_u64(range->offset + range->length, options->end);

		for (at = range->offset; at < end && range_set_gap(done, at, end, &todo); at = from) {
			if (range_set_add(skip, from, todo.offset - from) < 0)
				return -ENOMEM;
			from = todo.offset + todo.length;
		}
	}
	return from < options->end ? range_set_add(skip, from, options->end - from) : 0;
}

int changed_extents_new(struct extents **ret, struct block *source,
    const struct changed_extents_options *options, struct error *error)
{
	struct changed_extents *changed = calloc(1, sizeof(*changed));
	int res = changed ? find_skip(&changed->skip, options) : -ENOMEM;

	if (res < 0) {
		error_set(error, res, "cannot walk %s: out of memory", block_info(source)->name);
	} else {
		struct all_extents_options all = {
		    .end = options->end, .done = &changed->skip, .ignore_holes = options->ignore_holes};

		changed->extents.ops = &changed_ops;
		res = all_extents_new(&changed->all, source, &all, error);
	}
	if (res < 0) {
		if (changed)
			range_set_done(&changed->skip);
		free(changed);
		return res;
	}
	changed->all->wake = all_wakes;
	changed->all->wake_data = &changed->extents;
	*ret = &changed->extents;
	return 0;
}
