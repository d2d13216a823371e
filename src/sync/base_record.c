/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One small JSON object a target; a new one takes the place of the old one by rename(2). */
#include "sync/base_record.h"

#include "base/cleanup.h"
#include "base/crc32c.h"
#include "base/folder.h"
#include "wire/control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define VERSION  1
#define FILE_MAX (1 << 20)

static bool path_of(const char *state_dir, const char *target_id, char *ret, size_t length)
{
	char name[17];

	return snprintf(ret, length, "%s/%s.base", state_dir, crc32c_name(target_id, name)) < (int)length;
}

static bool is(const json_t *record, const char *key, const char *value)
{
	json_t *wanted = control_text(value);
	bool equal = wanted && json_equal(json_object_get(record, key), wanted);

	json_decref(wanted);
	return equal;
}

static json_t *read_record(const char *path)
{
	_cleanup_(cleanup_close) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	_cleanup_(cleanup_free) char *text = malloc(FILE_MAX);
	ssize_t length = fd >= 0 && text ? read(fd, text, FILE_MAX) : -1;
	json_t *record = length > 0 ? json_loadb(text, (size_t)length, 0, NULL) : NULL;

	if (json_is_object(record) && json_integer_value(json_object_get(record, "version")) == VERSION &&
	    json_is_array(json_object_get(record, "points")))
		return record;
	json_decref(record);
	return NULL;
}

json_t *base_record_load(
    const char *state_dir, const struct block_facts *target, uint64_t size, struct error *why)
{
	json_t *record = NULL, *points = NULL;
	char path[4200];

	if (target->id[0] && target->mark[0] && path_of(state_dir, target->id, path, sizeof(path)))
		record = read_record(path);
	/* Another target whose name has the same sum, too. */
	if (!record || !is(record, "target_id", target->id))
		error_set(why, -ENOENT, "no earlier run noted what the target holds");
	else if (!is(record, "target_mark", target->mark))
		error_set(why, -ESTALE,
		    "the target was written, or its machine rebooted, since a run noted what it holds");
	else if ((uint64_t)json_integer_value(json_object_get(record, "size")) != size)
		error_set(why, -ESTALE, "the volume was resized since a run noted what the target holds");
	else
		points = json_incref(json_object_get(record, "points"));
	json_decref(record);
	return points;
}

static int write_file(const char *path, const char *text)
{
	_cleanup_(cleanup_close) int fd =
	    open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	size_t length = strlen(text);
	ssize_t wrote = fd < 0 ? -1 : write(fd, text, length);

	if (wrote >= 0 && (size_t)wrote != length)
		return -ENOSPC;
	return wrote < 0 || fsync(fd) < 0 ? -errno : 0;
}

int base_record_save(const char *state_dir, const struct block_facts *target, uint64_t size,
    const json_t *points, struct error *error)
{
	_cleanup_(cleanup_free) char *text = NULL;
	char path[4200], fresh[4210];
	json_t *record;
	int res = 0;

	if (!target->id[0] || !target->mark[0])
		return error_set(error, -EOPNOTSUPP,
		    "it could not be seen whether somebody writes to the target meanwhile");
	record =
	    json_pack("{s:i, s:o, s:o, s:I, s:O}", "version", VERSION, "target_id", control_text(target->id),
	        "target_mark", control_text(target->mark), "size", (json_int_t)size, "points", points);
	text = record ? json_dumps(record, JSON_COMPACT) : NULL;
	json_decref(record);
	if (!text || !path_of(state_dir, target->id, path, sizeof(path)))
		return error_set(error, -ENOMEM, "out of memory");
	snprintf(fresh, sizeof(fresh), "%s.new", path);
	res = folder_make(state_dir);
	if (res == 0)
		res = write_file(fresh, text);
	if (res == 0 && rename(fresh, path) < 0)
		res = -errno;
	if (res < 0) {
		unlink(fresh);
		return error_set(error, res, "cannot write in %s: %s", state_dir, strerror(-res));
	}
	folder_sync(state_dir);
	return 0;
}

void base_record_forget(const char *state_dir, const char *target_id)
{
	char path[4200];

	/* What cannot be removed goes by its mark. */
	if (target_id[0] && path_of(state_dir, target_id, path, sizeof(path)) && unlink(path) == 0)
		folder_sync(state_dir);
}
