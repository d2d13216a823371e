/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The saved digests' header and pages as bytes; pure but for the digests. docs/formats/digests.md. */
#pragma once

#include "block/digest.h"

#define SAVED_HEADER      4096u
#define SAVED_PAGE        4096u
#define SAVED_PAGE_LEAVES 255u /* the last 16 bytes of a page are its check */
#define SAVED_TEXT        160u

enum saved_state { SAVED_CLEAN = 1, SAVED_IN_USE = 2 };

struct saved_header {
	uint64_t size;
	enum saved_state state;
	struct digest_key key;
	char id[SAVED_TEXT], mark[SAVED_TEXT];
	uint64_t pages;               /* that are stored: not all zeros */
	uint8_t checks[DIGEST_BYTES]; /* of these, by exclusive or */
};

void saved_header_encode(const struct saved_header *header, uint8_t ret[SAVED_HEADER]);
/* 0, or -EBADMSG with the reason alone as words. */
int saved_header_decode(const uint8_t bytes[SAVED_HEADER], struct saved_header *ret, struct error *error);
/* How many pages a volume of `size` bytes has, stored or not. */
uint64_t saved_page_count(uint64_t size);
/* The file's size in bytes. */
uint64_t saved_file_size(uint64_t size);

/* Makes the check function of a file's pages. */
int saved_check_new(struct digest **ret, const struct digest_key *key, struct error *error);
/* The check of a page whose leaves are in place; its last 16 bytes do not count. */
void saved_page_check(
    struct digest *check, const uint8_t page[SAVED_PAGE], uint64_t number, uint8_t ret[DIGEST_BYTES]);

static inline uint8_t *saved_page_trailer(uint8_t *page)
{
	return page + (size_t)SAVED_PAGE_LEAVES * DIGEST_BYTES;
}

static inline void digest_xor(uint8_t *into, const uint8_t *other)
{
	for (unsigned i = 0; i < DIGEST_BYTES; i++)
		into[i] ^= other[i];
}
