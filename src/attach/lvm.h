/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What LVM must know when a volume's device has come to lie elsewhere: its metadata say where a volume lies, and the next start of the
 * machine goes by them. Two volumes of one group exchange their segments; names, ids and all else stay. LVM's text
 * format is read and written by libdevmapper's parser; vgcfgbackup(8) and vgcfgrestore(8) carry it.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define LVM_NAME_MAX  128u
#define LVM_POINT_TAG "blkmove_point"

struct lvm_pair {
	char group[LVM_NAME_MAX];
	char moved[LVM_NAME_MAX];
	char target[LVM_NAME_MAX];
};

/* Group and volume of a device with this name and uuid; false when it is none of LVM's, or a part of one. */
bool lvm_name(const char *dm_name, const char *dm_uuid, char *ret_group, char *ret_volume);
/* The same by the name alone, of a volume that may be gone: whether it was one of LVM's the caller knows. */
bool lvm_split(const char *dm_name, char *ret_group, char *ret_volume);

/*
 * Metadata in which the two have exchanged their segments; the caller frees *ret. -EOPNOTSUPP with words if one of them is more than
 * a row of pieces of physical volumes, or has a snapshot, they differ in size, or other machines may change the group.
 */
int lvm_exchange_text(const char *text, const struct lvm_pair *pair, char **ret, struct error *error);
struct lvm_space {
	uint64_t extent_bytes;
	uint64_t extents; /* of the volume */
	uint64_t free;    /* extents of the group that nothing lies on, where new volumes may lie */
};

/* By the metadata of `text`. -ENOENT or -EBADMSG with words. */
int lvm_space_of(
    const char *text, const char *group, const char *volume, struct lvm_space *ret, struct error *error);
/*
 * The points of a volume (lvm_points.h), the oldest first, at most `max`; by the metadata of `text`. How many there are, or -errno
 * with words.
 */
int lvm_points_of(const char *text, const char *group, const char *volume, char (*ret_names)[LVM_NAME_MAX],
    unsigned max, struct error *error);
/*
 * Runs one of LVM's commands that change something, to its end; with what it says in the words of an error. Waits for at most a minute
 * until nobody has `group` locked (-EBUSY), but then for as long as it takes. NULL: the caller has locked it.
 */
int lvm_run(const char *group, char *const *words, struct error *error);
/* Whether the locks that lvm_lock() takes are LVM's. -EOPNOTSUPP with words: LVM is configured to have its own elsewhere. */
int lvm_check_locks(struct error *error);
/* Whether they keep all others from changing the group, by the metadata of `text`. -EOPNOTSUPP with words: machines share it. */
int lvm_check_group(const char *text, const char *group, struct error *error);
/* The same of lvm_check_locks(), by what lvmconfig(8) says. -EBADMSG with words. */
int lvm_locking_dir(const char *text, char *ret, unsigned length, struct error *error);
/* The group's metadata as they are; the caller frees *ret. */
int lvm_read(const char *group, char **ret, struct error *error);
/* Keeps LVM's commands from the group until the caller closes what is returned; waits for those at work. -errno with words. */
int lvm_lock(const char *group, struct error *error);
/* The same, but -EWOULDBLOCK when they are at work for ten seconds: they may wait for what the caller is about to let go. */
int lvm_lock_soon(const char *group, struct error *error);
/* Exchanges them on the disks, durably; the caller has locked the group. Run again it exchanges them back: lvm_first() tells which of both it is. */
int lvm_exchange(const struct lvm_pair *pair, struct error *error);
/* Where a volume of `text` begins: "PV:EXTENT". */
int lvm_first(
    const char *text, const char *group, const char *volume, char *ret, unsigned length, struct error *error);
