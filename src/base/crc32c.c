/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* CRC-32C by ISA-L, in pieces because its length is an int. */
#include "base/crc32c.h"

#include <isa-l/crc.h>

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
