/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blkmove replicate up: which resources are meant. replicate_run.h runs them. */
#include "cli/cmd_replicate.h"
#include "cli/replica_config.h"
#include "cli/replicate_run.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ups {
	struct replica_config **configs;
	unsigned count;
	bool missing; /* one cannot be understood, and was told of */
	bool up;      /* one is already */
};

/* What is wrong with one file does not keep the others. */
static void add(struct ups *ups, const struct replicate_command *command, const char *name)
{
	struct replica_config *config = NULL;
	struct error error = {0};
	int res = replica_config_load(&config, name, command->host, &error);

	if (res == 0)
		res = replicate_check_down(config->name, &error);
	if (res < 0) {
		/* What is up is as it was asked for; but who waits for its end waits for another process. */
		if (res == -EALREADY && !command->foreground && !command->quiet)
			printf("%s: it is up already\n", config->name);
		else if (res != -EALREADY || command->foreground)
			cli_fail(JOB_TROUBLE, &error);
		ups->missing |= res != -EALREADY;
		ups->up |= res == -EALREADY;
		replica_config_free(config);
		return;
	}
	for (unsigned i = 0; i < ups->count; i++)
		if (!strcmp(ups->configs[i]->name, config->name)) {
			replica_config_free(config);
			return;
		}
	ups->configs[ups->count++] = config;
}

static int find_all(struct ups *ups, struct replicate_command *command, char ***ret_names)
{
	unsigned most = command->names_count;
	int res = command->all ? replica_config_names(ret_names, &command->error) : 0;

	if (res < 0)
		return res;
	for (char **name = *ret_names; name && *name; name++)
		most++;
	ups->configs = calloc(most + 1, sizeof(struct replica_config *));
	if (!ups->configs)
		return error_set(&command->error, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < command->names_count; i++)
		add(ups, command, command->names[i]);
	for (char **name = *ret_names; name && *name; name++)
		add(ups, command, *name);
	if (ups->count == 0 && !ups->missing && !ups->up)
		return error_set(&command->error, -ENOENT,
		    "there is no resource on this machine; write a file for one, see blkmove-replica(5)");
	return 0;
}

int replicate_up(struct replicate_command *command)
{
	char state_dir[PATH_MAX], **names = NULL;
	struct ups ups = {0};
	struct replicate_up_options options = {.foreground = command->foreground,
	    .apart = command->no_connect,
	    .quiet = command->quiet,
	    .json = command->json,
	    .common = command->common,
	    .state_dir = replicate_state_dir(command, state_dir, sizeof(state_dir))};
	int res = find_all(&ups, command, &names), code = JOB_TROUBLE;

	options.configs = (const struct replica_config *const *)ups.configs;
	options.count = ups.count;
	if (res < 0)
		code = cli_fail(JOB_TROUBLE, &command->error);
	else if (ups.count > 0)
		code = replicate_process_run(&options);
	else if (ups.up)
		code = command->foreground ? JOB_LOCKED : JOB_OK;
	for (unsigned i = 0; i < ups.count; i++)
		replica_config_free(ups.configs[i]);
	free(ups.configs);
	replica_config_names_free(names);
	return code == JOB_OK && ups.missing ? JOB_TROUBLE : code;
}
