/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The blocks of a map file as bytes: superblocks, intent records and bitmap pages, 4096 bytes each; docs/formats/map.md shows
 * them byte by byte. A pure codec: no I/O, no memory of its own. What is decoded has been checked against its CRC and its ranges.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define BITMAP_BLOCK       4096u
#define BITMAP_INTENTS     338u  /* ranges in one record */
#define BITMAP_PAGE_BYTES  4056u /* of bits in one page, a multiple of 8 */
#define BITMAP_PAGE_BITS   (BITMAP_PAGE_BYTES * 8u)
#define BITMAP_LEGS        2u
#define BITMAP_ID_MAX      160u
#define BITMAP_NOTE_MAX    512u
#define BITMAP_REGION_MIN  4096u
#define BITMAP_REGION_MAX  (1u << 20) /* what one request of a copy can hold */
#define BITMAP_RECORDS     256u       /* where nobody asks for another number */
#define BITMAP_RECORDS_MIN 4u
#define BITMAP_RECORDS_MAX 65536u
#define BITMAP_BITS_MAX    (1ull << 31) /* regions in one map: 128 TiB of 64 KiB each */

struct bitmap_super {
	uint64_t
	    nonce; /* of this map file; in every block, so that those of an earlier file are not believed */
	uint64_t sequence;      /* grows with every change; of two good superblocks the higher one counts */
	uint64_t size;          /* of the volume, bytes */
	uint32_t region_size;   /* bytes, a power of two */
	uint32_t records;       /* slots for intent records */
	uint64_t generation;    /* grows whenever another leg becomes the authoritative one */
	uint32_t state;         /* the cutover's; not looked at here */
	uint32_t authoritative; /* leg 0 or 1 */
	bool given_up;          /* changes could not be noted any more: nothing here may be trusted */
	bool undecided;         /* the authoritative leg was about to change, or just has */
	char ids[BITMAP_LEGS][BITMAP_ID_MAX]; /* identities of the legs; empty: cannot be known */
	/* What a user of the map keeps with it, and is recorded with the rest. With one, the map is of version 2: a mirror has none. */
	uint32_t note_length;
	uint8_t note[BITMAP_NOTE_MAX];
};

struct bitmap_intent {
	uint64_t first; /* regions */
	uint32_t count; /* > 0 */
};

struct bitmap_record {
	uint64_t sequence; /* from 1 on */
	uint32_t count;
	struct bitmap_intent intents[BITMAP_INTENTS];
};

void bitmap_super_encode(const struct bitmap_super *super, uint8_t *ret_block);
/* -EBADMSG with words when the block is damaged, none, or of another version. */
int bitmap_super_decode(const uint8_t *block, struct bitmap_super *ret, struct error *error);
void bitmap_record_encode(const struct bitmap_record *record, uint64_t nonce, uint8_t *ret_block);
/* False when it is damaged, none, or another file's; `regions` bounds what it may name. */
bool bitmap_record_decode(const uint8_t *block, uint64_t nonce, uint64_t regions, struct bitmap_record *ret);
/* The bits are at block + BITMAP_PAGE_AT, put there before. */
#define BITMAP_PAGE_AT 32u
void bitmap_page_encode(uint64_t index, uint64_t sequence, uint64_t nonce, uint8_t *block);
/* False when it is damaged, stale (another file's) or another page. *ret_sequence: records up to this one are in it. */
bool bitmap_page_decode(const uint8_t *block, uint64_t index, uint64_t nonce, uint64_t *ret_sequence);
/* What suits a volume: two bits a region are kept in memory, no more than 16 MiB each up to 128 TiB. */
uint32_t bitmap_region_size_for(uint64_t size_bytes);
/* -E2BIG with words: it has more regions than a map may have. */
int bitmap_super_check_size(const struct bitmap_super *super, struct error *error);
/* How many regions and pages there are. */
uint64_t bitmap_super_regions(const struct bitmap_super *super);
uint64_t bitmap_super_pages(const struct bitmap_super *super);
