/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blkmove status, pause, resume, throttle, cutover, revert, finish, abort: speak to what runs on this machine. */
#include "base/state_dir.h"
#include "cli/cli.h"
#include "cli/control_client.h"
#include "cli/status_line.h"
#include "cli/status_moves.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define POLL_NS    50000000L
#define TELL_POLLS 20 /* what an order waits for by then is worth a word */

enum option_key {
	KEY_MIN_RATE = 256,
	KEY_MAX_RATE,
	KEY_LATENCY_TARGET,
	KEY_IMPACT,
	KEY_PRIORITY,
	KEY_WINDOW,
	KEY_ACTION,
	KEY_TARGET,
	KEY_NO_WAIT,
	KEY_WATCH,
};

struct words {
	const char *command;
	bool json, no_wait;
	double watch_s; /* 0: once */
	char *name, *rate;
	json_t *request;
	struct error error;
};

/* A request's member, or the way out for a bad value. */
static void set(struct argp_state *state, struct words *words, const char *key, json_t *take_value)
{
	if (!take_value)
		argp_failure(state, JOB_TROUBLE, 0, "%s", words->error.text);
	json_object_set_new(words->request, key, take_value);
}

static json_t *as_rate(struct words *words, const char *option, const char *text)
{
	uint64_t rate;

	return cli_parse_rate(option, text, &rate, &words->error) < 0 ? NULL : json_integer((json_int_t)rate);
}

static json_t *as_ms(struct words *words, const char *option, const char *text)
{
	uint64_t ns;

	return cli_parse_duration(option, text, &ns, &words->error) < 0 ? NULL : json_real((double)ns / 1e6);
}

/* The other side knows what is too much. */
static json_t *as_number(struct words *words, const char *option, const char *text, const char *unit)
{
	char *end;
	double value = strtod(text, &end);

	if (end != text && value >= 0 && value <= 1e9 && (!*end || !strcmp(end, unit)))
		return json_real(value);
	error_set(&words->error, -EINVAL, "--%s=%s: write a number such as 5%s", option, text, unit);
	return NULL;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct words *words = state->input;

	switch (key) {
	case 'j':
		words->json = true;
		break;
	case KEY_WATCH:
		if (cli_parse_watch(arg, &words->watch_s, &words->error) < 0)
			argp_failure(state, JOB_TROUBLE, 0, "%s", words->error.text);
		break;
	case KEY_NO_WAIT:
		words->no_wait = true;
		break;
	case KEY_MIN_RATE:
		set(state, words, "min_rate", as_rate(words, "min-rate", arg));
		break;
	case KEY_MAX_RATE:
		set(state, words, "rate", as_rate(words, "max-rate", arg));
		break;
	case KEY_LATENCY_TARGET:
		set(state, words, "latency_target_ms", as_ms(words, "latency-target", arg));
		break;
	case KEY_IMPACT:
		set(state, words, "impact_percent", as_number(words, "impact", arg, "%"));
		break;
	case KEY_PRIORITY:
		set(state, words, "priority", as_number(words, "priority", arg, ""));
		break;
	case KEY_WINDOW:
		set(state, words, "window_ms", as_ms(words, "window", arg));
		break;
	case KEY_ACTION:
		set(state, words, "action", json_string(arg));
		break;
	case KEY_TARGET:
		set(state, words, "target", json_true());
		break;
	case ARGP_KEY_ARG:
		if (!words->name)
			words->name = arg;
		else if (!words->rate && !strcmp(words->command, "throttle"))
			set(state, words, "rate", as_rate(words, NULL, words->rate = arg));
		else
			return ARGP_ERR_UNKNOWN;
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

/* Status */

static void print_one(void *data, const json_t *status)
{
	const struct words *words = data;

	if (words->json)
		cli_print_json(stdout, status);
	else
		status_line_print(stdout, status);
}

static int status_once(struct words *words)
{
	char state_dir[4096];
	json_t *status;

	if (!words->name) {
		int res = control_each(print_one, words, &words->error);

		status_moves_print(stdout, state_dir_path(state_dir, sizeof(state_dir)), words->json);
		return res;
	}
	status = control_ask(words->name, json_pack("{s:s}", "command", "status"), &words->error);
	if (!status)
		return words->error.code;
	print_one(words, status);
	json_decref(status);
	return 0;
}

static int show_status(struct words *words)
{
	bool redraw = words->watch_s > 0 && !words->json && isatty(STDOUT_FILENO);
	int res;

	do {
		if (redraw)
			fputs("\033[H\033[2J", stdout);
		res = status_once(words);
		if (words->watch_s > 0 && res == 0) {
			fflush(stdout);
			usleep((useconds_t)(words->watch_s * 1e6));
		}
	} while (words->watch_s > 0 && res == 0 && !ferror(stdout));
	return res;
}

/* Orders */

static void print_outcome(const struct words *words, const json_t *status)
{
	if (words->json)
		cli_print_json(stdout, status);
	else if (!strcmp(words->command, "cutover"))
		printf("%s: cut over to %s; clients saw a pause of %.1f ms; `blkmove revert %s` goes back, "
		       "`blkmove "
		       "finish %s` lets %s go\n",
		    words->name, control_string(status, "target"), control_real(status, "pause_ms"),
		    words->name, words->name, control_string(status, "source"));
	else if (!strcmp(words->command, "revert"))
		printf("%s: back on %s; clients saw a pause of %.1f ms\n", words->name,
		    control_string(status, "source"), control_real(status, "pause_ms"));
	else if (!strcmp(words->command, "finish"))
		printf("%s: finished; %s is the volume. %s is let go, and still carries the same file "
		       "systems: do not mount both on one "
		       "machine\n",
		    words->name, control_string(status, "target"), control_string(status, "source"));
	else
		printf("%s: aborted; %s is not usable\n", words->name, control_string(status, "target"));
}

/* What is said of an order beside what became of it: why it is put off, once; or what of it could not be done. */
static void print_warning(const struct words *words, const json_t *order, bool *told)
{
	const char *warning = json_string_value(json_object_get(order, "warning"));
	bool done = !strcmp(control_string(order, "state"), "done");

	if (!warning || !warning[0] || (*told && !done))
		return;
	*told = true;
	if (done) {
		fprintf(stderr, "blkmove: %s: %s\n", words->name, warning);
		return;
	}
	fprintf(stderr,
	    "blkmove: %s: %s is put off: %s; it is tried again every second, also after an interrupt",
	    words->name, words->command, warning);
	if (!strcmp(words->command, "cutover"))
		fprintf(stderr, "; `blkmove cutover --action=abort %s` tries once more, and forgets it",
		    words->name);
	fputc('\n', stderr);
}

/* Once. */
static void print_waits(const struct words *words, const json_t *order, unsigned polls, bool *told)
{
	const char *waits = json_string_value(json_object_get(order, "waits"));

	if (!waits || !waits[0] || *told || polls < TELL_POLLS)
		return;
	*told = true;
	fprintf(stderr, "blkmove: %s: %s is ordered, and waits: %s", words->name, words->command, waits);
	if (!strcmp(waits, "paused"))
		fprintf(stderr, "; `blkmove resume %s` lets it go on", words->name);
	fputs("; it stays ordered after an interrupt\n", stderr);
}

struct told {
	bool warning, waits;
	unsigned polls;
};

/* 0: it is done, -EAGAIN: not yet. */
static int look_at_order(struct words *words, const json_t *status, json_int_t number, struct told *told)
{
	const json_t *order = json_object_get(status, "order");
	int res = control_order(order, number);

	if (res == -EBUSY)
		return error_set(
		    &words->error, res, "%s: another order has taken the place of this one", words->name);
	if (res == -EIO)
		return error_set(&words->error, res, "%s: %s failed: %s", words->name, words->command,
		    control_string(order, "error"));
	print_warning(words, order, &told->warning);
	print_waits(words, order, told->polls++, &told->waits);
	if (res == 0)
		print_outcome(words, status);
	return res;
}

/* An order takes its time: its number in the status says what became of it. */
static int wait_for(struct words *words, json_int_t number)
{
	const struct timespec pause = {.tv_nsec = POLL_NS};
	struct told told = {0};

	for (;;) {
		json_t *status =
		    control_ask(words->name, json_pack("{s:s}", "command", "status"), &words->error);
		int res = status ? look_at_order(words, status, number, &told) : words->error.code;

		json_decref(status);
		if (res != -EAGAIN)
			return res;
		nanosleep(&pause, NULL);
	}
}

/* It may be opened by others then. */
static int wait_until_let_go(struct words *words)
{
	const struct timespec pause = {.tv_nsec = POLL_NS};
	bool over = false;

	while (!over) {
		json_t *status =
		    control_ask(words->name, json_pack("{s:s}", "command", "status"), &words->error);

		if (!status)
			return words->error.code;
		/* Another may let it come back meanwhile. */
		over = json_is_true(json_object_get(status, "let_go")) ||
		       !json_is_true(json_object_get(status, "paused"));
		json_decref(status);
		if (!over)
			nanosleep(&pause, NULL);
	}
	return 0;
}

static int order(struct words *words)
{
	json_t *reply, *number;
	int res = 0;

	if (!words->name || (!strcmp(words->command, "throttle") && json_object_size(words->request) == 0))
		return error_set(&words->error, -EINVAL,
		    "usage: blkmove %s NAME%s; `blkmove status` lists what runs", words->command,
		    strcmp(words->command, "throttle") ? "" : " RATE");
	json_object_set_new(words->request, "command", json_string(words->command));
	reply = control_ask(words->name, json_incref(words->request), &words->error);
	if (!reply)
		return words->error.code;
	number = json_object_get(reply, "number");
	if (json_is_integer(number) && !words->no_wait)
		res = wait_for(words, json_integer_value(number));
	else if (json_object_get(words->request, "target"))
		res = wait_until_let_go(words);
	json_decref(reply);
	return res;
}

/* The command lines */

static const struct argp_option status_options[] = {
    {"json", 'j', NULL, 0, "one JSON object each", 0},
    {"watch", KEY_WATCH, "SECONDS", OPTION_ARG_OPTIONAL, "again and again (default: every second)", 0},
    {0},
};
static const struct argp_option throttle_options[] = {
    {"min-rate", KEY_MIN_RATE, "RATE", 0, "a mirror's sync is never slower", 0},
    {"max-rate", KEY_MAX_RATE, "RATE", 0, "never faster; the same as RATE", 0},
    {"latency-target", KEY_LATENCY_TARGET, "TIME", 0, "a mirror's sync yields when its clients' p99 is above",
        0},
    {"impact", KEY_IMPACT, "PERCENT", 0, "or this much above what it is with the sync paused", 0},
    {"priority", KEY_PRIORITY, "N", 0, "a mirror's part of what all mirrors of its process may take", 0},
    {0},
};
static const struct argp_option pause_options[] = {
    {"target", KEY_TARGET, NULL, 0, "let the target of a ready mirror go until it is resumed, to look at it",
        0},
    {0},
};
static const struct argp_option cutover_options[] = {
    {"window", KEY_WINDOW, "TIME", 0, "the longest pause that clients may see, in this cutover", 0},
    {"action", KEY_ACTION, "WHAT", 0,
        "when it cannot be met, in this cutover: defer, abort, or wait, with clients held", 0},
    {"no-wait", KEY_NO_WAIT, NULL, 0, "only give the order", 0},
    {"json", 'j', NULL, 0, "print the status afterwards as JSON", 0},
    {0},
};
static const struct argp_option order_options[] = {
    {"no-wait", KEY_NO_WAIT, NULL, 0, "only give the order", 0},
    {"json", 'j', NULL, 0, "print the status afterwards as JSON", 0},
    {0},
};
static const struct argp_option no_options[] = {{0}};

static const struct {
	const char *name, *arguments, *help;
	const struct argp_option *options;
} commands[] = {
    {"status", "[NAME]",
        "What runs on this machine: jobs by their pid, mirrors by their name; and moves that have not ended.",
        status_options},
    {"pause", "NAME", "Holds a job, or a mirror's sync; clients of a mirror go on.", pause_options},
    {"resume", "NAME", "Lets it go on.", no_options},
    {"throttle", "NAME [RATE]", "Changes limits while it runs. RATE is bytes a second, such as 50M, or none.",
        throttle_options},
    {"cutover", "NAME", "Makes a mirror's target the authoritative leg; the source follows.",
        cutover_options},
    {"revert", "NAME", "Makes the source authoritative again, with all that was written since the cutover.",
        order_options},
    {"finish", "NAME", "Lets the old source go after a cutover, for good.", order_options},
    {"abort", "NAME", "Ends a mirror before its cutover: the target is not usable.", order_options},
};

int command_control(int argc, char **argv)
{
	struct words words = {.command = argv[0], .request = json_object()};
	struct argp argp = {.parser = parse};
	char name[64];
	int res;

	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(commands[i].name, argv[0]))
			continue;
		argp.options = commands[i].options;
		argp.args_doc = commands[i].arguments;
		argp.doc = commands[i].help;
	}
	snprintf(name, sizeof(name), "blkmove %s", argv[0]);
	argv[0] = name;
	argp_err_exit_status = JOB_TROUBLE;
	res = argp_parse(&argp, argc, argv, 0, NULL, &words);
	if (res == 0) {
		res = strcmp(words.command, "status") ? order(&words) : show_status(&words);
		res = res < 0 ? cli_fail(JOB_TROUBLE, &words.error) : JOB_OK;
	} else {
		res = JOB_TROUBLE;
	}
	json_decref(words.request);
	return res;
}
