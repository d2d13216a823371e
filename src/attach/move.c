/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A move from phase to phase: see move.h. What a phase promises is recorded before it begins; each step looks first whether it is done. */
#include "attach/move_private.h"

#include "base/cleanup.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define POLL_NS 200000000L

void move_say(struct move *move, const char *format, ...)
{
	char text[512];
	va_list args;

	if (!move->options.step)
		return;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	move->options.step(move->options.data, text);
}

static int enter_phase(struct move *move, enum move_phase phase, struct error *error)
{
	enum move_phase before = move->record.phase;
	int res;

	move->record.phase = phase;
	res = move_record_save(&move->record, &move->folder, error);
	if (res < 0)
		move->record.phase = before;
	return res;
}

#define ENGINE(move, function, error) \
	(move)->options.engine->function((move)->options.engine_data, (move), (error))

/* LVM's metadata */

static int is_exchanged(struct move *move, bool *ret, struct error *error)
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

/* Both legs have everything meanwhile: whichever a restart finds, it is right. */
static int exchange(struct move *move, bool wanted, struct error *error)
{
	bool exchanged = false;
	int res;

	if (!move->record.lvm.group[0])
		return 0;
	res = is_exchanged(move, &exchanged, error);
	if (res < 0 || exchanged == wanted)
		return res;
	move_say(move, "LVM's metadata of %s now say where the %s leg lies", move->record.lvm.group,
	    wanted ? "new" : "old");
	return lvm_exchange(&move->record.lvm, error);
}

/* Forward */

static int wait_until_synced(struct move *move, struct error *error)
{
	const struct timespec pause = {.tv_nsec = POLL_NS};
	struct move_progress progress;

	for (;;) {
		int res = 0;

		progress = (struct move_progress){0};
		res = move->options.engine->look(move->options.engine_data, move, &progress, error);
		if (res < 0)
			return res;
		if (progress.trouble[0])
			return error_set(error, -EIO,
			    "the copy cannot go on: %s; %s goes on with its old leg: `blkmove move --resume "
			    "%s` "
			    "tries again, `--undo` ends it",
			    progress.trouble, move->record.device, move->record.device);
		if (move->options.progress && !move->options.progress(move->options.data, &progress))
			return error_set(error, -ECANCELED,
			    "stopped; the old leg has everything; `blkmove move --resume %s` goes on, "
			    "`--undo` leads back",
			    move->record.device);
		if (progress.synced)
			return 0;
		nanosleep(&pause, NULL);
	}
}

static int forward_syncing(struct move *move, struct error *error)
{
	enum move_place place;
	int res = move_make_legs(move, error);

	if (res == 0)
		res = ENGINE(move, make, error);
	if (res == 0)
		res = move_where(move, &place, error);
	if (res < 0)
		return res;
	if (place == AT_ELSEWHERE || place == AT_NEW)
		return error_set(error, -EBUSY,
		    "somebody else changed the table of %s since; `blkmove move --undo %s` cleans up",
		    move->record.device, move->record.device);
	if (place == AT_OLD) {
		res = move_lead(move, AT_MEDIUM, error);
		if (res < 0)
			return res;
		move_say(move, "%s leads to the mirror now; it was suspended for %.1f ms",
		    move->record.device, (double)move->pause_ns / 1e6);
	}
	res = ENGINE(move, sync, error);
	return res == 0 ? wait_until_synced(move, error) : res;
}

static int forward_switch(struct move *move, struct error *error)
{
	int res = enter_phase(move, MOVE_SWITCHED, error);
	struct error ignored;

	if (res == 0)
		res = exchange(move, true, error);
	if (res == 0)
		res = ENGINE(move, cut, error);
	if (res == 0)
		return 0;
	/* The old leg counts still: so let it be found. */
	if (exchange(move, false, &ignored) == 0)
		enter_phase(move, MOVE_SYNCING, &ignored);
	return res;
}

/* The last step did not succeed. Where the old leg has everything still, a restart must find that one. */
static int stay(struct move *move, struct error *error)
{
	struct error ignored;

	if (!move->options.engine->switches && exchange(move, false, &ignored) == 0)
		enter_phase(move, MOVE_SYNCING, &ignored);
	return error_prefix(error, "the last step did not succeed, the mirror goes on");
}

static int find_medium(struct move *move, enum move_place *ret, struct error *error)
{
	int res = move_make_legs(move, error);

	if (res == 0)
		res = ENGINE(move, make, error);
	if (res == 0)
		res = ENGINE(move, sync, error);
	return res == 0 ? move_where(move, ret, error) : res;
}

static int clean_up_moved(struct move *move, struct error *error)
{
	int res = ENGINE(move, remove, error);

	if (res == 0)
		res = move_remove_legs(move, error);
	if (res == 0 && move->record.lvm.group[0])
		res = move_give_target(move, error);
	if (res == 0)
		move_record_forget(&move->folder);
	return res;
}

static int forward_finish(struct move *move, struct error *error)
{
	enum move_place place;
	int res = 0;

	if (move_is_remote(move))
		return error_set(error, -EOPNOTSUPP,
		    "%s is on another machine: %s goes on over the mirror's device, which leads there; it "
		    "cannot be "
		    "led there without it",
		    move->record.target, move->record.device);
	if (move->record.phase != MOVE_FINISHING)
		res = enter_phase(move, MOVE_FINISHING, error);
	if (res == 0)
		res = move_where(move, &place, error);
	/* Gone on with after a kill: the medium is not known yet. */
	if (res == 0 && place != AT_NEW)
		res = find_medium(move, &place, error);
	if (res < 0)
		return res;
	if (place == AT_MEDIUM) {
		res = move_lead(move, AT_NEW, error);
		if (res < 0)
			return stay(move, error);
	} else if (place != AT_NEW) {
		return error_set(error, -EBUSY,
		    "somebody else changed the table of %s since; see `dmsetup table %s`",
		    move->record.device, move->record.device);
	}
	move_say(move, "%s leads to %s now", move->record.device, move->record.target);
	return clean_up_moved(move, error);
}

/* After a restart of the machine */

/* Mirror and legs are gone; who had set the device up has done so again, from what LVM or he himself knows. */
static int look_after_restart(struct move *move, struct error *error)
{
	struct move_record *record = &move->record;
	enum move_place place = AT_ELSEWHERE;
	bool new_counts = record->phase == MOVE_SWITCHED || record->phase == MOVE_FINISHING;
	bool exchanged = false;
	struct dm_facts facts;
	struct error ignored;
	int res = 0;

	if (!move_record_is_of_another_boot(record) || move->leg_devices[0])
		return 0;
	if (record->lvm.group[0])
		res = is_exchanged(move, &exchanged, error);
	if (res < 0)
		return res;
	/* The exchange comes before the first write that only the new leg has. */
	if (record->lvm.group[0])
		new_counts = exchanged;
	move_say(move, "the machine was started anew since; the %s leg has everything",
	    new_counts ? "new" : "old");
	res = ENGINE(move, forget, error);
	if (res < 0)
		return res;
	if (!new_counts)
		return record->phase == MOVE_UNDOING ? 0 : enter_phase(move, MOVE_SYNCING, error);
	if (dm_look(record->device, &facts, &ignored) == 0)
		(void)move_where(move, &place, &ignored);
	if (place == AT_NEW)
		return enter_phase(move, MOVE_FINISHING, error);
	return error_set(error, -EPERM,
	    "%s was switched to %s before the machine was started anew, and does not lead there now: what "
	    "was written "
	    "since the switch is on %s. Set it up to lead there; or `blkmove move --undo --keep-old %s` "
	    "forgets that",
	    record->device, record->target, record->target, record->device);
}

int move_forward(struct move *move, enum move_until until, struct error *error)
{
	int res = look_after_restart(move, error);

	if (res == 0 && move->record.phase == MOVE_UNDOING)
		return error_set(error, -EPERM,
		    "the move of %s is being undone; `blkmove move --undo %s` goes on", move->record.device,
		    move->record.device);
	if (res == 0 && move->record.phase == MOVE_SYNCING) {
		res = forward_syncing(move, error);
		if (res == 0 && until == MOVE_UNTIL_SYNCED)
			return 0;
		if (res == 0)
			res = forward_switch(move, error);
	} else if (res == 0 && move->record.phase == MOVE_SWITCHED) {
		enum move_place place;

		/* It may have been recorded, and nothing more. */
		res = find_medium(move, &place, error);
		if (res == 0)
			res = wait_until_synced(move, error);
		if (res == 0)
			res = forward_switch(move, error);
	}
	if (res < 0 || until != MOVE_UNTIL_MOVED)
		return res;
	return forward_finish(move, error);
}

/* Back */

/* Where the device leads. Led to a medium, it finds that again, which may need the engine's process. */
static int find_place(struct move *move, enum move_place *ret, struct error *error)
{
	int res = move_where(move, ret, error);

	if (res < 0 || *ret != AT_ELSEWHERE || !move->leg_devices[0])
		return res;
	res = ENGINE(move, make, error);
	return res == 0 ? move_where(move, ret, error) : res;
}

static int back_to_old(struct move *move, enum move_place place, struct error *error)
{
	int res = 0;

	if (move->record.phase != MOVE_UNDOING) {
		if (place == AT_MEDIUM)
			res = ENGINE(move, uncut, error);
		if (res == 0)
			res = exchange(move, false, error);
		if (res == 0)
			res = enter_phase(move, MOVE_UNDOING, error);
	}
	if (res == 0 && place == AT_MEDIUM)
		res = move_lead(move, AT_OLD, error);
	else if (res == 0 && place != AT_OLD)
		move_say(move, "%s leads elsewhere, and is left so", move->record.device);
	return res;
}

static int clean_up_undone(struct move *move, struct error *error)
{
	int res = ENGINE(move, remove, error);

	if (res == 0)
		res = move_remove_legs(move, error);
	if (res == 0)
		move_record_forget(&move->folder);
	return res;
}

/* Not after a restart of the machine: then nothing is left to be led back. */
static int lead_back(struct move *move, struct error *error)
{
	enum move_place place;
	int res = find_place(move, &place, error);

	if (res < 0)
		return res;
	if (move->record.phase == MOVE_FINISHING && place == AT_NEW)
		return error_set(error, -EPERM,
		    "%s leads to %s already, which alone has everything: `blkmove move --resume %s` ends "
		    "this move; "
		    "then move it back as any other",
		    move->record.device, move->record.target, move->record.device);
	return back_to_old(move, place, error);
}

int move_undo(struct move *move, bool keep_old, struct error *error)
{
	bool restarted = move_record_is_of_another_boot(&move->record) && !move->leg_devices[0];
	int res = restarted ? look_after_restart(move, error) : lead_back(move, error);

	if (restarted && res == 0 && move_new_counts(move))
		return error_set(error, -EPERM,
		    "%s leads to %s already, which has everything: `blkmove move --resume %s` ends this move",
		    move->record.device, move->record.target, move->record.device);
	if (restarted && res == -EPERM && keep_old)
		res = 0;
	return res == 0 ? clean_up_undone(move, error) : res;
}

struct move *move_free(struct move *move)
{
	if (!move)
		return NULL;
	move_record_done(&move->record);
	move_folder_close(&move->folder);
	free(move);
	return NULL;
}

const struct move_record *move_get_record(const struct move *move)
{
	return &move->record;
}

bool move_new_counts(const struct move *move)
{
	return move->record.phase == MOVE_SWITCHED || move->record.phase == MOVE_FINISHING;
}

uint64_t move_pause_ns(const struct move *move)
{
	return move->pause_ns;
}

const char *move_leg_name(const struct move *move, bool new_leg)
{
	return move->leg_names[new_leg];
}

dev_t move_leg_device(const struct move *move, bool new_leg)
{
	return move->leg_devices[new_leg];
}

void move_set_medium(struct move *move, dev_t medium)
{
	move->medium = medium;
}
