/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whether the map of a mirror that did not end in order may be believed: see mirror_trust.c. */
#pragma once

#include "cli/mirror_files.h"

/* False: writes may have happened that the map lacks; all must be compared. Before begin(). */
bool mirror_trust_check(const struct mirror_files *files);
/* The map is open and whole: from now on it counts, before the first write. 0 or -errno with words. */
int mirror_trust_begin(struct mirror_files *files, struct error *error);
/* The map cannot be written. Quick, whatever its disk does. */
void mirror_trust_lose(const struct mirror_files *files);
/* The mirror has ended: mirror_files_forget(), and what is elsewhere. */
void mirror_trust_forget(struct mirror_files *files);
