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
