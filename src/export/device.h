/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A block device of this machine, /dev/blkmove/NAME, whose requests go to a block: by ublk where the kernel has it, else by the
 * kernel's NBD client. All on the thread of the ring and the block. When the process dies, requests to the device wait; another
 * process that makes the same device takes it over with all that was under way. Needs CAP_SYS_ADMIN.
 */
#pragma once

#include "block/block.h"

#define DEVICE_NAME_MAX   64u
#define DEVICE_FOLDER     "/dev/blkmove"
#define DEVICE_QUEUES_MAX 16u

struct device;

enum device_kind { DEVICE_AUTO, DEVICE_UBLK, DEVICE_NBD };

struct device_options {
	const char *name; /* see device_name_check() */
	/* What the device is, in words: one that was left behind is taken over only by who says the same. At most 400 bytes. */
	const char *identity;
	struct block *block; /* borrowed until device_free(); not a stream */
	bool read_only;      /* also when the block is not writable */
	bool temporary;      /* its contents end with the process: so does the device, its users get errors */
	enum device_kind kind;
	bool
	    adopt; /* take over one that says something else: who asks for it knows that the volume holds the same */
	unsigned queues; /* of ublk; 0: one a processor, 4 at most */

	/* From the loop; may be NULL. They may not free the device. */
	void *data;
	/* A request was answered, `ns` nanoseconds after it came. */
	void (*answered)(void *data, enum block_op op, uint64_t length, int res, uint64_t ns);
	/* The kernel let the device go, or told what cannot be: it is of no use any more. */
	void (*failed)(void *data, const struct error *why);
};

struct device_info {
	char path[sizeof(DEVICE_FOLDER) + DEVICE_NAME_MAX + 1]; /* /dev/blkmove/NAME */
	char node[32];                                          /* where it leads: /dev/ublkb0, /dev/nbd0 */
	enum device_kind kind;
	uint64_t size;   /* bytes; less than the volume's while device_grow() is due, or cannot be */
	bool taken_over; /* from a process that died */
};

/* -EINVAL with words: letters, digits, '.', '_' and '-', no '.' first. */
int device_name_check(const char *name, struct error *error);
/*
 * Makes the device, or takes over the one of that name, also when it is smaller than the volume by now. -EINVAL: the volume cannot be a device; -EALREADY: another process serves it;
 * -EEXIST: one of that name was left behind that is something else; -EOPNOTSUPP: the kernel has neither ublk nor NBD. All with
 * words. Protects the process's memory: see device_protect.h. Control path: runs the ring.
 */
int device_new(
    struct device **ret, struct ring *ring, const struct device_options *options, struct error *error);
const struct device_info *device_info(const struct device *device);
/*
 * The volume has become larger: so does the device, for those that use it, too. -EOPNOTSUPP with words: this kernel cannot do that, and the device
 * stays as it is; or another -errno. No other call may have the device meanwhile. Control path: runs the ring; since Linux 6.9 the kernel's NBD client waits for
 * the requests that are under way.
 */
int device_grow(struct device *device, struct error *error);
/*
 * Removes the device; its requests are answered before, and what is in the page cache is written. -EBUSY, with words that name the
 * user, when it is mounted, held or open: then nothing has changed. Control path: runs the ring.
 */
int device_stop(struct device *device, struct error *error);
/*
 * After device_stop(); or without it: then the device is left behind for the next process, its requests wait. The ring may have
 * operations of it until ring_free(). No request may be with the block. Takes NULL; returns NULL.
 */
struct device *device_free(struct device *device);
/* "ublk", "nbd", "auto" in the order of the enum, and NULL. */
extern const char *const device_kind_names[];
