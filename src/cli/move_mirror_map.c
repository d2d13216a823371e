/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the map of a move's mirror says when the mirror is gone: see move_mirror.h. */
#include "cli/mirror_files.h"
#include "cli/mirror_trust.h"
#include "cli/move_mirror.h"
#include "filter/mirror.h"
#include "range/bitmap_file.h"

#include <errno.h>

#define RING_ENTRIES 8u

int move_mirror_target_counted(
    const struct move_mirror *engine, bool *ret, bool *ret_both, struct error *error)
{
	struct mirror_files files = MIRROR_FILES_NONE;
	struct bitmap_file *map = NULL;
	struct ring *ring = NULL;
	struct error why;
	int res = mirror_files_open(&files, engine->state_dir, engine->name, false, &why);

	if (res == 0) {
		res = mirror_files_map(&files, false);
		if (res < 0)
			error_set(&why, res, "its map cannot be opened");
	}
	if (res >= 0)
		res = ring_new(&ring, RING_ENTRIES, &why);
	/* As whoever resumes it would. */
	if (res >= 0)
		res = bitmap_file_load(&map, ring, files.map_fd, !mirror_trust_check(&files), &why);
	if (res >= 0) {
		*ret_both = bitmap_file_dirty(map)->count == 0;
		*ret = bitmap_file_super(map)->authoritative == MIRROR_TARGET;
	}
	bitmap_file_free(map);
	ring_free(ring);
	mirror_files_close(&files);
	return res < 0 ? error_set(error, -EPERM, "%s", why.text) : 0;
}
