/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Orders of a resource: see replicate_orders.h. */
#include "cli/replicate_process.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define BUSY_TICK_MS 20u
#define BUSY_NS      (20 * UINT64_C(1000000000)) /* longer than it takes to find that the other node is lost */

static struct replicate_order *last_of(struct replicate_orders *orders)
{
	return &orders->kept[orders->last % REPLICATE_ORDERS_KEPT];
}

bool replicate_order_runs(const struct replicate_resource *resource)
{
	const struct replicate_orders *orders = &resource->orders;
	const struct replicate_order *order = &orders->kept[orders->last % REPLICATE_ORDERS_KEPT];

	return order->number && order->state == REPLICATE_ORDER_RUNNING;
}

void replicate_order_answer(void *data, int res, const char *text)
{
	struct replicate_resource *resource = data;
	struct replicate_orders *orders = &resource->orders;

	orders->answer_res = res;
	orders->answer_text = text;
	orders->answered = true;
	resource->changed = true;
}

/* Gives the node a command and waits for its end. 0 or -errno with words. */
static int command_node(
    struct replicate_resource *resource, const struct replica_event *command, struct error *error)
{
	struct replicate_orders *orders = &resource->orders;
	struct ring *ring = resource->process->ring;
	uint64_t end_ns = ring_now_ns(ring) + BUSY_NS;
	const char *text;
	int res;

	orders->answered = false;
	/* The node may be about to change by itself, such as by the first write of a client in a lease. */
	while ((res = replica_node_command(resource->node, command)) == -EBUSY && !resource->node_ended &&
	       ring_now_ns(ring) < end_ns && ring_wait_fd(ring, -1, 0, BUSY_TICK_MS) == 0)
		;
	if (res < 0)
		return error_set(
		    error, res, "another order of %s is being carried out; wait for its end", resource->name);
	res = ring_run_until(ring, &orders->answered);
	if (res < 0)
		return error_set(error, res, "the event loop failed");
	text = orders->answer_text;
	return orders->answer_res < 0
	           ? error_set(error, orders->answer_res, "%s", text ? text : strerror(-orders->answer_res))
	           : 0;
}

/* Nobody loses what he uses without having been asked. */
int replicate_order_spare_clients(const struct replicate_resource *resource, bool force, struct error *error)
{
	unsigned clients = replicate_serve_clients(resource);

	if (clients == 0 || force)
		return 0;
	return error_set(error, -EBUSY,
	    "%u client%s attached to %s; end %s first, or cut %s off with --force", clients,
	    clients == 1 ? " is" : "s are", resource->name, clients == 1 ? "it" : "them",
	    clients == 1 ? "it" : "them");
}

static int leave_clients(struct replicate_resource *resource, bool force, struct error *error)
{
	int res = replicate_order_spare_clients(resource, force, error);

	if (res == 0)
		res = replicate_device_remove(resource, error);
	return force ? 0 : res;
}

/* The other node grows first, and must not for what this one's device cannot follow: they would part and not meet again. */
static int judge_size(struct replicate_resource *resource, uint64_t *size, struct error *error)
{
	uint64_t room;
	int res = replica_node_room(resource->node, &room, error);

	if (res == 0 && *size > room)
		res = error_set(error, -ENOSPC,
		    "%s has %" PRIu64 " bytes, and %" PRIu64
		    " are wanted; enlarge it first, or give a smaller --size",
		    replica_config_self(resource->config)->device, room, *size);
	else if (res == 0 && *size == 0)
		*size = room;
	return res;
}

static int carry_out(struct replicate_resource *resource, struct error *error)
{
	struct replica_event *command = &resource->orders.command;
	bool leaves = command->kind == REPLICA_MAKE_SECONDARY && resource->serving;
	int res = leaves ? leave_clients(resource, command->force, error) : 0;

	if (command->kind == REPLICA_RESIZE)
		res = judge_size(resource, &command->size, error);
	if (res == 0)
		res = command_node(resource, command, error);
	if (res == 0 && command->kind == REPLICA_RESIZE)
		replicate_device_settle(resource);
	if (res < 0 && leaves)
		replicate_device_restore(resource);
	return res;
}

static void run(void *data)
{
	struct replicate_resource *resource = data;
	struct replicate_order *order = last_of(&resource->orders);
	struct error error;
	int res = carry_out(resource, &error);

	if (res < 0)
		snprintf(order->error, sizeof(order->error), "%s", error.text);
	order->state = res < 0 ? REPLICATE_ORDER_FAILED : REPLICATE_ORDER_DONE;
	resource->changed = true;
}

int replicate_order_begin(struct replicate_resource *resource, const char *name,
    const struct replica_event *command, struct error *error)
{
	struct replicate_orders *orders = &resource->orders;

	replicate_orders_look(resource);
	if (orders->fiber || resource->ending)
		return error_set(error, -EBUSY, "%s: %s is not possible while %s is being carried out",
		    resource->name, name, resource->ending ? "down" : last_of(orders)->name);
	orders->last++;
	*last_of(orders) =
	    (struct replicate_order){.number = orders->last, .name = name, .state = REPLICATE_ORDER_RUNNING};
	orders->command = *command;
	return fiber_start(&orders->fiber, resource->process->ring, run, resource, error);
}

json_t *replicate_order_json(const struct replicate_resource *resource, uint64_t number)
{
	static const char *const states[] = {"running", "done", "failed"};
	const struct replicate_order *order = &resource->orders.kept[number % REPLICATE_ORDERS_KEPT];

	if (number == 0 || order->number != number)
		return NULL;
	return json_pack("{s:I, s:s, s:s, s:s}", "number", (json_int_t)order->number, "name", order->name,
	    "state", states[order->state], "error", order->error);
}

void replicate_orders_look(struct replicate_resource *resource)
{
	struct replicate_orders *orders = &resource->orders;

	if (orders->fiber && fiber_has_ended(orders->fiber))
		orders->fiber = fiber_free(orders->fiber);
}
