/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * blkmove recover: brings volumes to the point that an interrupted round of `sync --atomic` had committed. The work is that of any open for writing
 * (block/stage.h); here it is ordered by name, or for all that this machine has a record of.
 */
#include "base/cleanup.h"
#include "base/state_dir.h"
#include "block/inspect.h"
#include "block/stage.h"
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RING_ENTRIES 64u

enum option_key { KEY_DROP = 512, KEY_ALL };

struct recover {
	struct cli_options options;
	struct ring *ring;
	bool drop, all;
	unsigned endpoints;
	int code; /* of the last record that could not be handled */
};

/* `needed`: what finds nothing to do has found the wrong one. */
static int open_volume(
    struct recover *recover, const struct endpoint *endpoint, bool needed, struct error *error)
{
	const struct block_open_options open = {.write = true,
	    .stage = recover->drop ? STAGE_DROP : STAGE_SETTLE,
	    .link = recover->options.job.link};
	struct block *block;
	int res = block_open(&block, recover->ring, endpoint, &open, error);

	if (res < 0)
		return res;
	if (!block_info(block)->settles)
		res = error_set(error, -EOPNOTSUPP,
		    "%.200s: blkmove there is older than this one, and knows nothing of stages: nothing was "
		    "looked "
		    "for; install the same release there, then run this again",
		    endpoint->name);
	else if (!block_info(block)->recovered && needed)
		res = error_set(error, -ESTALE,
		    "%.200s was not completed: its stage was not found by it; run "
		    "`blkmove recover` with the name that the volume has now",
		    endpoint->name);
	else if (!block_info(block)->recovered)
		printf("%s: nothing to do\n", endpoint->name);
	else if (recover->drop)
		printf("%s: its stage was given up; a sync makes it whole\n", endpoint->name);
	else
		printf("%s: it is the new point\n", endpoint->name);
	block_free(block);
	return res;
}

/* Each record of the state folder */

static const char *state_words(const struct stage *stage)
{
	switch (stage->state) {
	case STAGE_FILLING:
		return "a round is under way, or was interrupted before its commit: the volume is the old "
		       "point";
	case STAGE_COMMITTED:
		return "COMMITTED AND NOT COMPLETED: the volume may hold a mixture";
	case STAGE_APPLIED:
		return "completed";
	}
	return "";
}

static int look_at(struct recover *recover, const char *record, struct stage *ret, struct error *error)
{
	const struct block_open_options open = {.stage = STAGE_IGNORE};
	struct block *file;
	int res = file_open(&file, recover->ring, record, NULL, &open, error);

	if (res < 0)
		return res;
	res = stage_look(file, ret, error);
	block_free(file);
	return res;
}

/* Names change hands: after a restart another volume may have it, and it is not opened for writing. */
static int check_name(const struct stage *stage, struct error *error)
{
	const char *name = stage->header.name;
	_cleanup_(cleanup_close) int fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	char id[sizeof(stage->header.target_id)] = "";

	if (fd < 0)
		return error_set(error, -errno,
		    "%.200s (%.120s) is not completed: it cannot be opened: %s; run `blkmove recover` with "
		    "the "
		    "name "
		    "that this volume has now",
		    name, stage->header.target_id, strerror(errno));
	inspect_identity(fd, id, sizeof(id));
	if (!strcmp(id, stage->header.target_id))
		return 0;
	return error_set(error, -ESTALE,
	    "%.160s is another volume now (%.100s): that with a committed round (%.100s) is not completed; "
	    "run "
	    "`blkmove recover` with the name that it has now",
	    name, id[0] ? id : "no identity", stage->header.target_id);
}

static int not_there(const char *record, struct error *error)
{
	char path[STAGE_PATH_MAX];

	/* Removed since the folder was read. */
	if (!stage_place_read(record, path, sizeof(path)))
		return 0;
	return error_set(error, -ENOENT,
	    "%.200s: its stage %.300s cannot be reached, and its volume may hold a mixture; mount what it "
	    "lies "
	    "on; if it is lost, `blkmove recover --drop` with the volume's name, or remove the record",
	    record, path);
}

static int handle(struct recover *recover, const char *record, struct error *error)
{
	struct endpoint endpoint = {.kind = ENDPOINT_PATH};
	struct stage stage;
	int res = look_at(recover, record, &stage, error);

	if (res == -ENOENT)
		return not_there(record, error);
	/* Never begun. */
	if (res == -ENODATA)
		return 0;
	if (res == -EBADMSG) {
		error->code = -EBUSY;
		return error_prefix(error,
		    "refused: give it up by `blkmove recover --drop` with its volume's name, "
		    "and make that whole by a sync, or remove it if that is no more: %s",
		    record);
	}
	if (res < 0)
		return error_prefix(error, "%s", record);
	if (!recover->all) {
		printf("%s: %s (%s)\n", stage.header.name, state_words(&stage), record);
		return 0;
	}
	if (stage.state != STAGE_COMMITTED)
		return 0;
	endpoint.path = endpoint.name = stage.header.name;
	res = check_name(&stage, error);
	return res < 0 ? res : open_volume(recover, &endpoint, true, error);
}

static int handle_next(void *data, const char *record)
{
	struct recover *recover = data;
	struct error error = {0};
	int res = handle(recover, record, &error);

	if (res < 0)
		recover->code = cli_fail(cli_exit_code(res), &error);
	return 0;
}

static int handle_all(struct recover *recover)
{
	char folders[2][PATH_MAX];
	unsigned count = state_dir_all(folders);
	struct error error = {0};

	for (unsigned i = 0; i < count; i++)
		if (stage_place_each(folders[i], i > 0, handle_next, recover, &error) < 0)
			recover->code = cli_fail(JOB_TROUBLE, &error);
	return recover->code;
}

/* The command line */

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct recover *recover = state->input;
	struct cli_options *options = &recover->options;

	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = options;
		return 0;
	case KEY_DROP:
		recover->drop = true;
		return 0;
	case KEY_ALL:
		recover->all = true;
		return 0;
	case ARGP_KEY_ARG:
		if (recover->endpoints++)
			argp_failure(state, JOB_TROUBLE, 0, "'%s' is one endpoint too many", arg);
		if (cli_take_endpoint(&options->words, arg, &options->target, &options->error) < 0)
			argp_failure(state, JOB_TROUBLE, 0, "%s", options->error.text);
		return 0;
	case ARGP_KEY_END:
		if (recover->all && (recover->endpoints || recover->drop))
			argp_failure(state, JOB_TROUBLE, 0,
			    "--all is for all, and never drops a stage; leave the rest out");
		if (recover->endpoints && options->target.kind != ENDPOINT_PATH &&
		    options->target.kind != ENDPOINT_SSH)
			argp_failure(state, JOB_TROUBLE, 0,
			    "%s: recover works on the machine that has the volume: name a device, an image "
			    "file, or HOST:PATH",
			    options->target.name);
		if (recover->drop && !recover->endpoints)
			argp_failure(state, JOB_TROUBLE, 0, "--drop needs the name of the volume");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_option recover_options[] = {
    {"all", KEY_ALL, NULL, 0, "complete all volumes of this machine that need it", 1},
    {"drop", KEY_DROP, NULL, 0,
        "give the stage up: before its commit the volume is the old point, after it a mixture until a sync "
        "has made it whole",
        1},
    {0},
};

static int parse_line(struct recover *recover, int argc, char **argv)
{
	static const struct argp_child children[] = {{&cli_argp_reach, 0, NULL, 0}, {0}};
	static const struct argp argp = {.options = recover_options,
	    .parser = parse,
	    .args_doc = "[DST]",
	    .doc = "Brings DST to the point that an interrupted round of sync --atomic had committed. "
	           "Without DST: lists the stages of this "
	           "machine.\vDST: /dev/x, file.img, or [user@]host:PATH.",
	    .children = children};
	struct cli_options *options = &recover->options;
	char name[] = "blkmove recover";
	int res;

	argp_err_exit_status = JOB_TROUBLE;
	if (cli_words_init(&options->words, argc, argv, &options->error) < 0)
		return cli_fail(JOB_TROUBLE, &options->error);
	options->words.argv[0] = name;
	res = argp_parse(&argp, options->words.argc, options->words.argv, 0, NULL, recover);
	options->words.argv[0] = NULL;
	return res ? JOB_TROUBLE : JOB_OK;
}

int command_recover(int argc, char **argv)
{
	struct recover recover = {0};
	struct error error = {0};
	int res = parse_line(&recover, argc, argv);

	if (res == JOB_OK && ring_new(&recover.ring, RING_ENTRIES, &error) < 0)
		res = cli_fail(JOB_TROUBLE, &error);
	if (res == JOB_OK && !recover.endpoints) {
		res = handle_all(&recover);
	} else if (res == JOB_OK) {
		res = open_volume(&recover, &recover.options.target, false, &error);
		if (res < 0)
			res = cli_fail(cli_exit_code(res), &error);
	}
	ring_free(recover.ring);
	cli_options_done(&recover.options);
	return res;
}
