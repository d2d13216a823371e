/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A folder that tests have to themselves: setup and teardown. After cmocka.h. */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char folder[64];

static __attribute__((unused)) int own_folder_make(void **state)
{
	strcpy(folder, "/var/tmp/blkmove-test-XXXXXX");
	return mkdtemp(folder) ? 0 : -1;
}

static __attribute__((unused)) int own_folder_remove(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -r %s", folder);
	return system(command) == 0 ? 0 : -1;
}
