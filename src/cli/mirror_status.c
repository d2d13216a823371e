/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is told of a running mirror: docs/wire/control.md has the members. */
#include "cli/mirror_run.h"

#include <unistd.h>

/* What was set. */
static void add_limits(json_t *json, const struct mirror_run *run, const struct mirror_job_status *status)
{
	const struct governor_options *limits = &run->process->governor;

	json_object_set_new(json, "rate_limit", json_integer((json_int_t)limits->max_rate));
	json_object_set_new(json, "min_rate", json_integer((json_int_t)run->command.job.governor.min_rate));
	json_object_set_new(json, "latency_target_ms", json_real((double)limits->target_ns / 1e6));
	json_object_set_new(json, "impact_percent", json_integer(limits->impact));
	json_object_set_new(json, "priority", json_integer(status->priority));
	json_object_set_new(json, "rate", json_integer((json_int_t)status->rate));
}

static void add_pace(json_t *json, struct mirror_run *run, const struct mirror_job_status *status)
{
	const struct mirror_pace *pace = &run->pace;
	double dirtied = pace->dirty_rate > 0 ? pace->dirty_rate : 0, net = pace->sync_rate - dirtied;
	bool through = status->mode == MIRROR_WRITE_THROUGH;
	struct histogram_figures latency;

	/* Writes to both legs dirty nothing. */
	if (through)
		net = pace->sync_rate;
	mirror_job_latency(run->job, &latency);
	json_object_set_new(json, "dirty_rate", json_integer((json_int_t)dirtied));
	json_object_set_new(json, "sync_rate", json_integer((json_int_t)pace->sync_rate));
	json_object_set_new(json, "converges",
	    json_boolean(through || !status->attached || net > 0 || dirtied < 1 || status->paused));
	json_object_set_new(json, "eta_s",
	    net > 1 && status->attached ? json_integer((json_int_t)((double)status->dirty / net))
	                                : json_null());
	json_object_set_new(json, "p50_us", json_integer((json_int_t)(latency.p50_ns / 1000)));
	json_object_set_new(json, "p99_us", json_integer((json_int_t)(latency.p99_ns / 1000)));
}

static bool has_trouble(const struct mirror_job_status *status)
{
	return status->away_ns || status->read_errors || status->write_errors || status->unverified ||
	       (!status->attached && !status->let_go && !cutover_is_end(status->state));
}

static void add_trouble(json_t *json, const struct mirror_run *run, const struct mirror_job_status *status)
{
	const char *words = has_trouble(status) && run->warning[0] ? run->warning : NULL;
	struct error unreadable;

	/* It stays so for long, whatever is said meanwhile. */
	if (status->unreadable && status->attached && !status->away_ns) {
		mirror_job_unreadable(status, &unreadable);
		words = unreadable.text;
	}
	json_object_set_new(json, "trouble", words ? json_string(words) : json_null());
	json_object_set_new(json, "unreadable", json_integer((json_int_t)status->unreadable));
	json_object_set_new(json, "unreadable_at",
	    status->unreadable ? json_integer((json_int_t)status->unreadable_at) : json_null());
}

json_t *mirror_status_json(struct mirror_run *run)
{
	const struct endpoint *legs = run->command.legs;
	const char *device = devices_path(&run->command.devices, 0);
	struct mirror_job_status status;
	json_t *json;

	mirror_job_status(run->job, &status);
	json = json_pack(
	    "{s:b, s:s, s:s, s:i, s:s, s:s, s:s?, s:s, s:s, s:I, s:I, s:s, s:b, s:i, s:b, s:b, s:o}", "ok", 1,
	    "kind", "mirror", "name", run->name, "pid", (int)getpid(), "source", legs[MIRROR_SOURCE].name,
	    "target", legs[MIRROR_TARGET].name, "uri", json_string_value(json_array_get(run->uris, 0)),
	    "state", cutover_state_name(status.state), "authoritative",
	    status.authoritative == MIRROR_SOURCE ? "source" : "target", "total", (json_int_t)status.size,
	    "dirty", (json_int_t)status.dirty, "copy_mode",
	    status.mode == MIRROR_BACKGROUND ? "background" : "write-through", "attached", status.attached,
	    "clients", (int)nbd_server_clients_of(run->process->server, run->export), "paused", status.paused,
	    "revertible", status.revert_ready, "order", mirror_order_json(run, &status));
	if (!json)
		return NULL;
	json_object_set_new(
	    json, "pause_ms", run->have_pause ? json_real((double)status.pause_ns / 1e6) : json_null());
	json_object_set_new(json, "logged", json_integer((json_int_t)status.logged));
	json_object_set_new(json, "let_go", json_boolean(status.let_go));
	json_object_set_new(json, "device", device ? json_string(device) : json_null());
	add_trouble(json, run, &status);
	json_object_set_new(json, "away_s",
	    status.away_ns ? json_integer((json_int_t)(status.away_ns / 1000000000)) : json_null());
	json_object_set_new(json, "read_errors", json_integer((json_int_t)status.read_errors));
	json_object_set_new(json, "write_errors", json_integer((json_int_t)status.write_errors));
	json_object_set_new(json, "verified",
	    run->command.job.verify ? json_integer((json_int_t)status.verified) : json_null());
	json_object_set_new(json, "copied", json_integer((json_int_t)status.copied));
	json_object_set_new(json, "same", json_integer((json_int_t)status.same));
	json_object_set_new(json, "comparing", json_boolean(status.comparing));
	json_object_set_new(json, "holes", json_integer((json_int_t)status.holes));
	json_object_set_new(json, "differing", json_integer((json_int_t)status.differing));
	add_pace(json, run, &status);
	add_limits(json, run, &status);
	return json;
}
