/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libdevmapper's tasks: see dm_task.h. */
#include "block/dm_task.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define LEVEL_ERROR 3 /* libdevmapper's _LOG_ERR */

static _Thread_local char said[256];

__attribute__((format(printf, 5, 6))) static void keep_message(
    int level, const char *file, int line, int errno_or_class, const char *format, ...)
{
	va_list args;

	if (level > LEVEL_ERROR)
		return;
	va_start(args, format);
	vsnprintf(said, sizeof(said), format, args);
	va_end(args);
}

void dm_quiet(void)
{
	dm_log_with_errno_init(keep_message);
	said[0] = '\0';
}

void dm_end(struct dm_task **task)
{
	if (*task)
		dm_task_destroy(*task);
}

struct dm_task *dm_begin(int type, const char *name)
{
	struct dm_task *task;

	dm_quiet();
	task = dm_task_create(type);
	if (!task || (name && !dm_task_set_name(task, name)))
		dm_end(&task), task = NULL;
	return task;
}

static int fail(int code, const char *doing, const char *name, struct error *error)
{
	const char *why = code == EPERM || code == EACCES ? "run this as root" : strerror(code);

	return error_set(error, -code, "cannot %s %s: %s%s%s%s", doing, name, why, said[0] ? " (" : "", said,
	    said[0] ? ")" : "");
}

int dm_cannot(const char *doing, const char *name, struct error *error)
{
	return fail(ENOMEM, doing, name, error);
}

static int end_of(bool done, struct dm_task *task, const char *doing, const char *name, struct error *error)
{
	int code = done ? 0 : dm_task_get_errno(task);

	return done ? 0 : fail(code ? code : EIO, doing, name, error);
}

int dm_do(struct dm_task *task, const char *doing, const char *name, struct error *error)
{
	if (!task)
		return dm_cannot(doing, name, error);
	return end_of(dm_task_run(task), task, doing, name, error);
}

int dm_do_with_udev(
    struct dm_task *task, uint16_t flags, const char *doing, const char *name, struct error *error)
{
	uint32_t cookie = 0;
	bool done;

	if (!task || !dm_task_set_cookie(task, &cookie, flags))
		return dm_cannot(doing, name, error);
	done = dm_task_run(task);
	dm_udev_wait(cookie);
	return end_of(done, task, doing, name, error);
}
