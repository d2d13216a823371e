/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Walks the source's extents and gives them, but for what is done. Extents that failed are kept and given
 * again, before anything else. Streams have no map: their extents follow one another until the reader says
 * that it is at the end.
 */
#include "sync/all_extents.h"

#include "base/bytes.h"
#include "sync/extent_map.h"
#include "sync/failed_extents.h"

#include <errno.h>
#include <stdlib.h>

struct all_extents {
	struct extents extents;
	struct all_extents_options options;
	struct extent_map *map;
	uint64_t position; /* all below was given, or is done */
	struct failed_extents failed;
	bool waiting; /* next() said that wake() follows */
};

static struct all_extents *to_all(struct extents *extents)
{
	return container_of(extents, struct all_extents, extents);
}

static void map_wakes(void *data)
{
	struct all_extents *all = data;

	if (!all->waiting)
		return;
	all->waiting = false;
	extents_wake(&all->extents);
}

/* Where the next extent begins, and the end of what is not done there; false at the end. */
static bool next_gap(const struct all_extents *all, struct range *ret)
{
	if (all->options.done)
		return range_set_gap(all->options.done, all->position, all->options.end, ret);
	*ret = (struct range){all->position, all->options.end - all->position};
	return ret->length > 0;
}

static int all_next(struct extents *extents, uint64_t length_max, struct extent *ret)
{
	struct all_extents *all = to_all(extents);
	struct range gap;
	int res = failed_extents_next(&all->failed, length_max, ret);

	if (res)
		return res;
	if (!next_gap(all, &gap)) {
		all->position = all->options.end;
		return 2;
	}
	all->position = gap.offset;
	res = extent_map_at(all->map, all->position, ret);
	all->waiting = res == 0;
	if (res != 1)
		return res;
	ret->length = min_u64(ret->length, gap.length);
	if (ret->kind == EXTENT_DATA)
		ret->length = min_u64(ret->length, length_max);
	all->position += ret->length;
	return 1;
}

static void all_finish(struct extents *extents, const struct extent *extent, int res)
{
	if (res < 0)
		failed_extents_add(&to_all(extents)->failed, extent);
}

static void all_free(struct extents *extents)
{
	struct all_extents *all = to_all(extents);

	extent_map_free(all->map);
	failed_extents_done(&all->failed);
	free(all);
}

static const struct extents_ops all_ops = {
    .next = all_next,
    .finish = all_finish,
    .free = all_free,
};

int all_extents_new(struct extents **ret, struct block *source, const struct all_extents_options *options,
    struct error *error)
{
	struct all_extents *all = calloc(1, sizeof(*all));
	int res;

	if (!all)
		return error_set(error, -ENOMEM, "cannot walk %s: out of memory", block_info(source)->name);
	all->extents.ops = &all_ops;
	all->options = *options;
	failed_extents_init(&all->failed);
	res = extent_map_new(&all->map, source, options->end, options->ignore_holes, map_wakes, all, error);
	if (res < 0) {
		all_free(&all->extents);
		return res;
	}
	*ret = &all->extents;
	return 0;
}

struct stream_extents {
	struct extents extents;
	uint64_t position;
	uint64_t length; /* of each extent given */
	bool at_end;
};

static int stream_next(struct extents *extents, uint64_t length_max, struct extent *ret)
{
	struct stream_extents *stream = container_of(extents, struct stream_extents, extents);

	if (stream->at_end)
		return 2;
	*ret = (struct extent){stream->position, length_max, EXTENT_DATA};
	stream->position += length_max;
	stream->length = length_max;
	return 1;
}

/* What went by cannot be had again, so failures change nothing; a short extent was the last one. */
static void stream_finish(struct extents *extents, const struct extent *extent, int res)
{
	struct stream_extents *stream = container_of(extents, struct stream_extents, extents);

	if (res >= 0 && extent->length < stream->length)
		stream->at_end = true;
}

static void stream_free(struct extents *extents)
{
	free(container_of(extents, struct stream_extents, extents));
}

static const struct extents_ops stream_ops = {
    .next = stream_next,
    .finish = stream_finish,
    .free = stream_free,
};

int stream_extents_new(struct extents **ret, struct error *error)
{
	struct stream_extents *stream = calloc(1, sizeof(*stream));

	if (!stream)
		return error_set(error, -ENOMEM, "cannot read a stream: out of memory");
	stream->extents.ops = &stream_ops;
	*ret = &stream->extents;
	return 0;
}

void stream_extents_end(struct extents *extents)
{
	if (extents->ops == &stream_ops)
		container_of(extents, struct stream_extents, extents)->at_end = true;
}
