/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Questions to device-mapper, and messages to its targets, by libdevmapper. Needs the rights that dmsetup needs. No state of our
 * own; libdevmapper's log, which is the process's, is kept silent. Control paths: each call is an ioctl.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct dm_volume {
	char name[128], uuid[130]; /* uuid: "" for none; LVM's begin with "LVM-" */
	dev_t dev;
	uint64_t size;    /* bytes */
	unsigned targets; /* of its table; what follows is of the first */
	char type[32];    /* "snapshot", "linear" */
	char params[768]; /* as `dmsetup table` or `dmsetup status` shows them */
};

/* Whether `dev` is a mapped device. */
bool dm_is(dev_t dev);
/* By its name or, where that begins with '/', by its device node. Returns 0, -ENOENT or another -errno, with words. */
int dm_find(const char *name, dev_t *ret, struct error *error);
/* The active table, or what its targets say of themselves. Returns 0 or -errno with words. */
int dm_table(dev_t dev, struct dm_volume *ret, struct error *error);
int dm_status(dev_t dev, struct dm_volume *ret, struct error *error);
int dm_message(dev_t dev, const char *message, struct error *error);
/*
 * What tells this device from every other, as long as it lasts: an LVM volume's UUID; of others, whose name and UUID are used
 * again, which attachment in which boot it is. False when that cannot be known.
 */
bool dm_identity(const struct dm_volume *volume, char *ret, size_t length);
/* A node in /dev for a device, also where no udev makes them; false when there is none. */
bool dm_node(dev_t dev, char *ret, size_t length);
/* Word `index` of params, from 0; returns false when there is none, or it is too long. */
bool dm_word(const struct dm_volume *volume, unsigned index, char *ret, size_t length);
/* Word `index` of params as a device, written MAJOR:MINOR. */
bool dm_word_device(const struct dm_volume *volume, unsigned index, dev_t *ret);
