/* SPDX-License-Identifier: GPL-2.0-or-later */
/* libFuzzer target: 40 bytes are decoded; what is accepted must encode to the same bytes and keep to the
 * limits. */
#include "wire/frame.h"

#include <assert.h>
#include <string.h>

#include "base/bytes.h"
#include "base/crc32c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const uint8_t header[FRAME_HEADER_BYTES])
{
	uint8_t again[FRAME_HEADER_BYTES];
	struct error error = {0};
	struct frame frame;

	if (frame_decode(header, &frame, &error) < 0) {
		assert(error.code < 0 && error.text[0]);
		return;
	}
	assert(frame.payload_length <= FRAME_PAYLOAD_MAX);
	assert(frame.offset <= INT64_MAX && frame.length <= INT64_MAX - frame.offset);
	assert(frame_type_name(frame.type)[0] != '?');
	frame_encode(&frame, again);
	assert(memcmp(header, again, sizeof(again)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t header[FRAME_HEADER_BYTES];

	if (size < sizeof(header))
		return 0;
	check(data);
	/* The fuzzer cannot guess the checksum: mend it, and look at the rest. */
	memcpy(header, data, sizeof(header));
	put_le32(header + 36, crc32c(0, header, 36));
	check(header);
	return 0;
}
