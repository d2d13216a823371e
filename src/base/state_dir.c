/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where it lies: see state_dir.h. */
#include "base/state_dir.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

const char *state_dir_path(char *buf, size_t length)
{
	const char *own = getenv("BLKMOVE_STATE_DIR"), *state = getenv("XDG_STATE_HOME"),
	           *home = getenv("HOME");

	if (own && own[0])
		snprintf(buf, length, "%s", own);
	else if (geteuid() == 0)
		snprintf(buf, length, "/var/lib/blkmove");
	else if (state && state[0])
		snprintf(buf, length, "%s/blkmove", state);
	else
		snprintf(buf, length, "%s/.local/state/blkmove", home ? home : "/tmp");
	return buf;
}
