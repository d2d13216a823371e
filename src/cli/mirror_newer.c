/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which of two volumes is the newer one: see mirror_newer.h. */
#include "cli/mirror_newer.h"

#include "base/cleanup.h"
#include "cli/mirror_trust.h"
#include "range/bitmap_file.h"
#include "sync/cutover.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What one mirror's folder says. */
struct word {
	char mirror[MIRROR_NAME_MAX + 1];
	enum mirror_leg_index newer;
	bool unknown; /* and not `newer` */
	bool ended;
	bool begun;           /* it was let overwrite the older one, which was the newer one until then */
	struct timespec when; /* it was so, for sure */
	char names[MIRROR_LEGS][512], ids[MIRROR_LEGS][BITMAP_ID_MAX];
};

int mirror_newer_super(const struct mirror_files *files, struct bitmap_super *ret)
{
	_cleanup_(cleanup_close) int fd = openat(files->dir_fd, "map", O_RDONLY | O_CLOEXEC);
	struct error ignored;
	int res = fd < 0 ? -errno : bitmap_file_peek(fd, ret, &ignored);

	if (res == 0 && (ret->state >= CUTOVER_STATES || ret->authoritative != cutover_authority(ret->state)))
		res = -EBADMSG;
	/* As whoever resumes it judges. */
	if (res == 0 && ret->undecided && (ret->given_up || !mirror_trust_check(files)))
		res = -ENOTRECOVERABLE;
	return res;
}

static bool is_after(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec > b->tv_sec || (a->tv_sec == b->tv_sec && a->tv_nsec > b->tv_nsec);
}

static bool get_time(const struct mirror_files *files, const char *file, struct timespec *ret)
{
	struct stat stat;

	if (fstatat(files->dir_fd, file, &stat, 0) < 0)
		return false;
	*ret = stat.st_mtim;
	return true;
}

static void get_text(const json_t *json, const char *key, char *ret, size_t length)
{
	const char *text = json_string_value(json_object_get(json, key));

	snprintf(ret, length, "%s", text ? text : "");
}

static bool is_switched(const struct mirror_files *files)
{
	return faccessat(files->dir_fd, "switched", F_OK, 0) == 0;
}

static bool hear_judged(const struct mirror_files *files, struct word *ret)
{
	json_t *judged = mirror_files_load_judged(files);
	bool heard = judged;

	get_text(judged, "source_name", ret->names[MIRROR_SOURCE], sizeof(ret->names[0]));
	get_text(judged, "target_name", ret->names[MIRROR_TARGET], sizeof(ret->names[0]));
	get_text(judged, "source", ret->ids[MIRROR_SOURCE], sizeof(ret->ids[0]));
	get_text(judged, "target", ret->ids[MIRROR_TARGET], sizeof(ret->ids[0]));
	json_decref(judged);
	return heard;
}

static bool hear_map(const struct mirror_files *files, struct word *ret)
{
	struct bitmap_super super;

	if (mirror_newer_super(files, &super) < 0 || !get_time(files, "map", &ret->when))
		return false;
	hear_judged(files, ret);
	ret->newer = super.authoritative;
	ret->ended = cutover_is_end(super.state);
	memcpy(ret->ids, super.ids, sizeof(ret->ids));
	return true;
}

/* An order to switch was given, and the map does not tell what became of it. */
static bool hear_doubt(const struct mirror_files *files, struct word *ret)
{
	struct bitmap_super super;
	struct timespec map;

	if (!get_time(files, "switched", &ret->when) || mirror_newer_super(files, &super) == 0 ||
	    !hear_judged(files, ret))
		return false;
	if (get_time(files, "map", &map) && is_after(&map, &ret->when))
		ret->when = map;
	ret->unknown = true;
	return true;
}

static bool hear_file(const struct mirror_files *files, const char *file, struct word *ret)
{
	json_t *receipt = mirror_files_read(files, file);
	char newer[8];

	if (!receipt || !get_time(files, file, &ret->when)) {
		json_decref(receipt);
		return false;
	}
	get_text(receipt, "authoritative", newer, sizeof(newer));
	ret->newer = strcmp(newer, "target") ? MIRROR_SOURCE : MIRROR_TARGET;
	ret->ended = true;
	ret->begun = !strcmp(file, MIRROR_NEWER);
	ret->unknown = ret->begun && !newer[0];
	get_text(receipt, "source", ret->names[MIRROR_SOURCE], sizeof(ret->names[0]));
	get_text(receipt, "target", ret->names[MIRROR_TARGET], sizeof(ret->names[0]));
	get_text(receipt, "source_id", ret->ids[MIRROR_SOURCE], sizeof(ret->ids[0]));
	get_text(receipt, "target_id", ret->ids[MIRROR_TARGET], sizeof(ret->ids[0]));
	json_decref(receipt);
	return true;
}

const char *mirror_newer_words(const struct mirror_files *files, char *buf, size_t length)
{
	struct bitmap_super super;
	bool target, switched = is_switched(files);
	json_t *judged = mirror_files_load_judged(files);
	const char *name;
	int res = mirror_newer_super(files, &super);

	target = res == 0 && super.authoritative == MIRROR_TARGET;
	name = json_string_value(json_object_get(judged, target ? "target_name" : "source_name"));
	/* Before any order it is the source, whatever became of the map. */
	if (res < 0 && switched)
		snprintf(buf, length, "which leg is the volume cannot be known");
	else
		snprintf(buf, length, "the %s%s%s is the volume", target ? "target" : "source",
		    name ? " " : "", name ? name : "");
	json_decref(judged);
	return buf;
}

static bool is_leg(const struct word *word, enum mirror_leg_index leg, const struct mirror_pair *pair,
    enum mirror_leg_index ours)
{
	if (word->ids[leg][0] && pair->ids[ours][0])
		return strncmp(word->ids[leg], pair->ids[ours], BITMAP_ID_MAX - 1) == 0;
	return strcmp(word->names[leg], pair->names[ours]) == 0;
}

/* Whether the mirror had these volumes: then *ret_newer is which of them. */
static bool concerns(
    const struct word *word, const struct mirror_pair *pair, enum mirror_leg_index *ret_newer)
{
	bool same = is_leg(word, MIRROR_SOURCE, pair, MIRROR_SOURCE) &&
	            is_leg(word, MIRROR_TARGET, pair, MIRROR_TARGET);

	*ret_newer = same == (word->newer == MIRROR_TARGET) ? MIRROR_TARGET : MIRROR_SOURCE;
	return same || (is_leg(word, MIRROR_SOURCE, pair, MIRROR_TARGET) &&
	                   is_leg(word, MIRROR_TARGET, pair, MIRROR_SOURCE));
}

/* The last word of all on two volumes. */
struct search {
	const struct mirror_pair *pair;
	const char *except;           /* the mirror that asks */
	const struct timespec *since; /* none before that counts; NULL: all do */
	struct word last;             /* `newer` of our two; none: `when` is 0 */
};

/* Whether it is of these volumes. What cannot be known stands until that mirror is forgotten. */
static bool take(struct search *search, const struct word *word)
{
	struct word *last = &search->last;
	bool stands = word->unknown && !word->ended, stood = last->unknown && !last->ended;
	enum mirror_leg_index newer;

	if (!concerns(word, search->pair, &newer))
		return false;
	if (search->since && !is_after(&word->when, search->since))
		return true;
	if (stands > stood || (stands == stood && is_after(&word->when, &last->when))) {
		*last = *word;
		last->newer = newer;
	}
	return true;
}

static void hear(struct search *search, int mirrors_fd, const char *name)
{
	_cleanup_(cleanup_close) int fd = openat(mirrors_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct mirror_files files = MIRROR_FILES_NONE;
	struct word none = {0}, word;

	files.dir_fd = fd;
	if (fd < 0 || name[0] == '.')
		return;
	snprintf(none.mirror, sizeof(none.mirror), "%.64s", name);
	word = none;
	if (hear_map(&files, &word) && take(search, &word))
		return;
	word = none;
	if (hear_doubt(&files, &word) && take(search, &word))
		return;
	word = none;
	if (hear_file(&files, MIRROR_RECEIPT, &word))
		take(search, &word);
	word = none;
	if (hear_file(&files, MIRROR_NEWER, &word))
		take(search, &word);
}

static void hear_all(struct search *search, const char *state_dir)
{
	struct dirent *entry;
	char path[4096];
	DIR *mirrors;

	snprintf(path, sizeof(path), "%s/mirrors", state_dir);
	mirrors = opendir(path);
	while (mirrors && (entry = readdir(mirrors)))
		if (!search->except || strcmp(entry->d_name, search->except))
			hear(search, dirfd(mirrors), entry->d_name);
	if (mirrors)
		closedir(mirrors);
}

int mirror_newer_check(const char *state_dir, const struct mirror_pair *pair, struct error *error)
{
	const char *source = pair->names[MIRROR_SOURCE], *target = pair->names[MIRROR_TARGET],
	           *quote = strpbrk(target, " ?*&;$()[]") ? "'" : "";
	struct search search = {.pair = pair};
	const struct word *last = &search.last;
	char more[160] = "";

	hear_all(&search, state_dir);
	if (!last->unknown && last->newer == MIRROR_SOURCE)
		return 0;
	if (last->unknown && !last->ended)
		snprintf(
		    more, sizeof(more), ", which has not ended: `blkmove mirror --forget %s`", last->mirror);
	else if (!last->ended)
		snprintf(
		    more, sizeof(more), ", which has not ended: `blkmove mirror --resume %s`", last->mirror);
	if (last->unknown)
		return error_set(error, -EPERM,
		    "refused: it cannot be known whether the target %s is newer than the source %s, since "
		    "the "
		    "mirror %s%s; look at both, and if what was written to the target may be lost, add "
		    "--overwrite-newer=%s%s%s",
		    target, source, last->mirror, more, quote, target, quote);
	return error_set(error, -EPERM,
	    "refused: the target %s is newer than the source %s: %s the mirror %s%s; give the newer one as "
	    "SRC, "
	    "or if what was written to it may be lost, add --overwrite-newer=%s%s%s",
	    target, source, last->begun ? "that one was to be overwritten by" : "it became the volume by",
	    last->mirror, more, quote, target, quote);
}

int mirror_newer_check_resume(
    const char *state_dir, const struct mirror_files *files, const char *name, struct error *error)
{
	struct word own = {0};
	const struct mirror_pair pair = {{own.names[MIRROR_SOURCE], own.names[MIRROR_TARGET]},
	    {own.ids[MIRROR_SOURCE], own.ids[MIRROR_TARGET]}};
	struct search search = {.pair = &pair, .except = name, .since = &own.when};
	const struct word *last = &search.last;

	/* Without a map of its own it is judged as a new one, or refused. */
	if (!hear_map(files, &own))
		return 0;
	search.last.newer = own.newer;
	hear_all(&search, state_dir);
	if (!last->unknown && last->newer == own.newer)
		return 0;
	return error_set(error, -EPERM,
	    "refused: the mirror %s stopped before the mirror %s, since which %s; forget it, `blkmove mirror "
	    "--forget %s`, and begin anew with the newer one as SRC",
	    name, last->mirror,
	    last->unknown                  ? "it cannot be known which leg is the newer one"
	    : last->newer == MIRROR_TARGET ? "the target is the newer one"
	                                   : "the source is the newer one",
	    name);
}

/* Of the volumes that were judged. */
static int keep(struct mirror_files *files, const char *newer, struct error *error)
{
	json_t *judged = mirror_files_load_judged(files), *json;

	json = json_pack("{s:s?, s:O*, s:O*, s:O*, s:O*}", "authoritative", newer, "source",
	    json_object_get(judged, "source_name"), "target", json_object_get(judged, "target_name"),
	    "source_id", json_object_get(judged, "source"), "target_id", json_object_get(judged, "target"));
	json_decref(judged);
	return mirror_files_write(files, MIRROR_NEWER, json, error);
}

int mirror_newer_keep_begun(struct mirror_files *files, struct error *error)
{
	return keep(files, "source", error);
}

static void set_time(const struct mirror_files *files, const char *file, const struct timespec *when)
{
	const struct timespec times[2] = {*when, *when};

	(void)utimensat(files->dir_fd, file, times, 0);
}

int mirror_newer_keep_doubt(struct mirror_files *files, struct error *error)
{
	struct word word = {0};
	int res;

	if (!hear_doubt(files, &word))
		return 0;
	res = keep(files, NULL, error);
	if (res == 0)
		set_time(files, MIRROR_NEWER, &word.when);
	return res;
}

void mirror_newer_date_receipt(const struct mirror_files *files)
{
	struct timespec when;

	if (get_time(files, "map", &when))
		set_time(files, MIRROR_RECEIPT, &when);
}
