/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Buffers by powers of two: see page_buffers.h. */
#include "base/page_buffers.h"

#include <assert.h>
#include <stdlib.h>

static unsigned class_of(size_t size)
{
	unsigned class = 0;

	while (((size_t)4096 << class) < size)
		class ++;
	assert(class < PAGE_BUFFERS_CLASSES);
	return class;
}

void *page_buffers_get(struct page_buffers *buffers, size_t size)
{
	unsigned class = class_of(size);
	void **buffer = buffers->free[class];

	if (!buffer)
		return aligned_alloc(4096, (size_t)4096 << class);
	buffers->free[class] = *buffer;
	buffers->kept_bytes -= (size_t)4096 << class;
	return buffer;
}

void page_buffers_put(struct page_buffers *buffers, void *buffer, size_t size)
{
	unsigned class = class_of(size);
	size_t bytes = (size_t)4096 << class;

	if (buffers->kept_bytes + bytes > buffers->kept_bytes_max) {
		free(buffer);
		return;
	}
	*(void **)buffer = buffers->free[class];
	buffers->free[class] = buffer;
	buffers->kept_bytes += bytes;
}

void page_buffers_done(struct page_buffers *buffers)
{
	for (unsigned class = 0; class < PAGE_BUFFERS_CLASSES; class ++)
		while (buffers->free[class]) {
			void **buffer = buffers->free[class];

			buffers->free[class] = *buffer;
			free(buffer);
		}
}
