/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blkmove replicate: its command line, and who carries it out. replicate_words.h has what it says of a resource. */
#pragma once

#include "cli/cli.h"

#include "sync/governor.h"

#include <jansson.h>

struct replicate_command {
	const char *verb; /* create, up, ... */
	char **names;
	unsigned names_count;
	bool all, foreground, no_connect, json, quiet, force, no_wait, wait, watch;
	bool pause, proceed, stop, resync, at_once;
	double watch_s;
	const char *overwrite, *discard, *to, *host, *state_dir;
	json_t *rate;                   /* NULL: not said; 0: no limit */
	uint64_t lease_ns, size;        /* 0: not said */
	bool linked;                    /* resize: before it */
	struct governor_options common; /* up: of all resyncs together */
	struct error error;
};

/* Each returns an exit code, and prints what went wrong. */
int replicate_create(struct replicate_command *command);
int replicate_show(struct replicate_command *command);
int replicate_status(struct replicate_command *command);
int replicate_up(struct replicate_command *command);
int replicate_down(struct replicate_command *command);
int replicate_verify(struct replicate_command *command);
/* All else that the running process is asked for. */
int replicate_order(struct replicate_command *command);

/* Where maps lie: --state-dir, or the usual folder. Returns buf. */
const char *replicate_state_dir(const struct replicate_command *command, char *buf, size_t length);
/*
 * Asks the process that runs the resource; takes the request. NULL with words: -ENOENT when none runs, and what to do; -EPERM when it
 * refuses; -ETIMEDOUT when it gives no answer, and may have done it all the same.
 */
json_t *replicate_ask(const char *name, json_t *take_request, struct error *error);
json_t *replicate_ask_status(const char *name, struct error *error);
/* 0 when none runs, or it had failed: then its process has let it go. Else -EALREADY with words. */
int replicate_check_down(const char *name, struct error *error);
/* For control_each(): adds the name of a resource to an array, once. */
void replicate_add_name(void *names, const json_t *status);
/* As replicate_ask() with "events", which stays: a descriptor, from which a status a line comes. */
int replicate_follow(const char *name, struct error *error);
/* How the map of a resource of this machine stands, for who only reads it: "good", ... {"state", ...}. */
json_t *replicate_map_json(const char *path);
