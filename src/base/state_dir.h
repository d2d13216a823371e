/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The folder of what outlasts a restart of this machine: journals, maps, stages. */
#pragma once

#include <limits.h>
#include <stddef.h>

/* $BLKMOVE_STATE_DIR; /var/lib/blkmove for root; $XDG_STATE_HOME/blkmove; ~/.local/state/blkmove. Returns buf. */
const char *state_dir_path(char *buf, size_t length);
/* That one, and root's if it is another: where stages are looked for. How many there are. */
unsigned state_dir_all(char (*ret)[PATH_MAX]);
