/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes and durations as a person types them. */
#pragma once

#include "base/error.h"

#include <stdint.h>

/*
 * "4096", "64k", "1M", "10G", "2T" (powers of 1024; K, KiB, kB etc. mean the same). Returns 0, -EINVAL or
 * -ERANGE, with words in `error`.
 */
int parse_size(const char *text, uint64_t *ret, struct error *error);

/* Writes "1.5 GiB" or "12 B" into buf and returns buf. 16 bytes always suffice. */
char *format_size(uint64_t bytes, char *buf, unsigned length);
