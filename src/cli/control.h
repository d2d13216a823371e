/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control socket of what runs: RUN_DIR/NAME.sock, mode 0600, one JSON object a line each way; a job's name is its pid, a
 * mirror has one of its own. docs/wire/control.md has the commands.
 */
#pragma once

#include "ring/ring.h"

#include <jansson.h>
#include <stdbool.h>

struct control;

/*
 * `answer` gets a request and returns the reply, which the control takes. Path: run_dir_path()/NAME.sock. -EALREADY with words:
 * somebody answers there already; a socket that nobody has any more is replaced. A NULL name is the pid. Control path.
 */
int control_new(struct control **ret, struct ring *ring, const char *name,
    json_t *(*answer)(void *data, const json_t *request), void *data, struct error *error);
/* The same before anything is begun: -EALREADY with words. `fixed`: no other name can be chosen. */
int control_check_free(const char *name, bool fixed, struct error *error);
/*
 * From now on {"command": "events"} is answered as any other, and when that is {"ok": true} its client follows: it gets what control_tell()
 * is given, and is not listened to any more.
 */
void control_allow_events(struct control *control);
/* How many follow. */
unsigned control_followers(const struct control *control);
/* A line for each that follows; who does not read loses the connection. */
void control_tell(struct control *control, json_t *take_event);
/* Of the socket. */
const char *control_path(const struct control *control);
/* One of what may be asked for. */
struct control_command {
	const char *name;
	json_t *(*answer)(void *data, const struct control_command *command, const json_t *request);
	int kind;      /* for `answer` */
	bool hindered; /* by what `unable` says */
};
/* For control_new(): `commands` end with a NULL name; `unable`: why some cannot be carried out now, or "". */
json_t *control_answer(
    const struct control_command *commands, const char *unable, void *data, const json_t *request);
/* {"ok": true}, and {"ok": false, "error": words}. */
json_t *control_ok(void);
json_t *control_refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Removes the socket. */
struct control *control_free(struct control *control);
