/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Device-mapper devices, over libdevmapper: looks, makes, swaps tables, removes. Every call is one ioctl and, where udev runs, the wait for
 * its rules. Devices go by their names, as /dev/mapper has them. Control paths only.
 */
#pragma once

#include "attach/dm_table.h"

struct dm_facts {
	char name[DM_NAME_MAX], uuid[DM_NAME_MAX];
	dev_t device;
	bool suspended, read_only, live_table, inactive_table;
	int open_count;
};

/* 0; -ENXIO with words when the kernel or the user has no device-mapper. */
int dm_check(struct error *error);
/* Closes what the library keeps open; the next call opens it anew. For a process that is about to close all descriptors. */
void dm_release(void);
/* By name; -ENXIO when there is none. */
int dm_look(const char *name, struct dm_facts *ret, struct error *error);
/* The device that a path leads to; -ENOTBLK when it is none of device-mapper's. */
int dm_look_path(const char *path, struct dm_facts *ret, struct error *error);
/*
 * The live table, into an empty one. With `secrets` keys are in it as they are, and are wiped from the library's memory, not from
 * ours: see dm_table_wipe().
 */
int dm_get_table(const char *name, bool secrets, struct dm_table *ret, struct error *error);
/* The table in the inactive slot; an empty one when there is none. */
int dm_get_waiting(const char *name, struct dm_table *ret, struct error *error);
/* Overwrites the parameters before they are freed. */
void dm_table_wipe(struct dm_table *table);
/* What the targets say of themselves, in the place of their parameters. */
int dm_get_status(const char *name, struct dm_table *ret, struct error *error);
/*
 * Makes a device of our own, with the uuid BLKMOVE-NAME (a name of at most 120 bytes), and lets it run; without a table (NULL) it
 * waits for dm_load() and dm_resume().
 */
int dm_create(const char *name, const struct dm_table *table, struct error *error);
/* Into the inactive slot. What is read-only stays so. */
int dm_load(const char *name, bool secrets, const struct dm_table *table, struct error *error);
/* Empties the inactive slot. */
int dm_clear(const char *name, struct error *error);
/* Waits until what is under way has ended, and holds what comes. File systems are not frozen: nothing needs them to be. */
int dm_suspend(const char *name, struct error *error);
/* Puts the inactive table in the live one's place, if there is one (of a device that runs, too), and lets go what was held. */
int dm_resume(const char *name, struct error *error);
/* 0 also when there is no such device; -EBUSY when it is open. */
int dm_remove(const char *name, struct error *error);
/*
 * For an instant in which nothing changes on `name`: suspends it, and with it the file system that lies directly on it is frozen; resumes `inner`, which
 * begins to work in that instant; resumes `name`, with its waiting table if there is one. udev is waited for afterwards only. When it fails
 * `name` runs, or the error says that it is suspended still.
 */
int dm_moment(const char *name, const char *inner, struct error *error);
/*
 * Swaps the table under whoever uses the device: load, suspend, look, resume. look() (may be NULL) is called while nothing is under way and says
 * whether the new table may take over: 0 or -errno with words. Without it nothing is left suspended by whoever is killed meanwhile.
 * *ret_pause_ns (may be NULL): how long the device was suspended.
 * When it fails the device runs with the table that it had, or the error says that it is suspended still.
 */
int dm_swap(const char *name, bool secrets, const struct dm_table *table,
    int (*look)(void *data, struct error *error), void *data, uint64_t *ret_pause_ns, struct error *error);
