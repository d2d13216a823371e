/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The record of a series, as JSON: see snapshot_record.h. */
#include "snapshot/snapshot_record.h"

#include "base/cleanup.h"
#include "base/folder.h"
#include "block/sysfs.h"
#include "wire/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_NAME "record.json"
#define VERSION   1

/* Texts of the record; one that does not fit is damage. */
static bool get(const json_t *json, const char *key, char *ret, size_t size)
{
	const char *text = json_string_value(json_object_get(json, key));

	return text && snprintf(ret, size, "%s", text) < (int)size;
}

static bool is_id(const char *id)
{
	return strlen(id) == SNAPSHOT_ID_LENGTH && strspn(id, "0123456789abcdef") == SNAPSHOT_ID_LENGTH;
}

/* They go into the words of commands. */
static bool is_name(const char *name)
{
	return *name != '-' &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+_.-#:=@") ==
	           strlen(name);
}

static const char *path_of(const char *folder, char *buf, size_t length)
{
	snprintf(buf, length, "%s/" FILE_NAME, folder);
	return buf;
}

bool snapshot_record_is_there(const char *folder)
{
	char path[600];

	return access(path_of(folder, path, sizeof(path)), F_OK) == 0 || errno != ENOENT;
}

int snapshot_record_load(struct snapshot_record *ret, const char *folder, struct error *error)
{
	struct snapshot_record record = {0};
	char path[600];
	json_t *json;
	bool good;

	*ret = record;
	if (!snapshot_record_is_there(folder))
		return 0;
	json = json_load_file(path_of(folder, path, sizeof(path)), 0, NULL);
	good = json_integer_value(json_object_get(json, "version")) == VERSION &&
	       get(json, "id", record.id, sizeof(record.id)) && is_id(record.id) &&
	       get(json, "kind", record.kind, sizeof(record.kind)) &&
	       get(json, "source", record.source, sizeof(record.source)) &&
	       get(json, "target", record.target, sizeof(record.target)) &&
	       get(json, "device", record.device, sizeof(record.device)) &&
	       get(json, "boot", record.boot, sizeof(record.boot)) &&
	       get(json, "base", record.base, sizeof(record.base)) && is_name(record.base) &&
	       get(json, "fresh", record.fresh, sizeof(record.fresh)) && is_name(record.fresh);
	json_decref(json);
	if (!good)
		return error_set(error, -EBADMSG,
		    "%s is damaged; remove the snapshots whose name or tag begins with blkmove, and this "
		    "file",
		    path);
	*ret = record;
	return 0;
}

int snapshot_record_save(
    struct snapshot_record *record, int folder_fd, const char *folder, struct error *error)
{
	_cleanup_(cleanup_free) char *text = NULL;
	json_t *json;
	int res;

	sysfs_boot_id(record->boot, sizeof(record->boot));
	json = json_pack("{s:i, s:s, s:s, s:o, s:o, s:o, s:s, s:s, s:s}", "version", VERSION, "id",
	    record->id, "kind", record->kind, "source", control_text(record->source), "target",
	    control_text(record->target), "device", control_text(record->device), "boot", record->boot,
	    "base", record->base, "fresh", record->fresh);
	text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
	json_decref(json);
	res = text ? folder_put(folder_fd, FILE_NAME, text) : -ENOMEM;
	return res < 0 ? error_set(error, res, "cannot note the snapshots in %s: %s", folder, strerror(-res))
	               : 0;
}

void snapshot_record_forget(int folder_fd)
{
	unlinkat(folder_fd, FILE_NAME, 0);
	(void)fsync(folder_fd);
}

bool snapshot_record_is_of_another_boot(const struct snapshot_record *record)
{
	char boot[sizeof(record->boot)];

	sysfs_boot_id(boot, sizeof(boot));
	return strcmp(boot, record->boot) != 0;
}
