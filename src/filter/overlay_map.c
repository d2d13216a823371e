/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The overlay's bits: see overlay_map.h. */
#include "filter/overlay_map.h"

#include "base/bytes.h"
#include "filter/overlay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WORDS       (OVERLAY_LEAF_BYTES / 8)
#define LEAF_BLOCKS (WORDS * 64u)
#define LEAF_BYTES  ((uint64_t)LEAF_BLOCKS * OVERLAY_BLOCK)

struct leaf {
	uint64_t words[WORDS];
};

struct overlay_map {
	uint64_t leaves_count;
	uint64_t *touched;     /* a bit a leaf */
	struct leaf *leaves[]; /* NULL: all zero; `full`: all one */
};

/* Stands for any leaf of ones; its own bits are not looked at. */
static struct leaf full;

int overlay_map_new(struct overlay_map **ret, uint64_t size)
{
	uint64_t count = size / LEAF_BYTES + 1;
	struct overlay_map *map = calloc(1, sizeof(*map) + count * sizeof(struct leaf *));

	if (!map)
		return -ENOMEM;
	map->leaves_count = count;
	map->touched = calloc(count / 64 + 1, sizeof(*map->touched));
	if (!map->touched) {
		free(map);
		return -ENOMEM;
	}
	*ret = map;
	return 0;
}

void overlay_map_clear(struct overlay_map *map)
{
	for (uint64_t i = 0; i < map->leaves_count; i++) {
		if (map->leaves[i] != &full)
			free(map->leaves[i]);
		map->leaves[i] = NULL;
	}
	memset(map->touched, 0, (map->leaves_count / 64 + 1) * sizeof(*map->touched));
}

struct overlay_map *overlay_map_free(struct overlay_map *map)
{
	if (!map)
		return NULL;
	overlay_map_clear(map);
	free(map->touched);
	free(map);
	return NULL;
}

int overlay_map_set(struct overlay_map *map, uint64_t begin, uint64_t end)
{
	uint64_t block = begin / OVERLAY_BLOCK, last = align_up(end, OVERLAY_BLOCK) / OVERLAY_BLOCK;

	while (block < last) {
		struct leaf **leaf = &map->leaves[block / LEAF_BLOCKS];
		uint64_t next = min_u64(last, align_down(block, LEAF_BLOCKS) + LEAF_BLOCKS);

		if (next - block == LEAF_BLOCKS && *leaf != &full) {
			free(*leaf);
			*leaf = &full;
		}
		if (!*leaf)
			*leaf = calloc(1, sizeof(**leaf));
		if (!*leaf)
			return -ENOMEM;
		overlay_map_touch(map, block / LEAF_BLOCKS);
		for (; *leaf != &full && block < next; block++)
			(*leaf)->words[block % LEAF_BLOCKS / 64] |= UINT64_C(1) << block % 64;
		block = next;
	}
	return 0;
}

static bool has(const struct overlay_map *map, uint64_t block)
{
	const struct leaf *leaf = map->leaves[block / LEAF_BLOCKS];

	if (!leaf || leaf == &full)
		return leaf;
	return leaf->words[block % LEAF_BLOCKS / 64] >> block % 64 & 1;
}

bool overlay_map_has(const struct overlay_map *map, uint64_t offset)
{
	return has(map, offset / OVERLAY_BLOCK);
}

uint64_t overlay_map_run(const struct overlay_map *map, uint64_t offset, uint64_t end, bool *ret_set)
{
	uint64_t block = offset / OVERLAY_BLOCK, last = align_up(end, OVERLAY_BLOCK) / OVERLAY_BLOCK;
	bool set = has(map, block);

	while (block < last && has(map, block) == set) {
		const struct leaf *leaf = map->leaves[block / LEAF_BLOCKS];

		/* A leaf of one kind is stepped over as a whole. */
		block = !leaf || leaf == &full ? align_down(block, LEAF_BLOCKS) + LEAF_BLOCKS : block + 1;
	}
	*ret_set = set;
	return min_u64(end, block * OVERLAY_BLOCK);
}

void overlay_map_touch(struct overlay_map *map, uint64_t leaf)
{
	map->touched[leaf / 64] |= UINT64_C(1) << leaf % 64;
}

uint64_t overlay_map_take_touched(struct overlay_map *map, uint64_t from, uint8_t *ret_bits)
{
	uint64_t leaf = from;

	while (leaf < map->leaves_count && !(map->touched[leaf / 64] >> leaf % 64))
		leaf = align_down(leaf, 64) + 64;
	if (leaf >= map->leaves_count)
		return UINT64_MAX;
	leaf += (uint64_t)__builtin_ctzll(map->touched[leaf / 64] >> leaf % 64);
	map->touched[leaf / 64] &= ~(UINT64_C(1) << leaf % 64);
	if (map->leaves[leaf] == &full)
		memset(ret_bits, 0xff, OVERLAY_LEAF_BYTES);
	for (unsigned i = 0; map->leaves[leaf] != &full && i < WORDS; i++)
		put_le64(ret_bits + i * 8, map->leaves[leaf]->words[i]);
	return leaf;
}

int overlay_map_add(struct overlay_map *map, uint64_t leaf, const uint8_t *bits)
{
	if (bytes_are_zero(bits, OVERLAY_LEAF_BYTES) || map->leaves[leaf] == &full)
		return 0;
	if (!map->leaves[leaf])
		map->leaves[leaf] = calloc(1, sizeof(*map->leaves[leaf]));
	if (!map->leaves[leaf])
		return -ENOMEM;
	for (unsigned i = 0; i < WORDS; i++)
		map->leaves[leaf]->words[i] |= get_le64(bits + i * 8);
	return 0;
}
