/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Looks at an open file or block device: identity, change mark, mounts, holders, writers, signatures. From
 * the descriptor, /proc and /sys (procfs(5), the kernel's sysfs-block document) and libblkid. No tools, no
 * output.
 */
#pragma once

#include "block/block.h"

#include <sys/types.h>

/* Fills facts for an open file or block device. Returns 0 or -errno with words; a fact that cannot be known
 * is empty. */
int inspect_fd(int fd, struct block_facts *ret, struct error *error);
/* Its id and places alone, at once. */
int inspect_where(int fd, struct block_facts *ret, struct error *error);
/*
 * A place of which both have bytes, or NULL: what one volume lies upon may be the other. That both lie upon a third, as two volumes of
 * one group do, is no harm.
 */
const struct block_place *inspect_common(const struct block_facts *a, const struct block_facts *b);
/* block_facts.id alone; "" when it cannot be known. Whether the volume still has it after a restart, if it is there then. */
bool inspect_identity(int fd, char *ret, unsigned length);
/*
 * Takes the writer's lock (flock(2) LOCK_EX, also honoured by udev) on the open volume until the descriptor
 * closes. Returns 0, or -EALREADY with "... is in use by another blkmove, pid N (command)" naming the lock's
 * holder as /proc/locks has it.
 */
int inspect_lock(int fd, const char *name, struct error *error);
/* Closes what may have the lock, and ends it at once: the kernel may keep the open file a little longer, for a ring or a child. -1 is none. */
void inspect_close(int *fd);
/*
 * Words for who holds a device exclusively, after an O_EXCL open failed with EBUSY; "" if that cannot be
 * seen. They go on after "it is in use by ": "a file system, mounted at /srv", "dm-3 (vg-lv)", "pid 12
 * (qemu)".
 */
void inspect_holder(int fd, char *ret, unsigned length);
/*
 * Calls found() for each mount of this process's namespace whose device is `dev` or lies upon it: where it is, and on which device. A name may be met
 * more than once.
 */
void inspect_mounts(dev_t dev, void (*found)(void *data, const char *where, dev_t on), void *data);
/*
 * What a device is, as block_facts.id has it. Returns false when the words last only as long as this boot and this attachment: then
 * they begin with INSPECT_PASSING.
 */
bool inspect_device_id(dev_t dev, char *ret, unsigned length);
#define INSPECT_PASSING "boot:"
/* What libblkid finds on a file or device, as block_facts.signature has it; "" for nothing. */
void inspect_signature(int fd, char *ret, unsigned length);
