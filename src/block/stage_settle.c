/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an earlier run has left of a stage is brought to its end before anybody uses the volume. It is found beside an image file by its name, and by
 * the volume's identity in the state folder, whatever the volume is called by now.
 */
#include "base/state_dir.h"
#include "block/inspect.h"
#include "block/open.h"
#include "block/stage.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct settle {
	struct block *volume;
	enum stage_found what;
	char id[160];
	struct error *error;
};

/* Whether there is any: asking for a volume's identity takes longer. */
static bool state_has_any(void)
{
	char folder[PATH_MAX];
	DIR *dir = opendir(state_dir_path(folder, sizeof(folder)));
	struct dirent *entry;
	bool found = false;

	while (dir && !found && (entry = readdir(dir))) {
		const char *end = strrchr(entry->d_name, '.');

		found = end && !strcmp(end, ".stage");
	}
	if (dir)
		closedir(dir);
	return found;
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
	res = stage_check(file, stage, settle->volume, &why);
	if (res == -ESTALE || res == -EBADMSG)
		return refuse(settle, why.text);
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

static int judge(const struct settle *settle, struct block *file, const struct stage *stage)
{
	if (stage->state == STAGE_FILLING)
		return 0;
	if (strcmp(stage->header.target_id, settle->id))
		return stage->state == STAGE_COMMITTED
		           ? refuse(settle, "that was for another volume of this name")
		           : 0;
	if (stage->state == STAGE_APPLIED)
		return settle->what == STAGE_FOUND_APPLY ? 1 : 0;
	if (stage->header.size != block_info(settle->volume)->size)
		return refuse(settle, "it was resized since");
	return complete(settle, file, stage);
}

static int settle_one(const struct settle *settle, const struct stage_place *place)
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
	if (settle->what == STAGE_FOUND_DROP) {
		res = 1;
	} else {
		res = stage_look(file, &stage, &why);
		applied = res == 0 && stage.state == STAGE_APPLIED;
		res = res == -ENODATA ? 0 : res == -EBADMSG ? refuse(settle, why.text) : res;
		if (res == 0 && why.code == 0)
			res = judge(settle, file, &stage);
		else if (res < 0 && res != -EBUSY)
			*settle->error = why;
	}
	/* While it is locked. */
	if (res == 1)
		stage_place_remove(place);
	block_free(file);
	return applied && res == 1 ? 0 : res;
}

static bool follow_record(const char *record, struct stage_place *place)
{
	ssize_t length = readlink(record, place->path, sizeof(place->path) - 1);

	snprintf(place->record, sizeof(place->record), "%s", record);
	if (length > 0)
		place->path[length] = '\0';
	else
		memcpy(place->path, place->record, sizeof(place->path));
	return access(place->path, F_OK) == 0;
}

int stage_settle(struct block *volume, int fd, enum stage_found what, struct error *error)
{
	struct settle settle = {.volume = volume, .what = what, .error = error};
	struct stage_place here = {0}, noted = {0};
	char record[STAGE_PATH_MAX] = "";
	bool beside = stage_place_beside(fd, here.path, sizeof(here.path)) && access(here.path, F_OK) == 0;
	int res = 0, more = 0;

	if (!beside && !state_has_any())
		return 0;
	inspect_identity(fd, settle.id, sizeof(settle.id));
	if (settle.id[0] && !stage_place_record(settle.id, record, sizeof(record)))
		record[0] = '\0';
	snprintf(here.record, sizeof(here.record), "%s", record);
	if (beside)
		res = settle_one(&settle, &here);
	if (res >= 0 && record[0] && follow_record(record, &noted) &&
	    !(beside && !strcmp(noted.path, here.path)))
		more = settle_one(&settle, &noted);
	return res < 0 ? res : more < 0 ? more : res | more;
}
