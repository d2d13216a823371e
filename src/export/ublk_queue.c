/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests of a ublk device. Each tag has one command with the kernel: it ends when a request has come, whose data is then in the tag's
 * buffer, and goes again with the answer. When the kernel ends it with an error, the tag is out of use.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/crc32c.h"
#include "export/ublk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int ublk_request_parse(const struct ublksrv_io_desc *desc, struct block_io *ret)
{
	static const struct {
		bool known;
		enum block_op op;
	} ops[] = {[UBLK_IO_OP_READ] = {true, BLOCK_READ},
	    [UBLK_IO_OP_WRITE] = {true, BLOCK_WRITE},
	    [UBLK_IO_OP_FLUSH] = {true, BLOCK_FLUSH},
	    [UBLK_IO_OP_DISCARD] = {true, BLOCK_TRIM},
	    [UBLK_IO_OP_WRITE_ZEROES] = {true, BLOCK_ZERO}};
	unsigned op = desc->op_flags & 0xff;

	if (op >= sizeof(ops) / sizeof(ops[0]) || !ops[op].known)
		return -EINVAL;
	ret->op = ops[op].op;
	ret->flags = 0;
	if (desc->op_flags & UBLK_IO_F_FUA)
		ret->flags |= BLOCK_FUA;
	if (op == UBLK_IO_OP_WRITE_ZEROES && (desc->op_flags & UBLK_IO_F_NOUNMAP))
		ret->flags |= BLOCK_NO_HOLE;
	ret->offset = op == UBLK_IO_OP_FLUSH ? 0 : desc->start_sector * 512;
	ret->length = op == UBLK_IO_OP_FLUSH ? 0 : (uint64_t)desc->nr_sectors * 512;
	return 0;
}

void ublk_params_fill(const struct device_shape *shape, uint32_t request_max, struct ublk_params *ret)
{
	unsigned logical = (unsigned)__builtin_ctz(shape->logical);
	unsigned physical = (unsigned)__builtin_ctz(shape->physical);

	*ret = (struct ublk_params){.len = sizeof(*ret),
	    .types = UBLK_PARAM_TYPE_BASIC | UBLK_PARAM_TYPE_DISCARD,
	    .basic = {.attrs = UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA |
	                       (shape->read_only ? UBLK_ATTR_READ_ONLY : 0),
	        .logical_bs_shift = (uint8_t)logical,
	        .physical_bs_shift = (uint8_t)physical,
	        .io_min_shift = (uint8_t)physical,
	        .io_opt_shift = (uint8_t)physical,
	        .max_sectors = request_max / 512,
	        .dev_sectors = shape->size / 512},
	    .discard = {.discard_granularity = shape->physical,
	        .max_discard_sectors = UBLK_TRIM_MAX / 512,
	        .max_write_zeroes_sectors = UBLK_ZERO_MAX / 512,
	        .max_discard_segments = 1}};
}

uint64_t ublk_mark(const char *name, const char *identity)
{
	return (uint64_t)crc32c(0, name, strlen(name)) << 32 | crc32c(0, identity, strlen(identity));
}

/* Commands */

static void say_broken(struct ublk *ublk, int res)
{
	struct error why;

	if (!ublk->device || ublk->stopping || atomic_exchange(&ublk->broken, true))
		return;
	error_set(&why, res, "the kernel lets it go: %s", strerror(-res));
	device_fail(ublk->device, &why);
}

static void end_tag(struct ublk_tag *tag, int res)
{
	struct ublk *ublk = tag->ublk;

	say_broken(ublk, res);
	ublk->ended = --ublk->open == 0;
	if (ublk->ended && !ublk->device) {
		ublk_queues_done(ublk);
		free(ublk);
	}
}

static void send_command(struct ublk_tag *tag, unsigned number, int result)
{
	struct ublksrv_io_cmd command = {
	    .q_id = tag->queue, .tag = tag->number, .result = result, .addr = (uint64_t)(uintptr_t)tag->buf};

	_Static_assert(sizeof(command) == 16, "what a RING_COMMAND takes");
	tag->op.opcode = RING_COMMAND;
	tag->op.fd = tag->ublk->fd;
	tag->op.mode = (int)UBLK_IO(number);
	tag->op.buf = &command;
	ring_submit(tag->ublk->device->ring, &tag->op);
}

static void answer(struct ublk_tag *tag, int res)
{
	struct device *device = tag->ublk->device;
	bool data = tag->io.op == BLOCK_READ || tag->io.op == BLOCK_WRITE;

	/* Let go meanwhile: who takes the device over gets the request again. */
	if (!device) {
		end_tag(tag, -ECANCELED);
		return;
	}
	device_answered(device, &tag->io, res, tag->begun_ns);
	send_command(tag, UBLK_IO_COMMIT_AND_FETCH_REQ, res < 0 ? res : data ? (int)tag->io.length : 0);
}

static void io_done(struct block_io *io, int res)
{
	struct ublk_tag *tag = container_of(io, struct ublk_tag, io);

	tag->ublk->idle = --tag->ublk->busy == 0;
	answer(tag, res);
}

static void fetched(struct ring_op *op, int res)
{
	struct ublk_tag *tag = container_of(op, struct ublk_tag, op);
	struct device *device = tag->ublk->device;

	if (res < 0 || !device) {
		end_tag(tag, res < 0 ? res : -ECANCELED);
		return;
	}
	tag->begun_ns = ring_now_ns(device->ring);
	res = ublk_request_parse(tag->desc, &tag->io);
	if (res == 0 &&
	    !block_takes_range(block_info(device->options.block), tag->io.op, tag->io.offset, tag->io.length))
		res = -EIO;
	if (res < 0) {
		answer(tag, res);
		return;
	}
	tag->ublk->busy++;
	tag->ublk->idle = false;
	block_submit(device->options.block, &tag->io);
}

/* Memory */

static int map_queues(struct ublk *ublk)
{
	ublk->map_size =
	    align_up(ublk->depth * sizeof(struct ublksrv_io_desc), (uint64_t)sysconf(_SC_PAGESIZE));
	for (unsigned i = 0; i < ublk->queues; i++) {
		void *map = mmap(NULL, ublk->map_size, PROT_READ, MAP_SHARED | MAP_POPULATE, ublk->fd,
		    (off_t)(UBLKSRV_CMD_BUF_OFFSET +
		            i * align_up(UBLK_QUEUE_STRIDE, (uint64_t)sysconf(_SC_PAGESIZE))));

		if (map == MAP_FAILED)
			return -errno;
		ublk->maps[i] = map;
	}
	return 0;
}

static size_t bufs_size(const struct ublk *ublk)
{
	return (size_t)ublk->queues * ublk->depth * ublk->request_max;
}

int ublk_queues_new(struct ublk *ublk)
{
	int res = map_queues(ublk);
	void *bufs;

	if (res < 0)
		return res;
	bufs = mmap(NULL, bufs_size(ublk), PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (bufs == MAP_FAILED)
		return -errno;
	ublk->bufs = bufs;
	ublk->tags = calloc((size_t)ublk->queues * ublk->depth, sizeof(*ublk->tags));
	return ublk->tags ? 0 : -ENOMEM;
}

void ublk_queues_start(struct ublk *ublk)
{
	ublk->ended = false;
	for (unsigned i = 0; i < ublk->queues * ublk->depth; i++) {
		struct ublk_tag *tag = &ublk->tags[i];

		tag->ublk = ublk;
		tag->queue = (uint16_t)(i / ublk->depth);
		tag->number = (uint16_t)(i % ublk->depth);
		tag->desc = (const struct ublksrv_io_desc *)ublk->maps[tag->queue] + tag->number;
		tag->buf = ublk->bufs + (size_t)i * ublk->request_max;
		tag->io.buf = tag->buf;
		tag->io.done = io_done;
		tag->op.done = fetched;
		ublk->open++;
		send_command(tag, UBLK_IO_FETCH_REQ, 0);
	}
}

void ublk_queues_done(struct ublk *ublk)
{
	for (unsigned i = 0; i < ublk->queues; i++)
		if (ublk->maps[i])
			munmap(ublk->maps[i], ublk->map_size);
	if (ublk->bufs)
		munmap(ublk->bufs, bufs_size(ublk));
	free(ublk->tags);
	cleanup_close(&ublk->fd);
	memset(ublk->maps, 0, sizeof(ublk->maps));
	ublk->bufs = NULL;
	ublk->tags = NULL;
	ublk->fd = -1;
}
