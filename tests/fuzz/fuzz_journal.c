/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target: a journal from a disk that may hold anything. What is loaded holds together, and loading
 * never takes more than the file has. The checksum of the header is put right first, or the fuzzer would
 * never get past it.
 */
#include "base/bytes.h"
#include "base/crc32c.h"
#include "sync/journal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HEADER_BYTES 4096u
#define RECORD_BYTES 32u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct ring *the_ring;

/* The first byte says what is mended: 1 the header's checksum, 2 each record's. */
static void mend(uint8_t *file, size_t size, uint8_t what)
{
	uint8_t nonce[8];

	if (size < HEADER_BYTES)
		return;
	if (what & 1)
		put_le32(file + HEADER_BYTES - 4, crc32c(0, file, HEADER_BYTES - 4));
	memcpy(nonce, file + 16, sizeof(nonce));
	for (size_t at = HEADER_BYTES; (what & 2) && size - at >= RECORD_BYTES; at += RECORD_BYTES)
		put_le32(file + at + 28, crc32c(crc32c(0, nonce, sizeof(nonce)), file + at, 28));
}

static void check_ranges(const struct range_set *done, size_t size)
{
	uint64_t bytes = 0;

	assert(done->count <= (size - HEADER_BYTES) / RECORD_BYTES);
	for (size_t i = 0; i < done->count; i++) {
		assert(done->ranges[i].length > 0);
		assert(done->ranges[i].offset <= UINT64_MAX - done->ranges[i].length);
		assert(i == 0 ||
		       done->ranges[i].offset > done->ranges[i - 1].offset + done->ranges[i - 1].length);
		bytes += done->ranges[i].length;
	}
	assert(done->bytes == bytes);
}

static void load(int fd, size_t size)
{
	struct journal *journal = NULL;
	struct range_set done = {0};
	struct error error = {0};
	char description[JOURNAL_DESCRIPTION_MAX];
	int res = journal_load(&journal, the_ring, fd, description, &done, &error);

	if (res == 0) {
		assert(journal && size >= HEADER_BYTES && strlen(description) < sizeof(description));
		check_ranges(&done, size);
	} else {
		assert(res < 0 && !journal && error.text[0]);
	}
	journal_free(journal);
	range_set_done(&done);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct error error;
	uint8_t *file;
	int fd;

	if (size < 1)
		return 0;
	if (!the_ring && ring_new(&the_ring, 8, &error) < 0)
		abort();
	file = malloc(size);
	fd = memfd_create("journal", MFD_CLOEXEC);
	assert(file && fd >= 0);
	memcpy(file, data + 1, size - 1);
	mend(file, size - 1, data[0]);
	assert(write(fd, file, size - 1) == (ssize_t)(size - 1));
	load(fd, size - 1);
	close(fd);
	free(file);
	return 0;
}
