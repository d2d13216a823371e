/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blkmove replicate verify: begins, stops, waits, and says what came of it. */
#include "base/parse_size.h"
#include "cli/cmd_replicate.h"
#include "cli/control_client.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define POLL_NS 200000000L

/* Where the last one ended before its end; else from the beginning. */
static int find_begin(struct replicate_command *command, json_int_t *ret)
{
	json_t *status = replicate_ask_status(command->names[0], &command->error),
	       *verify = json_object_get(status, "verify");

	if (!status)
		return command->error.code;
	*ret = strcmp(control_string(verify, "state"), "stopped")
	           ? 0
	           : (json_int_t)control_number(verify, "position");
	json_decref(status);
	return 0;
}

static int begin(struct replicate_command *command)
{
	json_int_t from = 0;
	json_t *request, *reply;
	int res = command->proceed ? find_begin(command, &from) : 0;

	if (res < 0)
		return res;
	request = json_pack("{s:s}", "command", "verify");
	if (command->stop)
		json_object_set_new(request, "stop", json_true());
	if (from > 0)
		json_object_set_new(request, "from", json_integer(from));
	if (command->rate)
		json_object_set(request, "rate", command->rate);
	if (command->resync)
		json_object_set_new(request, "resync", json_true());
	reply = replicate_ask(command->names[0], request, &command->error);
	json_decref(reply);
	return reply ? 0 : command->error.code;
}

static void print_ranges(const struct replicate_command *command, const json_t *verify)
{
	uint64_t count = control_number(verify, "ranges_count");
	const json_t *range;
	size_t i = 0;

	if (command->json)
		return;
	json_array_foreach((json_t *)json_object_get(verify, "ranges"), i, range)
	{
		printf("differs: offset %llu length %llu\n",
		    (unsigned long long)control_number(range, "offset"),
		    (unsigned long long)control_number(range, "length"));
	}
	if (count > i)
		printf("and %llu more; the log of `blkmove replicate up` has more of them\n",
		    (unsigned long long)(count - i));
}

/* Of this pass, or of one that it goes on with. */
static bool differs(const json_t *status, const json_t *verify)
{
	return control_number(verify, "differing") || control_number(status, "out_of_sync");
}

static int conclude(struct replicate_command *command, const json_t *status, const json_t *verify)
{
	uint64_t differing = control_number(verify, "differing"), skipped = control_number(verify, "skipped");
	bool done = !strcmp(control_string(verify, "state"), "done");
	char size[16], rest[16];

	print_ranges(command, verify);
	if (command->json) {
		cli_print_json(stdout, verify);
	} else if (done && !command->quiet) {
		printf("%s: %s compared: %s differ, %s could not be compared\n", command->names[0],
		    format_size(control_number(verify, "position"), (char[16]){0}, 16),
		    format_size(differing, size, sizeof(size)), format_size(skipped, rest, sizeof(rest)));
		if (control_number(status, "out_of_sync"))
			printf("%s: out of sync: %llu bytes; `blkmove replicate status %s` says what is "
			       "next\n",
			    command->names[0], (unsigned long long)control_number(status, "out_of_sync"),
			    command->names[0]);
	}
	if (!done) {
		error_set(&command->error, -ECANCELED,
		    "%s: the verification was stopped before its end; `blkmove replicate verify %s "
		    "--continue` goes on",
		    command->names[0], command->names[0]);
		return cli_fail(JOB_TROUBLE, &command->error);
	}
	return differs(status, verify) ? JOB_DIFFERS : skipped ? JOB_TROUBLE : JOB_OK;
}

static int wait_for_end(struct replicate_command *command)
{
	const struct timespec pause = {.tv_nsec = POLL_NS};

	for (;;) {
		json_t *status = replicate_ask_status(command->names[0], &command->error),
		       *verify = json_object_get(status, "verify");
		bool over = verify && strcmp(control_string(verify, "state"), "running");
		int code = !status ? cli_fail(JOB_TROUBLE, &command->error)
		           : over  ? conclude(command, status, verify)
		                   : JOB_OK;

		json_decref(status);
		if (!status || over)
			return code;
		nanosleep(&pause, NULL);
	}
}

int replicate_verify(struct replicate_command *command)
{
	int res = begin(command);

	if (res < 0)
		return cli_fail(res == -EPERM ? JOB_REFUSED : JOB_TROUBLE, &command->error);
	if (command->wait)
		return wait_for_end(command);
	if (!command->quiet)
		printf("%s: the verification %s; `blkmove replicate status %s` says how far it is\n",
		    command->names[0], command->stop ? "is stopped" : "has begun", command->names[0]);
	return JOB_OK;
}
