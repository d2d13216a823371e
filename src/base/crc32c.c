/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* CRC-32C by ISA-L, in pieces because its length is an int. */
#include "base/crc32c.h"

#include <isa-l/crc.h>
#include <stdio.h>
#include <string.h>

uint32_t crc32c(uint32_t running, const void *data, size_t length)
{
	const unsigned char *at = data;
	uint32_t state = ~running;

	while (length > 0) {
		int piece = length < (1 << 30) ? (int)length : 1 << 30;

		state = crc32_iscsi((unsigned char *)at, piece, state);
		at += piece;
		length -= (size_t)piece;
	}
	return ~state;
}

uint64_t crc32c_text(const char *text)
{
	uint32_t low = crc32c(0, text, strlen(text));

	return (uint64_t)crc32c(~low, text, strlen(text)) << 32 | low;
}

char *crc32c_name(const char *text, char buf[17])
{
	uint64_t hash = crc32c_text(text);

	snprintf(buf, 17, "%08x%08x", (uint32_t)hash, (uint32_t)(hash >> 32));
	return buf;
}
