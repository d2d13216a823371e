/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The way to an agent on another machine: an ssh child over pipes. It owns the child and its standard error;
 * the stream descriptors are handed to the session. One ring, its thread; control paths may wait a little.
 */
#pragma once

#include "base/error.h"
#include "ring/ring.h"
#include "wire/ssh_command.h"

#include <stdbool.h>
#include <sys/types.h>

struct transport;

/* Starts ssh; the options' strings are borrowed until transport_free(). *ret_in and *ret_out are the
 * caller's. */
int transport_ssh(struct transport **ret, struct ring *ring, const struct ssh_options *options, int *ret_in,
    int *ret_out, struct error *error);
pid_t transport_pid(const struct transport *transport);
/*
 * The link broke for the reason in `error`: says it better where ssh's exit status or last words tell more.
 * Waits for the child's end a moment.
 */
void transport_explain(struct transport *transport, struct error *error);
/*
 * Ends the child and reaps it. `gently`: its descriptors are closed by now, and it gets a moment to take the
 * end over to the agent. Takes NULL; returns NULL.
 */
struct transport *transport_free(struct transport *transport, bool gently);
