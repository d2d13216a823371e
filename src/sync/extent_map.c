/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two answers: one in use, one asked for meanwhile. Each answer describes a prefix of what is left, so the
 * next question begins where the last answer ended.
 */
#include "sync/extent_map.h"

#include "base/bytes.h"

#include <errno.h>
#include <stdlib.h>

#define ANSWER_MAX 128

struct answer {
	struct extent extents[ANSWER_MAX];
	unsigned count, index; /* extents before `index` are behind */
};

struct extent_map {
	/* set at the start */
	struct block *block;
	uint64_t end;
	void (*wake)(void *data);
	void *data;

	bool all_data;
	struct answer answers[2];
	struct answer *current, *ahead;
	struct block_io io; /* fills `ahead` */
	uint64_t asked;     /* all below is answered */
	bool idle;          /* io is not under way */
	int res;
};

int extent_map_new(struct extent_map **ret, struct block *block, uint64_t end, bool all_data,
    void (*wake)(void *data), void *data, struct error *error)
{
	struct extent_map *map = calloc(1, sizeof(*map));

	if (!map)
		return error_set(error, -ENOMEM, "cannot walk %s: out of memory", block_info(block)->name);
	map->block = block;
	map->end = end;
	map->all_data = all_data;
	map->wake = wake;
	map->data = data;
	map->current = &map->answers[0];
	map->ahead = &map->answers[1];
	map->idle = true;
	*ret = map;
	return 0;
}

struct extent_map *extent_map_free(struct extent_map *map)
{
	if (!map)
		return NULL;
	map->wake = NULL;
	/* Lost rather than freed under a request, should the loop itself have broken. */
	if (map->idle || ring_run_until(block_ring(map->block), &map->idle) == 0)
		free(map);
	return NULL;
}

/* The other side of a link may say anything. Returns the count, or -EPROTO. */
static int check_answer(const struct extent_map *map, int count)
{
	uint64_t at = map->asked;

	if (count < 1 || count > ANSWER_MAX)
		return -EPROTO;
	for (int i = 0; i < count; i++) {
		const struct extent *extent = &map->ahead->extents[i];

		if (extent->offset != at || extent->length == 0 || extent->length > map->end - at)
			return -EPROTO;
		if (extent->kind != EXTENT_DATA && extent->kind != EXTENT_ZERO)
			return -EPROTO;
		at += extent->length;
	}
	return count;
}

static void answered(struct block_io *io, int res)
{
	struct extent_map *map = io->user;

	map->idle = true;
	if (res >= 0)
		res = check_answer(map, res);
	if (res == -EOPNOTSUPP) {
		map->all_data = true;
	} else if (res < 0) {
		map->res = res;
	} else {
		const struct extent *last = &map->ahead->extents[res - 1];

		map->ahead->count = (unsigned)res;
		map->asked = last->offset + last->length;
	}
	if (map->wake)
		map->wake(map->data);
}

static void ask(struct extent_map *map, uint64_t offset)
{
	if (!map->idle || map->res || map->ahead->count)
		return;
	map->asked = max_u64(map->asked, offset);
	if (map->asked >= map->end)
		return;
	map->idle = false;
	map->io = (struct block_io){.op = BLOCK_EXTENTS,
	    .offset = map->asked,
	    .length = map->end - map->asked,
	    .extents = map->ahead->extents,
	    .extents_max = ANSWER_MAX,
	    .done = answered,
	    .user = map};
	block_submit(map->block, &map->io);
}

/* The extent of the current answer that holds `offset`, or NULL. */
static const struct extent *find(struct answer *answer, uint64_t offset)
{
	while (answer->index < answer->count) {
		const struct extent *extent = &answer->extents[answer->index];

		if (offset < extent->offset + extent->length)
			return extent;
		answer->index++;
	}
	return NULL;
}

int extent_map_at(struct extent_map *map, uint64_t offset, struct extent *ret)
{
	const struct extent *extent;

	if (offset >= map->end)
		return 2;
	extent = find(map->current, offset);
	if (!extent && map->idle) {
		struct answer *empty = map->current;

		empty->count = empty->index = 0;
		map->current = map->ahead;
		map->ahead = empty;
		extent = find(map->current, offset);
	}
	if (!extent && map->all_data) {
		*ret = (struct extent){offset, map->end - offset, EXTENT_DATA};
		return 1;
	}
	if (!extent && map->res)
		return map->res;
	if (!map->all_data)
		ask(map, offset);
	if (!extent)
		return 0;
	*ret = (struct extent){offset, extent->offset + extent->length - offset, extent->kind};
	return 1;
}
