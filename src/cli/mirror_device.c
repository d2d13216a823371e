/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Block devices of mirrors: another way for clients to them. A device stays as long as somebody uses it. */
#include "cli/mirror_run.h"

#include "base/cleanup.h"
#include "base/crc32c.h"

#include <errno.h>
#include <stdio.h>

/* Not any more of use to anyone. */
static void failed(void *data, const struct error *why)
{
	mirror_warn(data, why->text);
}

static int open_one(struct mirror_run *run, struct error *error)
{
	const struct endpoint *legs = run->command.legs;
	_cleanup_(cleanup_free) char *what = NULL;
	char hash[17], identity[128];
	struct device_options device = {
	    .block = mirror_job_block(run->job), .identity = identity, .data = run, .failed = failed};

	/* Not what the legs are, which change places: the mirror's map knows that. */
	if (asprintf(
	        &what, "%s\n%s\n%s", run->files.dir, legs[MIRROR_SOURCE].name, legs[MIRROR_TARGET].name) < 0)
		return error_set(error, -ENOMEM, "out of memory");
	snprintf(identity, sizeof(identity), "mirror %s %s", run->name, crc32c_name(what, hash));
	return devices_open(&run->command.devices, 0, run->process->ring, &device, error);
}

int mirror_devices_open(struct mirror_process *process, struct error *error)
{
	int res = 0;

	for (unsigned i = 0; i < process->count && res == 0; i++)
		res = open_one(&process->mirrors[i], error);
	return res;
}

int mirror_devices_stop(struct mirror_process *process, struct error *error)
{
	int res = 0;

	if (process->removing)
		return error_set(error, -EBUSY, "it is being looked whether a device is in use");
	process->removing = true;
	for (unsigned i = 0; i < process->count && res == 0; i++)
		res = devices_stop(&process->mirrors[i].command.devices, error);
	process->removing = false;
	return res;
}

bool mirror_devices_may_stop(struct mirror_process *process)
{
	struct error error;
	char text[sizeof(error.text)];

	if (mirror_devices_stop(process, &error) == 0 || process->told)
		return true;
	snprintf(text, sizeof(text), "%.400s; a second signal leaves it behind, and what goes to it waits",
	    error.text);
	mirror_warn(&process->mirrors[0], text);
	process->told = true;
	return false;
}

void mirror_devices_free(struct mirror_process *process)
{
	for (unsigned i = 0; i < process->count; i++)
		devices_free(&process->mirrors[i].command.devices);
}
