/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Folders of our own. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Makes it, mode 0700, and those above it that are missing, durably. 0 or -errno. */
int folder_make(const char *path);
/*
 * Opens a folder and locks it (flock(2)) until the descriptor is closed; makes it if it is to. Returns the descriptor; -EALREADY: somebody else has
 * locked it; -ENOENT: there is none; or another -errno.
 */
int folder_lock(const char *path, bool make);
/*
 * Replaces a file of a folder by this text, as a whole and durably: it has the old text or the new one. 0 or -errno: then the new one may be there
 * all the same, until a power cut.
 */
int folder_put(int folder_fd, const char *name, const char *text);
/* Names that came or went are on stable storage afterwards, as far as the file system can: else a power cut brings back what was. 0 or -errno. */
int folder_sync(const char *path);
/* The folder that this name lies in; "." where none is named. Returns buf. */
const char *folder_above(const char *path, char *buf, size_t length);
