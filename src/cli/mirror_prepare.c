/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Before a mirror opens anything: its name, its folder, and the words that it was begun with. */
#include "cli/mirror_run.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* "host:/dev/vg0/vm1.img" is called vm1. */
static const char *make_name(struct mirror_command *command)
{
	const char *target = command->legs[MIRROR_TARGET].name, *slash = strrchr(target, '/');
	size_t length = 0;

	for (const char *at = slash && slash[1] ? slash + 1 : target; *at && length < MIRROR_NAME_MAX - 1;
	     at++)
		command->name_made[length++] = isalnum((unsigned char)*at) || strchr("_-", *at) ? *at : '.';
	command->name_made[length] = '\0';
	if (length > 4 && !strcmp(command->name_made + length - 4, ".img"))
		command->name_made[length - 4] = '\0';
	return command->name_made;
}

static int forget(struct mirror_run *run, struct error *error)
{
	int res = mirror_files_open(&run->files, run->command->options.state_dir, run->name, false, error);

	if (res == 0)
		mirror_files_forget(&run->files);
	mirror_files_close(&run->files);
	return res;
}

/* The words of the first start, and then those of now. */
static int resume(struct mirror_run *run, int argc, char **argv, json_t **ret_words, struct error *error)
{
	struct mirror_command *command = run->command;
	char state_dir[sizeof(command->options.state_dir)];
	char **all;
	size_t count;
	json_t *words;
	int res = mirror_files_open(&run->files, command->options.state_dir, run->name, false, error);

	if (res < 0)
		return res;
	words = mirror_files_load_command(&run->files, error);
	if (!words)
		return error->code;
	count = json_array_size(words);
	all = calloc(count + (size_t)argc + 1, sizeof(*all));
	if (!all)
		return error_set(error, -ENOMEM, "out of memory");
	all[0] = argv[0];
	for (size_t i = 0; i < count; i++)
		all[i + 1] = (char *)json_string_value(json_array_get(words, i));
	for (int i = 1; i < argc; i++)
		all[count + (size_t)i] = argv[i];
	memcpy(state_dir, command->options.state_dir, sizeof(state_dir));
	*command = (struct mirror_command){.cache = CACHE_BUFFERED};
	res = mirror_command_parse(command, (int)count + argc, all);
	memcpy(command->options.state_dir, state_dir, sizeof(state_dir));
	command->job.resume = true;
	run->words = all;
	*ret_words = words;
	return res;
}

static int begin(struct mirror_run *run, int argc, char **argv, struct error *error)
{
	struct mirror_command *command = run->command;
	int res;

	if (command->legs_count < MIRROR_LEGS)
		return error_set(error, -EINVAL, "it needs SRC and DST; see `blkmove mirror --help`");
	run->name = command->name ? command->name : make_name(command);
	res = mirror_name_check(run->name, error);
	if (res == 0)
		res = listen_check(&command->listen, error);
	if (res == 0)
		res = mirror_files_open(&run->files, command->options.state_dir, run->name, true, error);
	return res == 0 ? mirror_files_save_command(&run->files, argc, argv, error) : res;
}

int mirror_prepare(struct mirror_run *run, int argc, char **argv, json_t **words, struct error *error)
{
	struct mirror_command *command = run->command;
	int res;

	run->name = command->forget ? command->forget : command->resume;
	res = run->name ? mirror_name_check(run->name, error) : 0;
	if (res < 0)
		return res;
	if (command->forget)
		return forget(run, error);
	if (!command->resume)
		return begin(run, argc, argv, error);
	res = resume(run, argc, argv, words, error);
	return res == 0 ? listen_check(&command->listen, error) : res;
}
