/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Leaf digests of a volume kept in a file, so that a later sync compares its source with the file and never
 * reads the target. docs/formats/digests.md has the file byte by byte. The order that makes it safe:
 *
 *  1. saved_digests_open() with the target's id and mark as they are now: refused when it is another volume,
 * was written since, or an earlier run that used the file did not end;
 *  2. saved_digests_use() before the first write to the target: from then on the file is refused, whatever
 * happens;
 *  3. the sync, whose source's leaves go to a writer;
 *  4. after the target was flushed, saved_digests_writer_finish() with the target's id and new mark puts the
 * new file in the old one's place.
 *
 * Plain pread(2) and pwrite(2) on a local file: control path, and small.
 */
#pragma once

#include "block/block.h"

/* What the digests are of. */
struct saved_digests_volume {
	uint64_t size;         /* bytes that the digests cover */
	const char *id, *mark; /* block_facts' */
};

/*
 * Opens and checks all of the file, and makes a block of it that answers BLOCK_DIGEST (with the key in
 * *ret_key alone) and BLOCK_EXTENTS, and has the volume's size. Returns 0, or with words that say what to do:
 * -ENOENT; -EBADMSG damaged, or no such file; -ESTALE of another volume or another state of it, or in use;
 * -EPERM others may read it; another -errno. `volume` NULL checks all but that.
 */
int saved_digests_open(struct block **ret, struct ring *ring, const char *path,
    const struct saved_digests_volume *volume, struct digest_key *ret_key, struct error *error);
/* Marks the file as in use, on stable storage when this returns. */
int saved_digests_use(struct block *saved, struct error *error);

struct saved_digests_writer;

/* Begins a new file beside `path` (its name and ".new", mode 0600); an older one of that name is removed. */
int saved_digests_writer_new(struct saved_digests_writer **ret, const char *path, uint64_t size,
    const struct digest_key *key, struct error *error);
/*
 * Takes the leaf digests of a range, NULL for one of zeros (of any length). Ranges begin at leaf borders and
 * end at one or at the volume's end, in any order; a later one counts. Failures are told by finish. Fits
 * hash_extents' `leaves`.
 */
void saved_digests_writer_put(void *writer, uint64_t offset, uint64_t length, const uint8_t *leaves);
/*
 * Only after the volume was flushed: puts the new file in place, on stable storage when this returns.
 * -ENODATA when a part of the volume was never put, -EOPNOTSUPP when id or mark is empty, so that nobody
 * could tell later whether they still hold.
 */
int saved_digests_writer_finish(
    struct saved_digests_writer *writer, const char *id, const char *mark, struct error *error);
/* Removes what was not finished. Takes NULL; returns NULL. */
struct saved_digests_writer *saved_digests_writer_free(struct saved_digests_writer *writer);
