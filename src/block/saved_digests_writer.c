/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The writing side of saved digests: one page at a time in memory, in a new file beside the old one, which it
 * replaces at the end. A failure is kept until finish, since whoever hands over leaves has other things to
 * do.
 */
#include "block/saved_digests.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "block/saved_digests_format.h"
#include "range/range_set.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

struct saved_digests_writer {
	/* set at the start */
	int fd;
	char *path, *path_new; /* path_new NULL: nothing to remove */
	struct digest *digest, *check;

	struct saved_header header;
	struct range_set covered;
	int res;

	uint64_t stored_end;  /* no page from this on is stored */
	uint64_t page_number; /* in memory; UINT64_MAX: none */
	bool page_stored;     /* in the file too, with this check: */
	uint8_t page_check[DIGEST_BYTES];
	uint8_t page[SAVED_PAGE]; /* its trailer is zero */
};

static int create(const char *path, struct error *error)
{
	for (int attempt = 0;; attempt++) {
		int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

		if (fd >= 0)
			return fd;
		if (errno != EEXIST || attempt > 0 || unlink(path) < 0)
			return error_set(error, -errno, "cannot make %s: %s", path, strerror(errno));
	}
}

static int prepare(struct saved_digests_writer *writer, const char *path, struct error *error)
{
	int res = digest_new(&writer->digest, &writer->header.key, error);

	if (res == 0)
		res = saved_check_new(&writer->check, &writer->header.key, error);
	if (res < 0)
		return res;
	writer->path = strdup(path);
	if (!writer->path || asprintf(&writer->path_new, "%s.new", path) < 0) {
		writer->path_new = NULL;
		return error_set(error, -ENOMEM, "cannot save digests: out of memory");
	}
	writer->fd = create(writer->path_new, error);
	if (writer->fd < 0) {
		free(writer->path_new);
		writer->path_new = NULL;
		return writer->fd;
	}
	if (ftruncate(writer->fd, (off_t)saved_file_size(writer->header.size)) < 0)
		return error_set(error, -errno, "cannot make %s: %s", writer->path_new, strerror(errno));
	return 0;
}

int saved_digests_writer_new(struct saved_digests_writer **ret, const char *path, uint64_t size,
    const struct digest_key *key, struct error *error)
{
	struct saved_digests_writer *writer = calloc(1, sizeof(*writer));
	int res;

	if (!writer)
		return error_set(error, -ENOMEM, "cannot save digests: out of memory");
	writer->fd = -1;
	writer->page_number = UINT64_MAX;
	writer->header = (struct saved_header){.size = size, .state = SAVED_CLEAN, .key = *key};
	range_set_init(&writer->covered);
	res = prepare(writer, path, error);
	if (res < 0) {
		saved_digests_writer_free(writer);
		return res;
	}
	*ret = writer;
	return 0;
}

struct saved_digests_writer *saved_digests_writer_free(struct saved_digests_writer *writer)
{
	if (!writer)
		return NULL;
	cleanup_close(&writer->fd);
	if (writer->path_new)
		unlink(writer->path_new);
	free(writer->path_new);
	free(writer->path);
	range_set_done(&writer->covered);
	digest_free(writer->digest);
	digest_free(writer->check);
	explicit_bzero(&writer->header.key, sizeof(writer->header.key));
	free(writer);
	return NULL;
}

static int write_all(int fd, const uint8_t *bytes, size_t length, uint64_t offset)
{
	while (length > 0) {
		ssize_t res = pwrite(fd, bytes, length, (off_t)offset);

		if (res < 0 && errno != EINTR)
			return -errno;
		if (res == 0)
			return -ENOSPC;
		if (res > 0) {
			bytes += res;
			length -= (size_t)res;
			offset += (uint64_t)res;
		}
	}
	return 0;
}

static uint64_t page_offset(uint64_t number)
{
	return SAVED_HEADER + number * SAVED_PAGE;
}

/* Writes the page in memory if it is, or was, other than zeros, and keeps the header's sums. */
static int flush_page(struct saved_digests_writer *writer)
{
	bool zero = bytes_are_zero(writer->page, SAVED_PAGE);
	uint64_t number = writer->page_number;
	uint8_t page[SAVED_PAGE];

	if (number == UINT64_MAX)
		return 0;
	writer->page_number = UINT64_MAX;
	if (writer->page_stored) {
		digest_xor(writer->header.checks, writer->page_check);
		writer->header.pages--;
	} else if (zero) {
		return 0;
	}
	memcpy(page, writer->page, SAVED_PAGE);
	if (!zero) {
		saved_page_check(writer->check, page, number, saved_page_trailer(page));
		digest_xor(writer->header.checks, saved_page_trailer(page));
		writer->header.pages++;
	}
	writer->stored_end = max_u64(writer->stored_end, number + 1);
	return write_all(writer->fd, page, SAVED_PAGE, page_offset(number));
}

static int select_page(struct saved_digests_writer *writer, uint64_t number)
{
	int res;

	if (number == writer->page_number)
		return 0;
	res = flush_page(writer);
	if (res < 0)
		return res;
	memset(writer->page, 0, SAVED_PAGE);
	if (number < writer->stored_end &&
	    pread(writer->fd, writer->page, SAVED_PAGE, (off_t)page_offset(number)) != SAVED_PAGE)
		return -EIO;
	memcpy(writer->page_check, saved_page_trailer(writer->page), DIGEST_BYTES);
	memset(saved_page_trailer(writer->page), 0, DIGEST_BYTES);
	writer->page_stored = !bytes_are_zero(writer->page, SAVED_PAGE);
	writer->page_number = number;
	return 0;
}

/* A leaf is kept as its difference from the digest of as many zeros, so that zeros are zeros. */
static int put_leaf(
    struct saved_digests_writer *writer, uint64_t leaf, uint64_t length, const uint8_t *digest)
{
	int res = select_page(writer, leaf / SAVED_PAGE_LEAVES);
	uint8_t *at = writer->page + leaf % SAVED_PAGE_LEAVES * DIGEST_BYTES;

	if (res < 0)
		return res;
	if (!digest) {
		memset(at, 0, DIGEST_BYTES);
		return 0;
	}
	digest_zeroes(writer->digest, length, DIGEST_LEAF, at);
	digest_xor(at, digest);
	return 0;
}

/* Zeros where nothing else was put need nothing. */
static uint64_t zeros_end(const struct saved_digests_writer *writer)
{
	uint64_t pages = writer->stored_end;

	if (writer->page_number != UINT64_MAX)
		pages = max_u64(pages, writer->page_number + 1);
	return pages * SAVED_PAGE_LEAVES * DIGEST_LEAF;
}

void saved_digests_writer_put(void *data, uint64_t offset, uint64_t length, const uint8_t *leaves)
{
	struct saved_digests_writer *writer = data;
	uint64_t end = offset + length, work_end = leaves ? end : min_u64(end, zeros_end(writer));

	assert(offset % DIGEST_LEAF == 0 && end <= writer->header.size);
	assert(end % DIGEST_LEAF == 0 || end == writer->header.size);
	if (writer->res == 0)
		writer->res = range_set_add(&writer->covered, offset, length);
	for (uint64_t at = offset; at < work_end && writer->res == 0; at += DIGEST_LEAF) {
		writer->res = put_leaf(writer, at / DIGEST_LEAF, min_u64(DIGEST_LEAF, end - at), leaves);
		if (leaves)
			leaves += DIGEST_BYTES;
	}
}

/* The folder too, so that the new name outlives a power cut. */
static int sync_folder(const char *path)
{
	_cleanup_(cleanup_free) char *copy = strdup(path);
	_cleanup_(cleanup_close) int fd = -1;

	if (!copy)
		return -ENOMEM;
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

static int put_in_place(struct saved_digests_writer *writer)
{
	uint8_t bytes[SAVED_HEADER];
	int res;

	saved_header_encode(&writer->header, bytes);
	res = write_all(writer->fd, bytes, sizeof(bytes), 0);
	if (res < 0)
		return res;
	if (fsync(writer->fd) < 0 || rename(writer->path_new, writer->path) < 0)
		return -errno;
	free(writer->path_new);
	writer->path_new = NULL;
	return sync_folder(writer->path);
}

int saved_digests_writer_finish(
    struct saved_digests_writer *writer, const char *id, const char *mark, struct error *error)
{
	struct saved_header *header = &writer->header;
	int res = writer->res;

	if (!id[0] || !mark[0])
		return error_set(error, -EOPNOTSUPP,
		    "cannot save digests in %s: nobody could tell later whether the volume was written since",
		    writer->path);
	assert(strlen(id) < SAVED_TEXT && strlen(mark) < SAVED_TEXT);
	if (res == 0 && writer->covered.bytes != header->size)
		return error_set(error, -ENODATA,
		    "cannot save digests in %s: a part of the volume was not read in this run", writer->path);
	memset(header->id, 0, SAVED_TEXT);
	memset(header->mark, 0, SAVED_TEXT);
	memcpy(header->id, id, strlen(id));
	memcpy(header->mark, mark, strlen(mark));
	if (res == 0)
		res = flush_page(writer);
	if (res == 0)
		res = put_in_place(writer);
	if (res < 0)
		return error_set(error, res, "cannot save digests in %s: %s", writer->path, strerror(-res));
	return 0;
}
