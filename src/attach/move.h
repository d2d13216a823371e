/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Moves a device-mapper device, while it is open, to another device. Its table is swapped twice: to a *medium* that keeps both legs equal, and
 * in the end to the new leg; whoever has it open never sees more than a longer request. Each step can be done again: after a
 * kill the move goes on, or back, from what the record and the kernel say. What keeps the legs equal is the engine's.
 *
 * Devices of a move of NAME: NAME-blkmove-old, NAME-blkmove-new (the legs), and the engine's. Control path; prints nothing.
 */
#pragma once

#include "attach/move_record.h"

#define MOVE_DEVICE_SUFFIX "-blkmove-"
#define MOVE_NAME_MAX      108u /* bytes of NAME: device-mapper's names have 127 */

struct move;

struct move_progress {
	uint64_t total, done; /* bytes */
	bool synced;          /* both legs have everything, and get everything */
	char trouble[256];    /* "": none; the copy cannot go on by itself */
};

struct move_engine {
	const char *name;
	bool
	    switches; /* cut() makes the new leg the one that counts, and uncut() the old one; else they only look */
	/* Each is given `data`, may be called again after it succeeded, and returns 0 or -errno with words. */

	/*
	 * A device that is the old leg, by move_set_medium(); nothing is copied, nothing else needs it yet. -EEXIST: what has its name is not of this move,
	 * and was not touched.
	 */
	int (*make)(void *data, struct move *move, struct error *error);
	/* The consumer's device leads to the medium: begins, or goes on with, the copy. */
	int (*sync)(void *data, struct move *move, struct error *error);
	int (*look)(void *data, struct move *move, struct move_progress *ret, struct error *error);
	/* The new leg counts from now on, and the old one follows, if the engine can do that; synced before. */
	int (*cut)(void *data, struct move *move, struct error *error);
	/* The old leg counts again, and has everything; the new one still gets everything, if it can. */
	int (*uncut)(void *data, struct move *move, struct error *error);
	/* Nothing is under way: does the new leg have everything, durably as far as it was flushed? */
	int (*leave)(void *data, struct move *move, struct error *error);
	/* Nobody uses the medium any more: removes it, and all that the engine knew; but nothing of another move. */
	int (*remove)(void *data, struct move *move, struct error *error);
	/*
	 * The machine was started anew, after cut() was about to be called: whether it made the new leg count, and whether the other one
	 * has everything, too. -EPERM: that cannot be told. NULL where it never does.
	 */
	int (*was_cut)(void *data, struct move *move, bool *ret, bool *ret_both, struct error *error);
	/* The machine was started anew: whatever the engine kept of this move is worth nothing. */
	int (*forget)(void *data, struct move *move, struct error *error);
};

struct move_options {
	const char *state_dir;
	const struct move_engine *engine;
	void *engine_data;
	/* The target's name once more, or NULL: after a restart nothing but the user's word may tell that it is the same. */
	const char *overwrite;
	/* What happens, for the user; every so often while it syncs. `progress` returns false to stop waiting. May be NULL. */
	void (*step)(void *data, const char *text);
	bool (*progress)(void *data, const struct move_progress *progress);
	void *data;
};

enum move_until { MOVE_UNTIL_SYNCED, MOVE_UNTIL_SWITCHED, MOVE_UNTIL_MOVED };

/*
 * Begins one: looks at the device and notes the plan; nothing is changed yet. `target` is a path, or a remote endpoint that only the engine
 * understands (`remote`). -EOPNOTSUPP, -EINVAL, -EBUSY, -EEXIST with words.
 */
int move_begin(struct move **ret, const char *device, const char *target, bool remote, bool forget_at_boot,
    const struct move_options *options, struct error *error);
/* One that was begun before, by the device's path or name. */
int move_continue(
    struct move **ret, const char *device, const struct move_options *options, struct error *error);
/* The name of the engine that the move was begun with. Of a record alone: no device need be there. */
int move_engine_of(const char *device, const char *state_dir, char ret[16], struct error *error);

/*
 * *ret_reached: how far it came: further than `until` when it had been there, less for a remote target, which it can only be switched to.
 * -ECANCELED: `progress` said so; all is left as it is.
 */
int move_forward(struct move *move, enum move_until until, enum move_until *ret_reached, struct error *error);
/* `keep_old`: also where the old leg may lack what was written since the switch. */
int move_undo(struct move *move, bool keep_old, struct error *error);
struct move *move_free(struct move *move);

const struct move_record *move_get_record(const struct move *move);
/* Which leg has everything. */
bool move_new_counts(const struct move *move);
/* The longest that the device was suspended, ns. */
uint64_t move_pause_ns(const struct move *move);

/* For engines: */
const char *move_leg_name(const struct move *move, bool new_leg);
dev_t move_leg_device(const struct move *move, bool new_leg);
/* It was begun by this process, and has made nothing yet: whatever has the name of one of its parts is another's. */
bool move_is_fresh(const struct move *move);
/*
 * A device of the move's own with that table, unless it is there: with a table that `may_have` knows (NULL: with that one), else it is another's, -EEXIST.
 */
int move_make_device(const struct move *move, const char *name, const struct dm_table *table,
    bool (*may_have)(const struct move *move, const struct dm_table *table), dev_t *ret, struct error *error);
void move_set_medium(struct move *move, dev_t medium);
/* A number of the engine's own that outlasts the process, but no restart of the machine; 0 until it is set. */
unsigned move_note(const struct move *move);
int move_set_note(struct move *move, unsigned note, struct error *error);
