/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One command line: its options by argp, its endpoints. */
#include "cli/cli.h"

#include "base/state_dir.h"

#include <errno.h>
#include <string.h>

#define RETRIES    10
#define INTERVAL_S 10

struct input {
	struct cli_options *options;
	const struct argp_child *children;
	int endpoints, taken;
};

static error_t take_argument(struct input *input, char *arg, struct argp_state *state)
{
	struct cli_options *options = input->options;
	struct endpoint *endpoint = input->taken == 0 ? &options->source : &options->target;

	if (input->taken == input->endpoints)
		argp_failure(state, JOB_TROUBLE, 0, "'%s' is one endpoint too many", arg);
	if (cli_take_endpoint(&options->words, arg, endpoint, &options->error) < 0)
		argp_failure(state, JOB_TROUBLE, 0, "%s", options->error.text);
	input->taken++;
	return 0;
}

static error_t parse_top(int key, char *arg, struct argp_state *state)
{
	struct input *input = state->input;

	switch (key) {
	case ARGP_KEY_INIT:
		for (int i = 0; input->children[i].argp; i++)
			state->child_inputs[i] = input->options;
		return 0;
	case ARGP_KEY_ARG:
		return take_argument(input, arg, state);
	case ARGP_KEY_END:
		if (input->taken < input->endpoints)
			argp_failure(state, JOB_TROUBLE, 0, "it needs %d endpoint%s; see `%s --help`",
			    input->endpoints, input->endpoints > 1 ? "s" : "", state->name);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

int cli_parse(struct cli_options *options, const struct argp *argp, const struct argp_child *children,
    int argc, char **argv, int endpoints)
{
	struct input input = {.options = options, .children = children, .endpoints = endpoints};
	struct argp top = {
	    .parser = parse_top, .args_doc = argp->args_doc, .doc = argp->doc, .children = children};
	char name[64] = "blkmove ";
	error_t res;

	options->job.detect_zeroes = true;
	options->job.retries = RETRIES;
	options->interval_s = INTERVAL_S;
	argp_err_exit_status = JOB_TROUBLE;
	if (cli_words_init(&options->words, argc, argv, &options->error) < 0)
		return cli_fail(JOB_TROUBLE, &options->error);
	strncat(name, argv[0], sizeof(name) - strlen(name) - 1);
	options->words.argv[0] = name;
	res = argp_parse(&top, options->words.argc, options->words.argv, 0, NULL, &input);
	options->words.argv[0] = NULL;
	if (res)
		return JOB_TROUBLE;
	if (!options->state_dir[0])
		state_dir_path(options->state_dir, sizeof(options->state_dir));
	options->job.state_dir = options->state_dir;
	options->job.no_journal = options->no_journal;
	options->job.source = &options->source;
	options->job.target = endpoints > 1 ? &options->target : NULL;
	return 0;
}

void cli_options_done(struct cli_options *options)
{
	endpoint_done(&options->source);
	endpoint_done(&options->target);
	cli_words_done(&options->words);
}
