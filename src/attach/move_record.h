/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a move must know after a kill or a restart of the machine: FOLDER/record.json, replaced as a whole and synced. No keys are in it. An
 * open folder is locked: one process drives a move.
 */
#pragma once

#include "attach/lvm.h"
#include "attach/move_plan.h"

/* Which leg counts, recorded before it takes effect. Which table the device has is the kernel's to say. */
enum move_phase {
	MOVE_SYNCING,   /* the old leg has everything */
	MOVE_SWITCHED,  /* the new leg has everything, the old one follows it */
	MOVE_FINISHING, /* the new leg has everything; the device is being led to it for good */
	MOVE_UNDOING,   /* the old leg has everything; the device is being led back to it */
	MOVE_PHASES,
};

const char *move_phase_name(enum move_phase phase);

struct move_record {
	enum move_phase phase;
	char engine[16];
	char device[DM_NAME_MAX], uuid[DM_NAME_MAX]; /* the consumer's; uuid "" for none */
	char target[512];                            /* as it was named, absolute */
	char target_id[160];                         /* what it is (block/inspect.h); "" for a remote one */
	char boot[40];                               /* the machine's boot id at the last record */
	enum move_kind kind;
	uint64_t sectors; /* of a leg */
	/* Numbers of devices are true as long as the machine runs. */
	dev_t old_device;    /* kind backing: the old leg */
	struct dm_table old; /* kind content: the old leg */
	struct lvm_pair lvm; /* group "": the volumes are not LVM's, or not of one group */
	char lvm_first[128]; /* where LVM's volume `moved` began before the move */
	unsigned note;       /* the engine's own; 0: none */
	bool led; /* the device was led to the medium: what is written past it since, a copy lacks */
	struct dm_table
	    last; /* the new leg, where it has a table of its own to which the device is led; else empty */
};

struct move_folder {
	int fd; /* locked; -1: none */
	char path[512];
};

/*
 * Opens FOLDER/moves/NAME and locks it; makes it with `create`. -EALREADY: another process drives this move; -EEXIST: `create`, and there is
 * a move that has not ended; -ENOENT: not `create`, and there is none.
 */
int move_folder_open(
    struct move_folder *ret, const char *state_dir, const char *name, bool create, struct error *error);
void move_folder_close(struct move_folder *folder);

/* Notes the boot id, too. Durable when it returns 0. */
int move_record_save(struct move_record *record, const struct move_folder *folder, struct error *error);
/* The same, of the boot that it was of: what was found out after a restart, while nothing was done by it yet. */
int move_record_decide(
    const struct move_record *record, const struct move_folder *folder, struct error *error);
int move_record_load(struct move_record *ret, const struct move_folder *folder, struct error *error);
/* The move has ended. */
void move_record_forget(const struct move_folder *folder);
/* Whether one of that device has not ended, by that state folder; also while a process drives it, or when its record is damaged. */
bool move_record_is_there(const char *state_dir, const char *name, const char *uuid);
/*
 * Calls `one` for each move recorded in that state folder that no process drives now, in the order of their names; where the record is damaged with NULL, and why. Changes
 * nothing.
 */
void move_record_each(const char *state_dir,
    void (*one)(void *data, const char *name, const struct move_record *record, const struct error *why),
    void *data);
/*
 * Which leg has everything, after a restart of the machine; or who knows that: the switch is recorded before it takes effect. LVM's metadata are exchanged
 * before the first write that only the new leg has.
 */
enum move_counts { MOVE_OLD_COUNTS, MOVE_NEW_COUNTS, MOVE_LVM_KNOWS, MOVE_ENGINE_KNOWS };
/* `switches`: of the engine (move.h). */
enum move_counts move_record_after_restart(const struct move_record *record, bool switches);
/* The machine was started anew since the last record. */
bool move_record_is_of_another_boot(const struct move_record *record);
void move_record_done(struct move_record *record);
