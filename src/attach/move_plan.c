/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The tables of a move: see move_plan.h. */
#include "attach/move_plan.h"

#include <errno.h>
#include <string.h>

static int plan_backing(struct move_plan *plan, const struct dm_table *table,
    int (*backing_sectors)(void *data, dev_t device, uint64_t *ret), void *data, struct error *error)
{
	size_t at, length;
	dev_t device;
	int res = dm_params_device(table->targets[0].params, &at, &length, &device);

	if (res < 0)
		return error_set(error, -EOPNOTSUPP, "its table does not lie on one device alone");
	plan->kind = MOVE_BACKING;
	res = backing_sectors(data, device, &plan->sectors);
	if (res == 0)
		res = dm_table_add_linear(&plan->leg, plan->sectors, device, 0);
	return res < 0
	           ? error_set(error, res, "cannot learn the size of the device below: %s", strerror(-res))
	           : 0;
}

int move_plan_make(struct move_plan *ret, const struct dm_table *table,
    int (*backing_sectors)(void *data, dev_t device, uint64_t *ret), void *data, struct error *error)
{
	struct move_plan plan = {.kind = MOVE_CONTENT, .sectors = dm_table_length(table)};
	int res;

	if (dm_table_is_plain(table))
		res = dm_table_copy(&plan.leg, table);
	else if (dm_table_is(table, "crypt"))
		res = plan_backing(&plan, table, backing_sectors, data, error);
	else if (dm_table_is(table, "snapshot-origin"))
		return error_set(error, -EOPNOTSUPP,
		    "it has snapshots, which would not follow it: remove them first (of LVM's volumes `lvs` "
		    "shows them; those of `blkmove sync --snapshot=auto` go with --snapshot=drop)");
	else
		return error_set(error, -EOPNOTSUPP,
		    "its table has a target %s, and only linear, striped and crypt can be moved; move the "
		    "device "
		    "below it, or stop its user and `blkmove sync` it",
		    table->count ? table->targets[0].type : "no table");
	if (res < 0) {
		move_plan_done(&plan);
		return res == -ENOMEM ? error_set(error, res, "cannot plan the move: out of memory") : res;
	}
	*ret = plan;
	return 0;
}

int move_plan_lead(enum move_kind kind, uint64_t sectors, const struct dm_table *now, dev_t device,
    struct dm_table *ret, struct error *error)
{
	if (kind == MOVE_BACKING)
		return dm_table_with_device(ret, now, device, error);
	*ret = (struct dm_table){0};
	if (dm_table_add_linear(ret, sectors, device, 0) < 0)
		return error_set(error, -ENOMEM, "cannot make a table: out of memory");
	return 0;
}

void move_plan_done(struct move_plan *plan)
{
	dm_table_done(&plan->leg);
}
