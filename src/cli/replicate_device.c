/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The block device of a replica that is primary: see replicate_process.h. It becomes larger after its volume did, in a fiber of its own: the kernel may
 * wait for requests meanwhile, and these for the node.
 */
#include "cli/replicate_process.h"

#include "base/crc32c.h"

#include <errno.h>
#include <stdio.h>

#define LOOK_MS 20u

static void failed(void *data, const struct error *why)
{
	replicate_warn(data, why->text);
}

static int open_device(struct replicate_resource *resource, struct error *error)
{
	char hash[17], identity[160];
	struct device_options device = {.name = resource->config->device,
	    .identity = identity,
	    .block = replica_node_block(resource->node),
	    .data = resource,
	    .failed = failed};

	/* The same volume's, whichever process serves it. */
	snprintf(identity, sizeof(identity), "replica %s %s", resource->name,
	    crc32c_name(replica_config_self(resource->config)->device, hash));
	return device_new(&resource->device, resource->process->ring, &device, error);
}

/* Becoming larger */

static uint64_t wanted_size(const struct replicate_resource *resource)
{
	return block_info(replica_node_block(resource->node))->size;
}

static bool is_growing(const struct replicate_resource *resource)
{
	return resource->growth.fiber && !fiber_has_ended(resource->growth.fiber);
}

/* What there is to do, where something can be done. */
static void explain(struct replicate_resource *resource, const struct error *error)
{
	struct replicate_growth *growth = &resource->growth;

	if (error->code == -EOPNOTSUPP)
		snprintf(growth->why, sizeof(growth->why),
		    "%.200s. When nobody uses it, `blkmove replicate secondary %.64s` and `blkmove replicate "
		    "primary %.64s` make it anew, as large as the volume",
		    error->text, resource->name, resource->name);
	else
		snprintf(growth->why, sizeof(growth->why), "%s", error->text);
	replicate_say(
	    resource, "%s stays as large as it is: %s", device_info(resource->device)->path, growth->why);
}

static void grow(void *data)
{
	struct replicate_resource *resource = data;
	struct error error;

	resource->growth.why[0] = '\0';
	if (device_grow(resource->device, &error) < 0)
		explain(resource, &error);
	resource->changed = true;
}

/* Once for each size. Not while clients wait for an order: so would the kernel. */
static bool is_due(const struct replicate_resource *resource)
{
	struct replica_node_status status;

	if (!resource->device || device_info(resource->device)->size >= wanted_size(resource) ||
	    resource->growth.tried == wanted_size(resource))
		return false;
	replica_node_status(resource->node, &status);
	return !status.frozen;
}

void replicate_device_tick(struct replicate_resource *resource)
{
	struct replicate_growth *growth = &resource->growth;
	struct error error;

	if (growth->fiber && fiber_has_ended(growth->fiber))
		growth->fiber = fiber_free(growth->fiber);
	if (!resource->node || growth->fiber || !is_due(resource))
		return;
	growth->tried = wanted_size(resource);
	if (fiber_start(&growth->fiber, resource->process->ring, grow, resource, &error) < 0)
		replicate_warn(resource, error.text);
}

void replicate_device_settle(struct replicate_resource *resource)
{
	while ((is_growing(resource) || is_due(resource)) && !resource->node_ended &&
	       ring_wait_fd(resource->process->ring, -1, 0, LOOK_MS) == 0)
		;
}

static void end_growth(struct replicate_resource *resource)
{
	while (is_growing(resource) && ring_step(resource->process->ring) == 0)
		;
}

/* Coming and going */

int replicate_device_remove(struct replicate_resource *resource, struct error *error)
{
	int res;

	end_growth(resource);
	res = resource->device ? device_stop(resource->device, error) : 0;
	if (res == 0)
		replicate_device_let_go(resource);
	return res;
}

void replicate_device_let_go(struct replicate_resource *resource)
{
	end_growth(resource);
	resource->device = device_free(resource->device);
	resource->growth.tried = 0;
	resource->growth.why[0] = '\0';
}

void replicate_device_restore(struct replicate_resource *resource)
{
	struct error error;

	if (resource->serving && resource->config->device && !resource->device &&
	    open_device(resource, &error) < 0)
		replicate_warn(resource, error.text);
}

void replicate_device_close(struct replicate_resource *resource)
{
	end_growth(resource);
	resource->growth.fiber = fiber_free(resource->growth.fiber);
}
