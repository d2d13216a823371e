/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Page-aligned buffers of 4 KiB to 4 MiB, kept for the next request of a server. How many are out is the caller's to bound. */
#pragma once

#include <stddef.h>

#define PAGE_BUFFERS_CLASSES 11u /* 4 KiB << 0..10 */

struct page_buffers {
	void *free[PAGE_BUFFERS_CLASSES]; /* each begins with a pointer to the next */
	size_t kept_bytes, kept_bytes_max;
};

/* At least `size` bytes, at most 4 MiB; NULL when out of memory. */
void *page_buffers_get(struct page_buffers *buffers, size_t size);
/* `size` as it was asked. */
void page_buffers_put(struct page_buffers *buffers, void *buffer, size_t size);
void page_buffers_done(struct page_buffers *buffers);
