/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blkmove replicate down: which resources are meant, and waiting until they are gone. */
#include "cli/cmd_replicate.h"
#include "cli/control_client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define POLL_NS 50000000L

/* 0: it is gone; -EAGAIN: not yet; -EBUSY with words: it is up again, since somebody uses its device. */
static int look(const char *name, struct error *error)
{
	json_t *status = replicate_ask_status(name, error);
	const char *state = status ? control_string(status, "state") : "down",
	           *trouble = json_string_value(json_object_get(status, "trouble"));
	/* One that gives no answer has not gone. */
	int res = status || error->code == -ETIMEDOUT ? -EAGAIN : 0;

	if (!strcmp(state, "up"))
		res = error_set(error, -EBUSY, "%s stays up: %s", name, trouble ? trouble : "it is in use");
	json_decref(status);
	return res;
}

static int end_one(struct replicate_command *command, const char *name)
{
	const struct timespec pause = {.tv_nsec = POLL_NS};
	json_t *reply = replicate_ask(
	    name, json_pack("{s:s, s:b}", "command", "down", "force", command->force), &command->error);
	/* One that failed goes with the last of its process that did not. */
	bool gone = !reply && command->all && command->error.code == -ENOENT;
	int res = 0;

	if (!reply && !gone)
		return cli_fail(command->error.code == -EPERM ? JOB_REFUSED : JOB_TROUBLE, &command->error);
	json_decref(reply);
	while (!gone && (res = look(name, &command->error)) == -EAGAIN)
		nanosleep(&pause, NULL);
	if (res < 0)
		return cli_fail(JOB_REFUSED, &command->error);
	if (!command->quiet)
		printf("%s: down\n", name);
	return JOB_OK;
}

int replicate_down(struct replicate_command *command)
{
	json_t *names = json_array(), *name;
	int code = JOB_OK, res = 0;
	size_t i;

	for (unsigned at = 0; at < command->names_count; at++)
		json_array_append_new(names, json_string(command->names[at]));
	if (command->all)
		res = control_each(replicate_add_name, names, &command->error);
	if (res < 0)
		code = cli_fail(JOB_TROUBLE, &command->error);
	json_array_foreach(names, i, name)
	{
		res = end_one(command, json_string_value(name));
		code = res == JOB_OK ? code : res;
	}
	json_decref(names);
	return code;
}
