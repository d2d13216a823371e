/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which of two volumes is the newer one, as far as the folders of earlier mirrors tell: the map of one that has not ended, else the
 * receipt of its last switch, and `newer.json`: "authoritative" is "source" when a mirror was let overwrite a target that had been the
 * newer one, and null when the map of one that was forgotten could not tell. All name volumes by their identities; those that have
 * none go by their names. Which word is the last one, the times of these files tell.
 */
#pragma once

#include "cli/mirror_files.h"
#include "range/bitmap_format.h"

#define MIRROR_NEWER "newer.json"

/*
 * Of the map of a mirror that may run. -ENOENT; -EBADMSG when it is damaged or makes no sense; -ENOTRECOVERABLE when it
 * cannot say which leg is the volume; or another -errno.
 */
int mirror_newer_super(const struct mirror_files *files, struct bitmap_super *ret);
/* "the target /dev/new/vm1 is the volume", of a mirror that does not run; or that it cannot be known. Returns `buf`. */
const char *mirror_newer_words(const struct mirror_files *files, char *buf, size_t length);
/*
 * Of all mirrors in the state folder that had these two volumes, in whatever parts, the last word counts. -EPERM with words: by that
 * the target is the newer one, and what was written to it last would be lost; or it cannot be known, which one that has not ended
 * says for as long as it is not forgotten.
 */
int mirror_newer_check(const char *state_dir, const struct mirror_pair *pair, struct error *error);
/* The same before one is resumed, which its map is not opened for yet: whether another one's later word contradicts that map. */
int mirror_newer_check_resume(
    const char *state_dir, const struct mirror_files *files, const char *name, struct error *error);
/* What was judged is overwritten from now on, whatever was said of it before: from now on the source is the newer one. */
int mirror_newer_keep_begun(struct mirror_files *files, struct error *error);
/* Before one is forgotten whose map cannot tell: nor can anybody afterwards. */
int mirror_newer_keep_doubt(struct mirror_files *files, struct error *error);
/* The receipt says what the map says, and was so when that was written last. */
void mirror_newer_date_receipt(const struct mirror_files *files);
