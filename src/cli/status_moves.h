/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Moves that were begun and have not ended, and that no process drives now: after a kill, a restart of the machine, or a stop on purpose. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

/* A line, or a JSON object, for each recorded in the state folder, with the commands that end it. */
void status_moves_print(FILE *to, const char *state_dir, bool json);
