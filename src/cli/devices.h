/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Options and steps that every command shares which makes block devices: --device and its like. */
#pragma once

#include "export/device.h"

#include <argp.h>

#define DEVICES_MAX 64u

struct devices {
	/* options */
	const char *names[DEVICES_MAX];
	const char *adopt[DEVICES_MAX];
	unsigned count, adopt_count;
	bool last_wins; /* set by a command that has one volume */
	enum device_kind kind;

	struct device *open[DEVICES_MAX]; /* NULL: none */
};

/* The group of options; its input is a struct devices. */
extern const struct argp cli_argp_device;

/* Before anything is opened: as many names as volumes, or none; good ones. -EINVAL with words. */
int devices_check(const struct devices *devices, unsigned volumes, struct error *error);
/*
 * Makes the device of that volume, if one was asked for. Of `device` all is set but name, kind and adopt; without
 * an identity it gets the volume's own.
 */
int devices_open(struct devices *devices, unsigned volume, struct ring *ring,
    const struct device_options *device, struct error *error);
/* "/dev/blkmove/NAME", or NULL. */
const char *devices_path(const struct devices *devices, unsigned volume);
/* Removes them. -EBUSY with words at the first that is in use: that one and those behind it stay. */
int devices_stop(struct devices *devices, struct error *error);
/* Those that were not removed are left behind, for the next process. */
void devices_free(struct devices *devices);
