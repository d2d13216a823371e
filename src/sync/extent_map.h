/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where a volume has data and where zeros, walked from its beginning to its end: BLOCK_EXTENTS asked ahead of
 * need, so that whoever walks rarely waits. Belongs to one source of extents.
 */
#pragma once

#include "block/block.h"

struct extent_map;

/* `all_data` asks nothing. wake(data) is called from the ring's loop when an answer or an error has come. */
int extent_map_new(struct extent_map **ret, struct block *block, uint64_t end, bool all_data,
    void (*wake)(void *data), void *data, struct error *error);
/* Runs the ring until an answer under way has come; wake() is not called any more. Takes NULL; returns NULL.
 */
struct extent_map *extent_map_free(struct extent_map *map);
/* 1: *ret is what lies at `offset`, from there on; 0: not known yet, wake() follows; 2: at the end; or
 * -errno. Offsets only grow. */
int extent_map_at(struct extent_map *map, uint64_t offset, struct extent *ret);
