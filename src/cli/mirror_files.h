/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a mirror keeps under the state folder, mirrors/NAME/: `map`, `command` (its command line, for --resume), `judged` (which
 * volumes its legs are), `pending` (struct mirror_pending), `log`, `receipt.json` after a cutover, and `newer.json` (mirror_newer.h). The folder is locked while the mirror runs.
 */
#pragma once

#include "filter/mirror.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define MIRROR_NAME_MAX 64u
#define MIRROR_RECEIPT  "receipt.json"

/* What of the words that a mirror was begun with is still to be done. */
struct mirror_pending {
	bool cutover;       /* --cutover=auto or at=: its order was not carried out, given up or undone */
	int64_t cutover_at; /* its moment, CLOCK_REALTIME seconds; 0: as soon as it is ready */
	bool paused;        /* --paused: nobody has let it go on so far */
};

/* Two volumes that are to be mirrored: what they are called, and what they are. Borrowed. */
struct mirror_pair {
	const char *names[MIRROR_LEGS], *ids[MIRROR_LEGS]; /* ids: "" when it cannot be known */
};

struct mirror_files {
	char dir[4096];
	int dir_fd, lock_fd, map_fd, log_fd;
	off_t log_begin; /* what others wrote into the log since then is not on the terminal yet */
	FILE *log;       /* NULL: what is said goes to the terminal */
	uint64_t trust;  /* mirror_trust.c: of this start; 0: none */
};

#define MIRROR_FILES_NONE ((struct mirror_files){.dir_fd = -1, .lock_fd = -1, .map_fd = -1, .log_fd = -1})

/* -EINVAL with words: letters, digits, '.', '_' and '-', not only digits, which would be a pid. */
int mirror_name_check(const char *name, struct error *error);
/*
 * Makes or opens the folder and locks it. -EALREADY: the mirror runs; -EEXIST: `create`, and an earlier one has not ended;
 * -ENOENT: not `create`, and there is none. All with words.
 */
int mirror_files_open(
    struct mirror_files *files, const char *state_dir, const char *name, bool create, struct error *error);
/* In the process that goes on: whom the lock's message names. */
void mirror_files_note_pid(const struct mirror_files *files);
/* Of the map, empty with `create`; the files keep it. Or -errno. */
int mirror_files_map(struct mirror_files *files, bool create);
/* The command line, which of its parts the mirror is, and the folder that it was given in; on stable storage. */
int mirror_files_save_command(
    struct mirror_files *files, int argc, char **argv, unsigned part, struct error *error);
/* {"folder", "words", "part"}, which the caller frees, or NULL with words. */
json_t *mirror_files_load_command(struct mirror_files *files, struct error *error);
/* Appends nothing: the file is this JSON, on stable storage. Takes `json`. */
int mirror_files_write(struct mirror_files *files, const char *file, json_t *take_json, struct error *error);
/* What such a file says, which the caller frees; NULL when it is not there, or no JSON. */
json_t *mirror_files_read(const struct mirror_files *files, const char *file);
/*
 * The legs' identities and names, on stable storage, before the first write to the target: without a map the mirror is known by them. And how
 * many bytes the target has, of which the mirror may be the first ones only: the map does not say.
 */
int mirror_files_save_judged(
    struct mirror_files *files, const struct mirror_pair *pair, uint64_t target_size, struct error *error);
/* {"source", "target", "source_name", "target_name", "target_size"}, which the caller frees, or NULL: no start has come so far. */
json_t *mirror_files_load_judged(const struct mirror_files *files);
/* Whether the target was let go by an order, on stable storage: whoever resumes the mirror is not to open it either. */
bool mirror_files_let_go(const struct mirror_files *files);
int mirror_files_set_let_go(struct mirror_files *files, bool let_go, struct error *error);
/* On stable storage. */
int mirror_files_save_pending(
    struct mirror_files *files, const struct mirror_pending *pending, struct error *error);
/* Nothing, when nothing was saved. */
void mirror_files_load_pending(struct mirror_files *files, struct mirror_pending *ret);
/*
 * Opens the log, for the words of captive servers: they outlive the start, and whoever reads the terminal's side to its end is not to
 * wait for theirs. mirror_files_tell() puts what they said meanwhile on standard error.
 */
int mirror_files_open_log(struct mirror_files *files, struct error *error);
void mirror_files_tell(struct mirror_files *files);
/* The open log takes what is said. */
int mirror_files_log(struct mirror_files *files, struct error *error);
/* The mirror has ended: nothing is left to resume. Receipt and log stay. */
void mirror_files_forget(struct mirror_files *files);
void mirror_files_close(struct mirror_files *files);
