/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The parts of inspect.c, one file each. Every function leaves "" where nothing can be known. */
#pragma once

#include "block/inspect.h"
#include "block/sysfs.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

/* What is looked at. */
struct inspect_volume {
	int fd;
	struct stat stat;
	bool device;                /* else a regular file */
	struct sysfs_devices above; /* the device and all that lies upon it, or upon the file */
};

/* inspect_identity.c. Whether it outlasts a restart. */
bool inspect_id(const struct inspect_volume *volume, char *ret, size_t length);
/* inspect_place.c: sets places and places_count. */
void inspect_places(const struct inspect_volume *volume, struct block_facts *facts);
/* inspect_mark.c. May wait some milliseconds until a time stamp has passed, and for a device's page cache to
 * be written. */
void inspect_mark(const struct inspect_volume *volume, char *ret, size_t length);

/* inspect_use.c */
void inspect_mounted(const struct inspect_volume *volume, char *ret, size_t length);
void inspect_held(const struct inspect_volume *volume, char *ret, size_t length);

/* inspect_process.c: who has the volume, or what lies upon it, open. */
struct inspect_openers {
	char writer[160]; /* another process that may write: "pid 12 (qemu)" */
	char opener[160]; /* another process that has the volume itself open in any way */
	bool own_writer;  /* this process may write */
	bool hidden;      /* there are processes that may not be looked into */
};

void inspect_openers(const struct inspect_volume *volume, struct inspect_openers *ret);
/* Why users of the volume may be there that are not seen; `hidden` as inspect_openers() found it. */
void inspect_blind(const struct inspect_volume *volume, bool hidden, char *ret, size_t length);
/* "pid 12 (qemu)" */
void inspect_process_name(long pid, char *ret, size_t length);
