/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The map file's blocks: see bitmap_format.h and docs/formats/map.md. */
#include "range/bitmap_format.h"

#include "base/bytes.h"
#include "base/crc32c.h"

#include <errno.h>

#define VERSION    1u
#define WITH_NOTE  2u
#define CRC_AT     (BITMAP_BLOCK - 4)
#define INTENTS_AT 32u
#define INTENT     12u
#define IDS_AT     96u
#define NOTE_AT    1024u

#define REGION_SIZE  (64u << 10)
#define REGIONS_MANY (1ull << 27)

static const char super_magic[8] = "BLKMMAP1", record_magic[8] = "BLKMINTN", page_magic[8] = "BLKMBITS";

static void seal(uint8_t *block)
{
	put_le32(block + CRC_AT, crc32c(0, block, CRC_AT));
}

static bool is_sealed(const uint8_t *block, const char *magic)
{
	return !memcmp(block, magic, 8) && get_le32(block + CRC_AT) == crc32c(0, block, CRC_AT);
}

void bitmap_super_encode(const struct bitmap_super *super, uint8_t *block)
{
	memset(block, 0, BITMAP_BLOCK);
	memcpy(block, super_magic, 8);
	put_le32(block + 8, super->note_length ? WITH_NOTE : VERSION);
	put_le32(block + 12, super->region_size);
	put_le64(block + 16, super->nonce);
	put_le64(block + 24, super->sequence);
	put_le64(block + 32, super->size);
	put_le64(block + 40, super->generation);
	put_le32(block + 48, super->records);
	put_le32(block + 52, super->state);
	put_le32(block + 56, super->authoritative);
	put_le32(block + 60, super->given_up);
	put_le32(block + 64, super->undecided);
	for (unsigned i = 0; i < BITMAP_LEGS; i++)
		memcpy(block + IDS_AT + i * BITMAP_ID_MAX, super->ids[i],
		    strnlen(super->ids[i], BITMAP_ID_MAX - 1));
	put_le32(block + 68, super->note_length);
	memcpy(block + NOTE_AT, super->note, super->note_length);
	seal(block);
}

static bool super_is_sane(const struct bitmap_super *super)
{
	uint32_t region = super->region_size;

	if (region < BITMAP_REGION_MIN || region > BITMAP_REGION_MAX || (region & (region - 1)))
		return false;
	if (super->size == 0 || bitmap_super_check_size(super, NULL) < 0)
		return false;
	if (super->records < BITMAP_RECORDS_MIN || super->records > BITMAP_RECORDS_MAX)
		return false;
	for (unsigned i = 0; i < BITMAP_LEGS; i++)
		if (!memchr(super->ids[i], '\0', BITMAP_ID_MAX))
			return false;
	return super->authoritative < BITMAP_LEGS && super->note_length <= BITMAP_NOTE_MAX;
}

int bitmap_super_decode(const uint8_t *block, struct bitmap_super *ret, struct error *error)
{
	struct bitmap_super super;

	if (!is_sealed(block, super_magic))
		return error_set(error, -EBADMSG, "the map is damaged, or is none");
	if (get_le32(block + 8) != VERSION && get_le32(block + 8) != WITH_NOTE)
		return error_set(error, -EBADMSG, "the map has version %u, this program reads %u and %u",
		    get_le32(block + 8), VERSION, WITH_NOTE);
	super = (struct bitmap_super){.region_size = get_le32(block + 12),
	    .nonce = get_le64(block + 16),
	    .sequence = get_le64(block + 24),
	    .size = get_le64(block + 32),
	    .generation = get_le64(block + 40),
	    .records = get_le32(block + 48),
	    .state = get_le32(block + 52),
	    .authoritative = get_le32(block + 56),
	    .given_up = get_le32(block + 60) != 0,
	    .undecided = get_le32(block + 64) != 0,
	    .note_length = get_le32(block + 68)};
	memcpy(super.ids, block + IDS_AT, sizeof(super.ids));
	memcpy(super.note, block + NOTE_AT, sizeof(super.note));
	if (!super_is_sane(&super) || (get_le32(block + 8) == WITH_NOTE) != (super.note_length > 0))
		return error_set(error, -EBADMSG, "the map's superblock makes no sense");
	*ret = super;
	return 0;
}

void bitmap_record_encode(const struct bitmap_record *record, uint64_t nonce, uint8_t *block)
{
	memset(block, 0, BITMAP_BLOCK);
	memcpy(block, record_magic, 8);
	put_le64(block + 8, nonce);
	put_le64(block + 16, record->sequence);
	put_le32(block + 24, record->count);
	for (uint32_t i = 0; i < record->count; i++) {
		put_le64(block + INTENTS_AT + i * INTENT, record->intents[i].first);
		put_le32(block + INTENTS_AT + i * INTENT + 8, record->intents[i].count);
	}
	seal(block);
}

bool bitmap_record_decode(const uint8_t *block, uint64_t nonce, uint64_t regions, struct bitmap_record *ret)
{
	if (!is_sealed(block, record_magic) || get_le64(block + 8) != nonce)
		return false;
	ret->sequence = get_le64(block + 16);
	ret->count = get_le32(block + 24);
	if (ret->sequence == 0 || ret->count > BITMAP_INTENTS)
		return false;
	for (uint32_t i = 0; i < ret->count; i++) {
		struct bitmap_intent *intent = &ret->intents[i];

		intent->first = get_le64(block + INTENTS_AT + i * INTENT);
		intent->count = get_le32(block + INTENTS_AT + i * INTENT + 8);
		if (intent->count == 0 || intent->first >= regions || intent->count > regions - intent->first)
			return false;
	}
	return true;
}

void bitmap_page_encode(uint64_t index, uint64_t sequence, uint64_t nonce, uint8_t *block)
{
	memcpy(block, page_magic, 8);
	put_le64(block + 8, nonce);
	put_le64(block + 16, sequence);
	put_le64(block + 24, index);
	memset(block + BITMAP_PAGE_AT + BITMAP_PAGE_BYTES, 0, CRC_AT - BITMAP_PAGE_AT - BITMAP_PAGE_BYTES);
	seal(block);
}

bool bitmap_page_decode(const uint8_t *block, uint64_t index, uint64_t nonce, uint64_t *ret_sequence)
{
	if (!is_sealed(block, page_magic) || get_le64(block + 8) != nonce || get_le64(block + 24) != index)
		return false;
	*ret_sequence = get_le64(block + 16);
	return true;
}

uint32_t bitmap_region_size_for(uint64_t size_bytes)
{
	uint32_t region_size = REGION_SIZE;

	while (region_size < BITMAP_REGION_MAX && size_bytes / region_size > REGIONS_MANY)
		region_size *= 2;
	return region_size;
}

int bitmap_super_check_size(const struct bitmap_super *super, struct error *error)
{
	if (super->size <= INT64_MAX && bitmap_super_regions(super) <= BITMAP_BITS_MAX)
		return 0;
	return error_set(error, -E2BIG,
	    "%llu bytes are more than the map can have in its regions of %u; begin a new one, with larger "
	    "regions",
	    (unsigned long long)super->size, super->region_size);
}

uint64_t bitmap_super_regions(const struct bitmap_super *super)
{
	return super->size / super->region_size + (super->size % super->region_size != 0);
}

uint64_t bitmap_super_pages(const struct bitmap_super *super)
{
	return (bitmap_super_regions(super) + BITMAP_PAGE_BITS - 1) / BITMAP_PAGE_BITS;
}
