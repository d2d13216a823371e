/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is told of a resource: to who asks, to who follows, and on standard error. docs/wire/control.md has the members. */
#include "cli/replicate_process.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#define TOLD_NS   UINT64_C(1000000000) /* while data go */
#define LOOK_NS   UINT64_C(200000000)
#define SMOOTHING 0.15 /* about the last second counts most */

static const char *const state_names[] = {"starting", "up", "stopping", "failed", "down"};

static json_t *text_or_null(const char *text)
{
	return text && text[0] ? json_string(text) : json_null();
}

/* What is known in any state. */
static json_t *basics(const struct replicate_resource *resource)
{
	const struct replica_config *config = resource->config;
	const struct replica_config_host *self = replica_config_self(config),
	                                 *other = replica_config_other(config);
	bool failed = resource->state == REPLICATE_FAILED;

	return json_pack("{s:b, s:s, s:s, s:i, s:s, s:s, s:o, s:s, s:s, s:s, s:s, s:s}", "ok", 1, "kind",
	    "replica", "name", resource->name, "pid", (int)getpid(), "config", config->path, "state",
	    state_names[resource->state], "error", failed ? json_string(resource->error.text) : json_null(),
	    "host", self->name, "peer", other->name, "address", self->address, "peer_address", other->address,
	    "volume", self->device);
}

static void set(json_t *json, const char *key, json_t *take_value)
{
	json_object_set_new(json, key, take_value);
}

static void set_number(json_t *json, const char *key, uint64_t value)
{
	set(json, key, json_integer((json_int_t)value));
}

static void add_roles(json_t *json, const struct replica_node_status *status)
{
	bool met = status->flow != REPLICA_APART && status->flow != REPLICA_MEETING;
	/* Whoever refuses hangs up, and what it has found out still holds. */
	bool judged = met || status->refusal;
	char generation[17];

	set(json, "role", json_string(replica_role_name(status->role)));
	set(json, "peer_role", met ? json_string(replica_role_name(status->peer_role)) : json_null());
	set(json, "flow", json_string(replica_flow_name(status->flow)));
	set(json, "linked", json_boolean(status->linked));
	set(json, "wanted", json_boolean(status->wanted));
	set(json, "serving", json_boolean(status->serving));
	set(json, "good", json_boolean(status->good));
	set(json, "peer_good", json_boolean(status->peer_good));
	set(json, "outdated", json_boolean(status->outdated));
	set(json, "foreign", json_boolean(status->foreign));
	set(json, "frozen", json_boolean(status->frozen));
	set(json, "ahead", json_boolean(status->ahead));
	set(json, "disk_failed", json_boolean(status->disk_failed));
	set(json, "leased", json_boolean(status->leased));
	set(json, "paused", json_boolean(status->paused));
	snprintf(generation, sizeof(generation), "%016" PRIx64, status->generation);
	set(json, "generation", json_string(generation));
	set(json, "relation", judged ? json_string(replica_relation_name(status->relation)) : json_null());
	set(json, "verdict", judged ? json_string(replica_verdict_name(status->verdict)) : json_null());
	set(json, "why", judged ? json_string(replica_relation_words(status->relation)) : json_null());
	set(json, "refusal", text_or_null(status->refusal));
}

static bool is_together(const struct replica_node_status *status)
{
	return status->flow == REPLICA_EQUAL || status->flow == REPLICA_DIFFERING;
}

static void add_resync(
    json_t *json, const struct replicate_resource *resource, const struct replica_node_status *status)
{
	const struct mirror_job_status *mirror = &status->mirror;
	bool goes = status->flow == REPLICA_SENDING && resource->pace.rate > 1;
	struct histogram_figures latency;

	mirror_job_latency(replica_node_mirror(resource->node), &latency);
	set(json, "ack", json_string(replicate_ack_name(resource->config->ack)));
	set_number(json, "total", status->size);
	set_number(json, "dirty", mirror->dirty);
	set_number(json, "logged", mirror->logged);
	set(json, "out_of_sync",
	    is_together(status) ? json_integer((json_int_t)status->differing) : json_null());
	set_number(json, "queued", status->queued);
	set_number(json, "copied", mirror->copied);
	set_number(json, "same", mirror->same);
	set_number(json, "sync_rate", (uint64_t)resource->pace.rate);
	set(json, "eta_s",
	    goes ? json_integer((json_int_t)((double)mirror->dirty / resource->pace.rate)) : json_null());
	set_number(json, "rate", mirror->rate);
	set_number(json, "rate_limit", resource->governor.max_rate);
	set_number(json, "min_rate", resource->governor.min_rate);
	set(json, "latency_target_ms", json_real((double)resource->governor.target_ns / 1e6));
	set_number(json, "impact_percent", resource->governor.impact);
	set_number(json, "common_rate_limit", resource->process->options->common.max_rate);
	set(json, "common_latency_target_ms",
	    json_real((double)resource->process->options->common.target_ns / 1e6));
	set_number(json, "p50_us", latency.p50_ns / 1000);
	set_number(json, "p99_us", latency.p99_ns / 1000);
	set(json, "verify", replicate_verify_json(resource, mirror));
}

static void add_device(json_t *json, const struct replicate_resource *resource)
{
	const struct device_info *device = resource->device ? device_info(resource->device) : NULL;

	set(json, "device", device ? json_string(device->path) : json_null());
	set(json, "device_size", device ? json_integer((json_int_t)device->size) : json_null());
	set(json, "device_reason", text_or_null(resource->growth.why));
}

static void add_clients(json_t *json, const struct replicate_resource *resource)
{
	json_t *uris = json_array(), *order = replicate_order_json(resource, resource->orders.last);
	char uri[1400];

	for (unsigned i = 0; i < resource->exports_count; i++)
		json_array_append_new(uris, json_string(replicate_serve_uri(resource, i, uri, sizeof(uri))));
	set_number(json, "clients", replicate_serve_clients(resource));
	set(json, "uris", uris);
	add_device(json, resource);
	set(json, "trying", text_or_null(resource->peer.trying));
	set(json, "trouble", text_or_null(resource->trouble));
	set(json, "order", order ? order : json_null());
}

json_t *replicate_status_json(struct replicate_resource *resource)
{
	json_t *json = basics(resource);
	struct replica_node_status status;

	if (!json || !resource->node || resource->state == REPLICATE_STARTING)
		return json;
	replica_node_status(resource->node, &status);
	add_roles(json, &status);
	add_resync(json, resource, &status);
	add_clients(json, resource);
	return json;
}

/* Every so often */

static void look_at_pace(struct replicate_resource *resource, const struct replica_node_status *status)
{
	struct replicate_pace *pace = &resource->pace;
	uint64_t now_ns = ring_now_ns(resource->process->ring), interval_ns = now_ns - pace->look_ns;
	uint64_t done = status->mirror.copied + status->mirror.same;

	if (interval_ns < LOOK_NS)
		return;
	if (pace->look_ns && done >= pace->done)
		pace->rate +=
		    SMOOTHING * ((double)(done - pace->done) / ((double)interval_ns / 1e9) - pace->rate);
	pace->done = done;
	pace->look_ns = now_ns;
}

static bool is_said(const struct replicate_resource *resource, const struct replica_node_status *status)
{
	return status->role == resource->said_role && status->flow == resource->said_flow &&
	       status->refusal == resource->said_refusal && status->good == resource->said_good;
}

/* On standard error, when it has become another. */
static void say(struct replicate_resource *resource, const struct replica_node_status *status)
{
	if (is_said(resource, status))
		return;
	replicate_say(resource, "%s, %s%s%s%s", replica_role_name(status->role),
	    replica_flow_name(status->flow), status->good ? "" : ", not good", status->refusal ? ": " : "",
	    status->refusal ? status->refusal : "");
	resource->said_role = status->role;
	resource->said_flow = status->flow;
	resource->said_refusal = status->refusal;
	resource->said_good = status->good;
}

static bool lacks_device(const struct replicate_resource *resource)
{
	return resource->serving && resource->config->device && !resource->device;
}

void replicate_status_tick(struct replicate_resource *resource)
{
	uint64_t now_ns = ring_now_ns(resource->process->ring);
	struct replica_node_status status = {0};
	bool goes;

	if (resource->node && resource->state != REPLICATE_STARTING) {
		replica_node_status(resource->node, &status);
		look_at_pace(resource, &status);
		say(resource, &status);
		/* What was wrong is over. */
		if (resource->trouble[0] && is_together(&status) && !status.disk_failed &&
		    !lacks_device(resource))
			resource->trouble[0] = '\0';
	}
	goes = status.flow == REPLICA_SENDING || status.flow == REPLICA_RECEIVING || resource->verify.running;
	if (!resource->control || (!resource->changed && !(goes && now_ns - resource->told_ns >= TOLD_NS)))
		return;
	resource->changed = false;
	resource->told_ns = now_ns;
	if (control_followers(resource->control) > 0)
		control_tell(resource->control, replicate_status_json(resource));
}
