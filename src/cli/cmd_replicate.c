/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blkmove replicate: a volume on two machines. Its sub-commands, and which of them takes which option. */
#include "cli/cmd_replicate.h"
#include "base/parse_size.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEASE_LEAST_NS UINT64_C(1000000)
#define LEASE_MOST_NS  UINT64_C(600000000000)

enum option_key {
	KEY_JSON = 'j',
	KEY_QUIET = 'q',
	KEY_ALL = 'a',
	KEY_OVERWRITE = 256,
	KEY_FORCE,
	KEY_FOREGROUND,
	KEY_NO_CONNECT,
	KEY_WATCH,
	KEY_NO_WAIT,
	KEY_WAIT,
	KEY_PAUSE,
	KEY_CONTINUE,
	KEY_STOP,
	KEY_RESYNC,
	KEY_RATE,
	KEY_DISCARD,
	KEY_TO,
	KEY_LEASE,
	KEY_AT_ONCE,
	KEY_HOST,
	KEY_STATE_DIR,
	KEY_SIZE,
	KEY_RESYNC_RATE,
	KEY_LATENCY_TARGET,
};

/* Sub-commands, as bits of who takes an option. */
enum {
	CREATE = 1 << 0,
	UP = 1 << 1,
	DOWN = 1 << 2,
	STATUS = 1 << 3,
	PRIMARY = 1 << 4,
	SECONDARY = 1 << 5,
	CONNECT = 1 << 6,
	DISCONNECT = 1 << 7,
	VERIFY = 1 << 8,
	RESYNC = 1 << 9,
	RESOLVE = 1 << 10,
	HAND_OVER = 1 << 11,
	RESIZE = 1 << 12,
	FENCED = 1 << 13,
	SHOW = 1 << 14,
	ORDERS = PRIMARY | SECONDARY | CONNECT | DISCONNECT | RESOLVE | HAND_OVER | RESIZE | FENCED,
};

static const struct {
	const char *name, *arguments, *help;
	unsigned bit;
	bool many; /* names, or --all; else one */
	int (*run)(struct replicate_command *command);
} verbs[] = {
    {"create", "NAME", "Makes the map of a resource, on each of its two machines. The volume is not written.",
        CREATE, false, replicate_create},
    {"up", "NAME... | --all", "Starts resources, as secondaries that look for their other node.", UP, true,
        replicate_up},
    {"down", "NAME... | --all", "Ends their process, in good order.", DOWN, true, replicate_down},
    {"status", "[NAME...]", "Roles, states, the resync, and which command comes next.", STATUS, true,
        replicate_status},
    {"primary", "NAME", "Lets clients use the volume on this machine.", PRIMARY, false, replicate_order},
    {"secondary", "NAME", "Lets no client use it any more.", SECONDARY, false, replicate_order},
    {"connect", "NAME", "Looks for the other node.", CONNECT, false, replicate_order},
    {"disconnect", "NAME", "Gives the link up, and looks for none until connect.", DISCONNECT, false,
        replicate_order},
    {"verify", "NAME",
        "Compares both nodes' data while they are used. With --wait: exit 0 same, 1 differs, 2 trouble, 3 "
        "refused.",
        VERIFY, false, replicate_verify},
    {"resync", "NAME", "Sends what verify has marked; holds the resync, lets it go on, limits it.", RESYNC,
        false, replicate_order},
    {"resolve", "NAME", "This node's data are given up for the other's, such as after a split brain.",
        RESOLVE, false, replicate_order},
    {"hand-over", "NAME", "Gives the part of primary to the other node.", HAND_OVER, false, replicate_order},
    {"resize", "NAME", "Takes over a larger size of both nodes' volumes.", RESIZE, false, replicate_order},
    {"fenced", "NAME",
        "Says that the other machine is off, or takes no writes: a primary that waits goes on.", FENCED,
        false, replicate_order},
    {"show", "NAME", "A resource as its file describes it, and what its map says.", SHOW, false,
        replicate_show},
};
#define VERBS (sizeof(verbs) / sizeof(verbs[0]))

static const struct {
	unsigned bits;
	struct argp_option option;
} options[] = {
    {UP | DOWN, {"all", KEY_ALL, NULL, 0, "up: each resource that has a file here; down: each that runs", 0}},
    {UP, {"foreground", KEY_FOREGROUND, NULL, 0, "up: stay, as a service does", 0}},
    {UP, {"no-connect", KEY_NO_CONNECT, NULL, 0, "up: look for the other node only after connect", 0}},
    {UP, {"resync-rate", KEY_RESYNC_RATE, "RATE", 0,
             "up: all resyncs of these resources together are never faster, such as 200M", 0}},
    {UP, {"latency-target", KEY_LATENCY_TARGET, "TIME", 0,
             "up: they slow down while the clients of any of these resources wait longer, such as 20ms", 0}},
    {CREATE, {"overwrite", KEY_OVERWRITE, "NAME", 0,
                 "create: the resource's name once more: the map that it has may be lost", 0}},
    {CREATE | RESIZE,
        {"size", KEY_SIZE, "SIZE", 0,
            "create: the first bytes of a larger device; the same on both machines. resize: so large "
            "(default: as the smaller device)",
            0}},
    {PRIMARY | SECONDARY | DOWN,
        {"force", KEY_FORCE, NULL, 0,
            "primary: though these data may be old or half of a resync; secondary, down: though clients are "
            "attached",
            0}},
    {STATUS,
        {"watch", KEY_WATCH, "SECONDS", OPTION_ARG_OPTIONAL,
            "status: again and again (default: every second); with --json, when something has changed", 0}},
    {UP | STATUS | SHOW | VERIFY, {"json", KEY_JSON, NULL, 0, "up, status, show, verify: JSON objects", 0}},
    {ORDERS, {"no-wait", KEY_NO_WAIT, NULL, 0, "only give the order", 0}},
    {VERIFY, {"wait", KEY_WAIT, NULL, 0, "verify: wait for its end, and print the ranges that differ", 0}},
    {VERIFY | RESYNC,
        {"continue", KEY_CONTINUE, NULL, 0, "verify: go on where it was stopped; resync: let it go on", 0}},
    {RESYNC, {"pause", KEY_PAUSE, NULL, 0, "resync: hold it", 0}},
    {VERIFY | RESYNC, {"rate", KEY_RATE, "RATE", 0,
                          "verify, resync: at most so many bytes a second, such as 50M, or none", 0}},
    {VERIFY, {"resync", KEY_RESYNC, NULL, 0, "verify: what differs is sent again, and not only marked", 0}},
    {VERIFY, {"stop", KEY_STOP, NULL, 0, "verify: stop it; --continue goes on", 0}},
    {CREATE | RESOLVE,
        {"discard-mine", KEY_DISCARD, "NAME", 0,
            "the resource's name once more: what only this node has is lost. create: what its device carries",
            0}},
    {HAND_OVER, {"to", KEY_TO, "HOST", 0, "hand-over: the machine that is meant, to be sure", 0}},
    {HAND_OVER,
        {"lease", KEY_LEASE, "TIME", 0,
            "hand-over: both nodes may be open for so long, such as 30s (default), for a live migration", 0}},
    {HAND_OVER,
        {"at-once", KEY_AT_ONCE, NULL, 0, "hand-over: no lease: this node's clients are gone already", 0}},
    {CREATE | UP | SHOW | STATUS, {"host", KEY_HOST, "NAME", 0,
                                      "create, up, show, status: which host of the file this machine is "
                                      "(default: the one with its name)",
                                      0}},
    {CREATE | UP | SHOW | STATUS,
        {"state-dir", KEY_STATE_DIR, "DIR", 0,
            "where maps lie (default: /var/lib/blkmove, or below ~/.local/state)", 0}},
    {CREATE | UP | VERIFY | ORDERS | DOWN | RESYNC, {"quiet", KEY_QUIET, NULL, 0, "only errors", 0}},
};
#define OPTIONS (sizeof(options) / sizeof(options[0]))

struct parsing {
	struct replicate_command *command;
	size_t verb; /* VERBS: none so far */
};

/* The way out for what cannot be. */
static void refuse(struct argp_state *state, const struct error *error)
{
	argp_failure(state, JOB_TROUBLE, 0, "%s", error->text);
}

static void take_rate(struct replicate_command *command, const char *arg, struct argp_state *state)
{
	uint64_t rate;

	if (cli_parse_rate("rate", arg, &rate, &command->error) < 0)
		refuse(state, &command->error);
	json_decref(command->rate);
	command->rate = json_integer((json_int_t)rate);
}

static void take_common(struct replicate_command *command, int key, const char *arg, struct argp_state *state)
{
	struct governor_options *common = &command->common;
	int res = key == KEY_RESYNC_RATE
	              ? cli_parse_rate("resync-rate", arg, &common->max_rate, &command->error)
	              : cli_parse_duration("latency-target", arg, &common->target_ns, &command->error);

	if (res < 0)
		refuse(state, &command->error);
}

static void take_size(struct replicate_command *command, const char *arg, struct argp_state *state)
{
	if (parse_size(arg, &command->size, &command->error) < 0)
		refuse(state, &command->error);
	if (command->size == 0)
		argp_failure(state, JOB_TROUBLE, 0, "--size=%s: a volume has at least a byte", arg);
}

static void take_watch(struct replicate_command *command, const char *arg, struct argp_state *state)
{
	command->watch = true;
	if (cli_parse_watch(arg, &command->watch_s, &command->error) < 0)
		refuse(state, &command->error);
}

static void take_lease(struct replicate_command *command, const char *arg, struct argp_state *state)
{
	if (cli_parse_duration("lease", arg, &command->lease_ns, &command->error) < 0)
		refuse(state, &command->error);
	if (command->lease_ns < LEASE_LEAST_NS || command->lease_ns > LEASE_MOST_NS)
		argp_failure(state, JOB_TROUBLE, 0,
		    "--lease=%s: write a time from 1ms to 600s; no lease is --at-once", arg);
}

static bool takes(size_t verb, int key)
{
	for (size_t i = 0; i < OPTIONS; i++)
		if (options[i].option.key == key)
			return options[i].bits & verbs[verb].bit;
	return false;
}

static bool *flag_of(struct replicate_command *command, int key)
{
	switch (key) {
	case KEY_ALL:
		return &command->all;
	case KEY_FOREGROUND:
		return &command->foreground;
	case KEY_NO_CONNECT:
		return &command->no_connect;
	case KEY_FORCE:
		return &command->force;
	case KEY_JSON:
		return &command->json;
	case KEY_QUIET:
		return &command->quiet;
	case KEY_NO_WAIT:
		return &command->no_wait;
	case KEY_WAIT:
		return &command->wait;
	case KEY_PAUSE:
		return &command->pause;
	case KEY_CONTINUE:
		return &command->proceed;
	case KEY_STOP:
		return &command->stop;
	case KEY_RESYNC:
		return &command->resync;
	case KEY_AT_ONCE:
		return &command->at_once;
	default:
		return NULL;
	}
}

static error_t take_option(struct parsing *parsing, int key, const char *arg, struct argp_state *state)
{
	struct replicate_command *command = parsing->command;
	bool *flag = flag_of(command, key);

	if (flag)
		*flag = true;
	else if (key == KEY_OVERWRITE)
		command->overwrite = arg;
	else if (key == KEY_DISCARD)
		command->discard = arg;
	else if (key == KEY_HOST)
		command->host = arg;
	else if (key == KEY_STATE_DIR)
		command->state_dir = arg;
	else if (key == KEY_TO)
		command->to = arg;
	else if (key == KEY_WATCH)
		take_watch(command, arg, state);
	else if (key == KEY_RATE)
		take_rate(command, arg, state);
	else if (key == KEY_RESYNC_RATE || key == KEY_LATENCY_TARGET)
		take_common(command, key, arg, state);
	else if (key == KEY_SIZE)
		take_size(command, arg, state);
	else if (key == KEY_LEASE)
		take_lease(command, arg, state);
	else
		return ARGP_ERR_UNKNOWN;
	return 0;
}

/* What argp cannot know: which words fit together. */
static void check(const struct parsing *parsing, struct argp_state *state)
{
	const struct replicate_command *command = parsing->command;
	unsigned bit = verbs[parsing->verb].bit, count = command->names_count;

	if (command->all && count > 0)
		argp_failure(state, JOB_TROUBLE, 0, "it takes names or --all, not both");
	if (count == 0 && !command->all && bit != STATUS)
		argp_failure(state, JOB_TROUBLE, 0,
		    "it is not said which resource; `blkmove replicate status` lists them");
	if (count > 1 && !verbs[parsing->verb].many)
		argp_failure(state, JOB_TROUBLE, 0, "'%s' is one name too many", command->names[1]);
	if (command->pause && command->proceed)
		argp_failure(state, JOB_TROUBLE, 0, "--pause and --continue are opposites");
	if (command->stop && (command->proceed || command->resync || command->wait || command->rate))
		argp_failure(state, JOB_TROUBLE, 0, "--stop takes no other option");
	if (bit == VERIFY && command->json && !command->wait)
		argp_failure(state, JOB_TROUBLE, 0, "--json is for what --wait prints; add that");
	if (command->lease_ns && command->at_once)
		argp_failure(state, JOB_TROUBLE, 0, "--lease and --at-once are opposites");
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct parsing *parsing = state->input;
	struct replicate_command *command = parsing->command;

	if (key == ARGP_KEY_ARG && parsing->verb == VERBS) {
		argp_failure(state, JOB_TROUBLE, 0, "there is no sub-command '%s'; `%s --help` lists them",
		    arg, state->name);
	} else if (key == ARGP_KEY_ARG) {
		command->names[command->names_count++] = arg;
	} else if (key == ARGP_KEY_END) {
		if (parsing->verb == VERBS)
			argp_failure(
			    state, JOB_TROUBLE, 0, "it is not said what to do; see `%s --help`", state->name);
		check(parsing, state);
	} else {
		return take_option(parsing, key, arg, state);
	}
	return 0;
}

static size_t find_verb(const char *word)
{
	size_t verb = 0;

	while (verb < VERBS && strcmp(verbs[verb].name, word))
		verb++;
	return verb;
}

/* Of one sub-command, its options alone; VERBS: all. */
static void list_options(size_t verb, struct argp_option ret[OPTIONS + 1])
{
	size_t count = 0;

	for (size_t i = 0; i < OPTIONS; i++)
		if (verb == VERBS || takes(verb, options[i].option.key))
			ret[count++] = options[i].option;
	ret[count] = (struct argp_option){0};
}

/* Which sub-commands there are, for --help. */
static char *list_verbs(void)
{
	char *text = NULL;
	size_t length = 0;
	FILE *to = open_memstream(&text, &length);

	if (!to)
		return NULL;
	fputs("A volume on two machines.\v", to);
	for (size_t i = 0; i < VERBS; i++)
		fprintf(to, "%s %s\n    %s\n", verbs[i].name, verbs[i].arguments, verbs[i].help);
	fputs("\nblkmove-replicate(1) has states, messages and what to do.", to);
	fclose(to);
	return text;
}

static int run(struct parsing *parsing, int argc, char **argv)
{
	struct replicate_command *command = parsing->command;
	bool whole = parsing->verb == VERBS;
	struct argp_option shown[OPTIONS + 1];
	char name[64], *doc = whole ? list_verbs() : NULL;
	const struct argp argp = {.options = shown,
	    .parser = parse,
	    .args_doc = whole ? "SUB-COMMAND [NAME]" : verbs[parsing->verb].arguments,
	    .doc = whole ? doc : verbs[parsing->verb].help};
	int res;

	list_options(parsing->verb, shown);
	snprintf(name, sizeof(name), "blkmove replicate%s%s", whole ? "" : " ",
	    whole ? "" : verbs[parsing->verb].name);
	argv[0] = name;
	argp_err_exit_status = JOB_TROUBLE;
	res = argp_parse(&argp, argc, argv, 0, NULL, parsing);
	free(doc);
	return res || whole ? JOB_TROUBLE : verbs[parsing->verb].run(command);
}

int command_replicate(int argc, char **argv)
{
	struct replicate_command command = {.names = calloc((size_t)argc, sizeof(char *))};
	struct parsing parsing = {.command = &command, .verb = argc > 1 ? find_verb(argv[1]) : VERBS};
	bool whole = parsing.verb == VERBS;
	int code = JOB_TROUBLE;

	command.verb = whole ? NULL : verbs[parsing.verb].name;
	if (command.names)
		code = run(&parsing, whole ? argc : argc - 1, whole ? argv : argv + 1);
	json_decref(command.rate);
	free(command.names);
	return code;
}
