/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blkmove replicate: what the running process is asked for, and what became of it. docs/wire/control.md has the requests. */
#include "base/parse_size.h"
#include "cli/cmd_replicate.h"
#include "cli/control_client.h"
#include "cli/replicate_words.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define POLL_NS          50000000L
#define MEET_NS          5000000000
#define LEASE_DEFAULT_MS 30000

static int fail(struct replicate_command *command)
{
	return cli_fail(command->error.code == -EPERM ? JOB_REFUSED : JOB_TROUBLE, &command->error);
}

static void say(const struct replicate_command *command, const char *words)
{
	if (!command->quiet)
		printf("%s: %s\n", command->names[0], words);
}

static void wait_a_little(void)
{
	const struct timespec pause = {.tv_nsec = POLL_NS};

	nanosleep(&pause, NULL);
}

/* Requests */

static json_t *ask_forced(struct replicate_command *command)
{
	return json_pack("{s:s, s:b}", "command", command->verb, "force", command->force);
}

static json_t *ask_plainly(struct replicate_command *command)
{
	return json_pack("{s:s}", "command", command->verb);
}

/* What is lost is said before it is, in figures where there are any. */
static void explain_loss(struct replicate_command *command, const json_t *status)
{
	const char *name = command->names[0], *host = control_string(status, "host"),
	           *peer = control_string(status, "peer"), *volume = control_string(status, "volume");
	char most[16];

	if (json_is_true(json_object_get(status, "foreign")))
		error_set(&command->error, -EPERM,
		    "all that is on %s of this node (%s) is lost by this, which was there before it was a "
		    "replica's; it gets what %s has. Nothing brings it back: copy %s first if it may be "
		    "wanted. "
		    "If it may be lost, add --discard-mine %s",
		    volume, host, peer, volume, name);
	else
		error_set(&command->error, -EPERM,
		    "what only this node (%s) has is lost by this, up to %s: all that was written here since "
		    "the two went apart; it gets what %s has. Nothing brings it back: copy %s first if it "
		    "may "
		    "be wanted. If it may be lost, add --discard-mine %s",
		    host, format_size(control_number(status, "dirty"), most, sizeof(most)), peer, volume,
		    name);
}

static json_t *ask_to_discard(struct replicate_command *command)
{
	const char *name = command->names[0];
	json_t *status;

	if (command->discard && !strcmp(command->discard, name))
		return json_pack("{s:s}", "command", "discard");
	if (command->discard) {
		error_set(&command->error, -EPERM, "--discard-mine=%s is not the resource's name, %s",
		    command->discard, name);
		return NULL;
	}
	status = replicate_ask_status(command->names[0], &command->error);
	if (!status)
		return NULL;
	explain_loss(command, status);
	json_decref(status);
	return NULL;
}

static json_t *ask_to_hand_over(struct replicate_command *command)
{
	json_t *status = command->to ? replicate_ask_status(command->names[0], &command->error) : NULL;
	const char *peer = status ? control_string(status, "peer") : NULL;

	if (command->to && !status)
		return NULL;
	if (peer && strcmp(peer, command->to)) {
		error_set(&command->error, -EPERM, "--to=%s: the other node of %s is %s", command->to,
		    command->names[0], peer);
		json_decref(status);
		return NULL;
	}
	json_decref(status);
	return json_pack("{s:s, s:I}", "command", "hand-over", "lease_ms",
	    command->at_once    ? (json_int_t)0
	    : command->lease_ns ? (json_int_t)(command->lease_ns / 1000000)
	                        : (json_int_t)LEASE_DEFAULT_MS);
}

static json_t *ask_to_resync(struct replicate_command *command)
{
	json_t *request = json_pack("{s:s}", "command", "resync");

	if (command->pause || command->proceed)
		json_object_set_new(request, "pause", json_boolean(command->pause));
	if (command->rate)
		json_object_set(request, "rate", command->rate);
	return request;
}

static json_t *ask_to_resize(struct replicate_command *command)
{
	json_t *request, *status = replicate_ask_status(command->names[0], &command->error);

	if (!status)
		return NULL;
	command->linked = json_is_true(json_object_get(status, "linked"));
	json_decref(status);
	request = ask_plainly(command);
	if (command->size)
		json_object_set_new(request, "size", json_integer((json_int_t)command->size));
	return request;
}

/* Ends */

/* A refusal to be primary says what is at risk, for who thinks of --force. */
static void explain_refusal(struct replicate_command *command)
{
	json_t *status = replicate_ask_status(command->names[0], &command->error);
	char risk[640];

	if (status && !json_is_true(json_object_get(status, "linked")) && !command->force &&
	    replicate_words_risk(status, risk, sizeof(risk))[0])
		fprintf(stderr, "blkmove: %s; --force does it all the same\n", risk);
	json_decref(status);
}

static void say_handed_over(struct replicate_command *command)
{
	json_t *status = replicate_ask_status(command->names[0], &command->error);

	if (status && !command->quiet)
		printf("%s: handed over: %s is primary\n", command->names[0], control_string(status, "peer"));
	json_decref(status);
}

/* The nodes part to become larger: what counts is how they have met again, if they do so soon. */
static json_t *status_after(struct replicate_command *command)
{
	json_t *status = replicate_ask_status(command->names[0], &command->error);

	for (unsigned i = 0; command->linked && i < MEET_NS / POLL_NS; i++) {
		const char *flow = status ? control_string(status, "flow") : "";

		if (strcmp(flow, "apart") && strcmp(flow, "meeting"))
			break;
		wait_a_little();
		json_decref(status);
		status = replicate_ask_status(command->names[0], &command->error);
	}
	return status;
}

static void say_done(struct replicate_command *command)
{
	static const struct {
		const char *verb, *words;
	} ends[] = {
	    {"secondary", "secondary; no client can use it here"},
	    {"connect", "the other node is looked for; `blkmove replicate status` says what comes of it"},
	    {"disconnect", "disconnected; `blkmove replicate connect` looks for the other node again"},
	    {"resolve",
	        "this node's data give way as soon as the nodes meet; on the other one: `blkmove replicate "
	        "connect`"},
	    {"fenced", "noted: the other node writes no more"},
	    {"resync", "done; `blkmove replicate status` says what is left"},
	};
	json_t *status;

	for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
		if (!strcmp(ends[i].verb, command->verb))
			say(command, ends[i].words);
	if (!strcmp(command->verb, "hand-over"))
		say_handed_over(command);
	/* Of the others, what the status says is what became of it. */
	if (command->quiet || (strcmp(command->verb, "primary") && strcmp(command->verb, "resize")))
		return;
	status = status_after(command);
	if (status)
		replicate_words_print(stdout, status);
	json_decref(status);
}

/* -EAGAIN: it is under way still. */
static int look_at_order(struct replicate_command *command, json_int_t number)
{
	json_t *order = replicate_ask(command->names[0],
	    json_pack("{s:s, s:I}", "command", "order", "number", number), &command->error);
	int res = order ? -EAGAIN : command->error.code;

	if (order && !strcmp(control_string(order, "state"), "failed"))
		res = error_set(&command->error, -EPERM, "%s: %s: %s", command->names[0], command->verb,
		    control_string(order, "error"));
	else if (order && !strcmp(control_string(order, "state"), "done"))
		res = 0;
	json_decref(order);
	return res;
}

static int give(struct replicate_command *command, json_t *take_request)
{
	json_t *reply = replicate_ask(command->names[0], take_request, &command->error), *number;
	json_int_t order;
	int res = 0;

	if (!reply)
		return command->error.code;
	number = json_object_get(reply, "number");
	order = json_integer_value(number);
	if (json_is_integer(number) && !command->no_wait)
		do
			res = look_at_order(command, order);
		while (res == -EAGAIN && (wait_a_little(), true));
	json_decref(reply);
	return res;
}

int replicate_order(struct replicate_command *command)
{
	static const struct {
		const char *verb;
		json_t *(*ask)(struct replicate_command *command);
	} requests[] = {{"primary", ask_forced}, {"secondary", ask_forced}, {"resolve", ask_to_discard},
	    {"hand-over", ask_to_hand_over}, {"resync", ask_to_resync}, {"resize", ask_to_resize}};
	json_t *(*ask)(struct replicate_command * command) = ask_plainly;
	json_t *request;
	int res;

	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++)
		if (!strcmp(requests[i].verb, command->verb))
			ask = requests[i].ask;
	request = ask(command);
	if (!request)
		return fail(command);
	res = give(command, request);
	if (res < 0) {
		int code = fail(command);

		if (code == JOB_REFUSED && !strcmp(command->verb, "primary"))
			explain_refusal(command);
		return code;
	}
	if (!command->no_wait)
		say_done(command);
	return JOB_OK;
}
