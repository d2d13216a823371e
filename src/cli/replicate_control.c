/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a resource is asked on its control socket: docs/wire/control.md. */
#include "cli/control_request.h"
#include "cli/replicate_process.h"

#include <stdio.h>

#define LEASE_MS      30000
#define LEASE_MOST_MS 600000

static json_t *begin(struct replicate_resource *resource, const struct control_command *command,
    const struct replica_event *event)
{
	struct error error;

	return replicate_order_begin(resource, command->name, event, &error) < 0
	           ? control_refuse("%s", error.text)
	           : json_pack("{s:b, s:I}", "ok", 1, "number", (json_int_t)resource->orders.last);
}

static json_t *order(void *resource, const struct control_command *command, const json_t *request)
{
	struct replica_event event = {.kind = (enum replica_event_kind)command->kind};
	struct error error;

	return control_get_flag(request, "force", &event.force, NULL, &error) < 0
	           ? control_refuse("%s", error.text)
	           : begin(resource, command, &event);
}

static json_t *hand_over(void *resource, const struct control_command *command, const json_t *request)
{
	struct control_number lease = {
	    .key = "lease_ms", .most = LEASE_MOST_MS, .value = LEASE_MS, .whole = true};
	struct replica_event event = {.kind = REPLICA_HAND_OVER};
	struct error error;

	if (control_get_number(request, &lease, &error) < 0)
		return control_refuse("%s", error.text);
	event.lease_ms = (uint32_t)lease.value;
	return begin(resource, command, &event);
}

static json_t *resize(void *resource, const struct control_command *command, const json_t *request)
{
	struct control_number size = {.key = "size", .least = 1, .most = 9e18, .whole = true};
	struct replica_event event = {.kind = REPLICA_RESIZE};
	struct error error;

	if (control_get_number(request, &size, &error) < 0)
		return control_refuse("%s", error.text);
	event.size = (uint64_t)size.value;
	return begin(resource, command, &event);
}

static json_t *tell_order(void *data, const struct control_command *command, const json_t *request)
{
	struct replicate_resource *resource = data;
	struct control_number number = {.key = "number", .least = 1, .most = 1e15, .whole = true};
	struct error error;
	json_t *json;

	if (control_get_number(request, &number, &error) < 0)
		return control_refuse("%s", error.text);
	json = number.given ? replicate_order_json(resource, (uint64_t)number.value) : NULL;
	if (!json)
		return control_refuse(
		    "%s has no such order; the last %u are known", resource->name, REPLICATE_ORDERS_KEPT);
	json_object_set_new(json, "ok", json_true());
	return json;
}

static json_t *fenced(void *data, const struct control_command *command, const json_t *request)
{
	struct replicate_resource *resource = data;
	struct replica_node_status status;

	replica_node_status(resource->node, &status);
	if (status.linked)
		return control_refuse("%s is linked to %s: it is not fenced", resource->name,
		    replica_config_other(resource->config)->name);
	replica_node_fenced(resource->node);
	return control_ok();
}

/* Where data come in there is nothing to hold or to limit. */
static bool receives(const struct replicate_resource *resource)
{
	struct replica_node_status status;

	replica_node_status(resource->node, &status);
	return status.flow == REPLICA_RECEIVING ||
	       (status.flow == REPLICA_DIFFERING && status.role == REPLICA_SECONDARY &&
	           status.peer_role == REPLICA_PRIMARY);
}

static json_t *resync(void *data, const struct control_command *command, const json_t *request)
{
	struct replicate_resource *resource = data;
	struct governor_options limits = resource->governor;
	bool pause = false, paused, any;
	struct error error;
	int res = control_get_flag(request, "pause", &pause, &paused, &error);

	if (res == 0)
		res = control_get_limits(request, &limits, &any, &error);
	if (res < 0)
		return control_refuse("%s", error.text);
	/* What is marked now, whatever held it. */
	if (receives(resource) || (!any && !paused && replica_node_copy_marked(resource->node) < 0))
		return control_refuse("it is sent from the other node: give resync on %s",
		    replica_config_other(resource->config)->name);
	paused |= !any;
	resource->governor = limits;
	if (any)
		replica_node_govern(resource->node, &limits);
	if (paused)
		replica_node_pause(resource->node, pause);
	resource->changed = true;
	return control_ok();
}

static json_t *verify(void *data, const struct control_command *command, const json_t *request)
{
	struct replicate_resource *resource = data;
	struct control_number from = {.key = "from", .most = 9e18, .whole = true},
	                      rate = {.key = "rate", .most = 1e15};
	bool stop = false, repair = false;
	struct error error;
	int res = control_get_number(request, &from, &error);

	res = res ? res : control_get_number(request, &rate, &error);
	res = res ? res : control_get_flag(request, "stop", &stop, NULL, &error);
	res = res ? res : control_get_flag(request, "resync", &repair, NULL, &error);
	if (res == 0 && stop)
		replicate_verify_stop(resource);
	else if (res == 0)
		res = replicate_verify_begin(
		    resource, (uint64_t)from.value, (uint64_t)rate.value, repair, &error);
	return res < 0 ? control_refuse("%s", error.text) : control_ok();
}

static json_t *down(void *data, const struct control_command *command, const json_t *request)
{
	bool force = false;
	struct error error;

	if (control_get_flag(request, "force", &force, NULL, &error) < 0 ||
	    replicate_order_spare_clients(data, force, &error) < 0)
		return control_refuse("%s", error.text);
	replicate_resource_down(data, force);
	return control_ok();
}

static json_t *status(void *resource, const struct control_command *command, const json_t *request)
{
	return replicate_status_json(resource);
}

static const struct control_command commands[] = {
    {"status", status, 0, false},
    {"events", status, 0, false},
    {"order", tell_order, 0, false},
    {"primary", order, REPLICA_MAKE_PRIMARY, true},
    {"secondary", order, REPLICA_MAKE_SECONDARY, true},
    {"connect", order, REPLICA_CONNECT, true},
    {"disconnect", order, REPLICA_DISCONNECT, true},
    {"discard", order, REPLICA_DISCARD, true},
    {"hand-over", hand_over, 0, true},
    {"resize", resize, 0, true},
    {"fenced", fenced, 0, true},
    {"resync", resync, 0, true},
    {"verify", verify, 0, true},
    {"down", down, 0, false},
    {0},
};

json_t *replicate_answer(void *data, const json_t *request)
{
	const struct replicate_resource *resource = data;
	char unable[600] = "";

	if (resource->state == REPLICATE_FAILED)
		snprintf(unable, sizeof(unable), "%s is failed: %s", resource->name, resource->error.text);
	else if (resource->state != REPLICATE_UP)
		snprintf(unable, sizeof(unable), "%s is %s; ask again in a moment", resource->name,
		    resource->state == REPLICATE_STARTING ? "starting" : "going down");
	return control_answer(commands, unable, data, request);
}
