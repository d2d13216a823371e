/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A captive NBD server: `[ qemu-nbd -f qcow2 f.qcow2 ]`, started with a listening socket by socket activation
 * (sd_listen_fds(3)), and ended with us. One thread: its ring's.
 */
#pragma once

#include "base/error.h"
#include "ring/ring.h"

#include <stdbool.h>

struct captive;

/* Starts argv[0] (looked up in PATH), whose words go to the descriptor `words`. Returns 0 or -errno with words. */
int captive_start(struct captive **ret, char *const *argv, int words, struct error *error);
/* A new connection to it: a descriptor, or -errno. */
int captive_connect(const struct captive *captive);
/* No further captive_connect() will come: removes the socket from the file system. */
void captive_hide(struct captive *captive);
/*
 * How it ended, in words that go on after "the server ": "ended with exit status 1"; false when it still runs
 * after wait_ms, for which the ring is run.
 */
bool captive_ended(struct captive *captive, struct ring *ring, unsigned wait_ms, char *ret, size_t length);
/*
 * Asks it to end, waits (running the ring) up to grace_ms, then kills it. Connections are closed before.
 * Takes NULL; returns NULL.
 */
struct captive *captive_free(struct captive *captive, struct ring *ring, unsigned grace_ms);
