/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a series must know after a kill or a restart of the machine: FOLDER/record.json, replaced as a whole and synced. docs/formats/snapshots.md shows it. */
#pragma once

#include "attach/dm_table.h"

#define SNAPSHOT_ID_LENGTH 16u /* digits */

struct snapshot_record {
	char id[SNAPSHOT_ID_LENGTH +
	        1]; /* drawn once: in the name or tag of all that the series makes; "": there is no record */
	char kind[8];
	char source[512], target[512];              /* as they were named */
	char device[DM_NAME_MAX];                   /* the source's name in device-mapper */
	char boot[40];                              /* the machine's boot id when it was written */
	char base[DM_NAME_MAX], fresh[DM_NAME_MAX]; /* "": none */
};

/* Without one there is nothing of ours. */
bool snapshot_record_is_there(const char *folder);
/* 0 also when there is none, with "" for its id. -EBADMSG with words when it is damaged. */
int snapshot_record_load(struct snapshot_record *ret, const char *folder, struct error *error);
/* Notes the boot id, too. Durable when it returns 0. */
int snapshot_record_save(
    struct snapshot_record *record, int folder_fd, const char *folder, struct error *error);
/* Nothing is left of the series. */
void snapshot_record_forget(int folder_fd);
bool snapshot_record_is_of_another_boot(const struct snapshot_record *record);
