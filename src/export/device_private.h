/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The inside of a device. device.c has its life, device_shape.c what is pure, device_link.c its name under /dev, device_kernel.c who uses
 * it; ublk*.c and kernel_nbd*.c are the two kinds.
 */
#pragma once

#include "export/device.h"

#include <stddef.h>

/* What the kernel is told. */
struct device_shape {
	uint64_t size;              /* bytes, a multiple of logical */
	uint32_t logical, physical; /* bytes, powers of two */
	bool read_only;
};

struct device_ops {
	/* Both on a thread of their own. find: 1 when there is a device of this name; -errno with words when it is in use, or is
	 * something else. available: 0, or -EOPNOTSUPP with words. */
	int (*find)(struct device *device, struct error *error);
	int (*available)(struct error *error);
	/* Makes it, or takes over what find() has found. Fills info.node. */
	int (*open)(struct device *device, struct error *error);
	/* On a thread: so many bytes, a multiple of shape.logical. -EOPNOTSUPP with words; or 0, and the kernel may have done nothing. */
	int (*grow)(struct device *device, uint64_t size, struct error *error);
	/* Nobody uses it any more; `hurry`: or it was never ready, and who looks at it gets errors. Closes claim_fd, on a thread. */
	int (*stop)(struct device *device, bool hurry, struct error *error);
	void (*free)(struct device *device);
};

struct device {
	const struct device_ops *ops; /* NULL: not chosen yet */
	struct ring *ring;
	struct device_options options; /* its texts are ours */
	char name[DEVICE_NAME_MAX + 1], identity[512];
	struct device_shape shape;
	struct device_info info;
	unsigned index; /* N of ublkbN, nbdN */
	char left
	    [700]; /* by whom the one was left behind that is taken over, as the kernel's NBD client has it */
	int lock_fd, claim_fd;
	struct ublk *ublk;
	struct kernel_nbd *nbd;
};

extern const struct device_ops ublk_ops, kernel_nbd_ops;

/* device_shape.c. -EINVAL with words when the volume cannot be a device. */
int device_shape_of(
    const struct block_info *info, bool read_only, struct device_shape *ret, struct error *error);
/* -EEXIST with words: what was left behind under this name is something else. */
int device_refuse_other(const struct device *device, const char *node, struct error *error);
int device_refuse_shape(const char *node, struct error *error);
/*
 * Whether one that was left behind with `size` bytes can be taken over, as far as that goes: of the same volume (`same`) also when that became larger since.
 * shape.size is what the device has, then.
 */
bool device_takes_size(struct device *device, uint64_t size, bool same);
/* The answer of a request that came from the kernel; `begun_ns` is when. */
void device_answered(struct device *device, const struct block_io *io, int res, uint64_t begun_ns);
void device_fail(struct device *device, const struct error *why);

/* device_link.c. `folder` is DEVICE_FOLDER but in tests. */
int device_link_make(const char *folder, const char *name, const char *node, struct error *error);
/* Only when it leads to the node. */
void device_link_remove(const char *folder, const char *name, const char *node);
/* One process a name. Returns a descriptor, or -EALREADY with words. */
int device_lock(const char *name, struct error *error);

/* device_kernel.c: on any thread. Loads a module, if there is one; no error, as it may be built in. */
void device_load_module(const char *name);
/* Opens a node that may take a moment to appear. A descriptor or -errno. */
int device_open_node(const char *path, int flags);
/* Bytes, as the kernel has it; 0: not known. */
uint64_t device_node_size(const char *node);
/* Writes to /sys/block/NODE/queue/FILE; errors are passed over. */
void device_set_queue(const char *node, const char *file, unsigned value);
/*
 * Claims the node so that nobody can mount it, and writes out its cache. Returns the claim, to be closed when the device is gone;
 * -EBUSY with words that name who uses it.
 */
int device_claim(const char *node, struct error *error);

/* The process must go on when memory is short and what could be written out is behind its own device: see prctl(2). */
void device_protect(void);

/* What a request that died with its process waits for at most, once another has taken over, milliseconds: the kernel looks as
 * often. */
#define DEVICE_LOOK_MS 3000u
