/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A fixed number of equal, page-aligned buffers from one mapping, made at the start: the data path allocates nothing. */
#pragma once

#include "base/error.h"

#include <stddef.h>

struct buffer_pool;

/* `size` is a multiple of 4096. */
int buffer_pool_new(struct buffer_pool **ret, size_t size, unsigned count, struct error *error);
/* All buffers must be back. Takes NULL; returns NULL. */
struct buffer_pool *buffer_pool_free(struct buffer_pool *pool);
/* A buffer with any contents, or NULL when all are out. */
void *buffer_pool_get(struct buffer_pool *pool);
void buffer_pool_put(struct buffer_pool *pool, void *buffer);
