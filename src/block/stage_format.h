/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bytes of a stage: what a volume is to become, kept beside it until all of it is there (filter/stage.h). Pure; docs/formats/stage.md shows
 * it. From its begin: the data, each block at its place in the volume; a bit a block; the table of what is to be applied; and, each in a
 * block of its own at the end of the file, that it was applied, that it is whole (the commit), and the header.
 */
#pragma once

#include "base/error.h"
#include "range/extent.h"

#include <stdbool.h>

#define STAGE_BLOCK       4096u
#define STAGE_SECTOR      512u       /* of the volume, for the sums of what it held before */
#define STAGE_PIECE       (1u << 20) /* longest entry, bytes */
#define STAGE_SUMS_MAX    (STAGE_PIECE / STAGE_SECTOR)
#define STAGE_ID          16u
#define STAGE_ENTRY_BYTES 24u

/* Where things are in the file, bytes. */
struct stage_layout {
	uint64_t size; /* of the volume */
	uint64_t map_at, map_length, table_at, table_max, applied_at, commit_at, header_at;
	uint64_t length; /* of the file */
};

struct stage_header {
	uint8_t id[STAGE_ID]; /* random */
	uint64_t size;        /* of the volume, bytes */
	uint64_t created;     /* seconds since 1970 */
	char target_id[160];  /* block_facts.id */
	char name[256];       /* as the volume was named, for messages */
};

/* The commit. Its first 512 bytes hold all of it: a sector is written whole or not at all. */
struct stage_commit {
	uint8_t id[STAGE_ID]; /* the header's */
	uint64_t committed;   /* seconds since 1970 */
	uint64_t entries, table_length;
	uint64_t data_bytes, zero_bytes;
	uint32_t table_crc; /* CRC-32C of the table */
};

/* What a range is to become. Each entry is followed by a CRC-32C of each 512 bytes that the volume held there before. */
struct stage_entry {
	uint64_t offset, length;
	enum extent_kind kind;
	uint32_t crc; /* of the data; 0 for zeros */
};

/* False for a volume that no file could be the stage of. */
bool stage_layout(uint64_t size, struct stage_layout *ret);
static inline unsigned stage_sums(const struct stage_entry *entry)
{
	return (unsigned)((entry->length + STAGE_SECTOR - 1) / STAGE_SECTOR);
}

/* Each block is STAGE_BLOCK bytes. Parsing: 0, -ENODATA for a block of zeros, -EBADMSG for a damaged one. */
void stage_encode_header(uint8_t *block, const struct stage_header *header);
int stage_parse_header(const uint8_t *block, struct stage_header *ret);
enum stage_mark { STAGE_MARK_COMMIT, STAGE_MARK_APPLIED };
void stage_encode_commit(uint8_t *block, enum stage_mark mark, const struct stage_commit *commit);
int stage_parse_commit(const uint8_t *block, enum stage_mark mark, struct stage_commit *ret);
void stage_encode_entry(uint8_t *bytes, const struct stage_entry *entry);
/* -EBADMSG for one that cannot follow what ends at `from`, in a volume of this size. */
int stage_parse_entry(const uint8_t *bytes, uint64_t from, uint64_t size, struct stage_entry *ret);
