/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table of a device-mapper device: which sectors go where (the kernel's device-mapper documents, one for each target).
 * Plain data: what the kernel knows is dm.h's.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define DM_TARGET_TYPE 16u  /* bytes of a type's name, with its end */
#define DM_NAME_MAX    130u /* bytes of a name or uuid, with its end */

struct dm_target {
	uint64_t start, length; /* sectors of 512 bytes */
	char type[DM_TARGET_TYPE];
	char *params; /* owned */
};

struct dm_table {
	struct dm_target *targets;
	size_t count;
};

/* Appends one. 0 or -ENOMEM. */
int dm_table_add(
    struct dm_table *table, uint64_t start, uint64_t length, const char *type, const char *params);
/* Adds `length` sectors of `device`, from its sector `begin` on. 0 or -ENOMEM. */
int dm_table_add_linear(struct dm_table *table, uint64_t length, dev_t device, uint64_t begin);
/* Sectors in all. */
uint64_t dm_table_length(const struct dm_table *table);
bool dm_table_equal(const struct dm_table *a, const struct dm_table *b);
int dm_table_copy(struct dm_table *ret, const struct dm_table *table);
/* Linear and striped targets alone: two devices with such a table are the same sectors, for it keeps nothing of its own. */
bool dm_table_is_plain(const struct dm_table *table);
/* One target of that type, and no other. */
bool dm_table_is(const struct dm_table *table, const char *type);
/* Fit for another dm_table_add(). */
void dm_table_done(struct dm_table *table);

/* The next word of `params` from `*at` on that names a device ("8:16"); false: there is none. *at: behind it. */
bool dm_params_next_device(const char *params, size_t *at, dev_t *ret);
/*
 * The only word of `params` that names a device ("8:16"): where it begins and how long it is. -ENOENT: there is none, or more than
 * one.
 */
int dm_params_device(const char *params, size_t *ret_at, size_t *ret_length, dev_t *ret_device);
/* The same table with `device` in place of the one that its only target names. -EINVAL if that cannot be. */
int dm_table_with_device(
    struct dm_table *ret, const struct dm_table *table, dev_t device, struct error *error);
