/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a resource is asked on its control socket: docs/wire/control.md. */
#include "cli/control_request.h"
#include "cli/replicate_process.h"

#include <errno.h>
#include <string.h>

#define LEASE_MS      30000
#define LEASE_MOST_MS 600000

static json_t *give(struct replicate_resource *resource, const char *name, enum replica_event_kind kind,
    const json_t *request)
{
	struct replica_event command = {.kind = kind};
	struct error error;
	int res = control_get_flag(request, "force", &command.force, NULL, &error);

	if (res == 0)
		res = replicate_order_begin(resource, name, &command, &error);
	return res < 0 ? control_refuse("%s", error.text)
	               : json_pack("{s:b, s:I}", "ok", 1, "number", (json_int_t)resource->orders.last);
}

static json_t *hand_over(struct replicate_resource *resource, const json_t *request)
{
	struct control_number lease = {
	    .key = "lease_ms", .most = LEASE_MOST_MS, .value = LEASE_MS, .whole = true};
	struct replica_event command = {.kind = REPLICA_HAND_OVER};
	struct error error;
	int res = control_get_number(request, &lease, &error);

	command.lease_ms = (uint32_t)lease.value;
	if (res == 0)
		res = replicate_order_begin(resource, "hand-over", &command, &error);
	return res < 0 ? control_refuse("%s", error.text)
	               : json_pack("{s:b, s:I}", "ok", 1, "number", (json_int_t)resource->orders.last);
}

static json_t *resize(struct replicate_resource *resource, const json_t *request)
{
	struct control_number size = {.key = "size", .least = 1, .most = 9e18, .whole = true};
	struct replica_event command = {.kind = REPLICA_RESIZE};
	struct error error;
	int res = control_get_number(request, &size, &error);

	command.size = (uint64_t)size.value;
	if (res == 0)
		res = replicate_order_begin(resource, "resize", &command, &error);
	return res < 0 ? control_refuse("%s", error.text)
	               : json_pack("{s:b, s:I}", "ok", 1, "number", (json_int_t)resource->orders.last);
}

static json_t *tell_order(const struct replicate_resource *resource, const json_t *request)
{
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

static json_t *fenced(struct replicate_resource *resource)
{
	struct replica_node_status status;

	replica_node_status(resource->node, &status);
	if (status.linked)
		return control_refuse("%s is linked to %s: it is not fenced", resource->name,
		    replica_config_other(resource->config)->name);
	replica_node_fenced(resource->node);
	return control_ok();
}

static json_t *resync(struct replicate_resource *resource, const json_t *request)
{
	struct governor_options limits = resource->governor;
	bool pause = false, paused, any;
	struct error error;
	int res = control_get_flag(request, "pause", &pause, &paused, &error);

	if (res == 0)
		res = control_get_limits(request, &limits, &any, &error);
	if (res < 0)
		return control_refuse("%s", error.text);
	if (!any && !paused)
		return control_refuse("resync is asked for nothing: give pause, rate, min_rate, "
		                      "latency_target_ms or impact_percent");
	resource->governor = limits;
	if (any)
		replica_node_govern(resource->node, &limits);
	if (paused)
		replica_node_pause(resource->node, pause);
	resource->changed = true;
	return control_ok();
}

static json_t *verify(struct replicate_resource *resource, const json_t *request)
{
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

static json_t *down(struct replicate_resource *resource)
{
	replicate_resource_down(resource, false);
	return control_ok();
}

static json_t *answer_up(struct replicate_resource *resource, const char *command, const json_t *request)
{
	static const struct {
		const char *name;
		enum replica_event_kind kind;
	} orders[] = {{"primary", REPLICA_MAKE_PRIMARY}, {"secondary", REPLICA_MAKE_SECONDARY},
	    {"connect", REPLICA_CONNECT}, {"disconnect", REPLICA_DISCONNECT}, {"discard", REPLICA_DISCARD}};

	for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++)
		if (!strcmp(orders[i].name, command))
			return give(resource, orders[i].name, orders[i].kind, request);
	if (!strcmp(command, "hand-over"))
		return hand_over(resource, request);
	if (!strcmp(command, "resize"))
		return resize(resource, request);
	if (!strcmp(command, "fenced"))
		return fenced(resource);
	if (!strcmp(command, "resync"))
		return resync(resource, request);
	if (!strcmp(command, "verify"))
		return verify(resource, request);
	return control_refuse(
	    "the commands are status, events, order, primary, secondary, connect, disconnect, "
	    "discard, hand-over, resize, fenced, resync, verify and down");
}

json_t *replicate_answer(void *data, const json_t *request)
{
	struct replicate_resource *resource = data;
	const char *command = json_string_value(json_object_get(request, "command"));

	if (!command)
		return control_refuse("a request names its \"command\"");
	if (!strcmp(command, "status") || !strcmp(command, "events"))
		return replicate_status_json(resource);
	if (!strcmp(command, "order"))
		return tell_order(resource, request);
	if (!strcmp(command, "down"))
		return down(resource);
	if (resource->state == REPLICATE_FAILED)
		return control_refuse("%s is failed: %s", resource->name, resource->error.text);
	if (resource->state != REPLICATE_UP)
		return control_refuse("%s is %s; ask again in a moment", resource->name,
		    resource->state == REPLICATE_STARTING ? "starting" : "going down");
	return answer_up(resource, command, request);
}
