/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control socket of a running job: RUN_DIR/PID.sock, mode 0600, one JSON object a line each way.
 *   {"command": "status"}                  -> {"ok": true, "state": ..., "position": ..., ...}
 *   {"command": "pause"} {"command": "resume"}
 *   {"command": "throttle", "rate": BYTES} -> {"ok": true}
 * Anything else -> {"ok": false, "error": "words"}.
 */
#pragma once

#include "ring/ring.h"

#include <jansson.h>

struct control;

/* `answer` gets a request and returns the reply, which the control takes. Path: run_dir_path()/PID.sock. */
int control_new(struct control **ret, struct ring *ring, json_t *(*answer)(void *data, const json_t *request),
    void *data, struct error *error);
/* Of the socket. */
const char *control_path(const struct control *control);
/* Removes the socket. */
struct control *control_free(struct control *control);
