/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A move whose machine was started anew: mirror and legs are gone, and who had set the device up has done so again, from what LVM or he
 * himself knows. Numbers of devices mean others now: none of the record's is used.
 */
#include "attach/move_private.h"

#include <errno.h>
#include <stdio.h>

bool move_is_restarted(const struct move *move)
{
	return move_record_is_of_another_boot(&move->record);
}

/* `from` has it, and is to have it no longer alone. The last step is said first: it is not to be cut off. */
static int say_what_to_do(
    const struct move_record *record, const char *what, const char *from, struct error *error)
{
	const char *device = record->device;

	return error_set(error, -EPERM,
	    "%s %s. Before `blkmove move --undo --keep-old %s` ends this move, go on there and use it here "
	    "no more; or stop what uses it here, and `blkmove sync --verify --overwrite=/dev/mapper/%s %s "
	    "/dev/mapper/%s`",
	    device, what, device, device, from, device);
}

static int ask_engine(struct move *move, bool *ret_new, bool *ret_both, struct error *error)
{
	int res = move->options.engine->was_cut(move->options.engine_data, move, ret_new, ret_both, error);

	return res == 0
	           ? 0
	           : error_prefix(error,
	                 "the machine was started anew when %s was switched to %s, or about to be: look "
	                 "which of both is the newer one; `blkmove move --undo --keep-old %s` forgets the "
	                 "move, and leaves both as they are",
	                 move->record.device, move->record.target, move->record.device);
}

/* LVM's metadata were exchanged before the mirror was ordered to switch: lost until then, the new leg lacks something. */
static int check_exchanged(struct move *move, struct error *error)
{
	const struct move_record *record = &move->record;
	char from[2 * LVM_NAME_MAX + 8];
	bool cut = false, both = false;
	int res = ask_engine(move, &cut, &both, error);

	if (res < 0 || cut || both)
		return res;
	snprintf(from, sizeof(from), "/dev/%s/%s", record->lvm.group, record->lvm.target);
	return say_what_to_do(record,
	    "leads to its new place since the machine was started anew, before its mirror was switched: what "
	    "was written last may be in the old one alone",
	    from, error);
}

static int find_what_counts(struct move *move, bool *ret_new, struct error *error)
{
	bool switches = move->options.engine->switches, both;
	enum move_counts counts = move_record_after_restart(&move->record, switches);
	int res;

	*ret_new = counts == MOVE_NEW_COUNTS;
	if (counts == MOVE_ENGINE_KNOWS)
		return ask_engine(move, ret_new, &both, error);
	if (counts != MOVE_LVM_KNOWS)
		return 0;
	res = move_is_exchanged(move, ret_new, error);
	return res == 0 && *ret_new && switches && move->record.phase == MOVE_SWITCHED
	           ? check_exchanged(move, error)
	           : res;
}

/* Recorded before the engine forgets by what it was found. Killed then, it is found again. */
static int forget(struct move *move, enum move_phase phase, struct error *error)
{
	int res;

	move->record.phase = phase;
	res = move_record_decide(&move->record, &move->folder, error);
	return res == 0 ? ENGINE(move, forget, error) : res;
}

/* Whether who set the device up has led it to the target. LVM leads a volume where its metadata say, and they were looked at. */
static int leads_to_target(struct move *move, bool *ret, struct error *error)
{
	struct dm_facts facts;
	enum move_place place;
	uint64_t sectors;
	dev_t target;
	int res;

	*ret = false;
	if (move_is_remote(move))
		return 0;
	res = dm_look(move->record.device, &facts, error);
	if (res < 0)
		return error_prefix(error,
		    "the machine was started anew since, and %s is not there: set it up",
		    move->record.device);
	res = move_stat_target(move, &target, &sectors, error);
	if (res < 0)
		return res;
	/* The old leg's table means other devices now. */
	dm_table_done(&move->record.old);
	move->record.old_device = 0;
	res = move_where(move, &place, error);
	*ret = res == 0 && place == AT_NEW;
	return res;
}

static int end_moved(struct move *move, struct error *error)
{
	int res = forget(move, MOVE_FINISHING, error);

	if (res < 0)
		return res;
	move_say(move, "%s leads to %s since the machine was started anew", move->record.device,
	    move->record.target);
	move_record_forget(&move->folder);
	return 1;
}

static int begin_again(struct move *move, struct error *error)
{
	int res = move_look_again(move, error);

	move_say(move, "the machine was started anew since; the old leg has everything, and is copied again");
	if (res == 0)
		res = forget(move, MOVE_SYNCING, error);
	return res == 0 ? move_enter_phase(move, MOVE_SYNCING, error) : res;
}

static int say_what_is_lost(const struct move *move, struct error *error)
{
	const struct move_record *record = &move->record;

	/* Nothing leads there but a mirror, and that is gone. */
	if (move_is_remote(move))
		return say_what_to_do(record,
		    "was switched to another machine's disk before this one was started anew, and what was "
		    "written since the switch is there alone",
		    record->target, error);
	return error_set(error, -EPERM,
	    "%s was switched to %s before the machine was started anew, and does not lead there now: what "
	    "was "
	    "written since the switch is on %s. Set %s up to lead there, and resume; or `blkmove move --undo "
	    "--keep-old %s` forgets that",
	    record->device, record->target, record->target, record->device, record->device);
}

int move_forward_restarted(struct move *move, struct error *error)
{
	bool new_counts, leads = false;
	int res = find_what_counts(move, &new_counts, error);

	if (res == 0 && !new_counts)
		return move->record.phase == MOVE_UNDOING ? 0 : begin_again(move, error);
	if (res == 0 && move->record.lvm.group[0])
		return end_moved(move, error);
	if (res == 0)
		res = leads_to_target(move, &leads, error);
	if (res < 0)
		return res;
	return leads ? end_moved(move, error) : say_what_is_lost(move, error);
}

/* Nothing has to be led back. */
int move_undo_restarted(struct move *move, bool keep_old, struct error *error)
{
	struct move_record *record = &move->record;
	bool new_counts, leads = false, unknown;
	struct error ignored;
	int res = find_what_counts(move, &new_counts, error);

	/* Nobody needs to know. */
	unknown = res == -EPERM && keep_old;
	if (unknown)
		new_counts = true;
	else if (res < 0)
		return res;
	if (new_counts && !unknown &&
	    (record->lvm.group[0] || (leads_to_target(move, &leads, &ignored) == 0 && leads)))
		return error_set(error, -EPERM,
		    "%s leads to %s already, which has everything: `blkmove move --resume %s` ends this move",
		    record->device, record->target, record->device);
	if (new_counts && !keep_old)
		return say_what_is_lost(move, error);
	move_say(move, "the machine was started anew since; the old leg %s",
	    new_counts ? "is kept as it is" : "has everything");
	record->note = 0;
	return forget(move, MOVE_UNDOING, error);
}
