/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Before the mirrors of a process open anything: their words, of now or of the first time, their names and folders. */
#include "cli/mirror_newer.h"
#include "cli/mirror_run.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Parts: what stands between the --and of a command line. */

static unsigned find_part(int argc, char **argv, unsigned part, int *ret_from, int *ret_end)
{
	unsigned at = 0;

	*ret_from = *ret_end = 1;
	for (int i = 1; i <= argc; i++) {
		/* A captive server's words are its own. */
		if (i < argc && !strcmp(argv[i], "["))
			while (i + 1 < argc && strcmp(argv[i], "]"))
				i++;
		if (i < argc && strcmp(argv[i], "--and"))
			continue;
		if (at == part)
			*ret_end = i;
		at++;
		if (at == part)
			*ret_from = i + 1;
	}
	return at;
}

static unsigned count_parts(int argc, char **argv)
{
	int from, end;

	return find_part(argc, argv, 0, &from, &end);
}

/* Parses one part. Its array lives as long as the process: a captive server's words stay in it. */
static int parse_part(struct mirror_process *process, struct mirror_command *command, int argc, char **argv,
    unsigned part, struct error *error)
{
	char **words, ***argvs;
	int from, end;

	find_part(argc, argv, part, &from, &end);
	words = calloc((size_t)(end - from) + 2, sizeof(*words));
	argvs = realloc(process->argvs, (process->argvs_count + 1) * sizeof(*argvs));
	process->argvs = argvs ? argvs : process->argvs;
	if (!words || !argvs) {
		free(words);
		return error_set(error, -ENOMEM, "out of memory");
	}
	argvs[process->argvs_count++] = words;
	words[0] = argv[0];
	memcpy(words + 1, argv + from, (size_t)(end - from) * sizeof(*words));
	return mirror_command_parse(command, end - from + 1, words);
}

static void set_count(struct mirror_process *process, unsigned count)
{
	while (process->count < count) {
		struct mirror_run *run = &process->mirrors[process->count++];

		run->process = process;
		run->command.cache = CACHE_BUFFERED;
		run->files = MIRROR_FILES_NONE;
	}
}

/* Names */

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

static int check_names(const struct mirror_process *process, struct error *error)
{
	for (unsigned i = 0; i < process->count; i++) {
		if (mirror_name_check(process->mirrors[i].name, error) < 0)
			return error->code;
		for (unsigned j = 0; j < i; j++)
			if (!strcmp(process->mirrors[i].name, process->mirrors[j].name))
				return error_set(error, -EINVAL,
				    "two mirrors cannot both be called %s; give each a --name",
				    process->mirrors[i].name);
	}
	return 0;
}

/* Where all listen, and as what each is found there. Those that are devices need not. */
static int check_listen(struct mirror_process *process, struct error *error)
{
	struct listen *listen = &process->shared->listen;
	int res = listen_check(listen, error);

	listen->optional = true;
	for (unsigned i = 0; i < process->count && res == 0; i++) {
		res = devices_check(&process->mirrors[i].command.devices, 1, error);
		listen->optional &= process->mirrors[i].command.devices.count > 0;
	}
	if (res == 0 && process->named && listen_name(listen)[0])
		return error_set(error, -EINVAL,
		    "each of several mirrors is found under its own name: write --listen without '%s'",
		    listen_name(listen));
	for (unsigned i = 0; i < process->count; i++)
		process->mirrors[i].export = process->named ? process->mirrors[i].name : listen_name(listen);
	return res;
}

static void share(struct mirror_process *process, struct mirror_command *shared)
{
	process->shared = shared;
	process->governor = shared->job.governor;
	process->governor.min_rate = 0;
}

/* The three ways */

static int forget(struct mirror_process *process, struct error *error)
{
	struct mirror_run *run = &process->mirrors[0];
	char words[600];
	int res;

	run->name = run->command.forget;
	res = mirror_name_check(run->name, error);
	if (res == 0)
		res = mirror_files_open(&run->files, run->command.options.state_dir, run->name, false, error);
	if (res == 0)
		res = mirror_receipt_keep(run, error);
	if (res < 0)
		return res;
	mirror_newer_words(&run->files, words, sizeof(words));
	mirror_trust_forget(&run->files);
	if (!run->command.quiet)
		printf("%s: forgotten; %s\n", run->name, words);
	return 0;
}

static int refuse_begun(const struct mirror_run *run, struct error *error)
{
	char words[600];

	return error_set(error, -EEXIST,
	    "an earlier mirror %s has not ended, and %s: go on with `blkmove mirror --resume %s`, or choose "
	    "another "
	    "--name; `blkmove mirror --forget %s` forgets it, and what it knows of the differences",
	    run->name, mirror_newer_words(&run->files, words, sizeof(words)), run->name, run->name);
}

static int begin(struct mirror_process *process, int argc, char **argv, struct error *error)
{
	const char *state_dir = process->mirrors[0].command.options.state_dir;
	int res = 0;

	set_count(process, count_parts(argc, argv));
	process->named = process->count > 1;
	share(process, &process->mirrors[0].command);
	for (unsigned i = 0; i < process->count && res == 0; i++) {
		struct mirror_run *run = &process->mirrors[i];

		run->command.follows = i > 0;
		res = i > 0 ? parse_part(process, &run->command, argc, argv, i, error) : 0;
		if (res == 0 && run->command.legs_count < MIRROR_LEGS)
			res = error_set(error, -EINVAL, "it needs SRC and DST%s; see `blkmove mirror --help`",
			    process->named ? " before and after each --and" : "");
		if (res == 0)
			run->name = run->command.name ? run->command.name : make_name(&run->command);
	}
	if (res == 0)
		res = check_names(process, error);
	if (res == 0)
		res = check_listen(process, error);
	for (unsigned i = 0; i < process->count && res == 0; i++) {
		struct mirror_run *run = &process->mirrors[i];

		res = mirror_files_open(&run->files, state_dir, run->name, true, error);
		run->created = res == 0;
		if (res == -EEXIST)
			res = refuse_begun(run, error);
		/* What one that did not end in order left behind is not this one's. */
		if (res == 0)
			mirror_trust_forget(&run->files);
		run->plans = mirror_command_orders(&run->command);
		if (res == 0 && (run->plans || run->command.paused))
			res = mirror_save_pending(run, error);
		if (res == 0)
			res = mirror_files_save_command(&run->files, argc, argv, i, error);
	}
	return res;
}

/* Opens the folders and reads the words that they were begun with: the same for all, or they cannot share a process. */
static int load(
    struct mirror_process *process, const char *state_dir, unsigned *ret_parts, struct error *error)
{
	int res = check_names(process, error);

	for (unsigned i = 0; i < process->count && res == 0; i++) {
		struct mirror_run *run = &process->mirrors[i];
		json_t *json;

		res = mirror_files_open(&run->files, state_dir, run->name, false, error);
		json = res == 0 ? mirror_files_load_command(&run->files, error) : NULL;
		if (!json)
			return error->code;
		ret_parts[i] = (unsigned)json_integer_value(json_object_get(json, "part"));
		json_object_del(json, "part");
		if (!process->words)
			process->words = json_incref(json);
		else if (!json_equal(process->words, json))
			res = error_set(error, -EINVAL,
			    "%s and %s were not begun with one command; resume each by itself",
			    process->mirrors[0].name, run->name);
		json_decref(json);
	}
	if (res == 0 && chdir(json_string_value(json_object_get(process->words, "folder"))) < 0)
		res = error_set(error, -errno, "cannot go to %s, where %s was begun: %s",
		    json_string_value(json_object_get(process->words, "folder")), process->mirrors[0].name,
		    strerror(errno));
	return res;
}

struct words {
	int argc;
	char **argv;
	const struct mirror_pending *pending; /* of the mirror whose words they are */
};

/* A part of the first time, and what was added now. */
static int parse_again(struct mirror_process *process, struct mirror_command *command, unsigned part,
    const struct words *first, const struct words *now, struct error *error)
{
	int res;

	*command =
	    (struct mirror_command){.cache = CACHE_BUFFERED, .follows = part > 0, .pending = first->pending};
	res = parse_part(process, command, first->argc, first->argv, part, error);
	command->follows = false;
	command->pending = NULL;
	/* It was said once, of what had this name then. */
	command->overwrite = command->overwrite_newer = NULL;
	if (res == 0)
		res = parse_part(process, command, now->argc, now->argv, 0, error);
	if (res == 0 && command->legs_count < MIRROR_LEGS)
		res = error_set(error, -EBADMSG, "the words of part %u do not make a mirror", part + 1);
	command->job.resume = true;
	return res;
}

static int parse_all_again(struct mirror_process *process, const unsigned *parts, struct words *first,
    const struct words *now, struct error *error)
{
	struct mirror_pending pending = {0};
	int res = 0;

	first->pending = &pending;

	process->named = count_parts(first->argc, first->argv) > 1;
	for (unsigned i = 0; i < process->count && res == 0; i++) {
		mirror_files_load_pending(&process->mirrors[i].files, &pending);
		res = parse_again(process, &process->mirrors[i].command, parts[i], first, now, error);
		process->mirrors[i].plans = mirror_command_orders(&process->mirrors[i].command);
		if (parts[i] == 0)
			share(process, &process->mirrors[i].command);
	}
	if (res != 0 || process->shared)
		return res;
	process->shared_own = calloc(1, sizeof(*process->shared_own));
	if (!process->shared_own)
		return error_set(error, -ENOMEM, "out of memory");
	res = parse_again(process, process->shared_own, 0, first, now, error);
	share(process, process->shared_own);
	return res;
}

static int resume(struct mirror_process *process, int argc, char **argv, struct error *error)
{
	struct mirror_command *command = &process->mirrors[0].command;
	const struct words now = {.argc = argc, .argv = argv};
	struct words first = {0};
	char state_dir[sizeof(command->options.state_dir)];
	unsigned parts[MIRRORS_MAX];
	json_t *json;
	int res;

	memcpy(state_dir, command->options.state_dir, sizeof(state_dir));
	set_count(process, command->resumes_count);
	for (unsigned i = 0; i < process->count; i++)
		process->mirrors[i].name = command->resumes[i];
	mirror_command_done(command);
	res = load(process, state_dir, parts, error);
	if (res < 0)
		return res;
	json = json_object_get(process->words, "words");
	first.argc = (int)json_array_size(json) + 1;
	first.argv = calloc((size_t)first.argc + 1, sizeof(*first.argv));
	if (!first.argv)
		return error_set(error, -ENOMEM, "out of memory");
	first.argv[0] = argv[0];
	for (int i = 1; i < first.argc; i++)
		first.argv[i] = (char *)json_string_value(json_array_get(json, (size_t)i - 1));
	res = parse_all_again(process, parts, &first, &now, error);
	free(first.argv);
	if (res == 0)
		memcpy(process->shared->options.state_dir, state_dir, sizeof(state_dir));
	return res == 0 ? check_listen(process, error) : res;
}

int mirror_prepare(struct mirror_process *process, int argc, char **argv, struct error *error)
{
	struct mirror_command *first;
	unsigned parts = count_parts(argc, argv);
	int res;

	if (parts > MIRRORS_MAX)
		return error_set(
		    error, -E2BIG, "one process has %u mirrors at most; begin another", MIRRORS_MAX);
	process->mirrors = calloc(MIRRORS_MAX, sizeof(*process->mirrors));
	if (!process->mirrors)
		return error_set(error, -ENOMEM, "out of memory");
	set_count(process, 1);
	first = &process->mirrors[0].command;
	res = parse_part(process, first, argc, argv, 0, error);
	process->shared = first;
	if (res != 0)
		return res;
	if (parts > 1 && (first->resumes_count || first->forget))
		return error_set(
		    error, -EINVAL, "--and begins mirrors; give --resume several times for several");
	process->idle = first->forget;
	if (first->forget)
		return forget(process, error);
	process->shared = NULL;
	return first->resumes_count ? resume(process, argc, argv, error) : begin(process, argc, argv, error);
}

void mirror_process_done(struct mirror_process *process)
{
	for (unsigned i = 0; process->mirrors && i < process->count; i++) {
		mirror_files_close(&process->mirrors[i].files);
		mirror_command_done(&process->mirrors[i].command);
		json_decref(process->mirrors[i].uris);
		json_decref(process->mirrors[i].points);
		json_decref(process->mirrors[i].judged);
	}
	if (process->shared_own)
		mirror_command_done(process->shared_own);
	free(process->shared_own);
	for (unsigned i = 0; i < process->argvs_count; i++)
		free(process->argvs[i]);
	free(process->argvs);
	json_decref(process->words);
	free(process->mirrors);
}
