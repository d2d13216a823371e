/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One small JSON object a target; a new one takes the place of the old one as a whole. */
#include "sync/base_record.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/crc32c.h"
#include "base/folder.h"
#include "wire/control.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define VERSION         1
#define VERSION_PARTIAL 2 /* of a run that has not ended: who does not know it believes nothing */
#define FILE_MAX        (1 << 20)
#define NAME_BYTES      32
#define PARTIAL_MAX     8192u         /* ranges; more are made fewer and larger */
#define PARTIAL_GRAIN   (64ull << 10) /* bytes */

static const char *name_of(const char *target_id, char buf[NAME_BYTES])
{
	char name[17];

	snprintf(buf, NAME_BYTES, "%s.base", crc32c_name(target_id, name));
	return buf;
}

static bool path_of(const char *state_dir, const char *target_id, char *ret, size_t length)
{
	char name[NAME_BYTES];

	return snprintf(ret, length, "%s/%s", state_dir, name_of(target_id, name)) < (int)length;
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

	json_int_t version = json_integer_value(json_object_get(record, "version"));

	if ((version == VERSION ||
	        (version == VERSION_PARTIAL && json_is_array(json_object_get(record, "partial")))) &&
	    json_is_array(json_object_get(record, "points")))
		return record;
	json_decref(record);
	return NULL;
}

static bool is_partial(const json_t *record)
{
	return json_integer_value(json_object_get(record, "version")) == VERSION_PARTIAL;
}

/* Nobody but the run that noted this has written since. */
static bool is_as_noted(const json_t *record, const struct block_facts *target)
{
	uint64_t session = (uint64_t)json_integer_value(json_object_get(record, "session"));

	return is(record, "target_mark", target->mark) ||
	       (is_partial(record) && session >= SESSION_FIRST && session == target->last_writer);
}

/* False when a word of it is no range of the volume. */
static bool read_partial(const json_t *record, uint64_t size, struct range_set *ret)
{
	const json_t *list = json_object_get(record, "partial");

	range_set_init(ret);
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *pair = json_array_get(list, i);
		json_int_t offset = json_integer_value(json_array_get(pair, 0)),
		           length = json_integer_value(json_array_get(pair, 1));

		if (offset < 0 || length <= 0 || (uint64_t)offset >= size ||
		    (uint64_t)length > size - (uint64_t)offset ||
		    range_set_add(ret, (uint64_t)offset, (uint64_t)length) < 0) {
			range_set_done(ret);
			return false;
		}
	}
	return true;
}

json_t *base_record_load(const char *state_dir, const struct block_facts *target, uint64_t size,
    struct range_set *ret_partial, struct error *why)
{
	struct range_set partial = {0};

	json_t *record = NULL, *points = NULL;
	char path[4200];

	if (target->id[0] && target->mark[0] && path_of(state_dir, target->id, path, sizeof(path)))
		record = read_record(path);
	/* Another target whose name has the same sum, too. */
	if (!record || !is(record, "target_id", target->id))
		error_set(why, -ENOENT, "no earlier run noted what the target holds");
	else if (!is_as_noted(record, target))
		error_set(why, -ESTALE,
		    "the target was written, or its machine rebooted, since a run noted what it holds");
	else if (is_partial(record) && !ret_partial)
		error_set(why, -ESTALE, "a sync of the target was not ended");
	else if ((uint64_t)json_integer_value(json_object_get(record, "size")) != size)
		error_set(why, -ESTALE, "the volume was resized since a run noted what the target holds");
	else if (!read_partial(record, size, &partial))
		error_set(why, -ESTALE, "what was noted of the target is damaged");
	else
		points = json_incref(json_object_get(record, "points"));
	if (points && ret_partial)
		*ret_partial = partial;
	else
		range_set_done(&partial);
	json_decref(record);
	return points;
}

static json_t *make(const struct block_facts *target, uint64_t size, const json_t *points, int version)
{
	return json_pack("{s:i, s:o, s:o, s:I, s:O}", "version", version, "target_id",
	    control_text(target->id), "target_mark", control_text(target->mark), "size", (json_int_t)size,
	    "points", points);
}

/* Takes the record. */
static int save(
    const char *state_dir, const struct block_facts *target, json_t *take_record, struct error *error)
{
	_cleanup_(cleanup_free) char *text = take_record ? json_dumps(take_record, JSON_COMPACT) : NULL;
	_cleanup_(cleanup_close) int folder = -1;
	char name[NAME_BYTES];
	int res;

	json_decref(take_record);
	if (!target->id[0] || !target->mark[0])
		return error_set(error, -EOPNOTSUPP,
		    "it could not be seen whether somebody writes to the target meanwhile");
	if (!text)
		return error_set(error, -ENOMEM, "out of memory");
	res = folder_make(state_dir);
	folder = res < 0 ? -1 : open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (res == 0)
		res = folder < 0 ? -errno : folder_put(folder, name_of(target->id, name), text);
	return res < 0 ? error_set(error, res, "cannot write in %s: %s", state_dir, strerror(-res)) : 0;
}

int base_record_save(const char *state_dir, const struct block_facts *target, uint64_t size,
    const json_t *points, struct error *error)
{
	return save(state_dir, target, make(target, size, points, VERSION), error);
}

/* Rounds to what has no more than so many ranges; never less than all of them. 0 or -ENOMEM. */
static int coarsen(const struct range_set *ranges, struct range_set *ret)
{
	uint64_t grain = PARTIAL_GRAIN;
	int res = 0;

	do {
		range_set_done(ret);
		for (size_t i = 0; res == 0 && i < ranges->count; i++) {
			const struct range *range = &ranges->ranges[i];
			uint64_t begin = align_down(range->offset, grain);

			res =
			    range_set_add(ret, begin, align_up(range->offset + range->length, grain) - begin);
		}
		grain *= 2;
	} while (res == 0 && ret->count > PARTIAL_MAX);
	return res;
}

static json_t *list_ranges(const struct range_set *ranges, uint64_t size)
{
	json_t *list = json_array();
	struct range_set coarse;

	range_set_init(&coarse);
	if (coarsen(ranges, &coarse) < 0) {
		json_decref(list);
		list = NULL;
	}
	for (size_t i = 0; list && i < coarse.count; i++) {
		const struct range *range = &coarse.ranges[i];

		json_array_append_new(
		    list, json_pack("[I, I]", (json_int_t)range->offset,
		              (json_int_t)(min_u64(range->offset + range->length, size) - range->offset)));
	}
	range_set_done(&coarse);
	return list;
}

int base_record_begin(const char *state_dir, const struct block_facts *target, uint64_t size,
    const json_t *points, const struct range_set *ranges, uint64_t session, struct error *error)
{
	json_t *record = make(target, size, points, VERSION_PARTIAL), *list = list_ranges(ranges, size);

	if (!record || !list || json_object_set(record, "partial", list) < 0 ||
	    json_object_set_new(record, "session", json_integer((json_int_t)session)) < 0) {
		json_decref(record);
		record = NULL;
	}
	json_decref(list);
	return save(state_dir, target, record, error);
}

void base_record_forget(const char *state_dir, const char *target_id)
{
	char path[4200];

	/* What cannot be removed goes by its mark. */
	if (target_id[0] && path_of(state_dir, target_id, path, sizeof(path)) && unlink(path) == 0)
		folder_sync(state_dir);
}
