/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which of two volumes is the newer one, as far as the folders of earlier mirrors tell: the map of one that has not ended, else the
 * receipt of its last switch. Both name volumes by their identities; those that have none go by their names.
 */
#pragma once

#include "cli/mirror_files.h"
#include "range/bitmap_format.h"

/*
 * Of the map of a mirror that may run. -ENOENT; -EBADMSG when it is damaged or makes no sense; -ENOTRECOVERABLE when it
 * cannot say which leg is the volume; or another -errno.
 */
int mirror_newer_super(const struct mirror_files *files, struct bitmap_super *ret);
/* "the target /dev/new/vm1 is the volume", of a mirror that does not run; or that it cannot be known. Returns `buf`. */
const char *mirror_newer_words(const struct mirror_files *files, char *buf, size_t length);
/*
 * Of all mirrors in the state folder that had these two volumes, in whatever parts, the last word counts. -EPERM with words: by that
 * the target is the newer one, and what was written to it last would be lost.
 */
int mirror_newer_check(const char *state_dir, const struct mirror_pair *pair, struct error *error);
