/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The folder of what runs on this machine, until it is switched off: control sockets, and an agent's notes. */
#pragma once

#include "base/error.h"

#include <stddef.h>

/* $BLKMOVE_RUN_DIR; /run/blkmove for root; $XDG_RUNTIME_DIR/blkmove; /tmp/blkmove-UID. Returns buf. */
const char *run_dir_path(char *buf, size_t length);
/* -EPERM when others could put files of their own there; -ENOENT when there is none. */
int run_dir_check(const char *dir, struct error *error);
/* Makes it if it is missing, then checks it. */
int run_dir_make(const char *dir, struct error *error);
