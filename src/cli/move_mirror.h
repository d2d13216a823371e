/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine of a move that is blkmove's own: a live mirror in a process of its own, with a block device as its export. It takes remote targets
 * and latency targets, and after the switch the old leg follows, so that a move can be undone without losing a write.
 */
#pragma once

#include "attach/move.h"

#define MOVE_MIRROR_WORDS_MAX 32

struct move_mirror {
	const char *state_dir;
	const char *words[MOVE_MIRROR_WORDS_MAX]; /* further options of blkmove mirror, borrowed */
	unsigned words_count;
	const char *overwrite; /* the target's name, for a remote one; or NULL */

	char name[80]; /* of the mirror; the engine's */
};

/*
 * Of a mirror that does not run: whether its target was the leg that counted when it ended, however it did; and whether the other one lacked nothing. -EPERM with words when
 * that cannot be told.
 */
int move_mirror_target_counted(
    const struct move_mirror *engine, bool *ret, bool *ret_both, struct error *error);

extern const struct move_engine move_mirror_engine;
