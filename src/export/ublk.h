/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A device by ublk: see device.h. ublk.c makes, takes over and removes it; ublk_queue.c has its requests. All queues are served by
 * the one thread of the ring; they spare the processors that use the device a shared lock.
 */
#pragma once

#include "export/device_private.h"
#include "export/ublk_abi.h"

#include <stdatomic.h>

#define UBLK_QUEUES      4u
#define UBLK_DEPTH       64u          /* requests of one queue */
#define UBLK_REQUEST_MAX (256u << 10) /* bytes of one request */
#define UBLK_TRIM_MAX    (1u << 30)   /* bytes of one discard */
#define UBLK_ZERO_MAX    (64u << 20)  /* bytes of one write-zeroes */

/* One request that there may be: the command that fetches it and tells what became of it, and the block's part. */
struct ublk_tag {
	struct ring_op op;
	struct block_io io;
	struct ublk *ublk;
	const struct ublksrv_io_desc *desc; /* the kernel's, of the request that was fetched */
	uint8_t *buf;
	uint64_t begun_ns;
	uint16_t queue, number;
};

struct ublk {
	struct device *device; /* NULL: let go */
	int fd;                /* /dev/ublkcN */
	unsigned queues, depth;
	uint32_t request_max; /* bytes */
	uint8_t *maps[DEVICE_QUEUES_MAX];
	size_t map_size;
	uint8_t *bufs;
	struct ublk_tag *tags;
	unsigned open; /* tags that the kernel has, or will have again; and who waits for their end */
	unsigned busy; /* requests that the block has */
	bool added;    /* the kernel has the device, by us */
	bool half_way; /* who was taking it over before us died before the kernel had its commands */
	bool stopping;
	bool ended, idle; /* no tag is open; nothing is with the block */
	atomic_bool broken;
};

/* Maps and allocates by queues, depth and request_max; fd is open. -errno. */
int ublk_queues_new(struct ublk *ublk);
/* Asks for the first requests. On the ring's thread, and from now on there. */
void ublk_queues_start(struct ublk *ublk);
/* When none is open. */
void ublk_queues_done(struct ublk *ublk);
/* What is behind the kernel's description: 0, or -EINVAL for what is not known. Sets op, flags, offset and length. */
int ublk_request_parse(const struct ublksrv_io_desc *desc, struct block_io *ret);
/* The device's description, for the kernel. */
void ublk_params_fill(const struct device_shape *shape, uint32_t request_max, struct ublk_params *ret);
/* A number that the kernel keeps with the device: whose it is. The upper half is the name's alone. */
uint64_t ublk_mark(const char *name, const char *identity);
