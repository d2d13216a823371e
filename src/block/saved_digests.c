/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The reading side of saved digests: a block that knows digests and where there are only zeros, and nothing
 * else. The whole file is checked when it is opened; each page once more when it is used.
 */
#include "block/saved_digests.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "block/driver.h"
#include "block/saved_digests_format.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define ADVICE "; use --changes=hash, which compares all of both volumes"

struct saved {
	struct block block;
	/* set at open */
	int fd;
	struct saved_header header;
	struct digest *digest, *check;

	uint64_t page_number; /* what `page` holds; UINT64_MAX: nothing */
	uint8_t page[SAVED_PAGE];
};

static struct saved *to_saved(struct block *block)
{
	return container_of(block, struct saved, block);
}

/* All `length` bytes: 0, or -errno (-EBADMSG for an early end). */
static int read_all(int fd, void *buf, size_t length, uint64_t offset)
{
	char *at = buf;

	while (length > 0) {
		ssize_t res = pread(fd, at, length, (off_t)offset);

		if (res < 0 && errno != EINTR)
			return -errno;
		if (res == 0)
			return -EBADMSG;
		if (res > 0) {
			at += res;
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

/* Makes `page` hold a page, checked. Returns 1 when it is stored, 0 when it is all zeros, or -errno. */
static int load_page(struct saved *saved, uint64_t number)
{
	uint8_t want[DIGEST_BYTES];
	int res;

	saved->page_number = UINT64_MAX;
	res = read_all(saved->fd, saved->page, SAVED_PAGE, page_offset(number));
	if (res < 0)
		return res;
	if (bytes_are_zero(saved->page, SAVED_PAGE)) {
		saved->page_number = number;
		return 0;
	}
	saved_page_check(saved->check, saved->page, number, want);
	if (memcmp(want, saved_page_trailer(saved->page), DIGEST_BYTES) != 0)
		return -EBADMSG;
	saved->page_number = number;
	return 1;
}

/* The first page at or after `number` that may be stored, or `count`. */
static uint64_t next_stored(const struct saved *saved, uint64_t number, uint64_t count)
{
	off_t at = lseek(saved->fd, (off_t)page_offset(number), SEEK_DATA);

	if (at < 0)
		return errno == ENXIO ? count : number;
	return min_u64(max_u64(((uint64_t)at - SAVED_HEADER) / SAVED_PAGE, number), count);
}

/* Pages that are damaged, and pages that vanished: the header knows how many there are and their checks' sum.
 */
static int check_pages(struct saved *saved, struct error *error)
{
	uint64_t count = saved_page_count(saved->header.size), stored = 0;
	uint8_t checks[DIGEST_BYTES] = {0};

	for (uint64_t number = 0; number < count; number++) {
		int res;

		number = next_stored(saved, number, count);
		if (number == count)
			break;
		res = load_page(saved, number);
		if (res < 0)
			return error_set(error, res, "its page %llu is damaged", (unsigned long long)number);
		if (res == 0)
			continue;
		stored++;
		digest_xor(checks, saved_page_trailer(saved->page));
	}
	if (stored != saved->header.pages || memcmp(checks, saved->header.checks, DIGEST_BYTES) != 0)
		return error_set(error, -EBADMSG, "pages are missing from it");
	return 0;
}

/* The key in it lets whoever reads it make blocks that compare equal, and whoever writes it hide changes. */
static int check_file(const struct saved *saved, const struct stat *stat, struct error *error)
{
	if (!S_ISREG(stat->st_mode))
		return error_set(error, -EBADMSG, "it is no regular file");
	if (stat->st_mode & 077 || (stat->st_uid != geteuid() && stat->st_uid != 0))
		return error_set(error, -EPERM, "others can read or write it, which must not be (mode %03o)",
		    (unsigned)stat->st_mode & 0777u);
	return 0;
}

static int read_header(struct saved *saved, struct error *error)
{
	uint8_t bytes[SAVED_HEADER];
	struct stat stat;
	int res;

	if (fstat(saved->fd, &stat) < 0)
		return error_set(error, -errno, "%s", strerror(errno));
	res = check_file(saved, &stat, error);
	if (res < 0)
		return res;
	res = read_all(saved->fd, bytes, sizeof(bytes), 0);
	if (res < 0)
		return error_set(error, res, "%s", res == -EBADMSG ? "it is too short" : strerror(-res));
	res = saved_header_decode(bytes, &saved->header, error);
	if (res < 0)
		return res;
	if ((uint64_t)stat.st_size != saved_file_size(saved->header.size))
		return error_set(error, -EBADMSG, "it has %lld bytes instead of %llu",
		    (long long)stat.st_size, (unsigned long long)saved_file_size(saved->header.size));
	return 0;
}

static int check_volume(
    const struct saved_header *header, const struct saved_digests_volume *volume, struct error *error)
{
	if (header->state != SAVED_CLEAN)
		return error_set(error, -ESTALE,
		    "a run that used it did not end, so the target is no longer what it says");
	if (!volume->id[0] || !volume->mark[0])
		return error_set(error, -ESTALE, "nobody can tell whether the target was written since");
	if (strcmp(header->id, volume->id) != 0)
		return error_set(
		    error, -ESTALE, "it is of another volume (%.100s, not %.100s)", header->id, volume->id);
	if (header->size != volume->size)
		return error_set(error, -ESTALE, "it is of %llu bytes, not %llu",
		    (unsigned long long)header->size, (unsigned long long)volume->size);
	if (strcmp(header->mark, volume->mark) != 0)
		return error_set(error, -ESTALE, "the target was written since");
	return 0;
}

/* ---- the block ---- */

static int saved_leaves(struct saved *saved, const struct block_io *io, uint8_t *ret)
{
	uint64_t first = io->offset / DIGEST_LEAF;
	size_t count = digest_count(io->length, DIGEST_LEAF);

	for (size_t i = 0; i < count; i++) {
		uint64_t page = (first + i) / SAVED_PAGE_LEAVES, index = (first + i) % SAVED_PAGE_LEAVES;
		uint64_t length = min_u64(DIGEST_LEAF, io->length - i * DIGEST_LEAF);

		if (page != saved->page_number) {
			int res = load_page(saved, page);

			if (res < 0)
				return res;
		}
		digest_zeroes(saved->digest, length, DIGEST_LEAF, ret + i * DIGEST_BYTES);
		digest_xor(ret + i * DIGEST_BYTES, saved->page + index * DIGEST_BYTES);
	}
	return 0;
}

static int answer_digest(struct saved *saved, const struct block_io *io)
{
	uint8_t leaves[DIGEST_CHUNK / DIGEST_LEAF * DIGEST_BYTES];
	uint64_t end = io->offset + io->length;
	int res;

	if (memcmp(io->key, &saved->header.key, sizeof(*io->key)) != 0)
		return -EINVAL;
	/* What a part of a leaf digests to is not known. */
	if (end % DIGEST_LEAF && end != saved->header.size)
		return -EINVAL;
	res = saved_leaves(saved, io, leaves);
	if (res < 0)
		return res;
	digest_fold(saved->digest, leaves, digest_count(io->length, DIGEST_LEAF), io->granularity, io->buf);
	return 0;
}

/* One extent: up to where the pages of the file go on being stored, or not stored. */
static int answer_extents(struct saved *saved, const struct block_io *io)
{
	const uint64_t span = (uint64_t)SAVED_PAGE_LEAVES * DIGEST_LEAF;
	uint64_t count = saved_page_count(saved->header.size), page = io->offset / span;
	uint64_t next = next_stored(saved, page, count), end = io->offset + io->length;
	struct extent extent = {.offset = io->offset, .kind = EXTENT_ZERO};

	if (next == page) {
		off_t hole = lseek(saved->fd, (off_t)page_offset(page), SEEK_HOLE);

		next = hole < 0 ? count : ((uint64_t)hole - SAVED_HEADER + SAVED_PAGE - 1) / SAVED_PAGE;
		next = max_u64(next, page + 1);
		extent.kind = EXTENT_DATA;
	}
	if (next < count)
		end = min_u64(end, next * span);
	extent.length = end - io->offset;
	io->extents[0] = extent;
	return 1;
}

static void saved_submit(struct block *block, struct block_io *io)
{
	int res = -EOPNOTSUPP;

	if (io->op == BLOCK_DIGEST)
		res = answer_digest(to_saved(block), io);
	else if (io->op == BLOCK_EXTENTS)
		res = answer_extents(to_saved(block), io);
	block_complete_later(block, io, res);
}

static void saved_free(struct block *block)
{
	struct saved *saved = to_saved(block);

	cleanup_close(&saved->fd);
	digest_free(saved->digest);
	digest_free(saved->check);
	explicit_bzero(&saved->header.key, sizeof(saved->header.key));
	free(saved);
}

static const struct block_driver saved_driver = {
    .name = "saved digests",
    .submit = saved_submit,
    .free = saved_free,
};

static int load(struct saved *saved, const struct saved_digests_volume *volume, struct error *error)
{
	int res = read_header(saved, error);

	if (res == 0 && volume)
		res = check_volume(&saved->header, volume, error);
	if (res == 0)
		res = digest_new(&saved->digest, &saved->header.key, error);
	if (res == 0)
		res = saved_check_new(&saved->check, &saved->header.key, error);
	if (res == 0)
		res = check_pages(saved, error);
	return res;
}

int saved_digests_open(struct block **ret, struct ring *ring, const char *path,
    const struct saved_digests_volume *volume, struct digest_key *ret_key, struct error *error)
{
	struct saved *saved = calloc(1, sizeof(*saved));
	struct error reason = {0};
	int res;

	if (!saved)
		return error_set(error, -ENOMEM, "cannot use saved digests %s: out of memory", path);
	saved->block.driver = &saved_driver;
	saved->block.ring = ring;
	saved->page_number = UINT64_MAX;
	saved->fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	res =
	    saved->fd < 0 ? error_set(&reason, -errno, "%s", strerror(errno)) : load(saved, volume, &reason);
	if (res < 0) {
		saved_free(&saved->block);
		return error_set(error, res, "cannot use saved digests %s: %s" ADVICE, path, reason.text);
	}
	/* A page that is not stored is one of zeros, for sure: check_pages() found all that the header knows of. */
	saved->block.info = (struct block_info){
	    .size = saved->header.size, .sector_size = 1, .request_align = 1, .holes_trusted = true};
	snprintf(saved->block.info.name, sizeof(saved->block.info.name), "%s", path);
	*ret_key = saved->header.key;
	*ret = &saved->block;
	return 0;
}

int saved_digests_use(struct block *block, struct error *error)
{
	struct saved *saved = to_saved(block);
	uint8_t bytes[SAVED_HEADER];

	saved->header.state = SAVED_IN_USE;
	saved_header_encode(&saved->header, bytes);
	errno = ENOSPC;
	if (pwrite(saved->fd, bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes) || fdatasync(saved->fd) < 0)
		return error_set(error, -errno,
		    "cannot mark saved digests %s as in use: %s; nothing was written to the target" ADVICE,
		    block->info.name, strerror(errno));
	return 0;
}
