/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Requests of a client on the opened volume. The client is not trusted: each is checked before memory is
 * taken for it. */
#include "export/agent_server_private.h"

#include "base/bytes.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct request_rule {
	bool known, writes, ranged, maybe_empty;
	enum block_op op;
} rules[] = {
    [FRAME_READ] = {.known = true, .op = BLOCK_READ, .ranged = true},
    [FRAME_WRITE] = {.known = true, .op = BLOCK_WRITE, .ranged = true, .writes = true},
    [FRAME_ZERO] = {.known = true, .op = BLOCK_ZERO, .ranged = true, .writes = true},
    [FRAME_FLUSH] = {.known = true, .op = BLOCK_FLUSH},
    [FRAME_EXTENTS] = {.known = true, .op = BLOCK_EXTENTS, .ranged = true},
    [FRAME_DIGEST] = {.known = true, .op = BLOCK_DIGEST, .ranged = true},
    [FRAME_SHA256] = {.known = true, .op = BLOCK_SHA256, .ranged = true, .maybe_empty = true},
    [FRAME_RESIZE] = {.known = true, .op = BLOCK_RESIZE, .writes = true},
    [FRAME_COMMIT] = {.known = true, .op = BLOCK_FLUSH, .writes = true},
};

static const struct request_rule *rule_of(uint8_t type)
{
	return type < sizeof(rules) / sizeof(rules[0]) && rules[type].known ? &rules[type] : NULL;
}

static bool aligned(const struct block_info *info, const struct frame *frame)
{
	uint64_t end = frame->offset + frame->length;

	return frame->offset % info->request_align == 0 &&
	       (end % info->request_align == 0 || end == info->size);
}

static int check_range(const struct block_info *info, const struct request_rule *rule,
    const struct frame *frame, struct error *error)
{
	const char *name = frame_type_name(frame->type);
	bool data = frame->type == FRAME_READ || frame->type == FRAME_WRITE;

	if (!block_takes_range(info, rule->op, frame->offset, frame->length))
		return error_set(error, -EPROTO, "%s of %llu bytes at %llu, outside the volume of %llu", name,
		    (unsigned long long)frame->length, (unsigned long long)frame->offset,
		    (unsigned long long)info->size);
	if (frame->length == 0 && !rule->maybe_empty)
		return error_set(error, -EPROTO, "%s of no bytes", name);
	if (data && frame->length > BLOCK_IO_MAX)
		return error_set(error, -EPROTO, "%s of %llu bytes; %u are allowed", name,
		    (unsigned long long)frame->length, BLOCK_IO_MAX);
	if (!aligned(info, frame))
		return error_set(
		    error, -EPROTO, "%s that is not aligned to %u bytes", name, info->request_align);
	return 0;
}

static int check(struct agent_server *server, const struct request_rule *rule, const struct frame *frame,
    struct error *error)
{
	const struct block_info *info = server->block ? block_info(server->block) : NULL;
	const char *name = frame_type_name(frame->type);

	if (!info)
		return error_set(error, -EPROTO, "%s before a volume was opened", name);
	if (rule->writes && !info->writable)
		return error_set(error, -EPROTO, "%s on a volume that was opened for reading", name);
	return rule->ranged ? check_range(info, rule, frame, error) : 0;
}

/* Bytes of memory that the request needs, for its data or its answer. */
static size_t buf_size_of(const struct frame *frame)
{
	switch (frame->type) {
	case FRAME_READ:
	case FRAME_WRITE:
		return frame->length;
	case FRAME_EXTENTS:
		return FRAME_EXTENTS_MAX * sizeof(struct extent);
	case FRAME_DIGEST:
		return DIGEST_CHUNK / DIGEST_LEAF * DIGEST_BYTES;
	case FRAME_SHA256:
		return 32;
	default:
		return 0;
	}
}

int agent_request_header(
    struct agent_server *server, const struct frame *frame, struct session_sink *ret, struct error *error)
{
	const struct request_rule *rule = rule_of(frame->type);
	struct agent_slot *slot;
	int res;

	if (!rule)
		return error_set(
		    error, -EPROTO, "%s, which is not a client's to send", frame_type_name(frame->type));
	res = check(server, rule, frame, error);
	if (res == 0)
		res = agent_slot_take(server, frame, &slot, error);
	if (res < 0)
		return res;
	server->receiving = slot;
	slot->buf_size = buf_size_of(frame);
	if (slot->buf_size) {
		slot->buf = page_buffers_get(&server->buffers, slot->buf_size);
		if (!slot->buf)
			return error_set(error, -ENOMEM, "the agent has no memory for a request of %zu bytes",
			    slot->buf_size);
	}
	if (frame->type == FRAME_WRITE)
		*ret = (struct session_sink){.buf = slot->buf, .length = (uint32_t)frame->length};
	return 0;
}

/* In place: 16 bytes of each replace the 24 of the structure. */
static uint32_t encode_extents(void *buf, int count)
{
	const struct extent *extents = buf;
	uint8_t *out = buf;

	for (int i = 0; i < count; i++) {
		struct extent extent = extents[i];

		put_le64(out + i * 16, extent.length);
		put_le64(out + i * 16 + 8, extent.kind);
	}
	return (uint32_t)count * 16;
}

static void answer(struct agent_slot *slot, int res)
{
	struct session_send *send = &slot->send;
	struct frame *frame = &send->frame;

	*frame = (struct frame){
	    .type = FRAME_DONE, .offset = slot->request.offset, .length = slot->request.length};
	send->payload = slot->buf;
	switch (slot->io.op) {
	case BLOCK_READ:
		frame->type = bytes_are_zero(slot->buf, slot->io.length) ? FRAME_ZEROES : FRAME_DATA;
		send->compressible = true;
		frame->payload_length = frame->type == FRAME_DATA ? (uint32_t)slot->io.length : 0;
		break;
	case BLOCK_EXTENTS:
		frame->type = FRAME_EXTENT_LIST;
		frame->payload_length = encode_extents(slot->buf, res);
		break;
	case BLOCK_DIGEST:
		frame->type = FRAME_DATA;
		frame->payload_length =
		    (uint32_t)digest_count(slot->io.length, slot->io.granularity) * DIGEST_BYTES;
		frame->length = frame->payload_length;
		break;
	case BLOCK_SHA256:
		frame->type = FRAME_DATA;
		frame->length = frame->payload_length = 32;
		break;
	default:
		break;
	}
	agent_slot_answer(slot);
}

static void io_done(struct block_io *io, int res)
{
	struct agent_slot *slot = container_of(io, struct agent_slot, io);
	char words[160];

	if (slot->server->broken) {
		agent_slot_release(slot);
	} else if (res < 0 && io->flags & BLOCK_COMMIT && slot->words.text[0]) {
		agent_slot_answer_error(slot, res, slot->words.text);
	} else if (res < 0) {
		snprintf(words, sizeof(words), "%s of %llu bytes at %llu failed: %s",
		    frame_type_name(slot->request.type), (unsigned long long)io->length,
		    (unsigned long long)io->offset, strerror(-res));
		agent_slot_answer_error(slot, res, words);
	} else {
		answer(slot, res);
	}
}

void agent_request_submit(struct agent_slot *slot, const void *payload)
{
	struct block_io *io = &slot->io;

	*io = (struct block_io){
	    .op = rules[slot->request.type].op,
	    .offset = slot->request.offset,
	    .length = slot->request.length,
	    .buf = slot->buf,
	    .done = io_done,
	};
	if (io->op == BLOCK_EXTENTS) {
		io->extents = slot->buf;
		io->extents_max = (uint32_t)min_u64(get_le32(payload), FRAME_EXTENTS_MAX);
	} else if (io->op == BLOCK_DIGEST) {
		io->granularity = get_le32(payload);
		memcpy(slot->key.bytes, (const uint8_t *)payload + 4, sizeof(slot->key.bytes));
		io->key = &slot->key;
	}
	if (slot->request.type == FRAME_COMMIT) {
		io->flags = BLOCK_COMMIT;
		io->error = &slot->words;
		slot->words = (struct error){0};
	}
	/* What remains to be checked (granularity, chunk borders) block_submit() does, and answers -EINVAL.
	 */
	block_submit(slot->server->block, io);
}
