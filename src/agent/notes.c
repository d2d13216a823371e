/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Notes as files, RUN_DIR/HASH.writer: {"id": ..., "mark": ..., "session": N}. One that cannot be written or read is none: then
 * the client compares.
 */
#include "agent/notes.h"

#include "base/crc32c.h"
#include "base/run_dir.h"
#include "wire/control.h"

#include <jansson.h>
#include <stdio.h>
#include <unistd.h>

/* False when the folder is not ours, or the volume cannot be known again. */
static bool note_path(const struct block_facts *now, bool make, char *ret, size_t length)
{
	struct error ignored;
	char dir[4096], name[17];

	if (!now->id[0] || !now->mark[0])
		return false;
	run_dir_path(dir, sizeof(dir));
	if ((make ? run_dir_make : run_dir_check)(dir, &ignored) < 0)
		return false;
	return snprintf(ret, length, "%s/%s.writer", dir, crc32c_name(now->id, name)) < (int)length;
}

static bool is(const json_t *note, const char *key, const char *value)
{
	json_t *wanted = control_text(value);
	bool equal = wanted && json_equal(json_object_get(note, key), wanted);

	json_decref(wanted);
	return equal;
}

static uint64_t take(void *data, const struct block_facts *now)
{
	uint64_t writer = LAST_WRITER_UNKNOWN;
	char path[4160];
	json_t *note;

	if (!note_path(now, false, path, sizeof(path)))
		return writer;
	note = json_load_file(path, 0, NULL);
	/* It would be no longer true: a note that cannot be removed is not believed either. */
	if (note && unlink(path) == 0 && is(note, "id", now->id))
		writer = is(note, "mark", now->mark)
		             ? (uint64_t)json_integer_value(json_object_get(note, "session"))
		             : LAST_WRITER_OTHER;
	json_decref(note);
	return writer <= SESSION_MAX ? writer : LAST_WRITER_UNKNOWN;
}

static void put(void *data, const struct block_facts *now, uint64_t session)
{
	char path[4160], fresh[4192];
	json_t *note;

	if (!note_path(now, true, path, sizeof(path)))
		return;
	snprintf(fresh, sizeof(fresh), "%s.%d", path, (int)getpid());
	note = json_pack("{s:o, s:o, s:I}", "id", control_text(now->id), "mark", control_text(now->mark),
	    "session", (json_int_t)session);
	if (note && json_dump_file(note, fresh, JSON_COMPACT) == 0 && rename(fresh, path) == 0)
		fresh[0] = '\0';
	if (fresh[0])
		unlink(fresh);
	json_decref(note);
}

const struct agent_notes agent_file_notes = {.take = take, .put = put};
