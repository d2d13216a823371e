/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Folders of our own. */
#pragma once

/* Makes it, mode 0700, and those above it that are missing. 0 or -errno. */
int folder_make(const char *path);
/* Names that came or went are on stable storage afterwards, as far as the file system can: else a power cut brings back what was. */
void folder_sync(const char *path);
