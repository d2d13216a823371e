/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Encodes and decodes saved digests. Every byte of a header is checked: by its CRC, and those without meaning
 * for zero. */
#include "block/saved_digests_format.h"

#include "base/bytes.h"
#include "base/crc32c.h"

#include <errno.h>

static const char magic[8] = {'b', 'l', 'k', 'm', 'v', 'D', 'I', 'G'};

enum {
	VERSION = 1,
	AT_MAGIC = 0,
	AT_VERSION = 8,
	AT_STATE = 12,
	AT_SIZE = 16,
	AT_LEAF = 24,
	AT_RESERVED = 28,
	AT_KEY = 32,
	AT_ID = 48,
	AT_MARK = AT_ID + SAVED_TEXT,
	AT_PAGES = AT_MARK + SAVED_TEXT,
	AT_CHECKS = AT_PAGES + 8,
	AT_REST = AT_CHECKS + DIGEST_BYTES,
	AT_CRC = SAVED_HEADER - 4,
};

uint64_t saved_page_count(uint64_t size)
{
	uint64_t leaves = size / DIGEST_LEAF + (size % DIGEST_LEAF != 0);

	return leaves / SAVED_PAGE_LEAVES + (leaves % SAVED_PAGE_LEAVES != 0);
}

uint64_t saved_file_size(uint64_t size)
{
	return SAVED_HEADER + saved_page_count(size) * SAVED_PAGE;
}

void saved_header_encode(const struct saved_header *header, uint8_t ret[SAVED_HEADER])
{
	memset(ret, 0, SAVED_HEADER);
	memcpy(ret + AT_MAGIC, magic, sizeof(magic));
	put_le32(ret + AT_VERSION, VERSION);
	put_le32(ret + AT_STATE, header->state);
	put_le64(ret + AT_SIZE, header->size);
	put_le32(ret + AT_LEAF, DIGEST_LEAF);
	memcpy(ret + AT_KEY, header->key.bytes, sizeof(header->key.bytes));
	memcpy(ret + AT_ID, header->id, SAVED_TEXT);
	memcpy(ret + AT_MARK, header->mark, SAVED_TEXT);
	put_le64(ret + AT_PAGES, header->pages);
	memcpy(ret + AT_CHECKS, header->checks, DIGEST_BYTES);
	put_le32(ret + AT_CRC, crc32c(0, ret, AT_CRC));
}

/* A text that ends, with zeros behind. */
static bool text_ok(const uint8_t *text)
{
	size_t length = strnlen((const char *)text, SAVED_TEXT);

	return length < SAVED_TEXT && bytes_are_zero(text + length, SAVED_TEXT - length);
}

static int check_fields(const uint8_t *bytes, struct error *error)
{
	uint32_t state = get_le32(bytes + AT_STATE);
	uint64_t size = get_le64(bytes + AT_SIZE);

	if (get_le32(bytes + AT_LEAF) != DIGEST_LEAF || get_le32(bytes + AT_RESERVED) != 0)
		return error_set(error, -EBADMSG, "its blocks are not of 4 KiB");
	if (state != SAVED_CLEAN && state != SAVED_IN_USE)
		return error_set(error, -EBADMSG, "its state %u is unknown", state);
	if (size > INT64_MAX || get_le64(bytes + AT_PAGES) > saved_page_count(size))
		return error_set(error, -EBADMSG, "its sizes make no sense");
	if (!text_ok(bytes + AT_ID) || !text_ok(bytes + AT_MARK))
		return error_set(error, -EBADMSG, "its name of the volume does not end");
	if (!bytes_are_zero(bytes + AT_REST, AT_CRC - AT_REST))
		return error_set(error, -EBADMSG, "it has bytes that mean nothing");
	return 0;
}

int saved_header_decode(const uint8_t bytes[SAVED_HEADER], struct saved_header *ret, struct error *error)
{
	int res;

	if (memcmp(bytes + AT_MAGIC, magic, sizeof(magic)) != 0)
		return error_set(error, -EBADMSG, "it is no file of saved digests");
	if (get_le32(bytes + AT_VERSION) != VERSION)
		return error_set(error, -EBADMSG, "it is of version %u, and only version %u is known",
		    get_le32(bytes + AT_VERSION), VERSION);
	if (get_le32(bytes + AT_CRC) != crc32c(0, bytes, AT_CRC))
		return error_set(error, -EBADMSG, "its header is damaged");
	res = check_fields(bytes, error);
	if (res < 0)
		return res;
	ret->size = get_le64(bytes + AT_SIZE);
	ret->state = get_le32(bytes + AT_STATE);
	memcpy(ret->key.bytes, bytes + AT_KEY, sizeof(ret->key.bytes));
	memcpy(ret->id, bytes + AT_ID, SAVED_TEXT);
	memcpy(ret->mark, bytes + AT_MARK, SAVED_TEXT);
	ret->pages = get_le64(bytes + AT_PAGES);
	memcpy(ret->checks, bytes + AT_CHECKS, DIGEST_BYTES);
	return 0;
}

int saved_check_new(struct digest **ret, const struct digest_key *key, struct error *error)
{
	struct digest_key derived;
	int res = digest_derive(key, "blkmove saved digests", &derived, error);

	return res < 0 ? res : digest_new(ret, &derived, error);
}

void saved_page_check(
    struct digest *check, const uint8_t page[SAVED_PAGE], uint64_t number, uint8_t ret[DIGEST_BYTES])
{
	uint8_t copy[SAVED_PAGE];

	memcpy(copy, page, SAVED_PAGE);
	memset(saved_page_trailer(copy), 0, DIGEST_BYTES);
	put_le64(saved_page_trailer(copy), number);
	digest_bytes(check, copy, sizeof(copy), ret);
}
