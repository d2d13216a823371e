/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The frame codec: the bytes as documented, round trips, and everything that it must refuse. */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/rand.h"
#include "wire/frame.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

/* The example of docs/wire/frames.md. */
static const uint8_t example[FRAME_HEADER_BYTES] = {
    0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00, 0x00, /* no payload, READ */
    0x03, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* id 2051 */
    0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, /* offset 1 MiB */
    0x00, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, /* 4096 bytes */
    0x00, 0x00, 0x00, 0x00, 0xe7, 0xbd, 0x81, 0x9c, /* checksums */
};

static void test_bytes_as_documented(void **state)
{
	static const struct {
		struct frame frame;
		uint8_t last[8]; /* both checksums */
	} rows[] = {
	    {{.type = FRAME_READ, .id = 2051, .offset = 1 << 20, .length = 4096},
	        {0, 0, 0, 0, 0xe7, 0xbd, 0x81, 0x9c}},
	    {{.type = FRAME_ZEROES, .id = 2051, .offset = 1 << 20, .length = 4096},
	        {0, 0, 0, 0, 0x65, 0xd2, 0xca, 0x9e}},
	    {{.type = FRAME_WRITE, .id = 4100, .offset = 512, .length = 8, .payload_length = 8},
	        {0x9d, 0x70, 0x66, 0x50, 0xed, 0x9c, 0x80, 0x06}},
	    {{.type = FRAME_DONE, .id = 4100, .offset = 512, .length = 8},
	        {0, 0, 0, 0, 0x2c, 0x01, 0xbb, 0xdc}},
	};

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct frame frame = rows[i].frame;
		uint8_t header[FRAME_HEADER_BYTES];

		frame.payload_crc = frame.payload_length ? crc32c(0, "blkmove!", 8) : 0;
		frame_encode(&frame, header);
		assert_memory_equal(header + 32, rows[i].last, 8);
		if (i == 0)
			assert_memory_equal(header, example, sizeof(example));
	}
}

static void test_round_trip(void **state)
{
	static const struct frame frames[] = {
	    {.type = FRAME_HELLO, .payload_length = FRAME_JSON_MAX, .payload_crc = 1},
	    {.type = FRAME_OPEN, .payload_length = 2, .id = UINT64_MAX},
	    {.type = FRAME_FACTS, .id = 7},
	    {.type = FRAME_READ, .id = 1, .offset = INT64_MAX - 4096, .length = 4096},
	    {.type = FRAME_WRITE,
	        .flags = FRAME_FLAG_ZSTD,
	        .payload_length = FRAME_PAYLOAD_MAX,
	        .payload_crc = ~0u},
	    {.type = FRAME_ZERO, .length = INT64_MAX},
	    {.type = FRAME_DIGEST, .payload_length = 20},
	    {.type = FRAME_EXTENT_LIST, .payload_length = 16 * FRAME_EXTENTS_MAX},
	    {.type = FRAME_PONG, .id = 3},
	};

	for (unsigned i = 0; i < sizeof(frames) / sizeof(frames[0]); i++) {
		uint8_t header[FRAME_HEADER_BYTES];
		struct frame back;

		frame_encode(&frames[i], header);
		assert_int_equal(frame_decode(header, &back, NULL), 0);
		assert_int_equal(back.type, frames[i].type);
		assert_int_equal(back.flags, frames[i].flags);
		assert_int_equal(back.id, frames[i].id);
		assert_int_equal(back.offset, frames[i].offset);
		assert_int_equal(back.length, frames[i].length);
		assert_int_equal(back.payload_length, frames[i].payload_length);
		assert_int_equal(back.payload_crc, frames[i].payload_crc);
	}
}

static void test_refused(void **state)
{
	static const struct {
		struct frame frame;
		const char *words;
	} rows[] = {
	    {{.type = 0}, "no frame of type 0"},
	    {{.type = 8}, "no frame of type 8"},
	    {{.type = 255}, "no frame of type 255"},
	    {{.type = FRAME_HELLO, .payload_length = FRAME_JSON_MAX + 1}, "payload of 65537"},
	    {{.type = FRAME_HELLO}, "payload of 0"},
	    {{.type = FRAME_READ, .payload_length = 1}, "payload of 1"},
	    {{.type = FRAME_WRITE, .payload_length = FRAME_PAYLOAD_MAX + 1}, "payload of"},
	    {{.type = FRAME_WRITE, .payload_length = UINT32_MAX}, "payload of"},
	    {{.type = FRAME_WRITE, .payload_length = 1, .flags = 2}, "unknown flags"},
	    {{.type = FRAME_READ, .flags = FRAME_FLAG_ZSTD}, "unknown flags"},
	    {{.type = FRAME_EXTENT_LIST, .payload_length = 17}, "payload of 17"},
	    {{.type = FRAME_EXTENT_LIST}, "payload of 0"},
	    {{.type = FRAME_DIGEST, .payload_length = 19}, "payload of 19"},
	    {{.type = FRAME_READ, .offset = INT64_MAX, .length = 1}, "beyond 2^63"},
	    {{.type = FRAME_READ, .offset = UINT64_MAX, .length = 1}, "beyond 2^63"},
	    {{.type = FRAME_READ, .offset = 1, .length = UINT64_MAX}, "beyond 2^63"},
	    {{.type = FRAME_RESIZE, .length = 1ull << 63}, "beyond 2^63"},
	    {{.type = FRAME_PING, .payload_crc = 1}, "checksum of no payload"},
	};

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint8_t header[FRAME_HEADER_BYTES];
		struct error error = {0};
		struct frame back;

		frame_encode(&rows[i].frame, header);
		assert_int_equal(frame_decode(header, &back, &error), -EPROTO);
		assert_non_null(strstr(error.text, rows[i].words));
	}
}

static void test_every_flipped_bit_is_seen(void **state)
{
	for (unsigned bit = 0; bit < 8 * FRAME_HEADER_BYTES; bit++) {
		uint8_t header[FRAME_HEADER_BYTES];
		struct error error = {0};
		struct frame back;

		memcpy(header, example, sizeof(header));
		header[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		assert_int_equal(frame_decode(header, &back, &error), -EPROTO);
		assert_non_null(strstr(error.text, "checksum"));
	}
}

static void test_reserved_bytes(void **state)
{
	uint8_t header[FRAME_HEADER_BYTES];
	struct frame back;

	for (unsigned at = 6; at < 8; at++) {
		memcpy(header, example, sizeof(header));
		header[at] = 1;
		put_le32(header + 36, crc32c(0, header, 36));
		assert_int_equal(frame_decode(header, &back, NULL), -EPROTO);
	}
}

static void test_crc32c_as_rfc3720(void **state)
{
	uint8_t zeroes[32] = {0};

	assert_int_equal(crc32c(0, zeroes, sizeof(zeroes)), 0x8a9136aau);
	assert_int_equal(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xe3069283u);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_bytes_as_documented),
	    cmocka_unit_test(test_round_trip),
	    cmocka_unit_test(test_refused),
	    cmocka_unit_test(test_every_flipped_bit_is_seen),
	    cmocka_unit_test(test_reserved_bytes),
	    cmocka_unit_test(test_crc32c_as_rfc3720),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
