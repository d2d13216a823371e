/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Signals as events of the ring: a handler writes the number into a pipe that the ring reads. Children get
 * them as usual. */
#pragma once

#include "ring/ring.h"

struct signals;

/* Watches SIGINT, SIGTERM, SIGHUP and SIGUSR1; one at a time in a program. */
int signals_new(struct signals **ret, struct ring *ring, void (*got)(void *data, int signal), void *data,
    struct error *error);
struct signals *signals_free(struct signals *signals);
/*
 * While the loop does not run, a first signal waits; a second one then removes this file (a string that stays) and ends
 * the program with JOB_INTERRUPTED. NULL: removes nothing.
 */
void signals_last_resort(const char *path);
/* Ends what this program has started (ssh, captive servers), so that opening a volume through it fails soon. */
void signals_end_children(void);
