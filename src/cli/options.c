/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The options that copy, sync, verify and digest share, in groups for argp. */
#include "base/parse_size.h"
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum option_key {
	KEY_DRY_RUN = 'n',
	KEY_QUIET = 'q',
	KEY_FIRST = 256,
	KEY_SSH,
	KEY_SSH_OPTION,
	KEY_AGENT_PATH,
	KEY_COMPRESS,
	KEY_TIMEOUT,
	KEY_NBD_CONNECTIONS,
	KEY_TLS_CERTIFICATES,
	KEY_TLS_PSK,
	KEY_TLS_USERNAME,
	KEY_TLS_INSECURE,
	KEY_CACHE,
	KEY_RATE,
	KEY_RETRIES,
	KEY_READ_HOLES,
	KEY_VERIFY,
	KEY_TRUST_HOLES,
	KEY_RESUME,
	KEY_ASSUME_UNCHANGED,
	KEY_STATE_DIR,
	KEY_NO_JOURNAL,
	KEY_SIZE_MISMATCH,
	KEY_OVERWRITE,
	KEY_ALLOW,
	KEY_ON_READ_ERROR,
	KEY_REPORT,
	KEY_NO_ZERO_DETECTION,
	KEY_JSON,
	KEY_PROGRESS,
	KEY_INTERVAL,
};

static const char *const compress_names[] = {"auto", "none", "zstd", NULL};
const char *const cli_cache_names[] = {"auto", "direct", "buffered", NULL};
const char *const cli_changes_names[] = {
    "auto", "hash", "digests", "dm-snapshot", "dm-thin", "dm-era", "nbd-bitmap", NULL};
static const char *const size_names[] = {"refuse", "zero-tail", "truncate", NULL};
static const char *const read_error_names[] = {"stop", "list", NULL};
static const char *const progress_names[] = {"auto", "bar", "lines", "none", NULL};
static const char *const allow_names[] = {"mounted", "held", "live-source", "same", "sectors", NULL};

int cli_choose(
    const char *const *names, const char *option, const char *text, size_t length, struct error *error)
{
	char list[256] = "";

	for (int i = 0; names[i]; i++) {
		if (strlen(names[i]) == length && !strncmp(names[i], text, length))
			return i;
		snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s", i ? ", " : "", names[i]);
	}
	return error_set(error, -EINVAL, "--%s=%s: choose one of %s", option, text, list);
}

static int set_compress(struct cli_options *options, const char *text)
{
	size_t length = strcspn(text, ":");
	int mode = cli_choose(compress_names, "compress", text, length, &options->error);
	unsigned level = 0;

	if (mode < 0)
		return mode;
	if (text[length] && (mode != COMPRESS_ZSTD || cli_parse_number("compress", text + length + 1, "", 1,
	                                                  19, &level, &options->error) < 0))
		return error_set(
		    &options->error, -EINVAL, "--compress=%s: a level is written zstd:LEVEL, 1 to 19", text);
	options->job.link.compress = (enum compress_mode)mode;
	options->job.link.compress_level = (int)level;
	return 0;
}

static int set_allow(struct cli_options *options, const char *text)
{
	while (*text) {
		size_t length = strcspn(text, ",");
		int what = cli_choose(allow_names, "allow", text, length, &options->error);

		if (what < 0)
			return what;
		options->job.allow |= 1u << what;
		text += length + (text[length] == ',');
	}
	return 0;
}

static int add_ssh_option(struct cli_options *options, const char *text)
{
	if (options->ssh_options_count + 1 >= sizeof(options->ssh_options) / sizeof(options->ssh_options[0]))
		return error_set(&options->error, -E2BIG,
		    "there are too many --ssh-option; write them into ssh's configuration");
	options->ssh_options[options->ssh_options_count++] = text;
	options->job.link.ssh_options = options->ssh_options;
	return 0;
}

/* argp's own way out for a bad value: says it and ends. */
static error_t checked(struct argp_state *state, const struct cli_options *options, int res)
{
	if (res < 0)
		argp_failure(state, JOB_TROUBLE, 0, "%s", options->error.text);
	return 0;
}

static error_t parse_reach(int key, char *arg, struct argp_state *state)
{
	struct cli_options *options = state->input;
	struct link_options *link = &options->job.link;
	unsigned seconds = 0;
	int res = 0;

	switch (key) {
	case KEY_SSH:
		link->ssh_program = arg;
		break;
	case KEY_SSH_OPTION:
		res = add_ssh_option(options, arg);
		break;
	case KEY_AGENT_PATH:
		link->agent_path = arg;
		break;
	case KEY_COMPRESS:
		res = set_compress(options, arg);
		break;
	case KEY_TIMEOUT:
		res = cli_parse_number("timeout", arg, "", 0, 86400, &seconds, &options->error);
		link->timeout_ms = seconds * 1000;
		break;
	case KEY_NBD_CONNECTIONS:
		res = cli_parse_number(
		    "nbd-connections", arg, "", 0, 64, &link->nbd_connections, &options->error);
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return checked(state, options, res);
}

static error_t parse_link(int key, char *arg, struct argp_state *state)
{
	struct cli_options *options = state->input;
	struct link_options *link = &options->job.link;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = options;
		break;
	case KEY_TLS_CERTIFICATES:
		link->tls_certificates = arg;
		break;
	case KEY_TLS_PSK:
		link->tls_psk_file = arg;
		break;
	case KEY_TLS_USERNAME:
		link->tls_username = arg;
		break;
	case KEY_TLS_INSECURE:
		link->tls_insecure = true;
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return 0;
}

static const struct argp_option reach_options[] = {
    {NULL, 0, NULL, 0, "Reaching the other side:", 10},
    {"ssh", KEY_SSH, "PROGRAM", 0, "ssh to start for host:PATH (default: ssh)", 0},
    {"ssh-option", KEY_SSH_OPTION, "WORD", 0, "a word for ssh, such as -p2222; may be given several times",
        0},
    {"agent-path", KEY_AGENT_PATH, "PATH", 0, "blkmove on the other side (default: blkmove, from its PATH)",
        0},
    {"compress", KEY_COMPRESS, "HOW", 0, "auto (where it pays), none, zstd or zstd:LEVEL", 0},
    {"timeout", KEY_TIMEOUT, "SECONDS", 0, "silence after which a link counts as lost (default: 30)", 0},
    {"nbd-connections", KEY_NBD_CONNECTIONS, "N", 0,
        "NBD: connections, where the server allows several (default: 4)", 0},
    {0},
};

const struct argp cli_argp_reach = {.options = reach_options, .parser = parse_reach};

static const struct argp_option link_options[] = {
    {"tls-certificates", KEY_TLS_CERTIFICATES, "DIR", 0, "NBD: folder of X.509 certificates", 10},
    {"tls-psk", KEY_TLS_PSK, "FILE", 0, "NBD: file of pre-shared keys", 10},
    {"tls-username", KEY_TLS_USERNAME, "NAME", 0, "NBD: user of the pre-shared key", 10},
    {"tls-insecure", KEY_TLS_INSECURE, NULL, 0, "NBD: do not verify the server's certificate", 10},
    {0},
};

static const struct argp_child link_children[] = {{&cli_argp_reach, 0, NULL, 0}, {0}};

const struct argp cli_argp_link = {.options = link_options, .parser = parse_link, .children = link_children};

static error_t parse_read(int key, char *arg, struct argp_state *state)
{
	struct cli_options *options = state->input;
	struct job_options *job = &options->job;
	int res = 0;

	switch (key) {
	case KEY_CACHE:
		res = cli_choose(cli_cache_names, "cache", arg, strlen(arg), &options->error);
		job->cache = res < 0 ? job->cache : (enum cache_mode)res;
		break;
	case KEY_RATE:
		res = parse_size(arg, &job->rate, &options->error);
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return checked(state, options, res);
}

static const struct argp_option read_options[] = {
    {NULL, 0, NULL, 0, "Reading:", 3},
    {"cache", KEY_CACHE, "HOW", 0, "auto, direct (always past the page cache) or buffered", 0},
    {"rate", KEY_RATE, "RATE", 0, "read at most so many bytes a second, such as 50M", 0},
    {0},
};

const struct argp cli_argp_read = {.options = read_options, .parser = parse_read};

static error_t parse_holes(int key, char *arg, struct argp_state *state)
{
	struct cli_options *options = state->input;

	if (key != KEY_READ_HOLES)
		return ARGP_ERR_UNKNOWN;
	options->job.ignore_holes = true;
	return 0;
}

static const struct argp_option holes_options[] = {
    {"read-holes", KEY_READ_HOLES, NULL, 0, "read what is said to be a hole, too", 3},
    {0},
};

const struct argp cli_argp_holes = {.options = holes_options, .parser = parse_holes};

static error_t parse_job(int key, char *arg, struct argp_state *state)
{
	struct cli_options *options = state->input;
	struct job_options *job = &options->job;
	int res = 0;

	switch (key) {
	case KEY_RETRIES:
		res = cli_parse_number("retries", arg, "", 0, 1000000, &job->retries, &options->error);
		break;
	case KEY_TRUST_HOLES:
		job->trust_holes = true;
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return checked(state, options, res);
}

static const struct argp_option job_options[] = {
    {NULL, 0, NULL, 0, "Running:", 4},
    {"retries", KEY_RETRIES, "N", 0, "how often in a row a lost link is tried again (default: 10)", 0},
    {"trust-holes", KEY_TRUST_HOLES, NULL, 0, "when verifying, do not read what both sides say is a hole", 0},
    {0},
};

const struct argp cli_argp_job = {.options = job_options, .parser = parse_job};

static error_t parse_write(int key, char *arg, struct argp_state *state)
{
	struct cli_options *options = state->input;
	struct job_options *job = &options->job;
	int res = 0;

	switch (key) {
	case KEY_DRY_RUN:
		job->dry_run = true;
		break;
	case KEY_VERIFY:
		job->verify = true;
		break;
	case KEY_RESUME:
		job->resume = true;
		break;
	case KEY_ASSUME_UNCHANGED:
		job->assume_unchanged = true;
		break;
	case KEY_STATE_DIR:
		snprintf(options->state_dir, sizeof(options->state_dir), "%s", arg);
		break;
	case KEY_NO_JOURNAL:
		options->no_journal = true;
		break;
	case KEY_SIZE_MISMATCH:
		res = cli_choose(size_names, "size-mismatch", arg, strlen(arg), &options->error);
		job->size_mismatch = res < 0 ? job->size_mismatch : (enum size_mismatch)res;
		break;
	case KEY_OVERWRITE:
		job->overwrite = arg;
		break;
	case KEY_ALLOW:
		res = set_allow(options, arg);
		break;
	case KEY_ON_READ_ERROR:
		res = cli_choose(read_error_names, "on-read-error", arg, strlen(arg), &options->error);
		job->list_read_errors = res == 1;
		break;
	case KEY_REPORT:
		options->report_path = arg;
		break;
	case KEY_NO_ZERO_DETECTION:
		job->detect_zeroes = false;
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return checked(state, options, res);
}

static const struct argp_option write_options[] = {
    {NULL, 0, NULL, 0, "What to do:", 1},
    {"dry-run", KEY_DRY_RUN, NULL, 0, "say what would be done, and how many bytes; write nothing", 0},
    {"verify", KEY_VERIFY, NULL, 0, "read the target back, past the cache, and compare all of it", 0},
    {"resume", KEY_RESUME, NULL, 0, "go on where an earlier run was interrupted", 0},
    {"assume-unchanged", KEY_ASSUME_UNCHANGED, NULL, 0,
        "with --resume: trust that nobody wrote to the source since, where that cannot be seen", 0},
    {"size-mismatch", KEY_SIZE_MISMATCH, "HOW", 0,
        "refuse (default), zero-tail (zero the rest of a larger target), truncate (set an image file to the "
        "source's size)",
        0},
    {NULL, 0, NULL, 0, "Safety:", 2},
    {"overwrite", KEY_OVERWRITE, "NAME", 0, "the target's name once more: what it carries may be lost", 0},
    {"allow", KEY_ALLOW, "WHAT,...", 0, "go on although: mounted, held, live-source, same, sectors", 0},
    {"on-read-error", KEY_ON_READ_ERROR, "HOW", 0,
        "stop (default), or list: put zeros, write the ranges to the report, exit with 5", 0},
    {"report", KEY_REPORT, "FILE", 0, "where unreadable ranges are listed (default: blkmove-PID.report)", 0},
    {"state-dir", KEY_STATE_DIR, "DIR", 0,
        "where journals lie (default: /var/lib/blkmove, or below ~/.local/state)", 0},
    {"no-journal", KEY_NO_JOURNAL, NULL, 0, "keep no journal; the run cannot be resumed", 0},
    {"no-zero-detection", KEY_NO_ZERO_DETECTION, NULL, 0, "write blocks of zeros as data", 0},
    {0},
};

const struct argp cli_argp_write = {.options = write_options, .parser = parse_write};

static error_t parse_report(int key, char *arg, struct argp_state *state)
{
	struct cli_options *options = state->input;
	int res = 0;

	switch (key) {
	case KEY_PROGRESS:
		res = cli_choose(progress_names, "progress", arg, strlen(arg), &options->error);
		options->progress = res < 0 ? options->progress : (enum cli_progress)res;
		break;
	case KEY_INTERVAL:
		res = cli_parse_number("interval", arg, "", 0, 86400, &options->interval_s, &options->error);
		break;
	case KEY_QUIET:
		options->quiet = true;
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	return checked(state, options, res);
}

static const struct argp_option report_options[] = {
    {NULL, 0, NULL, 0, "Reporting:", 20},
    {"progress", KEY_PROGRESS, "HOW", 0, "auto, bar, lines or none", 0},
    {"interval", KEY_INTERVAL, "SECONDS", 0, "between progress lines (default: 10)", 0},
    {"quiet", KEY_QUIET, NULL, 0, "print errors only", 0},
    {0},
};

const struct argp cli_argp_report = {.options = report_options, .parser = parse_report};

static error_t parse_events(int key, char *arg, struct argp_state *state)
{
	struct cli_options *options = state->input;

	if (key != KEY_JSON)
		return ARGP_ERR_UNKNOWN;
	options->json = true;
	return 0;
}

static const struct argp_option events_options[] = {
    {"json", KEY_JSON, NULL, 0,
        "events, one JSON object a line, on standard output (standard error if DST is -)", 20},
    {0},
};

const struct argp cli_argp_events = {.options = events_options, .parser = parse_events};
