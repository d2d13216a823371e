/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the parts of a move share: move.c (its phases), move_begin.c (what is looked at first), move_devices.c (devices and tables),
 * move_astray.c (whether somebody else changed the table, and when LVM's metadata may be exchanged),
 * move_restart.c (after a restart of the machine). */
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
	dev_t leg_devices[2];           /* 0: not made yet; one that is not of this move counts as none */
	dev_t medium;                   /* 0: not made yet */
	uint64_t pause_ns;
	bool
	    fresh; /* begun by this process, and the device was not led anywhere yet: to give it up changes nothing */
};

/* Has the engine make, sync, cut... */
#define ENGINE(move, function, error) \
	(move)->options.engine->function((move)->options.engine_data, (move), (error))

__attribute__((format(printf, 2, 3))) void move_say(struct move *move, const char *format, ...);
/* Records it before it takes effect. */
int move_enter_phase(struct move *move, enum move_phase phase, struct error *error);

/* move_astray.c. Whether LVM's metadata have exchanged the two places. */
int move_is_exchanged(struct move *move, bool *ret, struct error *error);
/* Has them exchanged, or not; only while the device leads to both, or to the one that they will name. */
int move_exchange(struct move *move, bool wanted, struct error *error);
/* Somebody else led the device to `place`, where the move did not want it: -EIO, with what counts and what to do. */
int move_astray(struct move *move, enum move_place place, struct error *error);
/* 0 while the device leads to the medium. */
int move_must_be_mirrored(struct move *move, struct error *error);

/* move_begin.c: device, target and LVM are looked at as if the move began now; its record is made true, not saved. */
int move_look_again(struct move *move, struct error *error);

/* move_restart.c. Whether there was one since the last record: all devices of the move are gone. */
bool move_is_restarted(const struct move *move);
/* Makes it a move that begins, and returns 0; or 1: it has ended, and nothing is left of it. -errno with words. */
int move_forward_restarted(struct move *move, struct error *error);
int move_undo_restarted(struct move *move, bool keep_old, struct error *error);

/* move_devices.c */
int move_name_legs(struct move *move, struct error *error);
/* The device of a path, and its sectors. */
int move_stat_device(const char *path, dev_t *ret, uint64_t *ret_sectors, struct error *error);
/* The target. -EXDEV with words when it is not what it was when the move began. */
int move_stat_target(struct move *move, dev_t *ret, uint64_t *ret_sectors, struct error *error);
/* Both legs as devices of their own, unless they are there. As move_make_device(). */
int move_make_legs(struct move *move, struct error *error);
/* Those that are of this move. */
int move_remove_legs(struct move *move, struct error *error);
/* Finds the legs that are there, and are of this move. */
void move_find_legs(struct move *move);
/* What it was given is on its disk, past the cache that a power cut empties: before anybody is told that it counts. 0 where the leg is no device here. */
int move_flush_leg(struct move *move, bool new_leg, struct error *error);
int move_where(struct move *move, enum move_place *ret, struct error *error);
/*
 * Leads the consumer's device there: its table is swapped, if it is still that of the step before. For AT_NEW, engine->leave() has a say while it is
 * suspended.
 */
int move_lead(struct move *move, enum move_place place, struct error *error);
/* Where the old leg lies, for people: "/dev/sda, /dev/sdb". */
void move_name_old(const struct move *move, char *ret, size_t length);
/* The target's own device gets the old leg's table: LVM's metadata say so since the exchange. */
int move_give_target(struct move *move, struct error *error);

static inline bool move_is_remote(const struct move *move)
{
	return move->record.target[0] != '/';
}
