/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What blkmove mirror takes: see mirror_options.h. */
#include "cli/mirror_options.h"

#include "base/state_dir.h"
#include "cli/mirror_files.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define INTERVAL_MAX 86400u

enum option_key {
	KEY_NAME = 'n',
	KEY_QUIET = 'q',
	KEY_FOREGROUND = 896,
	KEY_RESUME,
	KEY_FORGET,
	KEY_COPY_MODE,
	KEY_FULL,
	KEY_PAUSED,
	KEY_VERIFY,
	KEY_CUTOVER,
	KEY_CUTOVER_WINDOW,
	KEY_CUTOVER_ACTION,
	KEY_LATENCY_TARGET,
	KEY_IMPACT,
	KEY_MIN_RATE,
	KEY_MAX_RATE,
	KEY_TARGET_TIMEOUT,
	KEY_SOURCE_TIMEOUT,
	KEY_OVERWRITE,
	KEY_OVERWRITE_NEWER,
	KEY_SIZE_MISMATCH,
	KEY_ALLOW,
	KEY_CACHE,
	KEY_CHANGES,
	KEY_BASE,
	KEY_DIGESTS,
	KEY_STATE_DIR,
	KEY_JSON,
	KEY_INTERVAL,
	KEY_PRIORITY,
	KEY_AND,
};

static const char *const copy_modes[] = {"auto", "background", "write-through", NULL};
static const char *const late_actions[] = {"defer", "abort", "wait", NULL};
static const char *const size_names[] = {"refuse", "zero-tail", NULL}; /* as enum size_mismatch */
static const char *const allows[] = {"mounted", "held", NULL};

/* Of the process, not of one of its mirrors. */
static bool is_shared(int key)
{
	static const int shared[] = {KEY_QUIET, KEY_FOREGROUND, KEY_RESUME, KEY_FORGET, KEY_LATENCY_TARGET,
	    KEY_IMPACT, KEY_MAX_RATE, KEY_STATE_DIR, KEY_JSON, KEY_INTERVAL};

	for (size_t i = 0; i < sizeof(shared) / sizeof(shared[0]); i++)
		if (shared[i] == key)
			return true;
	return false;
}

/* Ends the program with words when the text is none of these. */
static int choose(struct argp_state *state, const char *const *names, const char *option, const char *text)
{
	struct error error;
	int res = cli_choose(names, option, text, strlen(text), &error);

	if (res < 0)
		argp_failure(state, JOB_TROUBLE, 0, "%s", error.text);
	return res;
}

/* "22:30" is the next time that it is so. */
static int parse_moment(const char *text, int64_t *ret, struct error *error)
{
	static const char *const formats[] = {
	    "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%H:%M:%S", "%H:%M"};
	time_t now = time(NULL), when;

	for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
		struct tm moment;
		const char *end;

		localtime_r(&now, &moment);
		moment.tm_sec = 0;
		end = strptime(text, formats[i], &moment);
		if (!end || *end)
			continue;
		moment.tm_isdst = -1;
		when = mktime(&moment);
		if (when <= now && i >= 3) {
			moment.tm_mday++;
			when = mktime(&moment);
		}
		if (when <= now)
			return error_set(error, -EINVAL, "--cutover=at=%s: that time has passed", text);
		*ret = when;
		return 0;
	}
	return error_set(error, -EINVAL,
	    "--cutover=at=%s: write a time of this machine's clock, such as 22:30 or '2026-12-24 22:30'",
	    text);
}

static int set_cutover(struct mirror_command *command, const char *text)
{
	/* The order was for once. */
	if (command->pending && !command->pending->cutover)
		text = "manual";
	command->cutover_auto = !strcmp(text, "auto");
	command->cutover_at = 0;
	/* "22:30" is that of the day on which it was said, also when it has passed. */
	if (!strncmp(text, "at=", 3) && command->pending) {
		command->cutover_at = command->pending->cutover_at;
		return 0;
	}
	if (!strncmp(text, "at=", 3))
		return parse_moment(text + 3, &command->cutover_at, &command->options.error);
	if (command->cutover_auto || !strcmp(text, "manual"))
		return 0;
	return error_set(
	    &command->options.error, -EINVAL, "--cutover=%s: choose one of auto, manual, at=TIME", text);
}

/* Sizes, times and numbers. */
static int set_pace(struct mirror_command *command, int key, const char *arg)
{
	struct error *error = &command->options.error;

	switch (key) {
	case KEY_CUTOVER_WINDOW:
		return cli_parse_duration("cutover-window", arg, &command->job.cutover_window_ns, error);
	case KEY_LATENCY_TARGET:
		return cli_parse_duration("latency-target", arg, &command->job.governor.target_ns, error);
	case KEY_TARGET_TIMEOUT:
		return cli_parse_duration("target-timeout", arg, &command->job.follower_timeout_ns, error);
	case KEY_SOURCE_TIMEOUT:
		return cli_parse_duration("source-timeout", arg, &command->job.source_timeout_ns, error);
	case KEY_IMPACT:
		return cli_parse_number("impact", arg, "%", 1, 10000, &command->job.governor.impact, error);
	case KEY_PRIORITY:
		return cli_parse_number(
		    "priority", arg, "", 1, BUDGET_PRIORITY_MAX, &command->job.priority, error);
	case KEY_INTERVAL:
		return cli_parse_number("interval", arg, "", 1, INTERVAL_MAX, &command->interval_s, error);
	case KEY_MIN_RATE:
		return cli_parse_rate("min-rate", arg, &command->job.governor.min_rate, error);
	case KEY_MAX_RATE:
		return cli_parse_rate("max-rate", arg, &command->job.governor.max_rate, error);
	case KEY_CUTOVER:
		return set_cutover(command, arg);
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static void take_leg(struct mirror_command *command, char *arg, struct argp_state *state)
{
	if (command->legs_count == MIRROR_LEGS)
		argp_failure(state, JOB_TROUBLE, 0, "'%s' is one endpoint too many", arg);
	if (cli_take_endpoint(&command->options.words, arg, &command->legs[command->legs_count],
	        &command->options.error) < 0)
		argp_failure(state, JOB_TROUBLE, 0, "%s", command->options.error.text);
	command->legs_count++;
}

static error_t parse_flags(struct mirror_command *command, int key)
{
	switch (key) {
	case KEY_FOREGROUND:
		command->foreground = true;
		break;
	case KEY_VERIFY:
		command->job.verify = true;
		break;
	case KEY_FULL:
		command->full = true;
		break;
	case KEY_PAUSED:
		command->paused = !command->pending || command->pending->paused;
		break;
	case KEY_JSON:
		command->json = true;
		break;
	case KEY_QUIET:
		command->quiet = true;
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static error_t parse_words(struct mirror_command *command, int key, char *arg, struct argp_state *state)
{
	switch (key) {
	case KEY_NAME:
		command->name = arg;
		break;
	case KEY_RESUME:
		if (command->resumes_count == MIRRORS_MAX)
			argp_failure(state, JOB_TROUBLE, 0, "--resume may be given %u times", MIRRORS_MAX);
		command->resumes[command->resumes_count++] = arg;
		break;
	case KEY_FORGET:
		command->forget = arg;
		break;
	case KEY_OVERWRITE:
		command->overwrite = arg;
		break;
	case KEY_OVERWRITE_NEWER:
		command->overwrite_newer = arg;
		break;
	case KEY_COPY_MODE:
		command->job.copy_mode = (enum mirror_copy_mode)choose(state, copy_modes, "copy-mode", arg);
		break;
	case KEY_CUTOVER_ACTION:
		command->job.late = (enum mirror_late)choose(state, late_actions, "cutover-action", arg);
		break;
	case KEY_CACHE:
		command->cache = (enum cache_mode)choose(state, cli_cache_names, "cache", arg);
		break;
	case KEY_CHANGES:
		command->changes = (enum job_changes)choose(state, cli_changes_names, "changes", arg);
		command->changes_named = true;
		break;
	case KEY_BASE:
		command->base = arg;
		break;
	case KEY_DIGESTS:
		command->digests = arg;
		break;
	case KEY_SIZE_MISMATCH:
		command->size_mismatch = (enum size_mismatch)choose(state, size_names, "size-mismatch", arg);
		break;
	case KEY_ALLOW:
		command->allow |= choose(state, allows, "allow", arg) ? ALLOW_HELD : ALLOW_MOUNTED;
		break;
	case KEY_STATE_DIR:
		snprintf(command->options.state_dir, sizeof(command->options.state_dir), "%s", arg);
		break;
	default:
		return parse_flags(command, key);
	}
	return 0;
}

/* Where it is known from what differs: words that contradict each other. */
static void check_changes(const struct mirror_command *command, struct argp_state *state)
{
	if (command->changes == CHANGES_DIGESTS && !command->digests)
		argp_failure(state, JOB_TROUBLE, 0,
		    "--changes=digests needs --digests=FILE, where a sync or `blkmove digest` saved them");
	if (command->digests && (command->changes >= CHANGES_TRACKER || command->base))
		argp_failure(state, JOB_TROUBLE, 0, "--digests cannot be had with a tracker; leave one out");
	if (command->digests && (command->changes == CHANGES_HASH || command->full))
		argp_failure(state, JOB_TROUBLE, 0, "--digests cannot be had with %s; leave one out",
		    command->full ? "--full" : "--changes=hash");
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct mirror_command *command = state->input;
	int res;

	if (key == ARGP_KEY_INIT) {
		state->child_inputs[0] = &command->listen;
		state->child_inputs[1] = &command->devices;
		state->child_inputs[2] = &command->options;
		command->devices.last_wins = true;
		return 0;
	}
	if (key == ARGP_KEY_END)
		check_changes(command, state);
	if (key == ARGP_KEY_ARG) {
		take_leg(command, arg, state);
		return 0;
	}
	if (command->follows && is_shared(key))
		argp_failure(state, JOB_TROUBLE, 0,
		    "%s: this holds for all mirrors of a process; write it before the first --and",
		    state->argv[state->next - 1]);
	res = set_pace(command, key, arg);
	if (res < 0)
		argp_failure(state, JOB_TROUBLE, 0, "%s", command->options.error.text);
	return res == ARGP_ERR_UNKNOWN ? parse_words(command, key, arg, state) : 0;
}

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "The mirror:", 1},
    {"and", KEY_AND, NULL, 0,
        "what follows is another mirror in the same process: SRC2 DST2 and its own options", 0},
    {"name", KEY_NAME, "NAME", 0, "what it is called (default: made from the target's name)", 0},
    {"foreground", KEY_FOREGROUND, NULL, 0, "stay on the terminal and show what goes on", 0},
    {"interval", KEY_INTERVAL, "SECONDS", 0, "between its lines where there is no terminal (default: 10)", 0},
    {"resume", KEY_RESUME, "NAME", 0,
        "go on with a mirror that was stopped or killed; nothing else need be said. Again for each that was "
        "begun with it",
        0},
    {"forget", KEY_FORGET, "NAME", 0, "give up one that was stopped or killed, and its map", 0},
    {"full", KEY_FULL, NULL, 0, "copy everything, without comparing what the target holds already", 0},
    {"changes", KEY_CHANGES, "HOW", 0,
        "where it is known from what differs at first: auto (default), hash (compare), digests (saved of "
        "DST), or a tracker: dm-snapshot, "
        "dm-thin, dm-era, nbd-bitmap",
        0},
    {"base", KEY_BASE, "NAME", 0,
        "the tracker's base, which DST holds (default: what an earlier copy or sync noted)", 0},
    {"digests", KEY_DIGESTS, "FILE", 0,
        "saved digests of DST: if they fit, only SRC is read to learn what differs", 0},
    {"paused", KEY_PAUSED, NULL, 0, "copy nothing before `blkmove resume NAME`", 0},
    {"verify", KEY_VERIFY, NULL, 0, "not ready before all was read from both and found equal", 0},
    {"copy-mode", KEY_COPY_MODE, "HOW", 0,
        "what writes of clients do while the copy runs: auto (default: background until nearly done, then "
        "write-through), background, write-through",
        0},
    {"target-timeout", KEY_TARGET_TIMEOUT, "TIME", 0,
        "a target that takes longer for a request is let go, and copied again later (default: 10s)", 0},
    {"source-timeout", KEY_SOURCE_TIMEOUT, "TIME", 0,
        "how long clients wait when the link to the volume that they use is lost, before they get errors "
        "(default: "
        "30s)",
        0},
    {"overwrite", KEY_OVERWRITE, "NAME", 0, "the target's name once more: what it carries may be lost", 0},
    {"overwrite-newer", KEY_OVERWRITE_NEWER, "NAME", 0,
        "the target's name once more: it may be lost though it was the volume last", 0},
    {"size-mismatch", KEY_SIZE_MISMATCH, "HOW", 0,
        "refuse (default), zero-tail (use the first bytes of a larger DST, and zero the rest)", 0},
    {"allow", KEY_ALLOW, "WHAT", 0, "use volumes that are mounted or held, at your own risk", 0},
    {"cache", KEY_CACHE, "HOW", 0, "buffered (default), direct or auto", 0},
    {"state-dir", KEY_STATE_DIR, "DIR", 0, "where maps lie (default: as for copy)", 0},
    {"json", KEY_JSON, NULL, 0, "say in JSON what is served, and what happens", 0},
    {"quiet", KEY_QUIET, NULL, 0, "only errors", 0},
    {NULL, 0, NULL, 0, "Cutting over:", 2},
    {"cutover", KEY_CUTOVER, "WHEN", 0,
        "manual (default: by `blkmove cutover`), auto (as soon as it is ready), at=TIME", 0},
    {"cutover-window", KEY_CUTOVER_WINDOW, "TIME", 0,
        "the longest pause that clients may see (default: 500ms)", 0},
    {"cutover-action", KEY_CUTOVER_ACTION, "WHAT", 0,
        "when that is not enough: defer (default: try again), abort (forget the order), wait (clients stand "
        "still as long as it takes)",
        0},
    {NULL, 0, NULL, 0, "The copy's pace:", 3},
    {"latency-target", KEY_LATENCY_TARGET, "TIME", 0, "slow down when the clients' p99 is above", 0},
    {"impact", KEY_IMPACT, "PERCENT", 0, "or so much above what it is without the copy", 0},
    {"min-rate", KEY_MIN_RATE, "RATE", 0, "but never be slower than this", 0},
    {"max-rate", KEY_MAX_RATE, "RATE", 0, "nor faster; bytes a second, all mirrors of the process together",
        0},
    {"priority", KEY_PRIORITY, "N", 0, "this one's part of it, 1 (default) to 1000", 0},
    {0},
};

int mirror_command_parse(struct mirror_command *command, int argc, char **argv)
{
	static const struct argp_child children[] = {{&cli_argp_listen, 0, NULL, 0},
	    {&cli_argp_device, 0, NULL, 0}, {&cli_argp_reach, 0, NULL, 0}, {0}};
	static const struct argp argp = {.options = options,
	    .parser = parse,
	    .children = children,
	    .args_doc = "SRC DST [--and SRC2 DST2 ...]",
	    .doc = "Exports SRC over NBD, or as a block device, and copies it to DST while clients use it; "
	           "then DST takes its "
	           "place, within a pause that "
	           "they hardly see. Goes to the background once clients can connect.\v"
	           "SRC and DST: /dev/x, file.img, [user@]host:PATH, nbd://..., or [ SERVER ARGS ]. "
	           "Afterwards: blkmove "
	           "status, pause, resume, throttle, cutover, revert, finish, abort NAME."};
	char name[] = "blkmove mirror";

	argp_err_exit_status = JOB_TROUBLE;
	cli_words_done(&command->options.words);
	if (cli_words_init(&command->options.words, argc, argv, &command->options.error) < 0)
		return cli_fail(JOB_TROUBLE, &command->options.error);
	command->options.words.argv[0] = name;
	if (argp_parse(&argp, command->options.words.argc, command->options.words.argv, 0, NULL, command))
		return JOB_TROUBLE;
	if (command->follows && command->listen.given) {
		error_set(&command->options.error, -EINVAL,
		    "all mirrors of a process listen together; write how before the first --and");
		return cli_fail(JOB_TROUBLE, &command->options.error);
	}
	if (!command->options.state_dir[0])
		state_dir_path(command->options.state_dir, sizeof(command->options.state_dir));
	return 0;
}

void mirror_command_done(struct mirror_command *command)
{
	for (unsigned i = 0; i < command->legs_count; i++)
		endpoint_done(&command->legs[i]);
	command->legs_count = 0;
	cli_words_done(&command->options.words);
}
