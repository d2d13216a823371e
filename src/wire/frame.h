/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The frame, a pure codec: 40 header bytes, little endian, then the payload. docs/wire/frames.md shows it
 * byte by byte.
 *
 *    0 u32 payload length   4 u8 type   5 u8 flags   6 u16 zero
 *    8 u64 id              16 u64 offset             24 u64 length
 *   32 u32 CRC-32C of the payload as sent            36 u32 CRC-32C of bytes 0..35
 */
#pragma once

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define FRAME_HEADER_BYTES 40u
#define FRAME_PAYLOAD_MAX  ((4u << 20) + 4096u)
#define FRAME_VERSION      1u

enum frame_type {
	/* control: payload is JSON, at most FRAME_JSON_MAX bytes */
	FRAME_HELLO = 1,       /* both sides, first: version, features, identity of the software */
	FRAME_OPEN = 2,        /* client: path, write, create, size, cache */
	FRAME_OPENED = 3,      /* answer: struct block_info */
	FRAME_FACTS = 4,       /* client: no payload */
	FRAME_FACTS_REPLY = 5, /* struct block_facts */
	FRAME_ERROR = 6,       /* answer to any request: {"code": errno's name, "text": words} */
	FRAME_NODE = 7, /* between the nodes of a replica, either way: what replica_message_json() makes */
	/* data requests: offset and length are the range */
	FRAME_READ = 16,
	FRAME_WRITE = 17, /* payload: the data, or zstd of it (FRAME_FLAG_ZSTD) */
	FRAME_ZERO = 18,
	FRAME_FLUSH = 19,
	FRAME_EXTENTS = 20, /* payload: u32 how many at most */
	FRAME_DIGEST = 21,  /* payload: u32 granularity, 16 bytes of key */
	FRAME_SHA256 = 22,
	FRAME_RESIZE = 23,
	FRAME_COMMIT = 24, /* of a staged volume: BLOCK_COMMIT */
	FRAME_MAP =
	    25, /* between nodes: offset and length are regions, payload their bits; of nothing: that was all */
	/* answers, same id */
	FRAME_DONE = 32,        /* to WRITE, ZERO, FLUSH, RESIZE, COMMIT */
	FRAME_DATA = 33,        /* to READ; DIGEST: digests; SHA256: 32 bytes */
	FRAME_ZEROES = 34,      /* to READ: the whole range is zero, no payload */
	FRAME_EXTENT_LIST = 35, /* to EXTENTS: 16 bytes each: u64 length, u64 kind */
	/* keepalive, either way */
	FRAME_PING = 48,
	FRAME_PONG = 49,
};

#define FRAME_JSON_MAX    65536u
#define FRAME_EXTENTS_MAX 4096u /* entries in one EXTENT_LIST */
#define FRAME_FLAG_ZSTD   1u

struct frame {
	uint32_t payload_length;
	uint8_t type, flags;
	uint64_t id, offset, length;
	uint32_t payload_crc;
};

void frame_encode(const struct frame *frame, uint8_t ret[FRAME_HEADER_BYTES]);
/*
 * Returns 0, or -EPROTO with words: bad CRC, unknown type or flags, a payload length above FRAME_PAYLOAD_MAX
 * or above what the type may carry, offset + length beyond INT64_MAX.
 */
int frame_decode(const uint8_t header[FRAME_HEADER_BYTES], struct frame *ret, struct error *error);

/* "READ", "WRITE"...; "?" for an unknown type. */
const char *frame_type_name(uint8_t type);
/*
 * Bytes of credit that a request takes while it is under way: READ and WRITE their length, EXTENTS and DIGEST
 * a fixed amount, others none. Both sides count with this.
 */
uint64_t frame_cost(const struct frame *frame);
