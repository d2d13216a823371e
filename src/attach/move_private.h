/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the parts of a move share: move.c (its phases), move_begin.c (what is looked at first), move_devices.c (devices and tables). */
#pragma once

#include "attach/dm.h"
#include "attach/move.h"

/* Where the consumer's device leads. */
enum move_place { AT_OLD, AT_MEDIUM, AT_NEW, AT_ELSEWHERE };

struct move {
	struct move_options options;
	struct move_folder folder;
	struct move_record record;
	char leg_names[2][DM_NAME_MAX]; /* old, new */
	dev_t leg_devices[2];           /* 0: not made yet */
	dev_t medium;                   /* 0: not made yet */
	uint64_t pause_ns;
};

__attribute__((format(printf, 2, 3))) void move_say(struct move *move, const char *format, ...);

/* move_devices.c */
int move_name_legs(struct move *move, struct error *error);
/* The device of a path, and its sectors. */
int move_stat_device(const char *path, dev_t *ret, uint64_t *ret_sectors, struct error *error);
/* Both legs as devices of their own, unless they are there. */
int move_make_legs(struct move *move, struct error *error);
int move_remove_legs(struct move *move, struct error *error);
/* Finds the legs that are there. */
void move_find_legs(struct move *move);
int move_where(struct move *move, enum move_place *ret, struct error *error);
/* Leads the consumer's device there: its table is swapped. For AT_NEW, engine->leave() has a say while it is suspended. */
int move_lead(struct move *move, enum move_place place, struct error *error);
/* The target's own device gets the old leg's table: LVM's metadata say so since the exchange. */
int move_give_target(struct move *move, struct error *error);

static inline bool move_is_remote(const struct move *move)
{
	return move->record.target[0] != '/';
}
