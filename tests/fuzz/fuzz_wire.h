/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Makes the fuzzer's bytes a stream of frames whose checksums and lengths fit, so that it gets past the
 * codec. */
#pragma once

#include "base/bytes.h"
#include "base/crc32c.h"
#include "wire/frame.h"

#include <stdlib.h>
#include <string.h>

/*
 * In place: at each header, the payload's length is cut to what is left and the checksums are set. Frames
 * whose reserved bytes say 0xffff are left as they are, so that damage gets through too.
 */
static inline void fuzz_mend(uint8_t *data, size_t size)
{
	while (size >= FRAME_HEADER_BYTES) {
		uint32_t length = get_le32(data);
		size_t rest = size - FRAME_HEADER_BYTES;

		if (get_le16(data + 6) == 0xffff)
			return;
		if (length > rest)
			length = (uint32_t)rest;
		put_le32(data, length);
		put_le32(data + 32, length ? crc32c(0, data + FRAME_HEADER_BYTES, length) : 0);
		put_le32(data + 36, crc32c(0, data, 36));
		data += FRAME_HEADER_BYTES + length;
		size = rest - length;
	}
}

static inline uint8_t *fuzz_copy(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size + 1);

	if (!copy)
		abort();
	memcpy(copy, data, size);
	return copy;
}
