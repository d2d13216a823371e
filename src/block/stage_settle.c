/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an earlier run has left of a stage is brought to its end before anybody uses the volume. It is found beside an image file by its name, and by
 * the volume's identity in the state folder, whatever the volume is called by now.
 */
#include "base/state_dir.h"
#include "block/inspect.h"
#include "block/open.h"
#include "block/stage.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct settle {
	struct block *volume;
	int fd;
	bool used_ok;
	enum stage_found what;
	char id[160];
	bool mine;         /* a stage of this volume was there */
	char foreign[256]; /* "": else the volume that a committed stage beside it is for */
	struct error *error;
};

static int one_is_there(void *data, const char *record)
{
	return 1;
}

static const char *time_of(uint64_t seconds, char *buf, size_t length)
{
	time_t time = (time_t)seconds;
	struct tm tm;

	if (!gmtime_r(&time, &tm) || strftime(buf, length, "%Y-%m-%d %H:%M:%S UTC", &tm) == 0)
		snprintf(buf, length, "an unknown time");
	return buf;
}

static int refuse(const struct settle *settle, const char *why)
{
	return error_set(settle->error, -EBUSY,
	    "refused: %.120s may hold a mixture of two points: a round of sync --atomic was committed and "
	    "not completed, and %.150s; "
	    "`blkmove recover --drop` gives its stage up, then a sync makes the volume whole",
	    block_info(settle->volume)->name, why);
}

/* Nothing is written below somebody who uses it. */
static int check_use(const struct settle *settle)
{
	const char *name = block_info(settle->volume)->name;
	struct block_facts facts = {0};
	int res = settle->used_ok ? 0 : inspect_fd(settle->fd, &facts, settle->error);
	const char *use = facts.mounted[0] ? facts.mounted : facts.held[0] ? facts.held : facts.writer;

	if (res < 0 || !use[0])
		return res;
	return error_set(settle->error, -EBUSY,
	    "refused: %.120s must be brought to the point that a round of sync --atomic committed, but is in "
	    "use (%.160s), and may show a "
	    "mixture of two points there: end that, then run `blkmove recover %.120s`",
	    name, use, name);
}

static int complete(const struct settle *settle, struct block *file, const struct stage *stage)
{
	const char *name = block_info(settle->volume)->name;
	struct error why = {0};
	char when[40];
	int res;

	if (settle->what == STAGE_FOUND_REFUSE)
		return error_set(settle->error, -EBUSY,
		    "refused: %.200s is being brought to the point that a round of sync --atomic committed "
		    "at %s, or was when "
		    "that was interrupted: until then it may hold a mixture; run `blkmove recover %.100s` "
		    "first",
		    name, time_of(stage->commit.committed, when, sizeof(when)), name);
	res = check_use(settle);
	if (res < 0)
		return res;
	res = stage_check(file, stage, settle->volume, &why);
	if (res == -ESTALE || res == -EBADMSG)
		return refuse(settle, why.text);
	if (res == 0)
		res = stage_put_commit(file, stage, &why);
	if (res == 0)
		res = stage_apply(file, stage, settle->volume, &why);
	if (res < 0)
		return error_set(settle->error, res,
		    "cannot bring %.120s to the point that a round of sync --atomic committed: %.200s; mend "
		    "that, then run "
		    "`blkmove recover` again",
		    name, why.text);
	return 1;
}

static int judge(struct settle *settle, struct block *file, const struct stage *stage)
{
	bool mine = !strcmp(stage->header.target_id, settle->id);

	settle->mine |= mine;
	/* One that another volume left, which had this name: it says nothing of this one. */
	if (!mine && stage->state == STAGE_COMMITTED) {
		if (!settle->id[0])
			return refuse(settle, "it cannot be told whether that was this volume");
		memcpy(settle->foreign, stage->header.name, sizeof(settle->foreign));
	}
	if (!mine)
		return 0;
	if (settle->what == STAGE_FOUND_DROP)
		return 1;
	if (stage->state == STAGE_FILLING)
		return 0;
	if (stage->state == STAGE_APPLIED)
		return settle->what == STAGE_FOUND_APPLY ? 1 : 0;
	if (stage->header.size != block_info(settle->volume)->size)
		return refuse(settle, "it was resized since");
	return complete(settle, file, stage);
}

static int settle_one(struct settle *settle, const struct stage_place *place)
{
	const struct block_open_options options = {
	    .write = settle->what != STAGE_FOUND_REFUSE, .stage = STAGE_IGNORE};
	struct block *file;
	struct stage stage;
	struct error why = {0};
	int res = file_open(&file, block_ring(settle->volume), place->path, NULL, &options, &why);
	bool applied = false;

	if (res == -ENOENT)
		return 0;
	if (res < 0)
		return error_set(settle->error, res, "cannot open the stage of %.120s: %.300s",
		    block_info(settle->volume)->name, why.text);
	res = stage_look(file, &stage, &why);
	applied = res == 0 && stage.state == STAGE_APPLIED && settle->what != STAGE_FOUND_DROP;
	if (res == 0)
		res = judge(settle, file, &stage);
	else if ((res == -ENODATA || res == -EBADMSG) && settle->what == STAGE_FOUND_DROP)
		res = 1;
	else if (res == -EBADMSG)
		res = refuse(settle, why.text);
	else if (res == -ENODATA)
		res = 0;
	else if (settle->error)
		*settle->error = why;
	/* While it is locked. */
	if (res == 1)
		stage_place_remove(place);
	block_free(file);
	return applied && res == 1 ? 0 : res;
}

/* The stage that a record leads to; a record of what is not there leaves in doubt what it was. */
static int settle_record(struct settle *settle, const char *folder, const struct stage_place *beside)
{
	struct stage_place noted = {0};
	struct stat stat;

	if (!stage_place_in(folder, settle->id, noted.record, sizeof(noted.record)))
		return 0;
	if (lstat(noted.record, &stat) < 0)
		return errno == ENOENT || errno == EACCES
		           ? 0
		           : error_set(settle->error, -errno, "cannot look for its stage, %.300s: %s",
		                 noted.record, strerror(errno));
	if (!stage_place_read(noted.record, noted.path, sizeof(noted.path)))
		memcpy(noted.path, noted.record, sizeof(noted.path));
	if (beside->path[0] && !strcmp(noted.path, beside->path))
		return 0;
	if (access(noted.path, F_OK) == 0)
		return settle_one(settle, &noted);
	if (settle->what == STAGE_FOUND_DROP) {
		noted.path[0] = '\0';
		stage_place_remove(&noted);
		return 1;
	}
	/* It moved together with its image. */
	if (settle->mine)
		return 0;
	return error_set(settle->error, -EBUSY,
	    "refused: %.120s may hold a mixture of two points: a round of sync --atomic was begun, and its "
	    "stage %.200s cannot be reached; mount what it lies on, or give it up by `blkmove recover "
	    "--drop`, "
	    "then a sync makes the volume whole",
	    block_info(settle->volume)->name, noted.path);
}

int stage_settle(struct block *volume, int fd, enum stage_found what, bool used_ok, struct error *error)
{
	struct settle settle = {.volume = volume, .fd = fd, .what = what, .used_ok = used_ok, .error = error};
	struct stage_place here = {0};
	char folders[2][PATH_MAX];
	unsigned count = state_dir_all(folders);
	bool beside = stage_place_beside(fd, here.path, sizeof(here.path)) && access(here.path, F_OK) == 0;
	int res = 0, any = beside, done = 0;

	/* Asking for a volume's identity takes longer. */
	for (unsigned i = 0; any == 0 && i < count; i++)
		any = stage_place_each(folders[i], i > 0, one_is_there, NULL, error);
	if (any <= 0)
		return any;
	inspect_identity(fd, settle.id, sizeof(settle.id));
	if (settle.id[0] && !stage_place_record(settle.id, here.record, sizeof(here.record)))
		here.record[0] = '\0';
	if (beside)
		done = res = settle_one(&settle, &here);
	else
		here.path[0] = '\0';
	for (unsigned i = 0; res >= 0 && settle.id[0] && i < count; i++) {
		res = settle_record(&settle, folders[i], &here);
		done |= res;
	}
	if (res < 0)
		return res;
	if (what == STAGE_FOUND_DROP && done == 0 && settle.foreign[0])
		return error_set(error, -EBUSY,
		    "refused: the stage %.200s was committed for another volume, which was %.120s then; "
		    "complete it "
		    "by `blkmove recover` with that volume's name now, or remove the file",
		    here.path, settle.foreign);
	return done;
}

/* Room for a new stage */

int stage_clear(struct ring *ring, const char *path, struct error *error)
{
	const struct block_open_options options = {.write = true, .stage = STAGE_IGNORE};
	struct stage_place place = {0};
	struct stage stage = {0};
	struct block *file;
	struct error why = {0};
	char leads[STAGE_PATH_MAX];
	int res = file_open(&file, ring, path, NULL, &options, &why);

	if (res == -ENOENT)
		return 0;
	if (res < 0)
		return error_set(error, res, "%.300s", why.text);
	res = stage_look(file, &stage, &why);
	if (res == -EBADMSG || (res == 0 && stage.state == STAGE_COMMITTED)) {
		res = error_set(error, -EBUSY,
		    "the stage %.200s of an earlier round for %.120s was committed, or is damaged: run "
		    "`blkmove "
		    "recover` for "
		    "that volume; if it is no more, remove the file",
		    path, stage.header.name[0] ? stage.header.name : "an unknown volume");
	} else if (res == 0 || res == -ENODATA) {
		snprintf(place.path, sizeof(place.path), "%s", path);
		if (!stage_place_record(stage.header.target_id, place.record, sizeof(place.record)) ||
		    !stage_place_read(place.record, leads, sizeof(leads)) || strcmp(leads, path))
			place.record[0] = '\0';
		stage_place_remove(&place);
		res = 0;
	} else {
		error_set(error, res, "%.300s", why.text);
	}
	block_free(file);
	return res;
}

int stage_clear_record(struct ring *ring, const struct stage_place *place, struct error *error)
{
	struct stage_place old = {0};
	struct stat stat;
	int res;

	if (lstat(place->record, &stat) < 0)
		return errno == ENOENT ? 0
		                       : error_set(error, -errno, "cannot look at %.300s: %s", place->record,
		                             strerror(errno));
	if (!stage_place_read(place->record, old.path, sizeof(old.path)))
		return strcmp(place->path, place->record) ? stage_clear(ring, place->record, error) : 0;
	if (!strcmp(old.path, place->path))
		return 0;
	res = stage_clear(ring, old.path, error);
	old.path[0] = '\0';
	memcpy(old.record, place->record, sizeof(old.record));
	if (res == 0)
		stage_place_remove(&old);
	return res;
}
