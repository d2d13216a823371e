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
	enum mirror_leg_index newer;
	bool ended;
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

static bool hear_map(const struct mirror_files *files, struct word *ret)
{
	struct bitmap_super super;
	json_t *judged;

	if (mirror_newer_super(files, &super) < 0 || !get_time(files, "map", &ret->when))
		return false;
	ret->newer = super.authoritative;
	ret->ended = cutover_is_end(super.state);
	memcpy(ret->ids, super.ids, sizeof(ret->ids));
	judged = mirror_files_load_judged(files);
	get_text(judged, "source_name", ret->names[MIRROR_SOURCE], sizeof(ret->names[0]));
	get_text(judged, "target_name", ret->names[MIRROR_TARGET], sizeof(ret->names[0]));
	json_decref(judged);
	return true;
}

static bool hear_receipt(const struct mirror_files *files, struct word *ret)
{
	json_t *receipt = mirror_files_read(files, MIRROR_RECEIPT);
	char newer[8];

	if (!receipt || !get_time(files, MIRROR_RECEIPT, &ret->when)) {
		json_decref(receipt);
		return false;
	}
	get_text(receipt, "authoritative", newer, sizeof(newer));
	ret->newer = strcmp(newer, "target") ? MIRROR_SOURCE : MIRROR_TARGET;
	ret->ended = true;
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
	bool target, switched = faccessat(files->dir_fd, "switched", F_OK, 0) == 0;
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

static bool is_after(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec > b->tv_sec || (a->tv_sec == b->tv_sec && a->tv_nsec > b->tv_nsec);
}

static bool hear(int mirrors_fd, const char *name, struct word *ret)
{
	_cleanup_(cleanup_close) int fd = openat(mirrors_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct mirror_files files = MIRROR_FILES_NONE;

	files.dir_fd = fd;
	return fd >= 0 && name[0] != '.' && (hear_map(&files, ret) || hear_receipt(&files, ret));
}

int mirror_newer_check(const char *state_dir, const struct mirror_pair *pair, struct error *error)
{
	const char *const *names = pair->names,
	                  *quote = strpbrk(names[MIRROR_TARGET], " ?*&;$()[]") ? "'" : "";
	enum mirror_leg_index newer, last_newer = MIRROR_SOURCE;
	struct word word, last = {0};
	char path[4096], name[MIRROR_NAME_MAX + 1] = "", more[160] = "";
	struct dirent *entry;
	DIR *mirrors;

	snprintf(path, sizeof(path), "%s/mirrors", state_dir);
	mirrors = opendir(path);
	while (mirrors && (entry = readdir(mirrors)))
		if (hear(dirfd(mirrors), entry->d_name, &word) && concerns(&word, pair, &newer) &&
		    is_after(&word.when, &last.when)) {
			last = word;
			last_newer = newer;
			snprintf(name, sizeof(name), "%.64s", entry->d_name);
		}
	if (mirrors)
		closedir(mirrors);
	if (last_newer == MIRROR_SOURCE)
		return 0;
	if (!last.ended)
		snprintf(more, sizeof(more), ", which has not ended: `blkmove mirror --resume %s`", name);
	return error_set(error, -EPERM,
	    "refused: the target %s is newer than the source %s: it became the volume by the mirror %s%s; "
	    "give "
	    "the newer one as SRC, or if what was written to it may be lost, add --overwrite=%s%s%s",
	    names[MIRROR_TARGET], names[MIRROR_SOURCE], name, more, quote, names[MIRROR_TARGET], quote);
}
