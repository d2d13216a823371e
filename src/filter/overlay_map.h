/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which 4 KiB blocks an overlay has: bits in leaves of 128 MiB, made when first needed; a leaf of ones alone takes no memory. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct overlay_map;

/* For a volume of `size` bytes. 0 or -ENOMEM. */
int overlay_map_new(struct overlay_map **ret, uint64_t size);
/* Takes NULL; returns NULL. */
struct overlay_map *overlay_map_free(struct overlay_map *map);
/* All blocks that [begin, end) touches. 0 or -ENOMEM; then some may be set, all of which lie inside. */
int overlay_map_set(struct overlay_map *map, uint64_t begin, uint64_t end);
bool overlay_map_has(const struct overlay_map *map, uint64_t offset);
/* Where the run that begins at `offset` ends, at most `end`; whether its blocks are set. */
uint64_t overlay_map_run(const struct overlay_map *map, uint64_t offset, uint64_t end, bool *ret_set);

/*
 * For who keeps the bits (filter/stage.h): leaves that were touched since they were last taken. A leaf's bits are bytes of a file, bit 0 of the
 * first one the first block.
 */
#define OVERLAY_LEAF_BYTES 4096u

/* The number of the first touched leaf at or after `from`, which is not touched any more, and its bits; UINT64_MAX: none. */
uint64_t overlay_map_take_touched(struct overlay_map *map, uint64_t from, uint8_t *ret_bits);
void overlay_map_touch(struct overlay_map *map, uint64_t leaf);
/* Sets what is set in these bits, too. 0 or -ENOMEM. */
int overlay_map_add(struct overlay_map *map, uint64_t leaf, const uint8_t *bits);
/* Nothing is set any more, nor touched. */
void overlay_map_clear(struct overlay_map *map);
