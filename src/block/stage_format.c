/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The stage's bytes: see stage_format.h. What comes in is checked here, once. */
#include "block/stage_format.h"

#include "base/bytes.h"
#include "base/crc32c.h"

#include <errno.h>
#include <string.h>

#define VERSION     1u
#define COMMIT_CRC  (STAGE_SECTOR - 4)
#define HEADER_CRC  (STAGE_BLOCK - 4)
#define NAME_AT     256u
#define BLOCK_TABLE (STAGE_ENTRY_BYTES + STAGE_BLOCK / STAGE_SECTOR * 4) /* the most that a block can take */

static const char header_magic[8] = "BLKMSTAG";
static const char mark_magics[][8] = {[STAGE_MARK_COMMIT] = "BLKMSTGC", [STAGE_MARK_APPLIED] = "BLKMSTGA"};

bool stage_layout(uint64_t size, struct stage_layout *ret)
{
	uint64_t blocks;

	if (size == 0 || size > (uint64_t)INT64_MAX / 2)
		return false;
	blocks = align_up(size, STAGE_BLOCK) / STAGE_BLOCK;
	ret->size = size;
	ret->map_at = blocks * STAGE_BLOCK;
	ret->map_length = align_up((blocks + 7) / 8, STAGE_BLOCK);
	ret->table_at = ret->map_at + ret->map_length;
	ret->table_max = align_up(blocks * BLOCK_TABLE, STAGE_BLOCK);
	ret->applied_at = ret->table_at + ret->table_max;
	ret->commit_at = ret->applied_at + STAGE_BLOCK;
	ret->header_at = ret->commit_at + STAGE_BLOCK;
	ret->length = ret->header_at + STAGE_BLOCK;
	return true;
}

static void put_text(uint8_t *at, const char *text, size_t room)
{
	memset(at, 0, room);
	memcpy(at, text, strnlen(text, room - 1));
}

static int get_text(const uint8_t *at, char *ret, size_t room)
{
	memcpy(ret, at, room);
	return ret[room - 1] ? -EBADMSG : 0;
}

void stage_encode_header(uint8_t *block, const struct stage_header *header)
{
	memset(block, 0, STAGE_BLOCK);
	memcpy(block, header_magic, sizeof(header_magic));
	put_le32(block + 8, VERSION);
	memcpy(block + 16, header->id, STAGE_ID);
	put_le64(block + 32, header->size);
	put_le64(block + 40, header->created);
	put_text(block + 48, header->target_id, sizeof(header->target_id));
	put_text(block + NAME_AT, header->name, sizeof(header->name));
	put_le32(block + HEADER_CRC, crc32c(0, block, HEADER_CRC));
}

int stage_parse_header(const uint8_t *block, struct stage_header *ret)
{
	struct stage_header header = {.size = get_le64(block + 32), .created = get_le64(block + 40)};
	struct stage_layout ignored;

	if (bytes_are_zero(block, STAGE_BLOCK))
		return -ENODATA;
	if (memcmp(block, header_magic, sizeof(header_magic)) || get_le32(block + 8) != VERSION ||
	    get_le32(block + HEADER_CRC) != crc32c(0, block, HEADER_CRC) ||
	    !stage_layout(header.size, &ignored))
		return -EBADMSG;
	memcpy(header.id, block + 16, STAGE_ID);
	if (get_text(block + 48, header.target_id, sizeof(header.target_id)) < 0 ||
	    get_text(block + NAME_AT, header.name, sizeof(header.name)) < 0)
		return -EBADMSG;
	*ret = header;
	return 0;
}

void stage_encode_commit(uint8_t *block, enum stage_mark mark, const struct stage_commit *commit)
{
	memset(block, 0, STAGE_BLOCK);
	memcpy(block, mark_magics[mark], sizeof(mark_magics[mark]));
	memcpy(block + 8, commit->id, STAGE_ID);
	put_le64(block + 24, commit->committed);
	put_le64(block + 32, commit->entries);
	put_le64(block + 40, commit->table_length);
	put_le64(block + 48, commit->data_bytes);
	put_le64(block + 56, commit->zero_bytes);
	put_le32(block + 64, commit->table_crc);
	put_le32(block + COMMIT_CRC, crc32c(0, block, COMMIT_CRC));
}

int stage_parse_commit(const uint8_t *block, enum stage_mark mark, struct stage_commit *ret)
{
	if (bytes_are_zero(block, STAGE_BLOCK))
		return -ENODATA;
	if (memcmp(block, mark_magics[mark], sizeof(mark_magics[mark])) ||
	    get_le32(block + COMMIT_CRC) != crc32c(0, block, COMMIT_CRC))
		return -EBADMSG;
	*ret = (struct stage_commit){
	    .committed = get_le64(block + 24),
	    .entries = get_le64(block + 32),
	    .table_length = get_le64(block + 40),
	    .data_bytes = get_le64(block + 48),
	    .zero_bytes = get_le64(block + 56),
	    .table_crc = get_le32(block + 64),
	};
	memcpy(ret->id, block + 8, STAGE_ID);
	return 0;
}

void stage_encode_entry(uint8_t *bytes, const struct stage_entry *entry)
{
	put_le64(bytes, entry->offset);
	put_le64(bytes + 8, entry->length);
	put_le32(bytes + 16, entry->kind);
	put_le32(bytes + 20, entry->crc);
}

int stage_parse_entry(const uint8_t *bytes, uint64_t from, uint64_t size, struct stage_entry *ret)
{
	struct stage_entry entry = {
	    .offset = get_le64(bytes), .length = get_le64(bytes + 8), .crc = get_le32(bytes + 20)};
	uint32_t kind = get_le32(bytes + 16);

	if (entry.offset < from || entry.offset >= size || entry.offset % STAGE_BLOCK || entry.length == 0 ||
	    entry.length > size - entry.offset || kind > EXTENT_ZERO || entry.length > STAGE_PIECE)
		return -EBADMSG;
	/* Whole blocks, but for the volume's end. */
	if (entry.length % STAGE_BLOCK && entry.offset + entry.length != size)
		return -EBADMSG;
	entry.kind = (enum extent_kind)kind;
	*ret = entry;
	return 0;
}
