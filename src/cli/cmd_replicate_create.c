/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blkmove replicate create: looks at the volume, and makes its map. The volume is not written. */
#include "base/cleanup.h"
#include "base/folder.h"
#include "base/parse_size.h"
#include "block/inspect.h"
#include "block/open.h"
#include "cli/cmd_replicate.h"
#include "cli/replica_config.h"
#include "cli/replicate_run.h"
#include "replica/replica_node.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#define RING_ENTRIES 64u

struct creation {
	struct replicate_command *command;
	struct replica_config *config;
	struct ring *ring;
	struct block *volume;
	char map[PATH_MAX], made[PATH_MAX + 8]; /* made: the new one, until it is whole */
	struct block_facts facts;
	bool existed;
	int old_fd; /* of the map that there was, locked; -1: none */
};

static int judge_size(const struct creation *creation, struct error *error)
{
	const struct block_info *info = block_info(creation->volume);
	uint64_t wanted = creation->command->size;
	char has[16], size[16];

	if (wanted <= info->size)
		return 0;
	return error_set(error, -EPERM, "%s has %s, and --size wants %s of it", info->name,
	    format_size(info->size, has, sizeof(has)), format_size(wanted, size, sizeof(size)));
}

static int open_volume(struct creation *creation, struct error *error)
{
	const struct block_open_options options = {.write = true, .target = true};
	char *path = replica_config_self(creation->config)->device;
	struct endpoint endpoint;
	int used, res = endpoint_parse(&endpoint, &path, 1, &used, error);

	if (res < 0)
		return res;
	res = ring_new(&creation->ring, RING_ENTRIES, error);
	if (res == 0)
		res = block_open(&creation->volume, creation->ring, &endpoint, &options, error);
	endpoint_done(&endpoint);
	if (res == 0)
		res = judge_size(creation, error);
	if (res == 0)
		res = block_facts(creation->volume, &creation->facts, error);
	return res == 0 ? replicate_volume_judge(&creation->facts, block_info(creation->volume)->name, error)
	                : res;
}

/* A new map takes the place of what has its name. */
static bool is_volume(const struct creation *creation, const struct stat *map)
{
	struct stat volume;

	return stat(replica_config_self(creation->config)->device, &volume) == 0 &&
	       volume.st_dev == map->st_dev && volume.st_ino == map->st_ino;
}

/* What is there may be all that says which of two nodes has the newer data. */
static int judge_map(struct creation *creation, struct error *error)
{
	const char *name = creation->config->name, *overwrite = creation->command->overwrite,
	           *discard = creation->command->discard;
	struct stat status;

	creation->existed = stat(creation->map, &status) == 0;
	if (!creation->existed && errno != ENOENT)
		return error_set(
		    error, -errno, "cannot look for the map %s: %s", creation->map, strerror(errno));
	if (creation->existed && !S_ISREG(status.st_mode))
		return error_set(error, -EPERM,
		    "%s is to be the map, and is no regular file; give another one as `map` in %s",
		    creation->map, creation->config->path);
	if (creation->existed && is_volume(creation, &status))
		return error_set(error, -EPERM,
		    "%s is to be the map, and is the volume itself; give another file as `map` in %s",
		    creation->map, creation->config->path);
	if (discard && strcmp(discard, name))
		return error_set(
		    error, -EPERM, "--discard-mine=%s is not the resource's name, %s", discard, name);
	if (overwrite && strcmp(overwrite, name))
		return error_set(
		    error, -EPERM, "--overwrite=%s is not the resource's name, %s", overwrite, name);
	if (creation->existed && !overwrite)
		return error_set(error, -EEXIST,
		    "%s has a map already, %s (`blkmove replicate show %s`); with a new one nobody knows any "
		    "more "
		    "what this node's data are: when it meets the other node it gets all that differs from "
		    "there, "
		    "and what only this one has is lost. If that is wanted, add --overwrite=%s",
		    name, creation->map, name, name);
	return 0;
}

/* The map of a resource that is up, perhaps of another one, would go on being written where nobody finds it. */
static int lock_map(struct creation *creation, struct error *error)
{
	if (!creation->existed)
		return 0;
	creation->old_fd = open(creation->map, O_RDONLY | O_CLOEXEC);
	if (creation->old_fd < 0)
		return error_set(error, -errno, "cannot open the map %s: %s", creation->map, strerror(errno));
	return inspect_lock(creation->old_fd, creation->map, error);
}

/* What the volume carries is not a replica's, and nobody has said that it may be lost. */
static bool is_foreign(const struct creation *creation)
{
	const struct replicate_command *command = creation->command;

	return creation->facts.signature[0] && !command->overwrite && !command->discard;
}

static void say_what_helps(const struct creation *creation, const char *folder, struct error *error)
{
	const char *file = creation->config->path;
	struct error why = *error;

	if (why.code == -ENOSPC)
		error_set(error, why.code,
		    "%.400s; make room in %.200s, or name another file as `map` in %.200s", why.text, folder,
		    file);
	if (why.code == -E2BIG)
		error_set(error, why.code, "%.400s: give a `region-size` in %.200s", why.text, file);
}

/* It has its name only when it is whole. */
static int make_map(struct creation *creation, struct error *error)
{
	struct replica_node_birth birth = {.size = creation->command->size,
	    .region_size = creation->config->region_size,
	    .foreign = is_foreign(creation)};
	char folder[PATH_MAX];
	_cleanup_(cleanup_close) int fd = -1;
	int res = folder_make(folder_above(creation->map, folder, sizeof(folder)));

	if (res < 0)
		return error_set(error, res, "cannot make the folder %s: %s", folder, strerror(-res));
	snprintf(creation->made, sizeof(creation->made), "%s.new", creation->map);
	fd = open(creation->made, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return error_set(error, -errno, "cannot make %s: %s", creation->made, strerror(errno));
	if (getrandom(&birth.nonce, sizeof(birth.nonce), 0) != sizeof(birth.nonce))
		return error_set(error, -EIO, "there are no random numbers");
	res = replica_node_create(creation->ring, fd, creation->volume, &birth, error);
	if (res < 0)
		say_what_helps(creation, folder, error);
	if (res == 0 && (fsync(fd) < 0 || rename(creation->made, creation->map) < 0))
		res = error_set(error, -errno, "cannot make the map %s: %s", creation->map, strerror(errno));
	if (res < 0)
		unlink(creation->made);
	else
		(void)folder_sync(folder);
	return res;
}

static void say_next_foreign(const struct creation *creation)
{
	const struct replica_config *config = creation->config;
	const char *name = config->name, *other = replica_config_other(config)->name;

	printf(
	    "%s: the map of %s is %s; the device carries %s, which is kept until it is said what it is\n"
	    "next: `blkmove replicate up %s`; if it is this machine's data that are to count, and not "
	    "those of %s, for this once `blkmove replicate primary --force %s`; if those of %s are, and all "
	    "that is on %s may be lost, `blkmove replicate resolve --discard-mine %s %s` when %s is "
	    "primary\n",
	    name, replica_config_self(config)->device, creation->map, creation->facts.signature, name, other,
	    name, other, replica_config_self(config)->device, name, name, other);
}

static void say_next(const struct creation *creation)
{
	const struct replica_config *config = creation->config;

	if (is_foreign(creation)) {
		say_next_foreign(creation);
		return;
	}
	printf("%s: the map of %s is %s\n"
	       "next: `blkmove replicate up %s`; if it is this machine's data that are to count, and not "
	       "those of %s, for "
	       "this once `blkmove replicate primary --force %s`, before the other one is up; else those of "
	       "%s replace all that is on %s now\n",
	    config->name, replica_config_self(config)->device, creation->map, config->name,
	    replica_config_other(config)->name, config->name, replica_config_other(config)->name,
	    replica_config_self(config)->device);
}

static int create(struct creation *creation, struct error *error)
{
	const struct replicate_command *command = creation->command;
	char state_dir[PATH_MAX];
	int res = replica_config_load(&creation->config, command->names[0], command->host, error);

	if (res == 0)
		res = replicate_check_down(creation->config->name, error);
	if (res < 0)
		return res;
	replica_config_map(creation->config, replicate_state_dir(command, state_dir, sizeof(state_dir)),
	    creation->map, sizeof(creation->map));
	res = judge_map(creation, error);
	if (res == 0)
		res = lock_map(creation, error);
	if (res == 0)
		res = open_volume(creation, error);
	return res == 0 ? make_map(creation, error) : res;
}

int replicate_create(struct replicate_command *command)
{
	struct creation creation = {.command = command, .old_fd = -1};
	int res = create(&creation, &command->error);

	if (res == 0 && !command->quiet)
		say_next(&creation);
	inspect_close(&creation.old_fd);
	block_free(creation.volume);
	ring_free(creation.ring);
	replica_config_free(creation.config);
	return res < 0 ? cli_fail(cli_exit_code(res), &command->error) : JOB_OK;
}
