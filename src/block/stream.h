/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The stream driver's inside: what stream_open() makes of standard input or output, for tests with other
 * descriptors. */
#pragma once

#include "block/block.h"

/* A stream on `fd`, which is borrowed: read from when !write, else written to. */
int stream_new(
    struct block **ret, struct ring *ring, int fd, bool write, const char *name, struct error *error);
