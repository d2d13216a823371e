/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The file driver's inside, for file_open.c and for simulations. */
#pragma once

#include "block/block.h"

struct file_options {
	struct block_info info;
	int fd;                /* buffered */
	int fd_direct;         /* opened with O_DIRECT, or -1 */
	bool buffered;         /* fd_direct is for BLOCK_UNCACHED alone */
	uint32_t direct_align; /* offsets, lengths and memory of direct I/O; power of two */
	bool cached_reads;     /* reads look into the page cache first (CACHE_AUTO) */
	bool fresh_reads;      /* reads that cannot be direct drop the page cache's copy first */
	bool device;           /* a block device */
	bool write_at_once;    /* see open.h */
};

/* Takes both descriptors, also on failure. Descriptors of a simulated ring are not closed here. */
int file_new(struct block **ret, struct ring *ring, const struct file_options *options, struct error *error);
/* Sets info->size to what it is now, if that is not less than it was. file_open.c's. */
int file_measure_anew(const struct file_options *file, struct block_info *info, struct error *error);
/* The descriptor of what file_open() opened, borrowed. */
int file_fd(const struct block *block);
