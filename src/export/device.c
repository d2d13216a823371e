/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A device's life: which kind it is, taking over, the end. See device.h. */
#include "export/device_private.h"

#include "base/cleanup.h"
#include "ring/ring_call.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

const char *const device_kind_names[] = {"auto", "ublk", "nbd", NULL};

static const struct {
	enum device_kind kind;
	const struct device_ops *ops;
} kinds[] = {{DEVICE_UBLK, &ublk_ops}, {DEVICE_NBD, &kernel_nbd_ops}};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static void choose(struct device *device, size_t kind)
{
	device->ops = kinds[kind].ops;
	device->info.kind = kinds[kind].kind;
}

/* What is there already is what it is, whatever was asked for. */
static int find(void *data, struct error *error)
{
	struct device *device = data;
	enum device_kind wanted = device->options.kind;
	struct error why[KINDS] = {0};

	for (size_t i = 0; i < KINDS; i++) {
		int res = kinds[i].ops->find(device, error);

		if (res < 0)
			return res;
		if (res > 0) {
			choose(device, i);
			device->info.taken_over = true;
			return 0;
		}
	}
	for (size_t i = 0; i < KINDS; i++) {
		if (wanted != DEVICE_AUTO && wanted != kinds[i].kind)
			continue;
		if (kinds[i].ops->available(&why[i]) == 0) {
			choose(device, i);
			return 0;
		}
	}
	if (wanted != DEVICE_AUTO)
		return error_set(error, -EOPNOTSUPP, "%s", why[wanted == DEVICE_NBD].text);
	return error_set(error, -EOPNOTSUPP, "%.200s; and %.200s", why[0].text, why[1].text);
}

/* The link may be missing, or lead to what was before the last start of this machine. */
static int make_link(void *data, struct error *error)
{
	const struct device *device = data;

	device_set_queue(device->info.node, "io_timeout", DEVICE_LOOK_MS);
	return device_link_make(DEVICE_FOLDER, device->name, device->info.node, error);
}

static int open_device(struct device *device, struct error *error)
{
	int res = ring_call(device->ring, find, device, error);

	if (res == 0)
		res = device->ops->open(device, error);
	return res == 0 ? ring_call(device->ring, make_link, device, error) : res;
}

static struct device *alloc(struct ring *ring, const struct device_options *options)
{
	struct device *device = calloc(1, sizeof(*device));

	if (!device)
		return NULL;
	device->ring = ring;
	device->options = *options;
	device->lock_fd = device->claim_fd = -1;
	snprintf(device->name, sizeof(device->name), "%s", options->name);
	snprintf(device->identity, sizeof(device->identity), "%.400s", options->identity);
	device->options.name = device->name;
	device->options.identity = device->identity;
	snprintf(device->info.path, sizeof(device->info.path), DEVICE_FOLDER "/%s", device->name);
	return device;
}

int device_new(
    struct device **ret, struct ring *ring, const struct device_options *options, struct error *error)
{
	struct device *device;
	int res = device_name_check(options->name, error);

	if (res < 0)
		return res;
	device = alloc(ring, options);
	if (!device)
		return error_set(error, -ENOMEM, "cannot make a device: out of memory");
	res = device_shape_of(block_info(options->block), options->read_only, &device->shape, error);
	if (res == 0)
		res = device->lock_fd = device_lock(device->name, error);
	if (res >= 0) {
		device_protect();
		res = open_device(device, error);
	}
	if (res < 0) {
		error_prefix(error, "cannot make the device %s", device->info.path);
		/* What nobody has seen goes; what others use stays. */
		if (device->ops && !device->info.taken_over)
			(void)device->ops->stop(device, true, NULL);
		device_free(device);
		return res;
	}
	device->info.size = device->shape.size;
	*ret = device;
	return 0;
}

const struct device_info *device_info(const struct device *device)
{
	return &device->info;
}

struct growth {
	struct device *device;
	uint64_t size;
};

/* What the kernel says afterwards counts. */
static int grow(void *data, struct error *error)
{
	struct growth *growth = data;
	struct device *device = growth->device;
	uint64_t wanted = growth->size;
	int res = device->ops->grow(device, wanted, error);

	growth->size = device_node_size(device->info.node);
	return res == 0 && growth->size < wanted
	           ? error_set(error, -EOPNOTSUPP, "this kernel makes no device of that kind larger")
	           : res;
}

int device_grow(struct device *device, struct error *error)
{
	struct growth growth = {.device = device};
	struct device_shape shape;
	int res =
	    device_shape_of(block_info(device->options.block), device->options.read_only, &shape, error);

	if (res < 0 || shape.size <= device->shape.size)
		return res;
	growth.size = shape.size;
	res = ring_call(device->ring, grow, &growth, error);
	if (growth.size > device->shape.size)
		device->shape.size = device->info.size = growth.size;
	return res;
}

static int claim(void *data, struct error *error)
{
	struct device *device = data;

	device->claim_fd = device_claim(device->info.node, error);
	return device->claim_fd < 0 ? device->claim_fd : 0;
}

int device_stop(struct device *device, struct error *error)
{
	int res = ring_call(device->ring, claim, device, error);

	if (res == 0) {
		device_link_remove(DEVICE_FOLDER, device->name, device->info.node);
		res = device->ops->stop(device, false, error);
	}
	return res < 0 ? error_prefix(error, "cannot remove the device %s", device->info.path) : 0;
}

struct device *device_free(struct device *device)
{
	if (!device)
		return NULL;
	if (device->ops)
		device->ops->free(device);
	cleanup_close(&device->claim_fd);
	cleanup_close(&device->lock_fd);
	free(device);
	return NULL;
}
