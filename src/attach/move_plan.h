/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which tables a move goes through: pure arithmetic on tables. A device in use (the *consumer's* device) has a table T; what it leads
 * to is the *leg* that moves. While the move goes on, the device leads to a *medium* that has the leg's sectors and keeps both legs
 * equal; in the end it leads to the new leg.
 *
 *   content   the leg is the whole device: T says where its sectors lie (linear, striped); it is T, under another name
 *   backing   the leg is the one device that T lies on, whole, as it is: what is encrypted stays encrypted (crypt)
 */
#pragma once

#include "attach/dm_table.h"

enum move_kind { MOVE_CONTENT, MOVE_BACKING };

struct move_plan {
	enum move_kind kind;
	uint64_t sectors;    /* of a leg */
	struct dm_table leg; /* the old leg, as a device of its own */
};

/*
 * `backing_sectors`(data, device) is only asked for kind backing. Takes a copy of `table`. -EOPNOTSUPP with words for a table that cannot
 * be moved.
 */
int move_plan_make(struct move_plan *ret, const struct dm_table *table,
    int (*backing_sectors)(void *data, dev_t device, uint64_t *ret), void *data, struct error *error);
/*
 * The consumer's table when it leads to `device`, medium or new leg. `now`: the table that it has, whose keys stay (kind backing; else
 * not looked at). `sectors`: of a leg.
 */
int move_plan_lead(enum move_kind kind, uint64_t sectors, const struct dm_table *now, dev_t device,
    struct dm_table *ret, struct error *error);
void move_plan_done(struct move_plan *plan);
