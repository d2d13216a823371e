/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where it lies: see state_dir.h. */
#include "base/state_dir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SYSTEM "/var/lib/blkmove"

const char *state_dir_path(char *buf, size_t length)
{
	const char *own = getenv("BLKMOVE_STATE_DIR"), *state = getenv("XDG_STATE_HOME"),
	           *home = getenv("HOME");

	if (own && own[0])
		snprintf(buf, length, "%s", own);
	else if (geteuid() == 0)
		snprintf(buf, length, "%s", SYSTEM);
	else if (state && state[0])
		snprintf(buf, length, "%s/blkmove", state);
	else
		/* Without a home, what no one can make: not a folder that others may have made. */
		snprintf(buf, length, "%s/.local/state/blkmove", home ? home : "/nonexistent");
	return buf;
}

unsigned state_dir_all(char (*ret)[PATH_MAX])
{
	state_dir_path(ret[0], PATH_MAX);
	snprintf(ret[1], PATH_MAX, "%s", SYSTEM);
	return strcmp(ret[0], ret[1]) ? 2 : 1;
}
