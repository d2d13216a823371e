/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Image files and block devices on a ring. Aligned requests go past the page cache (O_DIRECT) where the file
 * allows it; what is not aligned, such as the last bytes of an odd-sized image, goes through it. Owns both
 * descriptors.
 */
#include "block/file.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "block/at_once.h"
#include "block/digest_reader.h"
#include "block/driver.h"
#include "block/file_zero.h"
#include "block/inspect.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FOLIO_MAX (4u << 20) /* no folio is larger: 2 MiB on x86 */
/* So much of a pipe is written at once; then the loop looks whether the next request has come. */
#define PIPE_PIECE (256u << 10)

struct file {
	struct block block;
	/* set at open */
	struct file_options options;
	struct digest_reader *digest_reader;
	struct file_zero *zero;
	/* ring thread only */
	struct at_once at_once;
	bool at_once_tried; /* the file system was asked whether its writes can do without waiting */
};

static struct file *to_file(struct block *block)
{
	return container_of(block, struct file, block);
}

/* How many pages of the range lie in the page cache: cachestat(2), Linux 6.5; 0 where that is not known. */
static uint64_t cached_pages(int fd, uint64_t offset, uint64_t length)
{
#ifdef SYS_cachestat
	const long number = SYS_cachestat;
#else
	const long number = 451;
#endif
	struct {
		uint64_t offset, length;
	} range = {offset, length};
	struct {
		uint64_t cached, dirty, writeback, evicted, recently_evicted;
	} stat;

	return syscall(number, fd, &range, &stat, 0) == 0 ? stat.cached : 0;
}

static bool is_cached(int fd, uint64_t offset, uint64_t length)
{
	uint64_t pages = (align_up(offset + length, 4096) - align_down(offset, 4096)) / 4096;

	return cached_pages(fd, offset, length) >= pages;
}

static void drop(int fd, uint64_t offset, uint64_t length, uint64_t align)
{
	uint64_t begin = align_down(offset, align), end = align_up(offset + length, align);

	posix_fadvise(fd, (off_t)begin, (off_t)(end - begin), POSIX_FADV_DONTNEED);
}

/*
 * What is written back already leaves the page cache. The kernel heeds whole folios alone, which are pages or,
 * after reading ahead, many of them.
 */
static void forget_cached(const struct file *file, uint64_t offset, uint64_t length)
{
	if (file->block.ring->simulated)
		return;
	drop(file->options.fd, offset, length, 4096);
	if (cached_pages(file->options.fd, offset, length) > 0)
		drop(file->options.fd, offset, length, FOLIO_MAX);
}

/* A file system that can say "this would wait" is left to the ring, which asks. Returns what was written, or -errno. */
static int try_at_once(struct file *file, struct ring_op *op)
{
	struct iovec iov = {.iov_base = op->buf, .iov_len = op->length};
	off_t at = (off_t)op->offset;
	ssize_t res;

	if (op->opcode == RING_SPLICE_TO) {
		res = splice(op->fd, NULL, op->fd_to, &at, op->length, 0);
		return res < 0 ? -errno : (int)res;
	}
	if (!file->at_once_tried) {
		file->at_once_tried = true;
		res = pwritev2(op->fd, &iov, 1, at, RWF_NOWAIT);
		file->at_once.wanted = res < 0 && errno == EOPNOTSUPP;
		if (!file->at_once.wanted)
			return res < 0 ? -errno : (int)res;
	}
	res = pwrite(op->fd, op->buf, op->length, at);
	return res < 0 ? -errno : (int)res;
}

/* How often this thread has waited for anything. */
static long count_waits(void)
{
	struct rusage usage = {0};

	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_nvcsw;
}

/* Returns false when the ring shall carry it out. */
static bool write_at_once(struct file *file, struct ring_op *op, bool apart)
{
	struct ring *ring = file->block.ring;
	uint64_t begin, end;
	long before = 0;
	bool watched;
	int res;

	if (!file->at_once.wanted)
		return false;
	begin = ring_now_ns(ring);
	if (op->mode || apart || !at_once_may(&file->at_once, op->length, begin)) {
		at_once_long_begin(&file->at_once, begin);
		return false;
	}
	watched = at_once_watches(&file->at_once, begin);
	if (watched)
		before = count_waits();
	res = try_at_once(file, op);
	end = ring_now_ns(ring);
	if (end - begin > AT_ONCE_SLOW_NS)
		at_once_did(&file->at_once, begin, end, watched ? count_waits() != before : -1);
	ring_defer(ring, op, res); /* -EAGAIN tries again, then by the ring */
	return true;
}

static bool may_be_direct(const struct file *file, const struct block_io *io)
{
	bool uncached = io->op == BLOCK_WRITE && io->flags & BLOCK_UNCACHED;

	return file->options.fd_direct >= 0 && (!file->options.buffered || uncached);
}

/*
 * Of what offset and length of a direct request are multiples. Writes take whole pages: of two at once in one page, the buffered
 * one could have the page cache write back, beside its own bytes, what was there before the direct one.
 */
static uint64_t direct_grain(const struct file *file, const struct block_io *io)
{
	return io->op == BLOCK_WRITE ? max_u64(file->options.direct_align, (uint64_t)getpagesize())
	                             : file->options.direct_align;
}

/*
 * Submits the next piece of a read or write: driver_u64[0] bytes are done. Pieces are direct where position
 * and memory are aligned, else buffered.
 */
static void submit_piece(struct file *file, struct block_io *io)
{
	uint64_t done = io->driver_u64[0], at = io->offset + done, left = io->length - done;
	uint64_t align = direct_grain(file, io);
	char *buf = (char *)io->buf + done;
	struct ring_op *op = &io->ring_op;
	bool may = may_be_direct(file, io);
	bool direct =
	    may && at % align == 0 && left >= align && (uintptr_t)buf % file->options.direct_align == 0;

	if (direct)
		left = align_down(left, align);
	else if (may && at % align)
		left = min_u64(left, align_up(at, align) - at);
	if (direct && io->op == BLOCK_READ && io->driver_u64[1])
		direct = false; /* found in the page cache as a whole */
	if (!direct && io->op == BLOCK_READ && file->options.fresh_reads)
		forget_cached(file, at, left);
	op->opcode = io->op == BLOCK_READ ? RING_READ : RING_WRITE;
	op->mode = io->op == BLOCK_WRITE && io->flags & BLOCK_FUA ? RWF_DSYNC : 0;
	op->fd = direct ? file->options.fd_direct : file->options.fd;
	op->offset = at;
	op->buf = buf;
	op->length = left;
	if (direct || io->op == BLOCK_READ || !write_at_once(file, op, io->flags & BLOCK_APART))
		ring_submit(file->block.ring, op);
}

static void data_done(struct block_io *io, int res)
{
	if (io->op == BLOCK_WRITE)
		digest_reader_forget(to_file(io->block)->digest_reader, io->offset, io->length);
	block_complete(io, res);
}

static void piece_done(struct ring_op *op, int res)
{
	struct block_io *io = container_of(op, struct block_io, ring_op);
	struct file *file = to_file(io->block);

	/* What was done at once came back by ring_defer(). */
	if (io->op == BLOCK_WRITE && op->opcode != RING_NOP && file->at_once.wanted &&
	    op->fd == file->options.fd)
		at_once_long_end(&file->at_once, ring_now_ns(file->block.ring));
	if (res == -EINTR || res == -EAGAIN)
		res = 0;
	else if (res == 0)
		res = io->op == BLOCK_READ ? -EIO
		                           : -ENOSPC; /* the file became shorter; the device took nothing */
	if (res < 0) {
		data_done(io, res);
		return;
	}
	io->driver_u64[0] += (uint64_t)res;
	if (io->driver_u64[0] < io->length)
		submit_piece(file, io);
	else
		data_done(io, 0);
}

/* Reads hand over pages of the page cache; writes copy into them once, what their sender wrote. */
static void submit_splice(struct file *file, struct block_io *io)
{
	struct ring_op *op = &io->ring_op;

	if (io->op == BLOCK_WRITE) {
		op->opcode = RING_SPLICE_TO;
		op->mode = 0;
		op->fd = io->pipe_fd;
		op->fd_to = file->options.fd;
		op->offset = io->offset + io->driver_u64[0];
		op->length = min_u64(io->length - io->driver_u64[0], PIPE_PIECE);
		if (!write_at_once(file, op, io->flags & BLOCK_APART))
			ring_submit(file->block.ring, op);
		return;
	}
	op->opcode = RING_SPLICE;
	op->fd = file->options.fd;
	op->fd_to = io->pipe_fd;
	op->offset = io->offset + io->driver_u64[0];
	op->length = io->length - io->driver_u64[0];
	ring_submit(file->block.ring, op);
}

static void splice_done(struct ring_op *op, int res)
{
	struct block_io *io = container_of(op, struct block_io, ring_op);
	struct file *file = to_file(io->block);

	if (op->opcode == RING_SPLICE_TO)
		at_once_long_end(&file->at_once, ring_now_ns(file->block.ring));
	if (res == -EINTR || res == -EAGAIN)
		res = 0;
	else if (res == 0)
		res = -EIO; /* the file became shorter; the pipe held less than it must */
	if (res == -EINVAL || res == -EOPNOTSUPP)
		res = io->driver_u64[0] == 0 ? -EOPNOTSUPP : -EIO;
	if (res < 0) {
		data_done(io, res);
		return;
	}
	io->driver_u64[0] += (uint64_t)res;
	if (io->driver_u64[0] < io->length)
		submit_splice(file, io);
	else
		data_done(io, 0);
}

static void submit_data(struct file *file, struct block_io *io)
{
	io->driver_u64[0] = 0;
	if (io->flags & BLOCK_PIPE) {
		io->ring_op.done = splice_done;
		submit_splice(file, io);
		return;
	}
	io->driver_u64[1] = io->op == BLOCK_READ && file->options.cached_reads &&
	                    is_cached(file->options.fd, io->offset, io->length);
	io->ring_op.done = piece_done;
	submit_piece(file, io);
}

static bool file_takes_pipe(const struct block *block, enum block_op op)
{
	const struct file *file = container_of(block, const struct file, block);

	/* Others may write to the volume past its page cache, or want that to be read. */
	if (!file->options.buffered || block->ring->simulated)
		return false;
	/* A write out of a pipe cannot be told not to wait, so it goes where none can. */
	return op == BLOCK_READ || (file->at_once_tried && file->at_once.wanted);
}

static void flush_done(struct ring_op *op, int res)
{
	struct block_io *io = container_of(op, struct block_io, ring_op);

	to_file(io->block)->at_once.heavy--;
	block_complete(io, res < 0 ? res : 0);
}

static void submit_flush(struct file *file, struct block_io *io)
{
	file->at_once.heavy++;
	io->ring_op.opcode = RING_FSYNC;
	io->ring_op.fd = file->options.fd;
	io->ring_op.done = flush_done;
	ring_submit(file->block.ring, &io->ring_op);
}

/* lseek(2) tells holes without reading. Returns how many extents were filled, or -errno. */
static int find_extents(int fd, struct block_io *io)
{
	uint64_t at = io->offset, end = io->offset + io->length;
	uint32_t count = 0;

	while (at < end && count < io->extents_max) {
		off_t data = lseek(fd, (off_t)at, SEEK_DATA);
		uint64_t next;
		enum extent_kind kind = EXTENT_ZERO;

		if (data < 0 && errno != ENXIO)
			return -errno;
		next = data < 0 ? end : (uint64_t)data;
		if (next <= at) {
			off_t hole = lseek(fd, (off_t)at, SEEK_HOLE);

			if (hole < 0)
				return -errno;
			kind = EXTENT_DATA;
			next = max_u64((uint64_t)hole, at + 1);
		}
		next = min_u64(next, end);
		io->extents[count++] = (struct extent){.offset = at, .length = next - at, .kind = kind};
		at = next;
	}
	return (int)count;
}

static void submit_extents(struct file *file, struct block_io *io)
{
	int res;

	if (file->options.device || file->block.ring->simulated) {
		block_extents_all_data(&file->block, io);
		return;
	}
	res = find_extents(file->options.fd, io);
	if (res == -EINVAL || res == -EOPNOTSUPP)
		block_extents_all_data(&file->block, io);
	else
		block_complete_later(&file->block, io, res);
}

static int resize(struct file *file, uint64_t size)
{
	struct block_info *info = &file->block.info;

	if (!info->resizable || !info->writable)
		return size == info->size ? 0 : -EOPNOTSUPP;
	if (ftruncate(file->options.fd, (off_t)size) < 0)
		return -errno;
	info->size = size;
	return 0;
}

static void file_submit(struct block *block, struct block_io *io)
{
	struct file *file = to_file(block);

	if (io->op == BLOCK_RESIZE)
		digest_reader_forget(file->digest_reader, 0, UINT64_MAX);
	else if (block_op_writes(io->op))
		digest_reader_forget(file->digest_reader, io->offset, io->length);
	switch (io->op) {
	case BLOCK_READ:
	case BLOCK_WRITE:
		submit_data(file, io);
		break;
	case BLOCK_ZERO:
		file_zero_submit(file->zero, io);
		break;
	case BLOCK_TRIM:
		file_trim_submit(file->zero, io);
		break;
	case BLOCK_FLUSH:
		submit_flush(file, io);
		break;
	case BLOCK_EXTENTS:
		submit_extents(file, io);
		break;
	case BLOCK_DIGEST:
	case BLOCK_SHA256:
		digest_reader_submit(file->digest_reader, io);
		break;
	case BLOCK_RESIZE:
		block_complete_later(block, io, resize(file, io->length));
		break;
	}
}

static int file_facts(struct block *block, struct block_facts *ret, struct error *error)
{
	struct file *file = to_file(block);

	return block->ring->simulated ? 0 : inspect_fd(file->options.fd, ret, error);
}

static int file_measure(struct block *block, struct error *error)
{
	struct file *file = to_file(block);

	digest_reader_forget(file->digest_reader, 0, UINT64_MAX);
	return block->ring->simulated ? 0 : file_measure_anew(&file->options, &block->info, error);
}

static void file_free(struct block *block)
{
	struct file *file = to_file(block);

	digest_reader_free(file->digest_reader);
	file_zero_free(file->zero);
	if (!block->ring->simulated) {
		cleanup_close(&file->options.fd_direct);
		inspect_close(&file->options.fd);
	}
	free(file);
}

static const struct block_driver file_driver = {
    .name = "file",
    .submit = file_submit,
    .takes_pipe = file_takes_pipe,
    .facts = file_facts,
    .measure = file_measure,
    .free = file_free,
};

int file_fd(const struct block *block)
{
	assert(block->driver == &file_driver);
	return container_of(block, const struct file, block)->options.fd;
}

int file_new(struct block **ret, struct ring *ring, const struct file_options *options, struct error *error)
{
	struct file *file = calloc(1, sizeof(*file));
	int res = -ENOMEM;

	if (!file) {
		int fds[] = {options->fd, options->fd_direct};

		for (int i = 0; i < 2 && !ring->simulated; i++)
			cleanup_close(&fds[i]);
		return error_set(error, -ENOMEM, "cannot open %s: out of memory", options->info.name);
	}
	file->block = (struct block){.driver = &file_driver, .ring = ring, .info = options->info};
	file->block.info.fua = file->block.info.no_hole = true;
	file->options = *options;
	file->at_once.wanted = options->write_at_once;
	res = digest_reader_new(&file->digest_reader, &file->block, error);
	if (res == 0)
		res = file_zero_new(&file->zero, &file->block, options->fd, options->device,
		    file->digest_reader, &file->at_once.heavy, error);
	if (res < 0) {
		file_free(&file->block);
		return error_prefix(error, "cannot open %s", options->info.name);
	}
	*ret = &file->block;
	return 0;
}
