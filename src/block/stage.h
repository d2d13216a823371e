/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What becomes of a stage (stage_format.h; filter/stage.h fills it): before its commit it is nothing, and the volume is the old point; after
 * it the volume is brought to the new point, as often as it takes, and then the stage is nothing again. Control paths: they run the ring.
 */
#pragma once

#include "block/block.h"
#include "block/stage_format.h"

enum stage_state {
	STAGE_FILLING,   /* not committed */
	STAGE_COMMITTED, /* the volume may hold a mixture of the old point and the new one */
	STAGE_APPLIED,   /* the volume is the new point */
};

struct stage {
	enum stage_state state;
	struct stage_layout layout;
	struct stage_header header;
	struct stage_commit commit; /* unless it is filling */
};

/*
 * What the file is. 0; -ENODATA: a stage that was never begun; -EBADMSG with words: damaged, and it may have been committed; other
 * -errno with words.
 */
int stage_look(struct block *file, struct stage *ret, struct error *error);
/* Whether what an interrupted round has staged there, for a volume of this identity and size, may be gone on with. */
bool stage_is_resumable(struct block *file, const char *id, uint64_t size);
/*
 * Before it is applied by another process than the one that committed it: -EBADMSG with words when it is damaged, -ESTALE with words
 * when the volume holds anything else than the old and the new point there, sector by sector: somebody wrote to it since. The
 * volume is only read.
 */
int stage_check(struct block *file, const struct stage *stage, struct block *volume, struct error *error);
/*
 * Writes the commit, durably. Once more before another process than the one that wrote it applies the stage: that one may have been killed before
 * its flush, and then a power cut could take the commit away when half of it was applied. 0 or -errno with words.
 */
int stage_put_commit(struct block *file, const struct stage *stage, struct error *error);
/* Writes it to the volume, flushes, reads back, and notes in the file that this was done. Can be repeated. With words. */
int stage_apply(struct block *file, const struct stage *stage, struct block *volume, struct error *error);

#define STAGE_PATH_MAX 4400u

/* Where a volume's stage lies, and the record of it in the state folder, by which every name of the volume leads to it. */
struct stage_place {
	char path[STAGE_PATH_MAX];
	char record[STAGE_PATH_MAX]; /* a symbolic link to path, or path itself */
};

/* The identity of an open file or device. -EOPNOTSUPP with words for one that cannot be known again after a restart: it can have no stage. */
int stage_identity(int fd, char *ret, unsigned length, struct error *error);
/*
 * The place for a stage of an open file or device with this identity: in `folder`, or NULL: beside an image file, in the state folder for a
 * device. 0 or -errno with words.
 */
int stage_place(int fd, const char *id, const char *folder, struct stage_place *ret, struct error *error);
/*
 * Whether stage and record will be there after a power cut, if the volume is; the folders are there. -EOPNOTSUPP with words: one lies in memory while
 * the volume does not.
 */
int stage_place_lasts(int fd, const struct stage_place *place, struct error *error);
/* Where it would lie beside an image file; false for a device. In a folder. And its record. False: the name would be too long. */
bool stage_place_beside(int fd, char *ret, size_t length);
bool stage_place_in(const char *folder, const char *id, char *ret, size_t length);
bool stage_place_record(const char *id, char *ret, size_t length);
/* The record, durably, after stage_clear_record(). 0 or -errno with words. */
int stage_place_note(const struct stage_place *place, struct error *error);
/* Where a record leads; false: it is no link. */
bool stage_place_read(const char *record, char *ret, size_t length);
/*
 * Calls each() with every record of a state folder, until it returns something else than 0; returns that. 0: there is no such folder, or it is another
 * user's and closed to this one. -errno with words: it cannot be read.
 */
int stage_place_each(const char *folder, bool of_another, int (*each)(void *data, const char *record),
    void *data, struct error *error);
/* Removes record and stage, durably as far as the file system can. */
void stage_place_remove(const struct stage_place *place);

/*
 * Before a volume is used (file_open() calls it): looks for a stage of it that was committed and not applied, beside it and by its identity in the
 * state folder. STAGE_FOUND_APPLY applies it, 1: that was done; STAGE_FOUND_REFUSE refuses, -EBUSY with words; STAGE_FOUND_DROP removes a stage in
 * whatever state, 1: there was one. 0: there was none. -EBUSY with words, too, when it does not fit the volume, is damaged, or
 * cannot be reached where its record leads; and, unless used_ok, when somebody uses the volume to which it would be applied. What lies beside a volume and is another's is left alone.
 */
enum stage_found { STAGE_FOUND_REFUSE, STAGE_FOUND_APPLY, STAGE_FOUND_DROP };
int stage_settle(struct block *volume, int fd, enum stage_found what, bool used_ok, struct error *error);
/*
 * Makes room: removes what an earlier round staged at `path`, and its record; or what the record of a place leads to, unless that is the place. 0; -EBUSY with
 * words for what was committed, of whatever volume: nothing is removed; other -errno with words.
 */
int stage_clear(struct ring *ring, const char *path, struct error *error);
int stage_clear_record(struct ring *ring, const struct stage_place *place, struct error *error);
