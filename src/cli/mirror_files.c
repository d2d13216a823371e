/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A mirror's folder: see mirror_files.h. */
#include "cli/mirror_files.h"

#include "base/cleanup.h"
#include "base/folder.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define LET_GO "let-go" /* the target, by an order */

int mirror_name_check(const char *name, struct error *error)
{
	bool letters = false;

	for (const char *at = name; *at; at++) {
		if (!isalnum((unsigned char)*at) && !strchr("._-", *at))
			return error_set(error, -EINVAL,
			    "a mirror cannot be called '%.80s'; use letters, digits, '.', '_' and '-'", name);
		letters |= !isdigit((unsigned char)*at);
	}
	if (!letters || name[0] == '.' || strlen(name) > MIRROR_NAME_MAX)
		return error_set(error, -EINVAL,
		    "a mirror cannot be called '%.80s'; it takes 1 to %u characters, not digits alone, and "
		    "no '.' first",
		    name, MIRROR_NAME_MAX);
	return 0;
}

static int lock(struct mirror_files *files, const char *name, struct error *error)
{
	char pid[16] = "?";

	files->lock_fd = openat(files->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (files->lock_fd < 0)
		return error_set(error, -errno, "cannot lock %s: %s", files->dir, strerror(errno));
	if (flock(files->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		ssize_t got = read(files->lock_fd, pid, sizeof(pid) - 1);

		pid[got > 0 ? got : 0] = '\0';
		return error_set(error, -EALREADY,
		    "a mirror %s runs already, as process %s; see `blkmove status %s`, or choose another "
		    "--name",
		    name, pid, name);
	}
	return 0;
}

/* After a fork, too: the lock is the file's. */
void mirror_files_note_pid(const struct mirror_files *files)
{
	char pid[16];
	int length = snprintf(pid, sizeof(pid), "%d", (int)getpid());

	if (ftruncate(files->lock_fd, 0) < 0 || pwrite(files->lock_fd, pid, (size_t)length, 0) < 0)
		return; /* only for a message */
}

int mirror_files_open(
    struct mirror_files *files, const char *state_dir, const char *name, bool create, struct error *error)
{
	bool exists;
	int res;

	*files = MIRROR_FILES_NONE;
	if (snprintf(files->dir, sizeof(files->dir), "%s/mirrors/%s", state_dir, name) >=
	    (int)sizeof(files->dir))
		return error_set(error, -ENAMETOOLONG, "the name of the state folder is too long");
	res = create ? folder_make(files->dir) : 0;
	if (res == 0)
		files->dir_fd = open(files->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (res < 0 || files->dir_fd < 0) {
		res = res < 0 ? res : -errno;
		return create
		           ? error_set(error, res, "cannot make %s: %s; name another folder with --state-dir",
		                 files->dir, strerror(-res))
		           : error_set(error, res,
		                 "there is no mirror %s to resume in %s: %s; look into --state-dir", name,
		                 files->dir, strerror(-res));
	}
	res = lock(files, name, error);
	if (res < 0)
		return res;
	exists = faccessat(files->dir_fd, "command", F_OK, 0) == 0;
	if (create && exists)
		return error_set(error, -EEXIST, "an earlier mirror %s has not ended", name);
	if (!create && !exists)
		return error_set(error, -ENOENT, "the mirror %s has ended; there is nothing to resume", name);
	mirror_files_note_pid(files);
	return 0;
}

int mirror_files_map(struct mirror_files *files, bool create)
{
	cleanup_close(&files->map_fd);
	files->map_fd =
	    openat(files->dir_fd, "map", O_RDWR | O_CLOEXEC | (create ? O_CREAT | O_TRUNC : 0), 0600);
	if (files->map_fd < 0)
		return -errno;
	if (create)
		(void)fsync(files->dir_fd);
	return files->map_fd;
}

int mirror_files_write(struct mirror_files *files, const char *file, json_t *take_json, struct error *error)
{
	_cleanup_(cleanup_free) char *text = take_json ? json_dumps(take_json, JSON_INDENT(2)) : NULL;
	int res = text ? folder_put(files->dir_fd, file, text) : -ENOMEM;

	json_decref(take_json);
	return res < 0 ? error_set(error, res, "cannot write %s in %s: %s", file, files->dir, strerror(-res))
	               : 0;
}

json_t *mirror_files_read(const struct mirror_files *files, const char *file)
{
	_cleanup_(cleanup_close) int fd = openat(files->dir_fd, file, O_RDONLY | O_CLOEXEC);

	return fd < 0 ? NULL : json_loadfd(fd, 0, NULL);
}

bool mirror_files_let_go(const struct mirror_files *files)
{
	return faccessat(files->dir_fd, LET_GO, F_OK, 0) == 0;
}

int mirror_files_set_let_go(struct mirror_files *files, bool let_go, struct error *error)
{
	if (let_go)
		return mirror_files_write(files, LET_GO, json_object(), error);
	if (unlinkat(files->dir_fd, LET_GO, 0) < 0 && errno != ENOENT)
		return error_set(error, -errno, "cannot remove %s in %s: %s; the target stays let go", LET_GO,
		    files->dir, strerror(errno));
	return 0;
}

int mirror_files_save_command(
    struct mirror_files *files, int argc, char **argv, unsigned part, struct error *error)
{
	json_t *words = json_array();
	char cwd[4096];

	if (!getcwd(cwd, sizeof(cwd)))
		snprintf(cwd, sizeof(cwd), "/");
	for (int i = 1; i < argc; i++)
		if (json_array_append_new(words, json_string(argv[i])) < 0) {
			json_decref(words);
			return error_set(error, -EILSEQ,
			    "'%.80s' is not UTF-8, and could not be kept for --resume; use a symbolic link "
			    "to it",
			    argv[i]);
		}
	return mirror_files_write(files, "command",
	    json_pack("{s:s, s:o, s:i}", "folder", cwd, "words", words, "part", (int)part), error);
}

json_t *mirror_files_load_command(struct mirror_files *files, struct error *error)
{
	json_t *json = mirror_files_read(files, "command");

	if (json_is_string(json_object_get(json, "folder")) && json_is_array(json_object_get(json, "words")))
		return json;
	json_decref(json);
	error_set(error, -EBADMSG, "%s/command is damaged; begin anew with another --name", files->dir);
	return NULL;
}

/* Of a file with a name that is not UTF-8 nothing is known. */
static json_t *text_json(const char *text)
{
	json_t *json = json_string(text);

	return json ? json : json_string("");
}

int mirror_files_save_judged(
    struct mirror_files *files, const struct mirror_pair *pair, uint64_t target_size, struct error *error)
{
	return mirror_files_write(files, "judged",
	    json_pack("{s:o, s:o, s:o, s:o, s:I}", "source", text_json(pair->ids[MIRROR_SOURCE]), "target",
	        text_json(pair->ids[MIRROR_TARGET]), "source_name", text_json(pair->names[MIRROR_SOURCE]),
	        "target_name", text_json(pair->names[MIRROR_TARGET]), "target_size", (json_int_t)target_size),
	    error);
}

json_t *mirror_files_load_judged(const struct mirror_files *files)
{
	return mirror_files_read(files, "judged");
}

int mirror_files_save_pending(
    struct mirror_files *files, const struct mirror_pending *pending, struct error *error)
{
	return mirror_files_write(files, "pending",
	    json_pack("{s:b, s:I, s:b}", "cutover", pending->cutover, "cutover_at",
	        (json_int_t)pending->cutover_at, "paused", pending->paused),
	    error);
}

void mirror_files_load_pending(struct mirror_files *files, struct mirror_pending *ret)
{
	json_t *json = mirror_files_read(files, "pending");

	*ret = (struct mirror_pending){.cutover = json_is_true(json_object_get(json, "cutover")),
	    .cutover_at = json_integer_value(json_object_get(json, "cutover_at")),
	    .paused = json_is_true(json_object_get(json, "paused"))};
	json_decref(json);
}

int mirror_files_open_log(struct mirror_files *files, struct error *error)
{
	files->log_fd = openat(files->dir_fd, "log", O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (files->log_fd < 0)
		return error_set(error, -errno, "cannot write %s/log: %s", files->dir, strerror(errno));
	files->log_begin = lseek(files->log_fd, 0, SEEK_END);
	return 0;
}

void mirror_files_tell(struct mirror_files *files)
{
	char buf[4096];
	ssize_t got;

	if (files->log_fd < 0)
		return;
	while ((got = pread(files->log_fd, buf, sizeof(buf), files->log_begin)) > 0) {
		fwrite(buf, 1, (size_t)got, stderr);
		files->log_begin += got;
	}
}

int mirror_files_log(struct mirror_files *files, struct error *error)
{
	int fd = fcntl(files->log_fd, F_DUPFD_CLOEXEC, 3);

	files->log = fd < 0 ? NULL : fdopen(fd, "a");
	if (!files->log)
		return error_set(error, -errno, "cannot write %s/log: %s", files->dir, strerror(errno));
	setvbuf(files->log, NULL, _IOLBF, 0);
	return 0;
}

void mirror_files_forget(struct mirror_files *files)
{
	unlinkat(files->dir_fd, "judged", 0);
	unlinkat(files->dir_fd, LET_GO, 0);
	unlinkat(files->dir_fd, "pending", 0);
	unlinkat(files->dir_fd, "command", 0);
	unlinkat(files->dir_fd, "map", 0);
	unlinkat(files->dir_fd, "switched", 0);
	(void)fsync(files->dir_fd);
}

void mirror_files_close(struct mirror_files *files)
{
	if (files->log)
		fclose(files->log);
	files->log = NULL;
	cleanup_close(&files->log_fd);
	cleanup_close(&files->map_fd);
	cleanup_close(&files->lock_fd);
	cleanup_close(&files->dir_fd);
}
