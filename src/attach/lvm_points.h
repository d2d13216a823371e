/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Points in time of a volume that atomic rounds write to: thin snapshots, VOLUME-point-TIME, with the tag blkmove_point. They are read-only and not
 * activated (their file systems have the volume's UUIDs); `lvchange -ay -K` makes one visible.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>

/*
 * A point of what the device at `path` holds now; then the oldest are removed until `keep` are left (at least 1). With `check_only`: whether that could be.
 * -EOPNOTSUPP with words for what is no thin volume of LVM's.
 */
int lvm_points(const char *path, unsigned keep, bool check_only, struct error *error);
