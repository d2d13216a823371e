/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * BLOCK_ZERO for the file driver. First choice: fallocate(2) PUNCH_HOLE, which on files and on devices with write-zeroes
 * both deallocates and promises zeros (fallocate(2); blkdev_fallocate in the kernel's block/fops.c). Where that is
 * missing, only what does not read as zero already is overwritten, so that a thin volume stays thin.
 */
#pragma once

#include "block/block.h"
#include "block/digest_reader.h"

struct file_zero;

/* `fd` and `digests` are borrowed; what was zeroed is forgotten there. `*under_way` counts the requests that it has. */
int file_zero_new(struct file_zero **ret, struct block *block, int fd, bool device,
    struct digest_reader *digests, unsigned *under_way, struct error *error);
struct file_zero *file_zero_free(struct file_zero *zero);
void file_zero_submit(struct file_zero *zero, struct block_io *io);
/* BLOCK_TRIM: a discard on a device, a hole in a file, where that can be. */
void file_trim_submit(struct file_zero *zero, struct block_io *io);
