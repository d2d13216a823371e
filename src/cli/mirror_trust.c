/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether a mirror's map may be believed. One whose disk could not be written any more looks like one that is whole, so that it is
 * told elsewhere, before the first write that it lacks: a token in the run folder, which is memory and can always be removed, is
 * gone; and, for after a reboot, a mark is put into the mirror's folder and into /var/tmp, whichever can be written.
 */
#include "cli/mirror_trust.h"

#include "base/cleanup.h"
#include "base/run_dir.h"
#include "block/sysfs.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define OPENED    "opened"    /* {"boot": ..., "token": ...}, in the mirror's folder */
#define UNTRUSTED "untrusted" /* the mark there */

struct places {
	char token[4160], mark[64], untrusted[4160];
};

static void name_places(const struct mirror_files *files, uint64_t number, struct places *ret)
{
	char dir[4096];

	run_dir_path(dir, sizeof(dir));
	snprintf(ret->token, sizeof(ret->token), "%s/%016" PRIx64 ".map", dir, number);
	snprintf(ret->mark, sizeof(ret->mark), "/var/tmp/blkmove-%016" PRIx64 ".untrusted", number);
	snprintf(ret->untrusted, sizeof(ret->untrusted), "%s/" UNTRUSTED, files->dir);
}

/* The number of the last start, and whether that was since this machine was started; false: there was none. */
static bool read_opened(const struct mirror_files *files, uint64_t *ret_number, bool *ret_same_boot)
{
	json_t *json = mirror_files_read(files, OPENED);
	const char *boot = json_string_value(json_object_get(json, "boot"));
	const char *token = json_string_value(json_object_get(json, "token"));
	char now[64];

	sysfs_boot_id(now, sizeof(now));
	if (token)
		*ret_number = strtoull(token, NULL, 16);
	*ret_same_boot = boot && now[0] && !strcmp(boot, now);
	json_decref(json);
	return token != NULL;
}

bool mirror_trust_check(const struct mirror_files *files)
{
	struct places places;
	uint64_t number;
	bool same_boot;

	if (!read_opened(files, &number, &same_boot))
		return true;
	name_places(files, number, &places);
	return faccessat(files->dir_fd, UNTRUSTED, F_OK, 0) < 0 && access(places.mark, F_OK) < 0 &&
	       (!same_boot || access(places.token, F_OK) == 0);
}

static int create(const char *path, int flags)
{
	_cleanup_(cleanup_close) int fd =
	    open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | flags, 0600);

	if (fd < 0 || fsync(fd) < 0)
		return -errno;
	return 0;
}

void mirror_trust_forget(struct mirror_files *files)
{
	struct places places;
	uint64_t number;
	bool same_boot;

	mirror_files_forget(files);
	if (!read_opened(files, &number, &same_boot))
		return;
	name_places(files, number, &places);
	/* First what says that it may be believed; the marks only once there is nothing left to believe or to doubt. */
	unlink(places.token);
	if (unlinkat(files->dir_fd, OPENED, 0) < 0)
		return;
	unlink(places.mark);
	unlinkat(files->dir_fd, UNTRUSTED, 0);
	/* Who finds the map lost from now on, a client's next write, leaves no mark: nobody would remove it. */
	files->trust = 0;
}

int mirror_trust_begin(struct mirror_files *files, struct error *error)
{
	uint64_t number, before;
	struct places places, old = {0};
	char dir[4096], boot[64], token[17];
	bool same_boot;
	int res = run_dir_make(run_dir_path(dir, sizeof(dir)), error);

	if (res < 0)
		return res;
	if (getrandom(&number, sizeof(number), 0) != sizeof(number))
		return error_set(error, -EIO, "cannot draw a random number: %s", strerror(errno));
	if (read_opened(files, &before, &same_boot))
		name_places(files, before, &old);
	name_places(files, number, &places);
	res = create(places.token, O_EXCL);
	if (res < 0)
		return error_set(
		    error, res, "cannot make %s: %s; make room there", places.token, strerror(-res));
	sysfs_boot_id(boot, sizeof(boot));
	snprintf(token, sizeof(token), "%016" PRIx64, number);
	/* The map is whole now: what an earlier start left counts no more, once this is said. */
	res = mirror_files_write(files, OPENED, json_pack("{s:s, s:s}", "boot", boot, "token", token), error);
	if (res < 0) {
		unlink(places.token);
		return res;
	}
	if (old.token[0]) {
		unlink(old.token);
		unlink(old.mark);
	}
	if (unlinkat(files->dir_fd, UNTRUSTED, 0) < 0 && errno != ENOENT)
		return error_set(error, -errno, "cannot remove %s: %s", places.untrusted, strerror(errno));
	files->trust = number;
	return 0;
}

/* A disk in trouble may take its time. */
static void *put_marks(void *data)
{
	struct places *places = data;
	int folder = open("/var/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	(void)create(places->mark, O_EXCL);
	if (folder >= 0) {
		(void)fsync(folder);
		close(folder);
	}
	(void)create(places->untrusted, 0);
	free(places);
	return NULL;
}

void mirror_trust_lose(const struct mirror_files *files)
{
	struct places *places = malloc(sizeof(*places));
	pthread_t thread;

	if (!places || !files->trust) {
		free(places);
		return;
	}
	name_places(files, files->trust, places);
	unlink(places->token);
	if (pthread_create(&thread, NULL, put_marks, places) != 0)
		free(places);
	else
		pthread_detach(thread);
}
