/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* CRC-32C (Castagnoli), as RFC 3720 (iSCSI) uses it. Continue a running value by passing it in; begin with 0. */
#pragma once

#include <stddef.h>
#include <stdint.h>

uint32_t crc32c(uint32_t running, const void *data, size_t length);
/* 64 bits of a text, for names of files and to see that it changed: its CRC, and above it the CRC that begins with that one's
 * complement. Part of formats: it stays as it is. Not for what somebody chooses to deceive. */
uint64_t crc32c_text(const char *text);
/* The same as 16 digits, the lower half first, as file names have it. Returns buf. */
char *crc32c_name(const char *text, char buf[17]);
