/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A file of saved digests with any contents: as it is; with the header's CRC put right; and with all checks
 * put right, so that what lies behind them is reached. Whatever opens must answer within its bounds.
 */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "block/saved_digests.h"
#include "block/saved_digests_format.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask_all(struct block *saved, const struct digest_key *key)
{
	uint64_t size = block_info(saved)->size;
	uint8_t digests[4096];

	for (uint64_t at = 0, asked = 0; at < size && asked < 8; asked++) {
		struct extent extent = {0};
		struct block_io io = {.op = BLOCK_EXTENTS,
		    .offset = at,
		    .length = size - at,
		    .extents = &extent,
		    .extents_max = 1};

		assert(block_wait(saved, &io) == 1);
		assert(extent.offset == at && extent.length > 0 && extent.length <= size - at);
		at += extent.length;
	}
	for (uint64_t at = 0; at < size && at < 4 * DIGEST_CHUNK; at += DIGEST_CHUNK) {
		struct block_io io = {.op = BLOCK_DIGEST,
		    .offset = at,
		    .length = min_u64(DIGEST_CHUNK, size - at),
		    .granularity = DIGEST_LEAF << (size % 3 * 4),
		    .key = key,
		    .buf = digests};

		block_wait(saved, &io);
	}
}

static void try_file(struct ring *ring, const uint8_t *bytes, size_t size)
{
	struct block *saved;
	struct digest_key key;
	struct error error;
	char path[64];
	int fd = memfd_create("saved", MFD_CLOEXEC);

	if (fd < 0 || fchmod(fd, 0600) < 0 || write(fd, bytes, size) != (ssize_t)size)
		abort();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (saved_digests_open(&saved, ring, path, NULL, &key, &error) == 0) {
		ask_all(saved, &key);
		assert(saved_digests_use(saved, &error) == 0);
		block_free(saved);
	}
	close(fd);
}

static void fix_crc(uint8_t *header)
{
	put_le32(header + SAVED_HEADER - 4, crc32c(0, header, SAVED_HEADER - 4));
}

/* Makes the checks of all pages right, and the header that sums them up. */
static void fix_pages(uint8_t *bytes, size_t size)
{
	struct saved_header header;
	struct digest *check;

	if (saved_header_decode(bytes, &header, NULL) < 0 || saved_check_new(&check, &header.key, NULL) < 0)
		return;
	header.pages = 0;
	memset(header.checks, 0, sizeof(header.checks));
	for (uint64_t number = 0; SAVED_HEADER + (number + 1) * SAVED_PAGE <= size; number++) {
		uint8_t *page = bytes + SAVED_HEADER + number * SAVED_PAGE;

		if (bytes_are_zero(page, SAVED_PAGE))
			continue;
		saved_page_check(check, page, number, saved_page_trailer(page));
		digest_xor(header.checks, saved_page_trailer(page));
		header.pages++;
	}
	digest_free(check);
	saved_header_encode(&header, bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct ring *ring;
	uint8_t *copy;

	if (size > 16 * SAVED_PAGE || (!ring && ring_new(&ring, 8, NULL) < 0))
		return 0;
	try_file(ring, data, size);
	if (size < SAVED_HEADER)
		return 0;
	copy = malloc(size);
	if (!copy)
		return 0;
	memcpy(copy, data, size);
	fix_crc(copy);
	try_file(ring, copy, size);
	fix_pages(copy, size);
	try_file(ring, copy, size);
	free(copy);
	return 0;
}
