/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A simulated disk: `data` is what readers see, `stable` what survives a power cut, and between them the list
 * of writes that no flush has covered yet. A disk belongs to the world.
 */
#include "ring/ring_sim_private.h"

#include "base/bytes.h"

#include <fcntl.h>

/* A write, or zeros, that no flush has covered; the data follow. */
struct unflushed {
	struct list_node node;
	uint64_t sequence, offset, length;
	bool zero;
	uint8_t data[];
};

struct bad_range {
	struct list_node node;
	enum ring_sim_bad what;
	uint64_t offset, length;
};

struct sim_disk {
	struct ring_sim_disk_options options;
	struct ring_sim_disk_counts counts;
	uint8_t *data, *stable;
	uint64_t size, stable_size, capacity;
	uint64_t sequence, space;
	struct list_node unflushed, bad;
	bool off;
};

static struct sim_disk *disk_of(struct ring_sim *sim, int fd)
{
	struct sim_fd *entry = sim_fd_get(sim, fd);

	assert(entry && entry->kind == SIM_FD_DISK);
	return entry->object;
}

/* Bytes beyond the size are kept zero in both images, so that growing needs no clearing. */
static void reserve(struct sim_disk *disk, uint64_t size)
{
	uint64_t capacity = max_u64(disk->capacity, 4096);

	if (size <= disk->capacity)
		return;
	while (capacity < size)
		capacity *= 2;
	disk->data = realloc(disk->data, capacity);
	disk->stable = realloc(disk->stable, capacity);
	if (!disk->data || !disk->stable)
		abort();
	memset(disk->data + disk->capacity, 0, capacity - disk->capacity);
	memset(disk->stable + disk->capacity, 0, capacity - disk->capacity);
	disk->capacity = capacity;
}

static void store(
    uint8_t *image, uint64_t *size, const struct unflushed *write, uint64_t skip, uint64_t length)
{
	if (write->zero)
		memset(image + write->offset + skip, 0, length);
	else
		memcpy(image + write->offset + skip, write->data + skip, length);
	*size = max_u64(*size, write->offset + skip + length);
}

static void unflushed_free(struct unflushed *write)
{
	list_remove(&write->node);
	free(write);
}

/* Makes the write visible, and leaves it in the list for a flush to come. */
static void apply(struct sim_disk *disk, struct unflushed *write)
{
	reserve(disk, write->offset + write->length);
	store(disk->data, &disk->size, write, 0, write->length);
	write->sequence = ++disk->sequence;
	list_append(&disk->unflushed, &write->node);
	list_for_each_safe (node, &disk->bad) {
		struct bad_range *bad = container_of(node, struct bad_range, node);

		/* A sector that is written is well again; a range is small enough to heal as one when all of
		 * it is. */
		if (bad->what == RING_SIM_BAD_READ && write->offset <= bad->offset &&
		    bad->offset + bad->length <= write->offset + write->length) {
			list_remove(node);
			free(bad);
		}
	}
}

/* Keeps, loses or tears one unflushed write. */
static void settle_at_random(struct ring_sim *sim, struct sim_disk *disk, struct unflushed *write)
{
	uint64_t sector = disk->options.sector_size;
	uint64_t fate = rand_below(&sim->rand, 4);

	if (fate == 0)
		store(disk->stable, &disk->stable_size, write, 0, write->length);
	for (uint64_t at = 0; fate >= 2 && at < write->length;) {
		uint64_t next =
		    min_u64(align_down(write->offset + at, sector) + sector - write->offset, write->length);

		if (rand_below(&sim->rand, 2))
			store(disk->stable, &disk->stable_size, write, at, next - at);
		at = next;
	}
	unflushed_free(write);
}

static bool overlaps_bad(
    const struct sim_disk *disk, enum ring_sim_bad what, uint64_t offset, uint64_t length)
{
	list_for_each (node, &disk->bad) {
		const struct bad_range *bad = container_of(node, struct bad_range, node);

		if (bad->what == what && offset < bad->offset + bad->length && bad->offset < offset + length)
			return true;
	}
	return false;
}

/* How much of `length` an operation moves, when it may move less. */
static uint64_t shorten(struct ring_sim *sim, const struct sim_disk *disk, uint64_t length, uint32_t align)
{
	uint64_t unit = max_u64(disk->options.sector_size, align);

	if (length <= unit || !rand_ppm(&sim->rand, disk->options.short_ppm))
		return length;
	return unit * rand_between(&sim->rand, 1, (length - 1) / unit);
}

static int perform_read(struct ring_sim *sim, struct sim_disk *disk, struct ring_op *op, uint32_t align)
{
	uint64_t length = op->length;

	disk->counts.reads++;
	if (op->offset + length > align_up(max_u64(disk->size, disk->options.size_max), 4096))
		disk->counts.read_outside++;
	if (op->offset >= disk->size)
		return 0;
	length = shorten(sim, disk, min_u64(length, disk->size - op->offset), align);
	if (overlaps_bad(disk, RING_SIM_BAD_READ, op->offset, length) ||
	    rand_ppm(&sim->rand, disk->options.read_error_ppm))
		return -EIO;
	memcpy(op->buf, disk->data + op->offset, length);
	disk->counts.bytes_read += length;
	return (int)length;
}

static int perform_fsync(struct ring_sim *sim, struct sim_disk *disk, uint64_t sequence);

static int perform_write(struct ring_sim *sim, struct sim_disk *disk, struct ring_op *op, uint32_t align)
{
	uint64_t length = sim_op_length(op);
	struct unflushed *write;

	disk->counts.writes++;
	if (op->offset + length < length || op->offset + length > disk->options.size_max) {
		disk->counts.write_outside++;
		return -ENOSPC;
	}
	length = shorten(sim, disk, length, align);
	if (overlaps_bad(disk, RING_SIM_BAD_WRITE, op->offset, length) ||
	    rand_ppm(&sim->rand, disk->options.write_error_ppm))
		return -EIO;
	if (disk->space < length)
		length = align_down(disk->space, disk->options.sector_size);
	if (length == 0)
		return -ENOSPC;
	if (disk->space != UINT64_MAX)
		disk->space -= length;
	write = sim_alloc(sizeof(*write) + length);
	write->offset = op->offset;
	write->length = length;
	sim_op_gather(op, 0, write->data, length);
	apply(disk, write);
	disk->counts.bytes_written += length;
	if (op->mode & RWF_DSYNC && perform_fsync(sim, disk, write->sequence) < 0)
		return -EIO;
	return (int)length;
}

static int perform_fallocate(struct sim_disk *disk, struct ring_op *op)
{
	uint64_t length = op->length;
	struct unflushed *write;

	if (disk->options.no_fallocate)
		return -EOPNOTSUPP;
	if (length == 0 || op->offset + length < length)
		return -EINVAL;
	if (op->offset + length > disk->options.size_max) {
		disk->counts.write_outside++;
		return -EFBIG;
	}
	if (op->mode & FALLOC_FL_KEEP_SIZE)
		length = op->offset < disk->size ? min_u64(length, disk->size - op->offset) : 0;
	if (op->mode & FALLOC_FL_PUNCH_HOLE && !(op->mode & FALLOC_FL_KEEP_SIZE))
		return -EOPNOTSUPP;
	if (!(op->mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) || length == 0)
		return 0;
	write = sim_alloc(sizeof(*write));
	write->offset = op->offset;
	write->length = length;
	write->zero = true;
	apply(disk, write);
	return 0;
}

/* What was lost is lost to readers too, as it is to those who read past the cache. */
static void reread(struct sim_disk *disk)
{
	memcpy(disk->data, disk->stable, disk->capacity);
	disk->size = disk->stable_size;
	list_for_each (node, &disk->unflushed) {
		const struct unflushed *write = container_of(node, struct unflushed, node);

		store(disk->data, &disk->size, write, 0, write->length);
	}
}

static int perform_fsync(struct ring_sim *sim, struct sim_disk *disk, uint64_t sequence)
{
	bool fails = rand_ppm(&sim->rand, disk->options.fsync_error_ppm);

	disk->counts.flushes++;
	disk->counts.flushes_failed += fails;
	list_for_each_safe (node, &disk->unflushed) {
		struct unflushed *write = container_of(node, struct unflushed, node);

		if (write->sequence > sequence)
			break;
		/* After a failed flush the cache shows the data as clean, and no later flush brings them to
		 * the disk. */
		if (fails) {
			settle_at_random(sim, disk, write);
			continue;
		}
		store(disk->stable, &disk->stable_size, write, 0, write->length);
		unflushed_free(write);
	}
	if (fails)
		reread(disk);
	return fails ? -EIO : 0;
}

static bool aligned(const struct sim_fd *fd, const struct ring_op *op)
{
	uint64_t bits = op->offset | sim_op_length(op);

	if (op->opcode != RING_WRITEV)
		bits |= (uintptr_t)op->buf;
	for (unsigned i = 0; op->opcode == RING_WRITEV && i < op->iov_count; i++)
		bits |= (uintptr_t)op->iov[i].iov_base | op->iov[i].iov_len;
	return (bits & (fd->align - 1)) == 0;
}

static int perform(struct ring_sim *sim, struct sim_work *work)
{
	struct ring_op *op = work->op;
	struct sim_fd *fd = sim_fd_get(sim, op->fd);
	struct sim_disk *disk = fd->object;

	if (disk->off)
		return -EIO;
	if (op->opcode == RING_WRITE || op->opcode == RING_WRITEV)
		disk->counts.buffer_changed += sim_op_crc(op) != work->crc;
	if (op->opcode <= RING_WRITEV && !aligned(fd, op)) {
		disk->counts.misaligned++;
		return -EINVAL;
	}
	switch (op->opcode) {
	case RING_READ:
		return perform_read(sim, disk, op, fd->align);
	case RING_WRITE:
	case RING_WRITEV:
		return perform_write(sim, disk, op, fd->align);
	case RING_FSYNC:
		return perform_fsync(sim, disk, work->flush_sequence);
	case RING_FALLOCATE:
		return perform_fallocate(disk, op);
	case RING_DISCARD:
		return -EOPNOTSUPP;
	case RING_POLL:
		return op->events;
	default:
		return -EINVAL;
	}
}

void sim_disk_submit(struct ring_sim *sim, struct sim_fd *fd, struct sim_work *work)
{
	struct sim_disk *disk = fd->object;
	const struct ring_sim_disk_options *options = &disk->options;
	uint64_t ns = rand_between(&sim->rand, options->latency_min_ns, options->latency_max_ns);

	if (work->op->opcode == RING_FSYNC)
		ns *= 4;
	if (rand_ppm(&sim->rand, options->slow_ppm))
		ns += options->slow_ns;
	work->flush_sequence = disk->sequence;
	work->crc = sim_op_crc(work->op);
	work->perform = perform;
	sim_schedule(sim, &work->event, ns);
}

/* A disk lets go of what it has not begun: now and then. */
bool sim_disk_cancel(struct ring_sim *sim, struct sim_work *work)
{
	return work->perform && rand_below(&sim->rand, 4) == 0;
}

void sim_disk_abandon(struct ring_sim *sim, struct sim_fd *fd, struct sim_work *work)
{
	struct sim_disk *disk = fd->object;
	struct ring_op *op = work->op;
	uint64_t length = sim_op_length(op), keep = length;
	uint64_t fate = rand_below(&sim->rand, 3);
	struct unflushed *write;

	if (disk->off || fate == 0 || (op->opcode != RING_WRITE && op->opcode != RING_WRITEV) ||
	    !aligned(fd, op))
		return;
	if (fate == 1 && length > disk->options.sector_size)
		keep = disk->options.sector_size * rand_below(&sim->rand, length / disk->options.sector_size);
	if (keep == 0 || op->offset + keep > disk->options.size_max || keep > disk->space)
		return;
	write = sim_alloc(sizeof(*write) + keep);
	write->offset = op->offset;
	write->length = keep;
	sim_op_gather(op, 0, write->data, keep);
	apply(disk, write);
}

/* For tests */

int ring_sim_disk_new(struct ring_sim *sim, const struct ring_sim_disk_options *options)
{
	struct sim_disk *disk = sim_alloc(sizeof(*disk));

	disk->options = *options;
	if (disk->options.sector_size == 0)
		disk->options.sector_size = 512;
	if (disk->options.size_max < options->size)
		disk->options.size_max = options->size;
	if (disk->options.latency_max_ns == 0) {
		disk->options.latency_min_ns = 20000;
		disk->options.latency_max_ns = 200000;
	}
	list_init(&disk->unflushed);
	list_init(&disk->bad);
	reserve(disk, max_u64(options->size, 1));
	disk->size = disk->stable_size = options->size;
	disk->space = UINT64_MAX;
	return sim_fd_add(sim, SIM_FD_DISK, disk, 0, 1);
}

int ring_sim_disk_direct(struct ring_sim *sim, int fd, uint32_t align)
{
	return sim_fd_add(sim, SIM_FD_DISK, disk_of(sim, fd), 1, align);
}

struct ring_sim_disk_options *ring_sim_disk_options(struct ring_sim *sim, int fd)
{
	return &disk_of(sim, fd)->options;
}

const struct ring_sim_disk_counts *ring_sim_disk_counts(struct ring_sim *sim, int fd)
{
	return &disk_of(sim, fd)->counts;
}

uint8_t *ring_sim_disk_data(struct ring_sim *sim, int fd, uint64_t *ret_size)
{
	struct sim_disk *disk = disk_of(sim, fd);

	*ret_size = disk->size;
	return disk->data;
}

const uint8_t *ring_sim_disk_stable(struct ring_sim *sim, int fd, uint64_t *ret_size)
{
	struct sim_disk *disk = disk_of(sim, fd);

	*ret_size = disk->stable_size;
	return disk->stable;
}

static void forget_unflushed(struct sim_disk *disk)
{
	list_for_each_safe (node, &disk->unflushed)
		unflushed_free(container_of(node, struct unflushed, node));
}

void ring_sim_disk_settle(struct ring_sim *sim, int fd)
{
	struct sim_disk *disk = disk_of(sim, fd);

	forget_unflushed(disk);
	memcpy(disk->stable, disk->data, disk->capacity);
	disk->stable_size = disk->size;
}

void ring_sim_disk_enlarge(struct ring_sim *sim, int fd, const uint8_t *data, uint64_t length)
{
	struct sim_disk *disk = disk_of(sim, fd);
	uint64_t end = max_u64(disk->size, disk->stable_size);

	reserve(disk, end + length);
	memcpy(disk->data + end, data, length);
	memcpy(disk->stable + end, data, length);
	disk->size = disk->stable_size = end + length;
	disk->options.size_max = max_u64(disk->options.size_max, disk->size);
}

void ring_sim_disk_resize(struct ring_sim *sim, int fd, uint64_t size)
{
	struct sim_disk *disk = disk_of(sim, fd);

	ring_sim_disk_settle(sim, fd);
	reserve(disk, size);
	if (size < disk->size) {
		memset(disk->data + size, 0, disk->size - size);
		memset(disk->stable + size, 0, disk->size - size);
	}
	disk->size = disk->stable_size = size;
	disk->options.size_max = max_u64(disk->options.size_max, size);
}

void ring_sim_disk_bad(struct ring_sim *sim, int fd, enum ring_sim_bad what, uint64_t offset, uint64_t length)
{
	struct bad_range *bad = sim_alloc(sizeof(*bad));

	bad->what = what;
	bad->offset = offset;
	bad->length = length;
	list_append(&disk_of(sim, fd)->bad, &bad->node);
}

void ring_sim_disk_heal(struct ring_sim *sim, int fd)
{
	list_for_each_safe (node, &disk_of(sim, fd)->bad) {
		list_remove(node);
		free(container_of(node, struct bad_range, node));
	}
}

void ring_sim_disk_space(struct ring_sim *sim, int fd, uint64_t bytes)
{
	disk_of(sim, fd)->space = bytes;
}

void ring_sim_power_cut(struct ring_sim *sim, int fd)
{
	struct sim_disk *disk = disk_of(sim, fd);

	list_for_each_safe (node, &disk->unflushed)
		settle_at_random(sim, disk, container_of(node, struct unflushed, node));
	memcpy(disk->data, disk->stable, disk->capacity);
	disk->size = disk->stable_size;
	disk->off = true;
}

void ring_sim_power_on(struct ring_sim *sim, int fd)
{
	disk_of(sim, fd)->off = false;
}

void sim_disk_free(void *object)
{
	struct sim_disk *disk = object;

	forget_unflushed(disk);
	list_for_each_safe (node, &disk->bad)
		free(container_of(node, struct bad_range, node));
	free(disk->data);
	free(disk->stable);
	free(disk);
}
