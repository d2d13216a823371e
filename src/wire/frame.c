/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The frame codec: see frame.h. Pure: neither I/O nor memory of its own. */
#include "wire/frame.h"

#include "base/bytes.h"
#include "base/crc32c.h"

#include <errno.h>

#define EXTENTS_COST 98304u /* FRAME_EXTENTS_MAX extents in memory */
#define DIGEST_COST  4096u  /* all leaf digests of a chunk */

/* What each type may carry. A name of NULL: there is no such type. */
struct frame_rule {
	const char *name;
	uint32_t payload_min, payload_max, payload_unit;
	uint8_t flags;
};

static const struct frame_rule rules[256] = {
    [FRAME_HELLO] = {"HELLO", 2, FRAME_JSON_MAX, 1, 0},
    [FRAME_OPEN] = {"OPEN", 2, FRAME_JSON_MAX, 1, 0},
    [FRAME_OPENED] = {"OPENED", 2, FRAME_JSON_MAX, 1, 0},
    [FRAME_FACTS] = {"FACTS", 0, 0, 1, 0},
    [FRAME_FACTS_REPLY] = {"FACTS_REPLY", 2, FRAME_JSON_MAX, 1, 0},
    [FRAME_ERROR] = {"ERROR", 2, FRAME_JSON_MAX, 1, 0},
    [FRAME_NODE] = {"NODE", 2, FRAME_JSON_MAX, 1, 0},
    [FRAME_READ] = {"READ", 0, 0, 1, 0},
    [FRAME_WRITE] = {"WRITE", 1, FRAME_PAYLOAD_MAX, 1, FRAME_FLAG_ZSTD},
    [FRAME_ZERO] = {"ZERO", 0, 0, 1, 0},
    [FRAME_FLUSH] = {"FLUSH", 0, 0, 1, 0},
    [FRAME_EXTENTS] = {"EXTENTS", 4, 4, 1, 0},
    [FRAME_DIGEST] = {"DIGEST", 20, 20, 1, 0},
    [FRAME_SHA256] = {"SHA256", 0, 0, 1, 0},
    [FRAME_RESIZE] = {"RESIZE", 0, 0, 1, 0},
    [FRAME_COMMIT] = {"COMMIT", 0, 0, 1, 0},
    [FRAME_MAP] = {"MAP", 0, FRAME_PAYLOAD_MAX, 1, FRAME_FLAG_ZSTD},
    [FRAME_DONE] = {"DONE", 0, 0, 1, 0},
    [FRAME_DATA] = {"DATA", 1, FRAME_PAYLOAD_MAX, 1, FRAME_FLAG_ZSTD},
    [FRAME_ZEROES] = {"ZEROES", 0, 0, 1, 0},
    [FRAME_EXTENT_LIST] = {"EXTENT_LIST", 16, 16 * FRAME_EXTENTS_MAX, 16, 0},
    [FRAME_PING] = {"PING", 0, 0, 1, 0},
    [FRAME_PONG] = {"PONG", 0, 0, 1, 0},
};

const char *frame_type_name(uint8_t type)
{
	return rules[type].name ? rules[type].name : "?";
}

uint64_t frame_cost(const struct frame *frame)
{
	switch (frame->type) {
	case FRAME_READ:
	case FRAME_WRITE:
		return frame->length;
	case FRAME_EXTENTS:
		return EXTENTS_COST;
	case FRAME_DIGEST:
		return DIGEST_COST;
	default:
		return 0;
	}
}

void frame_encode(const struct frame *frame, uint8_t ret[FRAME_HEADER_BYTES])
{
	put_le32(ret, frame->payload_length);
	ret[4] = frame->type;
	ret[5] = frame->flags;
	put_le16(ret + 6, 0);
	put_le64(ret + 8, frame->id);
	put_le64(ret + 16, frame->offset);
	put_le64(ret + 24, frame->length);
	put_le32(ret + 32, frame->payload_crc);
	put_le32(ret + 36, crc32c(0, ret, 36));
}

static int check(const struct frame *frame, uint16_t reserved, struct error *error)
{
	const struct frame_rule *rule = &rules[frame->type];

	if (!rule->name)
		return error_set(error, -EPROTO, "there is no frame of type %u", frame->type);
	if (frame->flags & ~rule->flags)
		return error_set(error, -EPROTO, "%s with unknown flags 0x%02x", rule->name, frame->flags);
	if (reserved)
		return error_set(error, -EPROTO, "%s with reserved bytes that are not zero", rule->name);
	if (frame->payload_length < rule->payload_min || frame->payload_length > rule->payload_max ||
	    frame->payload_length % rule->payload_unit)
		return error_set(error, -EPROTO, "%s with a payload of %u bytes; %u to %u are allowed",
		    rule->name, frame->payload_length, rule->payload_min, rule->payload_max);
	if (frame->offset > INT64_MAX || frame->length > INT64_MAX - frame->offset)
		return error_set(error, -EPROTO, "%s of a range beyond 2^63 bytes", rule->name);
	if (frame->payload_length == 0 && frame->payload_crc)
		return error_set(error, -EPROTO, "%s with a checksum of no payload", rule->name);
	return 0;
}

int frame_decode(const uint8_t header[FRAME_HEADER_BYTES], struct frame *ret, struct error *error)
{
	struct frame frame = {
	    .payload_length = get_le32(header),
	    .type = header[4],
	    .flags = header[5],
	    .id = get_le64(header + 8),
	    .offset = get_le64(header + 16),
	    .length = get_le64(header + 24),
	    .payload_crc = get_le32(header + 32),
	};
	int res;

	if (get_le32(header + 36) != crc32c(0, header, 36))
		return error_set(error, -EPROTO, "the checksum of a frame header does not fit");
	res = check(&frame, get_le16(header + 6), error);
	if (res < 0)
		return res;
	*ret = frame;
	return 0;
}
