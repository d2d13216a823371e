/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Block devices as the command line says: see devices.h. */
#include "cli/devices.h"

#include "base/parse_size.h"
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum option_key { KEY_DEVICE = 960, KEY_DEVICE_KIND, KEY_ADOPT };

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct devices *devices = state->input;
	struct error error = {0};
	int kind;

	switch (key) {
	case KEY_DEVICE:
		if (devices->count == DEVICES_MAX)
			argp_failure(state, JOB_TROUBLE, 0, "%u devices are the most", DEVICES_MAX);
		if (devices->last_wins)
			devices->count = 0;
		devices->names[devices->count++] = arg;
		return 0;
	case KEY_ADOPT:
		if (devices->adopt_count == DEVICES_MAX)
			argp_failure(state, JOB_TROUBLE, 0, "--adopt may be given %u times", DEVICES_MAX);
		devices->adopt[devices->adopt_count++] = arg;
		return 0;
	case KEY_DEVICE_KIND:
		kind = cli_choose(device_kind_names, "device-kind", arg, strlen(arg), &error);
		if (kind < 0)
			argp_failure(state, JOB_TROUBLE, 0, "%s", error.text);
		devices->kind = (enum device_kind)kind;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "A block device:", 2},
    {"device", KEY_DEVICE, "NAME", 0, "make a block device of this machine, " DEVICE_FOLDER "/NAME", 0},
    {"device-kind", KEY_DEVICE_KIND, "KIND", 0,
        "auto (default: ublk if the kernel has it, else nbd), ublk, nbd", 0},
    {"adopt", KEY_ADOPT, "NAME", 0,
        "the device's name once more: take over one that another volume left behind, as this one holds the "
        "same",
        0},
    {0},
};

const struct argp cli_argp_device = {.options = options, .parser = parse};

static bool has(const char *const *names, unsigned count, const char *name)
{
	for (unsigned i = 0; i < count; i++)
		if (!strcmp(names[i], name))
			return true;
	return false;
}

int devices_check(const struct devices *devices, unsigned volumes, struct error *error)
{
	if (devices->count > 0 && devices->count != volumes)
		return error_set(error, -EINVAL,
		    "%u volumes have %u devices; give --device once for each volume, in the same order, or "
		    "not "
		    "at all",
		    volumes, devices->count);
	for (unsigned i = 0; i < devices->count; i++) {
		if (device_name_check(devices->names[i], error) < 0)
			return error->code;
		if (has(devices->names, i, devices->names[i]))
			return error_set(
			    error, -EINVAL, "two volumes cannot both be the device '%s'", devices->names[i]);
	}
	for (unsigned i = 0; i < devices->adopt_count; i++)
		if (!has(devices->names, devices->count, devices->adopt[i]))
			return error_set(error, -EINVAL,
			    "--adopt=%s is the name of no --device; write it once more", devices->adopt[i]);
	return 0;
}

/* What is known of the volume by which another under the same name is noticed; else its name. */
static int identify(struct block *block, char *ret, size_t size, struct error *error)
{
	struct block_facts facts;
	int res = block_facts(block, &facts, error);

	if (res == 0)
		snprintf(ret, size, "serve %s", facts.id[0] ? facts.id : block_info(block)->name);
	return res;
}

/* It was left behind, and the volume has become larger since. */
static void fit(struct device *device, const struct block_info *volume)
{
	const struct device_info *info = device_info(device);
	char has[16], whole[16];
	struct error error;

	if (info->size < volume->size && device_grow(device, &error) < 0)
		fprintf(stderr,
		    "blkmove: %s keeps its %s of the volume's %s: %s; one that is made anew has all of it\n",
		    info->path, format_size(info->size, has, sizeof(has)),
		    format_size(volume->size, whole, sizeof(whole)), error.text);
}

int devices_open(struct devices *devices, unsigned volume, struct ring *ring,
    const struct device_options *device, struct error *error)
{
	struct device_options own = *device;
	char identity[400];
	int res = 0;

	if (volume >= devices->count)
		return 0;
	own.name = devices->names[volume];
	own.kind = devices->kind;
	own.adopt = has(devices->adopt, devices->adopt_count, own.name);
	if (!own.identity) {
		res = identify(own.block, identity, sizeof(identity), error);
		own.identity = identity;
	}
	if (res == 0)
		res = device_new(&devices->open[volume], ring, &own, error);
	if (res == 0)
		fit(devices->open[volume], block_info(own.block));
	return res;
}

const char *devices_path(const struct devices *devices, unsigned volume)
{
	return volume < devices->count && devices->open[volume] ? device_info(devices->open[volume])->path
	                                                        : NULL;
}

int devices_stop(struct devices *devices, struct error *error)
{
	for (unsigned i = 0; i < devices->count; i++) {
		int res = devices->open[i] ? device_stop(devices->open[i], error) : 0;

		if (res < 0)
			return res;
		devices->open[i] = device_free(devices->open[i]);
	}
	return 0;
}

void devices_free(struct devices *devices)
{
	for (unsigned i = 0; i < devices->count; i++)
		devices->open[i] = device_free(devices->open[i]);
}
