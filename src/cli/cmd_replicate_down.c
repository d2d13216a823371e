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

/* 1: it was told to go down; 0: it has gone already; -errno, with words said, and an exit code. */
static int tell(struct replicate_command *command, const char *name, int *ret_code)
{
	json_t *reply = replicate_ask(
	    name, json_pack("{s:s, s:b}", "command", "down", "force", command->force), &command->error);

	json_decref(reply);
	if (reply)
		return 1;
	/* One that failed goes with the last of its process that did not. */
	if (command->all && command->error.code == -ENOENT)
		return 0;
	*ret_code = cli_fail(command->error.code == -EPERM ? JOB_REFUSED : JOB_TROUBLE, &command->error);
	return command->error.code;
}

static int wait_for(struct replicate_command *command, const char *name)
{
	const struct timespec pause = {.tv_nsec = POLL_NS};
	int res;

	while ((res = look(name, &command->error)) == -EAGAIN)
		nanosleep(&pause, NULL);
	if (res < 0)
		return cli_fail(JOB_REFUSED, &command->error);
	if (!command->quiet)
		printf("%s: down\n", name);
	return JOB_OK;
}

/* Each takes its time: all are told before one is waited for. */
static int end_all(struct replicate_command *command, json_t *names)
{
	json_t *told = json_array(), *name;
	int code = JOB_OK;
	size_t i;

	json_array_foreach(names, i, name)
	{
		if (tell(command, json_string_value(name), &code) >= 0)
			json_array_append(told, name);
	}
	json_array_foreach(told, i, name)
	{
		int res = wait_for(command, json_string_value(name));

		code = res == JOB_OK ? code : res;
	}
	json_decref(told);
	return code;
}

int replicate_down(struct replicate_command *command)
{
	json_t *names = json_array();
	int code, res = 0;

	for (unsigned at = 0; at < command->names_count; at++)
		json_array_append_new(names, json_string(command->names[at]));
	if (command->all)
		res = control_each(replicate_add_name, names, &command->error);
	code = res < 0 ? cli_fail(JOB_TROUBLE, &command->error) : end_all(command, names);
	json_decref(names);
	return code;
}
