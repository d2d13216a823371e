/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Nothing keeps LVM, or whoever owns the device, from loading another table for it while a move goes on: then what is written reaches one leg
 * alone, and no mirror knows. So LVM's metadata are exchanged only while the device leads to both legs, or to the one that they will name; where it leads
 * neither here nor there LVM led it by its metadata, and these tell what counts.
 */
#include "attach/move_private.h"

#include "base/cleanup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int move_is_exchanged(struct move *move, bool *ret, struct error *error)
{
	const struct lvm_pair *pair = &move->record.lvm;
	_cleanup_(cleanup_free) char *text = NULL;
	char first[sizeof(move->record.lvm_first)];
	int res = lvm_read(pair->group, &text, error);

	if (res == 0)
		res = lvm_first(text, pair->group, pair->moved, first, sizeof(first), error);
	if (res == 0)
		*ret = strcmp(first, move->record.lvm_first) != 0;
	return res;
}

static int exchange_locked(struct move *move, bool wanted, struct error *error)
{
	const struct lvm_pair *pair = &move->record.lvm;
	_cleanup_(cleanup_close) int lock = lvm_lock(pair->group, error);
	enum move_place place;
	int res = lock < 0 ? lock : move_where(move, &place, error);

	if (res < 0)
		return res;
	if (place != AT_MEDIUM && place != (wanted ? AT_NEW : AT_OLD))
		return move_astray(move, place, error);
	move_say(
	    move, "LVM's metadata of %s now say where the %s leg lies", pair->group, wanted ? "new" : "old");
	return lvm_exchange(pair, error);
}

/*
 * Both legs have everything meanwhile, and it was flushed: whichever a restart finds, it is right. LVM flushes no disk. With its metadata in the cache of one, what
 * is written to the other from now on, and flushed there, would be lost in a power cut. A leg that fails is not to be in the way here.
 */
int move_exchange(struct move *move, bool wanted, struct error *error)
{
	struct error ignored;
	bool exchanged = false;
	int res;

	if (!move->record.lvm.group[0])
		return 0;
	res = move_is_exchanged(move, &exchanged, error);
	if (res == 0 && exchanged != wanted)
		res = exchange_locked(move, wanted, error);
	for (unsigned i = 0; i < 2 && res == 0; i++)
		(void)move_flush_leg(move, i, &ignored);
	return res;
}

static int astray_elsewhere(struct move *move, struct error *error)
{
	const struct move_record *record = &move->record;
	const char *device = record->device;
	bool exchanged = false;

	if (record->lvm.group[0] && move_is_exchanged(move, &exchanged, error) < 0)
		return error_prefix(error,
		    "somebody else changed the table of %s since (`dmsetup table %s`), and what counts "
		    "cannot be "
		    "seen",
		    device, device);
	if (exchanged)
		return error_set(error, -EIO,
		    "somebody else changed the table of %s since (a snapshot?), and it leads past the "
		    "mirror; by LVM's "
		    "metadata its data are in the new place: remove what was put there (`lvremove`), then "
		    "`blkmove move --resume %s` ends this move",
		    device, device);
	return error_set(error, -EIO,
	    "somebody else changed the table of %s since (a snapshot? `dmsetup table %s` shows it), and what "
	    "is written "
	    "does not reach the mirror%s: `blkmove move --undo %s` ends this move and leaves that table",
	    device, device, record->lvm.group[0] ? "; by LVM's metadata its data are in the old place" : "",
	    device);
}

int move_astray(struct move *move, enum move_place place, struct error *error)
{
	const char *device = move->record.device;

	if (place == AT_ELSEWHERE)
		return astray_elsewhere(move, error);
	if (place == AT_NEW)
		return error_set(error, -EIO,
		    "somebody else changed the table of %s since: it leads to the new place; `blkmove move "
		    "%s %s` ends this "
		    "move",
		    device, move_new_counts(move) ? "--resume" : "--undo", device);
	if (place == AT_MEDIUM)
		return error_set(error, -EIO,
		    "the table of %s was changed by somebody else meanwhile; `blkmove move --resume %s` "
		    "tries again",
		    device, device);
	return error_set(error, -EIO,
	    "somebody else changed the table of %s since (a command of LVM's?): it leads to its old place, "
	    "and what is "
	    "written there does not reach the new one; `blkmove move --undo %s` ends this move, then begin "
	    "it anew",
	    device, device);
}

int move_must_be_mirrored(struct move *move, struct error *error)
{
	enum move_place place;
	int res = move_where(move, &place, error);

	return res < 0 || place == AT_MEDIUM ? res : move_astray(move, place, error);
}
