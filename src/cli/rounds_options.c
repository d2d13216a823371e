/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The options of `sync --rounds`, and what they cannot be had with. */
#include "cli/rounds_options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define THEN_TIMEOUT_NS 300000000000u
#define ROUNDS_MAX      1000000u

enum option_key { KEY_ROUNDS = 768, KEY_THEN, KEY_THEN_TIMEOUT, KEY_FINAL_VERIFY };

static const char *const verify_names[] = {"all", "sent", NULL};

static int set_rounds(struct cli_options *options, const char *text)
{
	static const char until[] = "until:";
	const size_t skip = sizeof(until) - 1;
	uint64_t time_ns;
	char *end;
	unsigned long count;
	int res;

	options->rounds.wanted = true;
	options->rounds.count = 0;
	if (strncmp(text, until, skip) == 0) {
		res = cli_parse_duration("rounds=until", text + skip, &time_ns, &options->error);
		options->rounds.until_s = (double)time_ns / 1e9;
		return res < 0 || time_ns > 0
		           ? res
		           : error_set(&options->error, -EINVAL, "--rounds=%s: no round takes no time", text);
	}
	count = strtoul(text, &end, 10);
	if (text[0] < '1' || text[0] > '9' || *end || count > ROUNDS_MAX)
		return error_set(&options->error, -EINVAL,
		    "--rounds=%s: write how many, 1 to %u, or until:TIME such as until:5s", text, ROUNDS_MAX);
	options->rounds.count = (unsigned)count;
	return 0;
}

static int set_timeout(struct cli_options *options, const char *text)
{
	uint64_t *ret = &options->rounds.timeout_ns;
	int res = cli_parse_duration("then-timeout", text, ret, &options->error);

	return res < 0 || *ret > 0
	           ? res
	           : error_set(&options->error, -EINVAL,
	                 "--then-timeout=%s: nothing is stopped in no time; write how long it may take",
	                 text);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct cli_options *options = state->input;
	int res = 0;

	switch (key) {
	case ARGP_KEY_INIT:
		options->rounds.timeout_ns = THEN_TIMEOUT_NS;
		break;
	case KEY_ROUNDS:
		res = set_rounds(options, arg);
		break;
	case KEY_THEN:
		options->rounds.then = arg;
		break;
	case KEY_THEN_TIMEOUT:
		res = set_timeout(options, arg);
		break;
	case KEY_FINAL_VERIFY:
		res = cli_choose(verify_names, "final-verify", arg, strlen(arg), &options->error);
		options->rounds.verify_sent = res == 1;
		break;
	default:
		return ARGP_ERR_UNKNOWN;
	}
	if (res < 0)
		argp_failure(state, JOB_TROUBLE, 0, "%s", options->error.text);
	return 0;
}

static const struct argp_option list[] = {
    {NULL, 0, NULL, 0, "A move in rounds:", 5},
    {"rounds", KEY_ROUNDS, "HOW", 0,
        "rounds while SRC is in use: until:TIME (until the next one is expected to take no longer), or how "
        "many",
        0},
    {"then", KEY_THEN, "COMMAND", 0,
        "what stops the use of SRC, for a shell; then the last difference is sent", 0},
    {"then-timeout", KEY_THEN_TIMEOUT, "TIME", 0,
        "how long that may take until SRC is seen to be out of use (default: 300s)", 0},
    {"final-verify", KEY_FINAL_VERIFY, "WHAT", 0,
        "read back and compare while SRC is stopped: all (default), or sent (what the last round sent; the "
        "rest "
        "before the stop)",
        0},
    {0},
};

const struct argp cli_argp_rounds = {.options = list, .parser = parse};

static int check_alone(struct cli_options *options)
{
	return options->rounds.then || options->rounds.verify_sent
	           ? error_set(&options->error, -EINVAL, "--then and --final-verify belong to --rounds")
	           : 0;
}

int rounds_options_check(struct cli_options *options)
{
	const struct job_options *job = &options->job;
	const char *other = job->dry_run ? "--dry-run" : job->resume ? "--resume" : NULL;

	if (!options->rounds.wanted)
		return check_alone(options);
	if (!options->rounds.then || !options->rounds.then[0])
		return error_set(&options->error, -EINVAL,
		    "--rounds needs --then=COMMAND, which stops what uses the source, such as 'virsh "
		    "shutdown vm1'");
	if (job->list_read_errors)
		other = "--on-read-error=list";
	if (other)
		return error_set(&options->error, -EINVAL,
		    "--rounds cannot be had with %s: a run in rounds goes on by itself, and ends only with "
		    "an equal target",
		    other);
	if (options->rounds.verify_sent && job->verify)
		return error_set(&options->error, -EINVAL,
		    "--verify is the whole volume, --final-verify=sent is not; leave one out");
	if (options->rounds.verify_sent && job->allow & ALLOW_LIVE_SOURCE)
		return error_set(&options->error, -EINVAL,
		    "--final-verify=sent needs rounds that are each of one moment, so not "
		    "--allow=live-source");
	return 0;
}
