/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the kernel is told of a volume, and what a name may be: no I/O. */
#include "export/device_private.h"

#include "base/bytes.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define LOGICAL_LEAST 512u
#define LOGICAL_MOST  4096u /* of the kernel: a page */

int device_name_check(const char *name, struct error *error)
{
	size_t length = strlen(name);

	for (const char *at = name; *at; at++)
		if (!isalnum((unsigned char)*at) && !strchr("._-", *at))
			return error_set(error, -EINVAL,
			    "a device cannot be called '%.80s'; use letters, digits, '.', '_' and '-'", name);
	if (length == 0 || length > DEVICE_NAME_MAX || name[0] == '.')
		return error_set(error, -EINVAL,
		    "a device cannot be called '%.80s'; it takes 1 to %u characters, and no '.' first", name,
		    DEVICE_NAME_MAX);
	return 0;
}

int device_shape_of(
    const struct block_info *info, bool read_only, struct device_shape *ret, struct error *error)
{
	uint64_t logical = max_u64(LOGICAL_LEAST, max_u64(info->sector_size, info->request_align));

	if (info->stream)
		return error_set(error, -EINVAL, "%s is a stream; a device needs a volume", info->name);
	if (logical > LOGICAL_MOST || (logical & (logical - 1)))
		return error_set(error, -EINVAL,
		    "%s takes requests in units of %" PRIu64
		    " bytes only, and a device can have sectors of 512 to %u; serve it by NBD",
		    info->name, logical, LOGICAL_MOST);
	if (info->size == 0 || info->size % logical)
		return error_set(error, -EINVAL,
		    "%s has %" PRIu64 " bytes, which is no multiple of its sectors of %" PRIu64
		    ": the last ones could not be reached through a device; make it longer, or serve it by "
		    "NBD",
		    info->name, info->size, logical);
	*ret = (struct device_shape){.size = info->size,
	    .logical = (uint32_t)logical,
	    .physical = LOGICAL_MOST,
	    .read_only = read_only || !info->writable};
	return 0;
}

int device_refuse_other(const struct device *device, const char *node, struct error *error)
{
	return error_set(error, -EEXIST,
	    "%s of that name waits for another volume, whose process has died; serve that one again, or "
	    "choose another "
	    "name; or, when this volume holds the same, add --adopt=%s",
	    node, device->name);
}

int device_refuse_shape(const char *node, struct error *error)
{
	return error_set(error, -EEXIST,
	    "%s of that name was left behind with another size, sector size or right to write; serve the "
	    "volume as it was, "
	    "or choose another name",
	    node);
}

bool device_takes_size(struct device *device, uint64_t size, bool same)
{
	struct device_shape *shape = &device->shape;

	if (size != shape->size && !(same && size > 0 && size < shape->size))
		return false;
	shape->size = size;
	return true;
}

void device_answered(struct device *device, const struct block_io *io, int res, uint64_t begun_ns)
{
	const struct device_options *options = &device->options;

	if (options->answered)
		options->answered(
		    options->data, io->op, io->length, res, ring_now_ns(device->ring) - begun_ns);
}

void device_fail(struct device *device, const struct error *why)
{
	struct error error = *why;

	error_prefix(&error, "the device %s", device->info.path);
	if (device->options.failed)
		device->options.failed(device->options.data, &error);
}
