/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A move from phase to phase: see move.h. What a phase promises is recorded before it begins; each step looks first whether it is done. */
#include "attach/move_private.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
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

int move_enter_phase(struct move *move, enum move_phase phase, struct error *error)
{
	enum move_phase before = move->record.phase;
	int res;

	move->record.phase = phase;
	res = move_record_save(&move->record, &move->folder, error);
	if (res < 0)
		move->record.phase = before;
	return res;
}

/* Forward */

static int clean_up_undone(struct move *move, bool engine_has_begun, struct error *error)
{
	int res = engine_has_begun ? ENGINE(move, remove, error) : 0;

	if (res == 0)
		res = move_remove_legs(move, error);
	if (res == 0)
		move_record_forget(&move->folder);
	return res;
}

static int wait_until_synced(struct move *move, struct error *error)
{
	const struct timespec pause = {.tv_nsec = POLL_NS};
	struct move_progress progress;

	for (;;) {
		int res = 0;

		progress = (struct move_progress){0};
		res = move->options.engine->look(move->options.engine_data, move, &progress, error);
		/* What is written past the mirror, it does not know of: it says that it has everything. */
		if (res == 0)
			res = move_must_be_mirrored(move, error);
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

/* Recorded before anything is copied. */
static int note_led(struct move *move, struct error *error)
{
	int res = 0;

	if (!move->record.led) {
		move->record.led = true;
		res = move_record_save(&move->record, &move->folder, error);
		move->record.led = res == 0;
	}
	return res;
}

/* A move that cannot even begin takes away what it made, and nothing of another one that has the same names. */
static int make_all(struct move *move, enum move_place *ret, struct error *error)
{
	bool engine_has_begun = false;
	struct error ignored;
	int res = move_make_legs(move, error);

	if (res == 0) {
		res = ENGINE(move, make, error);
		engine_has_begun = res != -EEXIST;
	}
	if (res == 0)
		res = move_where(move, ret, error);
	if (res < 0 && move->fresh)
		clean_up_undone(move, engine_has_begun, &ignored);
	move->fresh = false;
	return res;
}

static int forward_syncing(struct move *move, struct error *error)
{
	enum move_place place;
	int res = make_all(move, &place, error);

	if (res < 0)
		return res;
	if (place == AT_ELSEWHERE || place == AT_NEW || (place == AT_OLD && move->record.led))
		return move_astray(move, place, error);
	if (place == AT_OLD) {
		res = move_lead(move, AT_MEDIUM, error);
		if (res < 0)
			return res;
		move_say(move, "%s leads to the mirror now; it was suspended for %.1f ms",
		    move->record.device, (double)move->pause_ns / 1e6);
	}
	res = note_led(move, error);
	if (res == 0)
		res = ENGINE(move, sync, error);
	return res == 0 ? wait_until_synced(move, error) : res;
}

static int forward_switch(struct move *move, struct error *error)
{
	int res = move_flush_leg(move, true, error);
	struct error ignored;

	/* Until now nobody had to flush what was copied. */
	if (res == 0)
		res = move_enter_phase(move, MOVE_SWITCHED, error);
	if (res == 0)
		res = move_exchange(move, true, error);
	/* An exchange is made under LVM's lock; whoever else owns the device has none. */
	if (res == 0)
		res = move_must_be_mirrored(move, error);
	if (res == 0)
		res = ENGINE(move, cut, error);
	if (res == 0)
		return 0;
	/* The old leg is to count still, and to be found. */
	if (ENGINE(move, uncut, &ignored) == 0 && move_exchange(move, false, &ignored) == 0)
		move_enter_phase(move, MOVE_SYNCING, &ignored);
	return res;
}

/* Somebody else led the device away while both legs had everything. What leads to the old leg has left the new one behind since. */
static int gone_astray(struct move *move, enum move_place place, struct error *error)
{
	struct error ignored;

	if (place == AT_OLD && move_exchange(move, false, &ignored) == 0)
		move_enter_phase(move, MOVE_SYNCING, &ignored);
	return move_astray(move, place, error);
}

/* The last step did not succeed. Where the old leg has everything still, a restart must find that one. */
static int stay(struct move *move, struct error *error)
{
	enum move_place place;
	struct error ignored;
	int res = move_where(move, &place, &ignored);

	if (res == 0 && place != AT_MEDIUM)
		return gone_astray(move, place, error);
	if (!move->options.engine->switches && move_exchange(move, false, &ignored) == 0)
		move_enter_phase(move, MOVE_SYNCING, &ignored);
	return error_prefix(error, "the last step did not succeed, the mirror goes on");
}

/* Gone on with after a kill, the medium is not known yet. Past the mirror nothing is to be copied any more. */
static int find_medium(struct move *move, enum move_place *ret, struct error *error)
{
	int res = move_where(move, ret, error);

	if (res < 0 || *ret != AT_ELSEWHERE)
		return res;
	res = move_make_legs(move, error);
	if (res == 0)
		res = ENGINE(move, make, error);
	if (res == 0)
		res = move_where(move, ret, error);
	return res == 0 && *ret == AT_MEDIUM ? ENGINE(move, sync, error) : res;
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
	char old[256];
	enum move_place place;
	int res = find_medium(move, &place, error);

	if (res < 0)
		return res;
	/* Led to the new leg before, the old one would be the one left behind: what LVM says is not touched. */
	if (place == AT_OLD && move->record.phase == MOVE_FINISHING)
		return move_astray(move, place, error);
	if (place != AT_MEDIUM && place != AT_NEW)
		return gone_astray(move, place, error);
	if (move->record.phase != MOVE_FINISHING)
		res = move_enter_phase(move, MOVE_FINISHING, error);
	if (res == 0 && place == AT_MEDIUM) {
		res = move_lead(move, AT_NEW, error);
		if (res < 0)
			return stay(move, error);
	}
	if (res < 0)
		return res;
	move_name_old(move, old, sizeof(old));
	move_say(move,
	    "%s leads to %s now; a copy that has the same UUIDs stays on %s, and nothing holds it from now "
	    "on: wipe it "
	    "(`wipefs -a`), or keep it from being found by them",
	    move->record.device, move->record.target, old);
	return clean_up_moved(move, error);
}

static int forward_switched(struct move *move, struct error *error)
{
	enum move_place place;
	int res = find_medium(move, &place, error);

	if (res < 0)
		return res;
	/* LVM led it there, by its metadata. */
	if (place == AT_NEW) {
		res = move_exchange(move, true, error);
		return res == 0 ? move_enter_phase(move, MOVE_FINISHING, error) : res;
	}
	if (place != AT_MEDIUM)
		return gone_astray(move, place, error);
	/* It may have been recorded, and nothing more. */
	res = wait_until_synced(move, error);
	return res == 0 ? forward_switch(move, error) : res;
}

static int stay_switched(struct move *move, struct error *error)
{
	enum move_place place;
	int res = move_where(move, &place, error);

	return res < 0 || place == AT_MEDIUM ? res : gone_astray(move, place, error);
}

int move_forward(struct move *move, enum move_until until, enum move_until *ret_reached, struct error *error)
{
	int res = move_is_restarted(move) ? move_forward_restarted(move, error) : 0;

	*ret_reached = MOVE_UNTIL_MOVED;
	if (res != 0)
		return res < 0 ? res : 0;
	if (move->record.phase == MOVE_UNDOING)
		return error_set(error, -EPERM,
		    "the move of %s is being undone; `blkmove move --undo %s` goes on", move->record.device,
		    move->record.device);
	if (until == MOVE_UNTIL_MOVED && move_is_remote(move))
		until = MOVE_UNTIL_SWITCHED;
	if (move->record.phase == MOVE_SYNCING) {
		*ret_reached = MOVE_UNTIL_SYNCED;
		res = forward_syncing(move, error);
		if (res < 0 || until == MOVE_UNTIL_SYNCED)
			return res;
		res = forward_switch(move, error);
	} else if (move->record.phase == MOVE_SWITCHED) {
		res = forward_switched(move, error);
	}
	if (res < 0)
		return res;
	*ret_reached = until == MOVE_UNTIL_MOVED ? MOVE_UNTIL_MOVED : MOVE_UNTIL_SWITCHED;
	/* Once it is being led there it must get there. */
	if (until != MOVE_UNTIL_MOVED && move->record.phase != MOVE_FINISHING)
		return stay_switched(move, error);
	*ret_reached = MOVE_UNTIL_MOVED;
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
			res = move_exchange(move, false, error);
		if (res == 0)
			res = move_enter_phase(move, MOVE_UNDOING, error);
	}
	if (res == 0 && place == AT_MEDIUM)
		res = move_lead(move, AT_OLD, error);
	else if (res == 0 && place != AT_OLD)
		move_say(move, "%s leads elsewhere, and is left so", move->record.device);
	return res;
}

static int lead_back(struct move *move, struct error *error)
{
	enum move_place place;
	int res = find_place(move, &place, error);

	if (res < 0)
		return res;
	if (move_new_counts(move) && place == AT_NEW)
		return error_set(error, -EPERM,
		    "%s leads to %s already, which alone has everything: `blkmove move --resume %s` ends "
		    "this move; "
		    "then move it back as any other",
		    move->record.device, move->record.target, move->record.device);
	return back_to_old(move, place, error);
}

int move_undo(struct move *move, bool keep_old, struct error *error)
{
	int res =
	    move_is_restarted(move) ? move_undo_restarted(move, keep_old, error) : lead_back(move, error);

	return res == 0 ? clean_up_undone(move, true, error) : res;
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

bool move_is_fresh(const struct move *move)
{
	return move->fresh;
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

unsigned move_note(const struct move *move)
{
	return move->record.note;
}

int move_set_note(struct move *move, unsigned note, struct error *error)
{
	move->record.note = note;
	return move_record_save(&move->record, &move->folder, error);
}
