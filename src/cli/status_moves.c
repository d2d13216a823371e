/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Records of moves, for `blkmove status`: see status_moves.h. What the kernel has is not asked: the commands that are named do that. */
#include "cli/status_moves.h"

#include "attach/move_record.h"
#include "cli/cli.h"
#include "wire/control.h"

#include <string.h>

struct list {
	FILE *to;
	bool json;
};

static enum move_counts counts(const struct move_record *record)
{
	/* The other engine is the kernel's mirror. */
	bool switches = strcmp(record->engine, "blkmove") == 0;

	if (move_record_is_of_another_boot(record))
		return move_record_after_restart(record, switches);
	return record->phase == MOVE_FINISHING || (record->phase == MOVE_SWITCHED && switches)
	           ? MOVE_NEW_COUNTS
	           : MOVE_OLD_COUNTS;
}

/* NULL: that is not known here. */
static const char *leg(const struct move_record *record)
{
	return counts(record) == MOVE_OLD_COUNTS ? "old" : counts(record) == MOVE_NEW_COUNTS ? "new" : NULL;
}

/*
 * What is being undone, only an undo ends; what is being finished leads to the new leg, perhaps alone. So may what was switched, after a restart: there
 * is no mirror any more that would bring the old leg what it lacks.
 */
static bool may(const struct move_record *record, bool undo)
{
	if (!undo)
		return record->phase != MOVE_UNDOING;
	return record->phase != MOVE_FINISHING &&
	       (counts(record) == MOVE_OLD_COUNTS || !move_record_is_of_another_boot(record));
}

static void print_json(const struct list *list, json_t *take_json)
{
	cli_print_json(list->to, take_json);
	json_decref(take_json);
}

static json_t *command(const struct move_record *record, bool undo)
{
	char text[DM_NAME_MAX + 40];

	if (!may(record, undo))
		return json_null();
	snprintf(text, sizeof(text), "blkmove move --%s %s", undo ? "undo" : "resume", record->device);
	return control_text(text);
}

static void print_ways(const struct list *list, const struct move_record *record, bool restarted)
{
	const char *device = record->device;

	if (!leg(record)) {
		fprintf(list->to,
		    " %s which leg has everything: `blkmove move --resume %s` says so, and goes by that\n",
		    counts(record) == MOVE_LVM_KNOWS ? "LVM's metadata tell" : "its mirror has noted",
		    device);
		return;
	}
	fprintf(list->to, " the %s leg has everything;", leg(record));
	if (restarted && counts(record) == MOVE_NEW_COUNTS)
		fprintf(list->to, " `blkmove move --resume %s` ends it, or says what is to be done first",
		    device);
	else if (may(record, false))
		fprintf(
		    list->to, " `blkmove move --resume %s` goes on%s", device, may(record, true) ? "," : "");
	if (may(record, true))
		fprintf(list->to, " `blkmove move --undo %s` leads it back", device);
	fputc('\n', list->to);
}

static void print_record(const struct list *list, const struct move_record *record)
{
	bool restarted = move_record_is_of_another_boot(record);

	if (list->json) {
		print_json(
		    list, json_pack("{s:s, s:o, s:o, s:o, s:s, s:s?, s:b, s:b, s:o, s:o}", "kind", "move",
		              "device", control_text(record->device), "target", control_text(record->target),
		              "engine", control_text(record->engine), "phase", move_phase_name(record->phase),
		              "leg", leg(record), "driven", false, "restarted", restarted, "resume",
		              command(record, false), "undo", command(record, true)));
		return;
	}
	fprintf(list->to, "move of %s to %s (%s): %s%s, and no command goes on with it;", record->device,
	    record->target, record->engine, move_phase_name(record->phase),
	    restarted ? " when the machine was started anew" : "");
	print_ways(list, record, restarted);
}

static void print_one(void *data, const char *name, const struct move_record *record, const struct error *why)
{
	const struct list *list = data;

	if (record)
		print_record(list, record);
	else if (list->json)
		print_json(list, json_pack("{s:s, s:o, s:o}", "kind", "move", "device", control_text(name),
		                     "error", control_text(why->text)));
	else
		fprintf(list->to, "move of %s: %s\n", name, why->text);
}

void status_moves_print(FILE *to, const char *state_dir, bool json)
{
	struct list list = {.to = to, .json = json};

	move_record_each(state_dir, print_one, &list);
}
