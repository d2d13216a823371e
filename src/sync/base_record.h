/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a target is known to hold after a run that completed: points (track/track.h), in a file of the state folder, one a
 * target. docs/formats/bases.md shows it. It counts only as long as the target has the change mark that is noted beside them. Control path; plain files.
 */
#pragma once

#include "block/block.h"
#include "range/range_set.h"

#include <jansson.h>

/*
 * The points of the target, a reference of the caller's; or NULL, and in `why`: -ENOENT no run noted any, or it cannot be known whether the target
 * was written since; -ESTALE with words when it was, or is of another size. *ret_partial: where the target may hold something else than
 * what its points promise, from a run that did not end; the caller frees it. NULL: such a target counts as written.
 */
json_t *base_record_load(const char *state_dir, const struct block_facts *target, uint64_t size,
    struct range_set *ret_partial, struct error *why);
/* On stable storage when this returns 0. -EOPNOTSUPP for a target without identity or mark. With words. */
int base_record_save(const char *state_dir, const struct block_facts *target, uint64_t size,
    const json_t *points, struct error *error);
/*
 * Before a run writes to these ranges and nowhere else: the points stay true of all the rest, whenever it ends. That nobody else has written, the
 * mark tells, when this is called once more after the last write; or the agent's note that the session's writes were the last.
 */
int base_record_begin(const char *state_dir, const struct block_facts *target, uint64_t size,
    const json_t *points, const struct range_set *ranges, uint64_t session, struct error *error);
/* Before the target is written to: nothing is known any more. */
void base_record_forget(const char *state_dir, const char *target_id);
