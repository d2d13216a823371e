/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The NBD codec: see nbd_protocol.h. Pure. */
#include "export/nbd_protocol.h"

#include "base/bytes.h"

#include <errno.h>
#include <string.h>

#define GREETING_MAGIC UINT64_C(0x4e42444d41474943) /* "NBDMAGIC" */
#define OPTION_MAGIC   UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define ANSWER_MAGIC   UINT64_C(0x0003e889045565a9)
#define REQUEST_MAGIC  0x25609513u
#define SIMPLE_MAGIC   0x67446698u
#define CHUNK_MAGIC    0x668e33efu

#define HANDSHAKE_FIXED     1u
#define HANDSHAKE_NO_ZEROES 2u
#define CHUNK_FLAG_DONE     1u

bool nbd_text_is(struct nbd_text text, const char *word)
{
	return strlen(word) == text.length && memcmp(text.text, word, text.length) == 0;
}

void nbd_greeting_build(uint8_t ret[NBD_GREETING_BYTES])
{
	put_be64(ret, GREETING_MAGIC);
	put_be64(ret + 8, OPTION_MAGIC);
	put_be16(ret + 16, HANDSHAKE_FIXED | HANDSHAKE_NO_ZEROES);
}

int nbd_client_flags_parse(
    const uint8_t data[NBD_CLIENT_FLAGS_BYTES], bool *ret_no_zeroes, struct error *error)
{
	uint32_t flags = get_be32(data);

	if (flags & ~(HANDSHAKE_FIXED | HANDSHAKE_NO_ZEROES))
		return error_set(error, -EPROTO, "it has unknown flags 0x%08x", flags);
	if (!(flags & HANDSHAKE_FIXED))
		return error_set(error, -EPROTO, "it does not know fixed newstyle negotiation");
	*ret_no_zeroes = flags & HANDSHAKE_NO_ZEROES;
	return 0;
}

int nbd_option_parse(
    const uint8_t *data, size_t length, struct nbd_option *ret, size_t *ret_used, struct error *error)
{
	if (length < NBD_OPTION_BYTES)
		return 0;
	if (get_be64(data) != OPTION_MAGIC)
		return error_set(error, -EPROTO, "it sent something that is no option");
	ret->type = get_be32(data + 8);
	ret->length = get_be32(data + 12);
	ret->data = data + NBD_OPTION_BYTES;
	if (ret->length > NBD_OPTION_DATA_MAX)
		return error_set(error, -E2BIG, "option %u has %u bytes of data, %u are the most", ret->type,
		    ret->length, NBD_OPTION_DATA_MAX);
	if (length - NBD_OPTION_BYTES < ret->length)
		return 0;
	*ret_used = NBD_OPTION_BYTES + ret->length;
	return 1;
}

/* A text with its length before it. Returns where it ends, or NULL. */
static const uint8_t *parse_text(const uint8_t *at, const uint8_t *end, struct nbd_text *ret)
{
	uint32_t length;

	if (end - at < 4)
		return NULL;
	length = get_be32(at);
	if (length > (size_t)(end - at - 4) || length > NBD_NAME_MAX)
		return NULL;
	*ret = (struct nbd_text){(const char *)at + 4, length};
	return at + 4 + length;
}

int nbd_go_parse(const struct nbd_option *option, struct nbd_go *ret, struct error *error)
{
	const uint8_t *end = option->data + option->length;
	struct nbd_go go = {0};
	const uint8_t *at = parse_text(option->data, end, &go.name);
	uint16_t count;

	if (!at || end - at < 2)
		return error_set(error, -EINVAL, "the export's name does not fit into the option");
	count = get_be16(at);
	if (end - at != 2 + 2 * (ptrdiff_t)count)
		return error_set(error, -EINVAL, "%u kinds of information do not fill the option", count);
	for (at += 2; at < end; at += 2) {
		uint16_t type = get_be16(at);

		go.wants_name |= type == NBD_INFO_NAME;
		go.wants_description |= type == NBD_INFO_DESCRIPTION;
		go.wants_block_size |= type == NBD_INFO_BLOCK_SIZE;
	}
	*ret = go;
	return 0;
}

int nbd_meta_parse(const struct nbd_option *option, struct nbd_meta *ret, struct error *error)
{
	struct nbd_meta meta = {.end = option->data + option->length};
	const uint8_t *at = parse_text(option->data, meta.end, &meta.name);
	struct nbd_text query;

	if (!at || meta.end - at < 4)
		return error_set(error, -EINVAL, "the export's name does not fit into the option");
	meta.queries_count = get_be32(at);
	meta.queries = at + 4;
	at = meta.queries;
	/* A query has 4 bytes at least, so that this ends soon whatever the count says. */
	for (uint32_t i = 0; i < meta.queries_count; i++) {
		at = parse_text(at, meta.end, &query);
		if (!at)
			return error_set(
			    error, -EINVAL, "%u queries do not fit into the option", meta.queries_count);
	}
	if (at != meta.end)
		return error_set(error, -EINVAL, "%u queries do not fill the option", meta.queries_count);
	*ret = meta;
	return 0;
}

bool nbd_meta_next(struct nbd_meta *meta, struct nbd_text *ret)
{
	const uint8_t *next = meta->queries_count ? parse_text(meta->queries, meta->end, ret) : NULL;

	if (!next)
		return false;
	meta->queries = next;
	meta->queries_count--;
	return true;
}

/* Room for so many bytes, or NULL. */
static uint8_t *answers_add(struct nbd_answers *answers, size_t length)
{
	uint8_t *at = answers->data + answers->used;

	if (answers->overflow || answers->size - answers->used < length) {
		answers->overflow = true;
		return NULL;
	}
	answers->used += length;
	return at;
}

/* The head of an answer; returns where its `length` bytes of data go, or NULL. */
static uint8_t *answer_begin(struct nbd_answers *answers, uint32_t option, uint32_t type, uint32_t length)
{
	uint8_t *at = answers_add(answers, NBD_REPLY_BYTES + (size_t)length);

	if (!at)
		return NULL;
	put_be64(at, ANSWER_MAGIC);
	put_be32(at + 8, option);
	put_be32(at + 12, type);
	put_be32(at + 16, length);
	return at + NBD_REPLY_BYTES;
}

void nbd_answer_build(
    struct nbd_answers *answers, uint32_t option, uint32_t type, const void *data, uint32_t length)
{
	uint8_t *at = answer_begin(answers, option, type, length);

	if (at && length)
		memcpy(at, data, length);
}

void nbd_answer_server(
    struct nbd_answers *answers, uint32_t option, const char *name, const char *description)
{
	uint32_t name_length = (uint32_t)strlen(name), length = (uint32_t)strlen(description);
	uint8_t *at = answer_begin(answers, option, NBD_ANSWER_SERVER, 4 + name_length + length);

	if (!at)
		return;
	put_be32(at, name_length);
	memcpy(at + 4, name, name_length);
	memcpy(at + 4 + name_length, description, length);
}

void nbd_answer_info_export(struct nbd_answers *answers, uint32_t option, uint64_t size, uint16_t flags)
{
	uint8_t *at = answer_begin(answers, option, NBD_ANSWER_INFO, 12);

	if (!at)
		return;
	put_be16(at, NBD_INFO_EXPORT);
	put_be64(at + 2, size);
	put_be16(at + 10, flags);
}

void nbd_answer_info_text(
    struct nbd_answers *answers, uint32_t option, enum nbd_info_type type, const char *text)
{
	size_t length = strlen(text);
	uint8_t *at = answer_begin(answers, option, NBD_ANSWER_INFO, (uint32_t)(2 + length));

	if (!at)
		return;
	put_be16(at, (uint16_t)type);
	memcpy(at + 2, text, length);
}

void nbd_answer_info_block_size(
    struct nbd_answers *answers, uint32_t option, uint32_t least, uint32_t preferred, uint32_t most)
{
	uint8_t *at = answer_begin(answers, option, NBD_ANSWER_INFO, 14);

	if (!at)
		return;
	put_be16(at, NBD_INFO_BLOCK_SIZE);
	put_be32(at + 2, least);
	put_be32(at + 6, preferred);
	put_be32(at + 10, most);
}

void nbd_answer_meta_context(struct nbd_answers *answers, uint32_t option, uint32_t id, const char *name)
{
	size_t length = strlen(name);
	uint8_t *at = answer_begin(answers, option, NBD_ANSWER_META_CONTEXT, (uint32_t)(4 + length));

	if (!at)
		return;
	put_be32(at, id);
	memcpy(at + 4, name, length);
}

void nbd_answer_export_name(struct nbd_answers *answers, uint64_t size, uint16_t flags, bool no_zeroes)
{
	uint8_t *at = answers_add(answers, no_zeroes ? 10 : 134);

	if (!at)
		return;
	memset(at, 0, no_zeroes ? 10 : 134);
	put_be64(at, size);
	put_be16(at + 8, flags);
}

int nbd_request_parse(const uint8_t data[NBD_REQUEST_BYTES], struct nbd_request *ret, struct error *error)
{
	struct nbd_request request = {
	    .flags = get_be16(data + 4),
	    .type = get_be16(data + 6),
	    .cookie = get_be64(data + 8),
	    .offset = get_be64(data + 16),
	    .length = get_be32(data + 24),
	};

	if (get_be32(data) != REQUEST_MAGIC)
		return error_set(error, -EPROTO, "it sent something that is no request");
	if (request.type == NBD_COMMAND_WRITE && request.length > NBD_PAYLOAD_MAX)
		return error_set(error, -EPROTO, "it wants to write %u bytes at once, %u are the most",
		    request.length, NBD_PAYLOAD_MAX);
	*ret = request;
	return 0;
}

/* What each command may carry. `needs`: the export's flag that offers it. */
static const struct command_rule {
	bool known, writes;
	uint16_t flags, needs;
} rules[] = {
    [NBD_COMMAND_READ] = {.known = true, .flags = NBD_FLAG_FUA | NBD_FLAG_DF},
    [NBD_COMMAND_WRITE] = {.known = true, .writes = true, .flags = NBD_FLAG_FUA},
    [NBD_COMMAND_FLUSH] = {.known = true, .flags = NBD_FLAG_FUA, .needs = NBD_EXPORT_FLUSH},
    [NBD_COMMAND_TRIM] = {.known = true, .writes = true, .flags = NBD_FLAG_FUA, .needs = NBD_EXPORT_TRIM},
    [NBD_COMMAND_WRITE_ZEROES] = {.known = true,
        .writes = true,
        .flags = NBD_FLAG_FUA | NBD_FLAG_NO_HOLE | NBD_FLAG_FAST_ZERO,
        .needs = NBD_EXPORT_WRITE_ZEROES},
    [NBD_COMMAND_BLOCK_STATUS] = {.known = true, .flags = NBD_FLAG_FUA | NBD_FLAG_REQ_ONE},
};

static const struct command_rule *rule_of(uint16_t type)
{
	return type < sizeof(rules) / sizeof(rules[0]) && rules[type].known ? &rules[type] : NULL;
}

static int check_range(const struct nbd_request *request, const struct nbd_shape *shape)
{
	bool data = request->type == NBD_COMMAND_READ || request->type == NBD_COMMAND_WRITE;
	bool fills = request->type == NBD_COMMAND_WRITE || request->type == NBD_COMMAND_WRITE_ZEROES;
	uint64_t align = shape->request_align;

	if (request->type == NBD_COMMAND_FLUSH)
		return request->offset || request->length ? -EINVAL : 0;
	if (request->offset > shape->size || request->length > shape->size - request->offset)
		return fills ? -ENOSPC : -EINVAL;
	if (request->length == 0 || (data && request->length > NBD_PAYLOAD_MAX))
		return -EINVAL;
	if (request->offset % align ||
	    (request->length % align && request->offset + request->length != shape->size))
		return -EINVAL;
	return 0;
}

int nbd_request_check(const struct nbd_request *request, const struct nbd_shape *shape)
{
	const struct command_rule *rule = rule_of(request->type);

	if (!rule)
		return request->type == NBD_COMMAND_CACHE ? -EOPNOTSUPP : -EINVAL;
	if (rule->writes && shape->flags & NBD_EXPORT_READ_ONLY)
		return -EPERM;
	if (request->flags & ~rule->flags || (rule->needs && !(shape->flags & rule->needs)))
		return -EINVAL;
	if ((request->flags & NBD_FLAG_FUA && !(shape->flags & NBD_EXPORT_FUA)) ||
	    (request->flags & NBD_FLAG_DF && !shape->structured) ||
	    (request->flags & NBD_FLAG_FAST_ZERO && !(shape->flags & NBD_EXPORT_FAST_ZERO)))
		return -EINVAL;
	if (request->type == NBD_COMMAND_BLOCK_STATUS && !shape->allocation)
		return -EINVAL;
	return check_range(request, shape);
}

uint32_t nbd_error_number(int res)
{
	switch (-res) {
	case 0:
		return 0;
	case EPERM:
	case EROFS:
	case EACCES:
		return 1;
	case ENOMEM:
		return 12;
	case EINVAL:
		return 22;
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		return 28;
	case EOVERFLOW:
		return 75;
	case EOPNOTSUPP:
		return 95;
	case ESHUTDOWN:
		return 108;
	default:
		return 5; /* EIO */
	}
}

size_t nbd_simple_reply_build(uint8_t *ret, uint64_t cookie, int res)
{
	put_be32(ret, SIMPLE_MAGIC);
	put_be32(ret + 4, nbd_error_number(res));
	put_be64(ret + 8, cookie);
	return 16;
}

size_t nbd_chunk_build(uint8_t *ret, uint64_t cookie, enum nbd_chunk_type type, uint32_t length)
{
	put_be32(ret, CHUNK_MAGIC);
	put_be16(ret + 4, CHUNK_FLAG_DONE);
	put_be16(ret + 6, (uint16_t)type);
	put_be64(ret + 8, cookie);
	put_be32(ret + 16, length);
	return NBD_REPLY_BYTES;
}

size_t nbd_chunk_error_build(uint8_t *ret, uint64_t cookie, int res)
{
	size_t used = nbd_chunk_build(ret, cookie, NBD_CHUNK_ERROR, 6);

	put_be32(ret + used, nbd_error_number(res));
	put_be16(ret + used + 4, 0); /* no words */
	return used + 6;
}

size_t nbd_chunk_data_build(uint8_t *ret, uint64_t cookie, uint64_t offset, uint32_t length)
{
	size_t used = nbd_chunk_build(ret, cookie, NBD_CHUNK_OFFSET_DATA, 8 + length);

	put_be64(ret + used, offset);
	return used + 8;
}

size_t nbd_chunk_status_build(uint8_t *ret, uint64_t cookie, uint32_t context, uint32_t count)
{
	size_t used = nbd_chunk_build(ret, cookie, NBD_CHUNK_BLOCK_STATUS, 4 + count * 8);

	put_be32(ret + used, context);
	return used + 4;
}

void nbd_descriptor_build(uint8_t ret[8], uint32_t length, uint32_t state)
{
	put_be32(ret, length);
	put_be32(ret + 4, state);
}
