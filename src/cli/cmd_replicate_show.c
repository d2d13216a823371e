/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blkmove replicate show: a resource as its file describes it, and what its map says. Asks no process, and changes nothing. */
#include "base/cleanup.h"
#include "cli/cmd_replicate.h"
#include "cli/replica_config.h"
#include "range/bitmap_file.h"
#include "replica/replica_note.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

json_t *replicate_map_json(const char *path)
{
	_cleanup_(cleanup_close) int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct bitmap_super super;
	struct replica_ids ids;
	struct error error;
	char generation[17];
	int res = fd < 0 ? -errno : bitmap_file_peek(fd, &super, &error);

	if (fd < 0)
		return json_pack("{s:s, s:s}", "state", res == -ENOENT ? "missing" : "unreadable", "error",
		    strerror(-res));
	if (res == 0)
		res = replica_note_decode(super.note, super.note_length, &ids, &error);
	if (res < 0)
		return json_pack("{s:s, s:s}", "state", "damaged", "error", error.text);
	snprintf(generation, sizeof(generation), "%016" PRIx64, ids.current);
	return json_pack("{s:s, s:s, s:I, s:i, s:b, s:b, s:b, s:b, s:b, s:b, s:b}", "state",
	    !ids.current       ? "new"
	    : ids.inconsistent ? "inconsistent"
	                       : "good",
	    "generation", generation, "size", (json_int_t)super.size, "region_size", (int)super.region_size,
	    "writing", ids.sender, "outdated", ids.outdated, "follows", ids.follows, "full", ids.full,
	    "grown", ids.grown, "foreign", ids.foreign, "given_up", super.given_up);
}

static void print_value(const char *key, const json_t *value)
{
	if (json_is_string(value))
		printf("%s = %s\n", key, json_string_value(value));
	else if (json_is_integer(value))
		printf("%s = %" JSON_INTEGER_FORMAT "\n", key, json_integer_value(value));
	else if (json_is_real(value))
		printf("%s = %.12g\n", key, json_real_value(value));
	else if (json_is_boolean(value))
		printf("%s = %s\n", key, json_is_true(value) ? "yes" : "no");
	else if (json_is_null(value))
		printf("%s = none\n", key);
}

static void print_members(const json_t *object)
{
	const char *key;
	json_t *value, *item;
	size_t i;

	json_object_foreach((json_t *)object, key, value)
	{
		if (!json_is_array(value)) {
			print_value(key, value);
			continue;
		}
		json_array_foreach(value, i, item)
		{
			if (!json_is_object(item))
				print_value(key, item);
		}
	}
	json_object_foreach((json_t *)object, key, value)
	{
		json_array_foreach(value, i, item)
		{
			if (json_is_object(item)) {
				printf("\n[%s]\n", key);
				print_members(item);
			}
		}
	}
}

int replicate_show(struct replicate_command *command)
{
	char state_dir[PATH_MAX], path[PATH_MAX];
	struct replica_config *config = NULL;
	json_t *shown = NULL, *map;
	int res = replica_config_load(&config, command->names[0], command->host, &command->error);

	if (res == 0) {
		replicate_state_dir(command, state_dir, sizeof(state_dir));
		shown = replica_config_json(config, state_dir);
		map = replicate_map_json(replica_config_map(config, state_dir, path, sizeof(path)));
		if (!shown || !map)
			res = error_set(&command->error, -ENOMEM, "out of memory");
	}
	if (res == 0 && command->json) {
		json_object_set_new(shown, "map", map);
		cli_print_json(stdout, shown);
	} else if (res == 0) {
		print_members(shown);
		puts("\n[map]");
		print_members(map);
		json_decref(map);
	}
	json_decref(shown);
	replica_config_free(config);
	return res < 0 ? cli_fail(cli_exit_code(res), &command->error) : JOB_OK;
}
