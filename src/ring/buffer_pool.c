/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Equal buffers from one mapping. A free buffer's first word links to the next free one. */
#include "ring/buffer_pool.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct buffer_pool {
	/* set at the start */
	void *memory;
	size_t size;
	unsigned count;

	/* ring thread only */
	void *free_first;
	unsigned free_count;
	unsigned
	    never_used; /* buffers from this index on were never given out, so their pages do not exist yet */
};

int buffer_pool_new(struct buffer_pool **ret, size_t size, unsigned count, struct error *error)
{
	struct buffer_pool *pool = calloc(1, sizeof(*pool));

	assert(size > 0 && size % 4096 == 0 && count > 0);
	if (!pool)
		return error_set(error, -ENOMEM, "cannot make %u buffers: out of memory", count);
	pool->memory = mmap(NULL, size * count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (pool->memory == MAP_FAILED) {
		free(pool);
		return error_set(
		    error, -ENOMEM, "cannot make %u buffers of %zu bytes: %s", count, size, strerror(errno));
	}
	pool->size = size;
	pool->count = pool->free_count = count;
	*ret = pool;
	return 0;
}

struct buffer_pool *buffer_pool_free(struct buffer_pool *pool)
{
	if (!pool)
		return NULL;
	assert(pool->free_count == pool->count);
	munmap(pool->memory, pool->size * pool->count);
	free(pool);
	return NULL;
}

void *buffer_pool_get(struct buffer_pool *pool)
{
	void *buffer = pool->free_first;

	if (pool->free_count == 0)
		return NULL;
	pool->free_count--;
	if (!buffer)
		return (char *)pool->memory + pool->size * pool->never_used++;
	memcpy(&pool->free_first, buffer, sizeof(pool->free_first));
	return buffer;
}

void buffer_pool_put(struct buffer_pool *pool, void *buffer)
{
	memcpy(buffer, &pool->free_first, sizeof(pool->free_first));
	pool->free_first = buffer;
	pool->free_count++;
}
