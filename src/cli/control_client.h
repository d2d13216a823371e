/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Speaks to what runs on this machine over its control socket (control.h): one request, one reply. */
#pragma once

#include "base/error.h"

#include <jansson.h>
#include <stdint.h>

/*
 * Sends one request and returns the reply, which the caller frees, or NULL with words: -ENOENT or -ECONNREFUSED when nothing of
 * that name runs, -ETIMEDOUT when it gives no answer. Takes the request. A refusal ("ok": false) is NULL with its words, too, and -EPROTO.
 * What is more than a question ("status", "order") is sent once more only where it was not read: without an answer it may have been done.
 */
json_t *control_ask(const char *name, json_t *take_request, struct error *error);
/*
 * Sends one request on a connection that stays, for answers that come as long as there are any: its descriptor, whose reads wait. Takes
 * the request. As control_ask(), but what is answered is for the caller to see.
 */
int control_follow(const char *name, json_t *take_request, struct error *error);
/* Calls `one` with the status of each that answers, in the order of their names; a socket whose process is gone is removed. */
int control_each(void (*one)(void *data, const json_t *status), void *data, struct error *error);

/*
 * What became of an order, by what the status says of it: 0: it is done; -EAGAIN: not yet; -EIO: it failed, its "error" says why; -EBUSY:
 * another order has taken its place.
 */
int control_order(const json_t *order, json_int_t number);

/* Members of a reply: 0, "?" and 0.0 when missing. */
uint64_t control_number(const json_t *reply, const char *key);
const char *control_string(const json_t *reply, const char *key);
double control_real(const json_t *reply, const char *key);
/* Full only when it is: 99.9 % is not done. */
int control_percent(uint64_t part, uint64_t all);
