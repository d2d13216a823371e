/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blkmove move: moves a device-mapper device to another device while it is in use. */
#include "attach/dm.h"
#include "attach/move_dm_mirror.h"
#include "base/parse_size.h"
#include "base/state_dir.h"
#include "block/sysfs.h"
#include "cli/cli.h"
#include "cli/move_govern.h"
#include "cli/move_mirror.h"
#include "sync/preflight.h"

#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RING_ENTRIES 64u

enum option_key {
	KEY_QUIET = 'q',
	KEY_ENGINE = 1024,
	KEY_RESUME,
	KEY_UNDO,
	KEY_UNTIL,
	KEY_THROTTLE,
	KEY_UNTIL_RESTART,
	KEY_KEEP_OLD,
	KEY_OVERWRITE,
	KEY_STATE_DIR,
	KEY_JSON,
	KEY_LATENCY_TARGET,
	KEY_IMPACT,
	KEY_MIN_RATE,
	KEY_MAX_RATE,
	KEY_WINDOW,
	KEY_SSH,
	KEY_SSH_OPTION,
	KEY_TIMEOUT,
};

struct move_command {
	char *words[2]; /* the device, the target */
	unsigned words_count;
	bool resume, undo, until_restart, keep_old, json, quiet;
	enum move_until until;
	const char *overwrite;
	char state_dir[4096];
	struct move_dm_mirror_options dm;
	struct move_govern govern; /* of the engine dm */
	unsigned throttle_max;     /* of --throttle */
	dev_t device;
	bool for_mirror; /* an option of the mirror's alone */
	struct move_mirror mirror;
	enum { ENGINE_AUTO, ENGINE_DM, ENGINE_BLKMOVE } engine;
	struct endpoint endpoints[2];
	bool remote;
	struct error error;
	unsigned shown; /* tenths of a percent, in the bar */
	bool bar;
};

static const char *const engines[] = {"auto", "dm", "blkmove", NULL};
static const char *const untils[] = {"synced", "switched", "moved", NULL};
/* In the order of their keys. */
static const char *const passed_on[] = {
    "latency-target", "impact", "min-rate", "max-rate", "cutover-window", "ssh", "ssh-option", "timeout"};
static volatile sig_atomic_t stopping;

static void stop(int number)
{
	stopping = 1;
}

/* What only the mirror knows of: it says so itself when it is wrong. */
static int pass_on(struct move_command *command, const char *option, const char *text)
{
	struct move_mirror *mirror = &command->mirror;
	char *word;

	if (mirror->words_count == MOVE_MIRROR_WORDS_MAX || asprintf(&word, "--%s=%s", option, text) < 0)
		return error_set(&command->error, -ENOMEM, "too many options");
	mirror->words[mirror->words_count++] = word;
	return 0;
}

/* Of a pace, which the engine dm can keep as well, and whatever else the mirror knows. */
static int set_pace(struct move_command *command, int key, const char *text)
{
	struct governor_options *options = &command->govern.options;
	int res = 0;

	if (key == KEY_LATENCY_TARGET)
		res = cli_parse_duration("latency-target", text, &options->target_ns, &command->error);
	else if (key == KEY_MIN_RATE)
		res = parse_size(text, &options->min_rate, &command->error);
	else if (key == KEY_MAX_RATE)
		res = parse_size(text, &options->max_rate, &command->error);
	else
		command->for_mirror = true;
	return res == 0 ? pass_on(command, passed_on[key - KEY_LATENCY_TARGET], text) : res;
}

static void check_words(const struct move_command *command, const struct argp_state *state)
{
	if (command->resume && command->undo)
		argp_failure(state, JOB_TROUBLE, 0, "--resume and --undo are two ways; choose one");
	if (command->words_count != (command->resume || command->undo ? 1 : 2))
		argp_usage(state);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct move_command *command = state->input;
	int res = 0;

	switch (key) {
	case KEY_ENGINE:
		res = cli_choose(engines, "engine", arg, strlen(arg), &command->error);
		command->engine = (unsigned)res;
		break;
	case KEY_RESUME:
		command->resume = true;
		break;
	case KEY_UNDO:
		command->undo = true;
		break;
	case KEY_UNTIL:
		res = cli_choose(untils, "until", arg, strlen(arg), &command->error);
		command->until = (enum move_until)res;
		break;
	case KEY_THROTTLE:
		res = cli_parse_number("throttle", arg, "%", 1, 100, &command->throttle_max, &command->error);
		command->dm.throttle = command->throttle_max;
		break;
	case KEY_UNTIL_RESTART:
		command->until_restart = true;
		break;
	case KEY_KEEP_OLD:
		command->keep_old = true;
		break;
	case KEY_OVERWRITE:
		command->overwrite = arg;
		break;
	case KEY_STATE_DIR:
		snprintf(command->state_dir, sizeof(command->state_dir), "%s", arg);
		break;
	case KEY_JSON:
		command->json = true;
		break;
	case KEY_QUIET:
		command->quiet = true;
		break;
	case ARGP_KEY_ARG:
		if (command->words_count == 2)
			return ARGP_ERR_UNKNOWN;
		command->words[command->words_count++] = arg;
		break;
	case ARGP_KEY_END:
		check_words(command, state);
		break;
	default:
		if (key < KEY_LATENCY_TARGET || key > KEY_TIMEOUT)
			return ARGP_ERR_UNKNOWN;
		res = set_pace(command, key, arg);
		break;
	}
	if (res < 0)
		argp_failure(state, JOB_TROUBLE, 0, "%s", command->error.text);
	return 0;
}

static const struct argp_option argp_options[] = {
    {"resume", KEY_RESUME, NULL, 0, "go on with a move that was interrupted", 1},
    {"undo", KEY_UNDO, NULL, 0, "lead the device back to where it was", 1},
    {"until", KEY_UNTIL, "STEP", 0, "stop at: synced, switched, moved (default); --resume goes on", 1},
    {"engine", KEY_ENGINE, "ENGINE", 0,
        "dm: the kernel's mirror, two local devices; blkmove: a live mirror, also to other machines; auto "
        "(default)",
        1},
    {"throttle", KEY_THROTTLE, "PERCENT", 0, "dm: the part of the time that the copy may take", 1},
    {"latency-target", KEY_LATENCY_TARGET, "TIME", 0,
        "keep the latency of the device's users below this; like those that follow", 1},
    {"impact", KEY_IMPACT, "PERCENT", 0, "", 1}, {"min-rate", KEY_MIN_RATE, "RATE", 0, "", 1},
    {"max-rate", KEY_MAX_RATE, "RATE", 0, "", 1}, {"cutover-window", KEY_WINDOW, "TIME", 0, "", 1},
    {"ssh", KEY_SSH, "PROGRAM", 0, "for another machine, as for `blkmove mirror`, like those that follow", 1},
    {"ssh-option", KEY_SSH_OPTION, "WORD", 0, "", 1}, {"timeout", KEY_TIMEOUT, "SECONDS", 0, "", 1},
    {"overwrite", KEY_OVERWRITE, "NAME", 0, "the new device's name once more: what it carries may be lost",
        2},
    {"until-restart", KEY_UNTIL_RESTART, NULL, 0,
        "move an LVM volume to what is no volume of its group: LVM finds the old data at its next start", 2},
    {"keep-old", KEY_KEEP_OLD, NULL, 0, "with --undo, after a restart: forget what only the new device has",
        2},
    {"state-dir", KEY_STATE_DIR, "DIR", 0,
        "where moves are recorded (default: /var/lib/blkmove, or below ~/.local/state)", 3},
    {"json", KEY_JSON, NULL, 0, "events on standard output, one JSON object a line", 3},
    {"quiet", KEY_QUIET, NULL, 0, "say nothing but errors", 3}, {0}};

static const struct argp argp = {.options = argp_options,
    .parser = parse,
    .args_doc = "DEV NEWDEV\n--resume DEV\n--undo DEV",
    .doc = "Moves DEV, a device-mapper device that may be in use, to NEWDEV."};

static void say_json(json_t *take_json)
{
	cli_print_json(stdout, take_json);
	json_decref(take_json);
}

static void step(void *data, const char *text)
{
	struct move_command *command = data;

	if (command->json)
		say_json(json_pack("{s:s, s:s}", "event", "step", "text", text));
	else if (!command->quiet)
		fprintf(stderr, "%s%s\n", command->bar ? "\r\033[K" : "", text);
}

static bool progress(void *data, const struct move_progress *now)
{
	struct move_command *command = data;
	unsigned part = now->total ? (unsigned)((double)now->done * 1000 / (double)now->total) : 0;

	if (command->json && part != command->shown)
		say_json(json_pack("{s:s, s:I, s:I}", "event", "progress", "total", (json_int_t)now->total,
		    "done", (json_int_t)now->done));
	else if (command->bar && part != command->shown)
		fprintf(stderr, "\r\033[K%u.%u %% of %.1f MiB", part / 10, part % 10,
		    (double)now->total / (1 << 20));
	command->shown = part;
	if (move_governs(&command->govern))
		command->dm.throttle = move_govern_percent(&command->govern, command->device, now->done,
		    command->throttle_max ? command->throttle_max : 100);
	return !stopping;
}

/* Of a crypt device it is the whole of what lies below that moves: its sectors and its size count. "": no crypt device. */
static void find_below(const char *path, char *ret, size_t length)
{
	struct dm_table table = {0};
	struct dm_facts facts;
	struct error ignored;
	size_t at, part;
	dev_t below;

	ret[0] = '\0';
	if (dm_look_path(path, &facts, &ignored) == 0 &&
	    dm_get_table(facts.name, false, &table, &ignored) == 0 && dm_table_is(&table, "crypt") &&
	    dm_params_device(table.targets[0].params, &at, &part, &below) == 0) {
		size_t used = (size_t)snprintf(ret, length, "/dev/");

		sysfs_device_name(below, ret + used, length - used);
	}
	dm_table_done(&table);
}

static int open_source(
    struct move_command *command, struct ring *ring, struct block **ret, struct error *error)
{
	const struct block_open_options options = {.cache = CACHE_DIRECT};
	struct endpoint source = {0};
	char path[80], *word = path;
	int used, res;

	find_below(command->words[0], path, sizeof(path));
	if (!path[0])
		return block_open(ret, ring, &command->endpoints[0], &options, error);
	res = endpoint_parse(&source, &word, 1, &used, error);
	if (res == 0)
		res = block_open(ret, ring, &source, &options, error);
	endpoint_done(&source);
	return res;
}

/* What the target carries, and who uses it: as for any other job that writes to it. The mirror judges those of other machines itself. */
static int judge(struct move_command *command, struct error *error)
{
	struct block_open_options target_options = {.write = true, .target = true};
	struct block *source = NULL, *target = NULL;
	struct block_facts facts[2];
	struct ring *ring = NULL;
	uint64_t end;
	int res = ring_new(&ring, RING_ENTRIES, error);

	if (res == 0)
		res = open_source(command, ring, &source, error);
	if (res == 0)
		res = block_open(&target, ring, &command->endpoints[1], &target_options, error);
	if (res == 0)
		res = block_facts(source, &facts[0], error);
	if (res == 0)
		res = block_facts(target, &facts[1], error);
	if (res == 0) {
		struct preflight preflight = {.source = block_info(source),
		    .target = block_info(target),
		    .source_facts = &facts[0],
		    .target_facts = &facts[1],
		    .allow = ALLOW_LIVE_SOURCE,
		    .overwrite = command->overwrite,
		    .size_mismatch = SIZE_ZERO_TAIL,
		    .move = true};

		res = preflight_check(&preflight, &end, error);
	}
	block_free(target);
	block_free(source);
	ring_free(ring);
	return res;
}

/* Where both lie, and so which engine it is. */
static int look_at_endpoints(struct move_command *command, struct error *error)
{
	for (unsigned i = 0; i < command->words_count; i++) {
		int used, res = endpoint_parse(&command->endpoints[i], &command->words[i], 1, &used, error);

		if (res < 0)
			return res;
	}
	command->remote = command->endpoints[1].kind != ENDPOINT_PATH;
	if (command->endpoints[0].kind != ENDPOINT_PATH)
		return error_set(error, -EINVAL, "%s is no device of this machine", command->words[0]);
	if (command->engine == ENGINE_DM && (command->remote || command->for_mirror))
		return error_set(error, -EINVAL,
		    "--engine=dm moves between two devices of this machine: --impact, --cutover-window and "
		    "what "
		    "is for another machine are the mirror's; leave --engine out");
	if (command->engine == ENGINE_BLKMOVE && command->throttle_max)
		return error_set(error, -EINVAL,
		    "--throttle is of the engine dm; the mirror has --max-rate and --latency-target");
	if (command->engine == ENGINE_DM && command->until == MOVE_UNTIL_SWITCHED)
		return error_set(error, -EINVAL, "--engine=dm has no step 'switched'; leave --engine out");
	if (command->engine == ENGINE_AUTO)
		command->engine =
		    command->remote || command->mirror.words_count || command->until == MOVE_UNTIL_SWITCHED
		        ? ENGINE_BLKMOVE
		        : ENGINE_DM;
	return 0;
}

static int choose_engine(struct move_command *command, struct error *error)
{
	char name[16];
	int res;

	if (!command->resume && !command->undo)
		return look_at_endpoints(command, error);
	res = move_engine_of(command->words[0], command->state_dir, name, error);
	command->engine = !strcmp(name, "blkmove") ? ENGINE_BLKMOVE : ENGINE_DM;
	return res;
}

static void say_end(struct move_command *command, const struct move *move, const char *result)
{
	const struct move_record *record = move_get_record(move);
	const char *counts = move_new_counts(move) ? "new" : "old";

	if (command->json)
		say_json(json_pack("{s:s, s:s, s:s, s:s, s:s, s:f}", "event", "end", "result", result,
		    "device", record->device, "target", record->target, "leg", counts, "pause_ms",
		    (double)move_pause_ns(move) / 1e6));
	else if (!command->quiet)
		fprintf(stderr, "%s%s: %s; the %s leg has everything; longest pause %.1f ms\n",
		    command->bar ? "\r\033[K" : "", record->device, result, counts,
		    (double)move_pause_ns(move) / 1e6);
	if (!command->json && !command->quiet && !strcmp(result, "moved") && !record->lvm.group[0])
		fprintf(stderr,
		    "Until the machine is started anew. Whatever sets %s up must name %s from now on.\n",
		    record->device, record->target);
}

/* Whose users the pace is for. After a restart it may not be there. */
static int find_device(struct move_command *command, const struct move *move, struct error *error)
{
	struct dm_facts facts;

	if (!move_governs(&command->govern))
		return 0;
	if (dm_look(move_get_record(move)->device, &facts, error) < 0)
		return error->code;
	command->device = facts.device;
	/* Slow, until the users were seen. */
	command->dm.throttle = move_govern_percent(
	    &command->govern, command->device, 0, command->throttle_max ? command->throttle_max : 100);
	return 0;
}

static int run(struct move_command *command, struct error *error)
{
	struct move_options options = {.state_dir = command->state_dir,
	    .overwrite = command->overwrite,
	    .step = step,
	    .progress = progress,
	    .data = command};
	enum move_until reached = command->until;
	static const char *const results[] = {"synced", "switched", "moved"};
	struct move *move = NULL;
	int res = choose_engine(command, error);

	options.engine = command->engine == ENGINE_DM ? &move_dm_mirror : &move_mirror_engine;
	options.engine_data = command->engine == ENGINE_DM ? (void *)&command->dm : &command->mirror;
	if (res < 0)
		return res;
	if (command->resume || command->undo) {
		res = move_continue(&move, command->words[0], &options, error);
	} else {
		res = command->remote ? 0 : judge(command, error);
		if (res == 0)
			res = move_begin(&move, command->words[0], command->words[1], command->remote,
			    command->until_restart, &options, error);
	}
	if (res == 0)
		res = find_device(command, move, error);
	if (res == 0)
		res = command->undo ? move_undo(move, command->keep_old, error)
		                    : move_forward(move, command->until, &reached, error);
	if (res == 0)
		say_end(command, move, command->undo ? "undone" : results[reached]);
	move_free(move);
	return res;
}

int command_move(int argc, char **argv)
{
	struct move_command command = {.until = MOVE_UNTIL_MOVED, .bar = isatty(STDERR_FILENO)};
	const struct sigaction action = {.sa_handler = stop};
	struct error error = {0};
	int res;

	state_dir_path(command.state_dir, sizeof(command.state_dir));
	res = argp_parse(&argp, argc, argv, 0, NULL, &command);
	if (res)
		return JOB_TROUBLE;
	command.bar &= !command.json && !command.quiet;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	command.mirror.state_dir = command.state_dir;
	command.mirror.overwrite = command.overwrite;
	res = run(&command, &error);
	for (unsigned i = 0; i < 2; i++)
		endpoint_done(&command.endpoints[i]);
	for (unsigned i = 0; i < command.mirror.words_count; i++)
		free((char *)command.mirror.words[i]);
	if (res < 0)
		return cli_fail(
		    res == -EOPNOTSUPP || res == -EXDEV ? JOB_REFUSED : cli_exit_code(res), &error);
	return JOB_OK;
}
