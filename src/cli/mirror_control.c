/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a running mirror answers on its control socket: docs/wire/control.md. */
#include "cli/control_request.h"
#include "cli/mirror_run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const struct {
	const char *name;
	int (*give)(struct mirror_job *job);
	enum cutover_state goal;
	bool switches; /* legs: which one is the newer is then for the map alone to say */
} orders[] = {
    {"cutover", mirror_job_cutover, CUTOVER_SWITCHED, true},
    {"revert", mirror_job_revert, CUTOVER_SYNCING, true},
    {"finish", mirror_job_finish, CUTOVER_FINISHED, false},
    {"abort", mirror_job_abort, CUTOVER_CANCELLED, false},
};

/* Status */

static bool reached(const struct mirror_run *run, const struct mirror_job_status *status)
{
	if (run->order.goal == CUTOVER_SYNCING)
		return status->authoritative == MIRROR_SOURCE;
	return status->state == run->order.goal;
}

/* Why an order that stands is not carried out, "" when it is, or may be in a moment. */
static const char *waits_for(const struct mirror_run *run, const struct mirror_job_status *status)
{
	static const char *const away[] = {"the source is away", "the target is away"};
	enum cutover_state from = run->order.goal == CUTOVER_SWITCHED ? CUTOVER_READY : CUTOVER_SWITCHED;

	if (!run->order.name || run->order.state != MIRROR_ORDER_RUNNING || !status->ordered ||
	    status->state == CUTOVER_CUTTING || run->order.goal == CUTOVER_CANCELLED)
		return "";
	/* It is done, but for its receipt. */
	if (run->order.goal != CUTOVER_FINISHED && reached(run, status))
		return "";
	if (run->order.goal == CUTOVER_FINISHED)
		return status->away_ns ? away[MIRROR_TARGET] : "";
	if (status->paused)
		return "paused";
	/* A revert may do without the target. */
	if (status->away_ns && from == CUTOVER_READY)
		return away[MIRROR_SOURCE];
	if (!status->attached)
		return away[status->authoritative == MIRROR_SOURCE ? MIRROR_TARGET : MIRROR_SOURCE];
	return status->state != from || (from == CUTOVER_SWITCHED && !status->revert_ready) ? "not ready"
	                                                                                    : "";
}

static json_t *order_json(const struct mirror_run *run, const struct mirror_job_status *status)
{
	static const char *const states[] = {"running", "done", "failed"};

	if (!run->order.name)
		return json_null();
	return json_pack("{s:I, s:s, s:s, s:s, s:I, s:s, s:s}", "number", (json_int_t)run->order.number,
	    "name", run->order.name, "state", states[run->order.state], "error", run->order.error, "deferred",
	    (json_int_t)(status->cutovers_deferred - run->order.deferred_before), "warning",
	    run->order.warning, "waits", waits_for(run, status));
}

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
	    "revertible", status.revert_ready, "order", order_json(run, &status));
	if (!json)
		return NULL;
	json_object_set_new(
	    json, "pause_ms", run->have_pause ? json_real((double)status.pause_ns / 1e6) : json_null());
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

/* Orders */

/* From now on a damaged map may not be replaced by a comparison: nobody could say in which direction. */
static int mark(struct mirror_run *run, struct error *error)
{
	int res;

	if (run->marked)
		return 0;
	res = mirror_files_write(
	    &run->files, "switched", json_pack("{s:I}", "ordered", (json_int_t)time(NULL)), error);
	run->marked = res == 0;
	return res;
}

/* What is away comes back; else the state has other orders. */
static int refuse(const struct mirror_run *run, const char *name, const struct mirror_job_status *status,
    int res, struct error *error)
{
	const char *leg = status->authoritative == MIRROR_SOURCE ? "source" : "target", *state;

	if (res == -ENOTCONN && !strcmp(name, "finish"))
		return error_set(error, res,
		    "finish is not possible: the target is away; wait until it is back, or `blkmove revert "
		    "%s`",
		    run->name);
	if (res == -ENOTCONN)
		return error_set(error, res, "%s is not possible: the %s is away%s; wait until it is back",
		    name, leg,
		    status->authoritative == MIRROR_SOURCE
		        ? ""
		        : ", and the source lacks some of what clients were told is written");
	state = cutover_state_name(status->state);
	if (cutover_is_end(status->state))
		return error_set(error, -EINVAL,
		    "%s is not possible: the mirror is %s, and the %s alone is the volume; another mirror "
		    "may "
		    "begin when its process has ended",
		    name, state, leg);
	if (status->authoritative == MIRROR_TARGET)
		return error_set(error, -EINVAL,
		    "%s is not possible: the mirror is %s; `blkmove revert %s` goes back to the source, "
		    "`blkmove "
		    "finish %s` ends it on the target",
		    name, state, run->name, run->name);
	return error_set(error, -EINVAL,
	    "%s is not possible: the mirror is %s; `blkmove cutover %s` goes over to the target, `blkmove "
	    "abort %s` "
	    "ends it on the source",
	    name, state, run->name, run->name);
}

int mirror_order(struct mirror_run *run, const char *name, struct error *error)
{
	struct mirror_job_status status;
	int res;

	for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
		if (strcmp(orders[i].name, name))
			continue;
		res = orders[i].switches ? mark(run, error) : 0;
		if (res < 0)
			return res;
		mirror_job_status(run->job, &status);
		/* What is undone is not to be done again. */
		if (orders[i].goal == CUTOVER_SYNCING && (status.state == CUTOVER_SWITCHED || status.ordered))
			res = mirror_drop_plan(run, error);
		if (res < 0)
			return res;
		res = orders[i].give(run->job);
		if (res < 0)
			return refuse(run, name, &status, res, error);
		run->order.number++;
		run->order.name = orders[i].name;
		run->order.goal = orders[i].goal;
		run->order.state = MIRROR_ORDER_RUNNING;
		run->order.deferred_before = status.cutovers_deferred;
		run->order.error[0] = run->order.warning[0] = run->warning[0] = '\0';
		return 0;
	}
	return -ENOENT;
}

void mirror_order_look(struct mirror_run *run)
{
	struct mirror_job_status status;
	struct error error;

	if (!run->order.name || run->order.state != MIRROR_ORDER_RUNNING)
		return;
	mirror_job_status(run->job, &status);
	/* Also when it was reached: its receipt is not written yet. */
	if (status.ordered)
		return;
	if (reached(run, &status)) {
		run->order.state = MIRROR_ORDER_DONE;
		/* What put it off is over. */
		snprintf(run->order.warning, sizeof(run->order.warning), "%s",
		    run->order.goal == CUTOVER_SWITCHED || run->order.goal == CUTOVER_SYNCING
		        ? run->no_receipt
		        : "");
	} else {
		run->order.state = MIRROR_ORDER_FAILED;
		snprintf(run->order.error, sizeof(run->order.error), "%s",
		    run->warning[0] ? run->warning : "another order took its place");
		/* It was late, and is forgotten. */
		if (run->order.goal == CUTOVER_SWITCHED && !run->ended && mirror_drop_plan(run, &error) < 0)
			mirror_warn(run, error.text);
	}
}

/* Requests */

static bool are_same(const struct governor_options *a, const struct governor_options *b)
{
	return a->max_rate == b->max_rate && a->min_rate == b->min_rate && a->target_ns == b->target_ns &&
	       a->impact == b->impact;
}

/* Rates but the least one, and what clients may feel, are the process's. */
static json_t *throttle(struct mirror_run *run, const json_t *request)
{
	struct governor_options limits = run->process->governor, before;
	struct control_number priority = {
	    .key = "priority", .least = 1, .most = BUDGET_PRIORITY_MAX, .whole = true};
	struct error error;
	int res;

	limits.min_rate = run->command.job.governor.min_rate;
	before = limits;
	res = control_get_limits(request, &limits, NULL, &error);
	if (res == 0)
		res = control_get_number(request, &priority, &error);
	if (res < 0)
		return control_refuse("%s", error.text);
	run->process->governor = limits;
	run->command.job.governor.min_rate = limits.min_rate;
	/* Else another priority would have the governor search anew. */
	if (!are_same(&limits, &before))
		mirror_job_govern(run->job, &limits);
	if (priority.given)
		mirror_job_set_priority(run->job, (unsigned)priority.value);
	return control_ok();
}

/* What it holds then is the volume at that moment: to be looked at while clients go on. */
static int let_target_go(struct mirror_run *run, struct error *error)
{
	struct mirror_job_status status;
	int res;

	if (mirror_files_let_go(&run->files))
		return 0;
	mirror_job_status(run->job, &status);
	if (status.state != CUTOVER_READY)
		return error_set(error, -EBUSY,
		    "the target stays: only while the mirror is ready it has all of the volume; now it is %s",
		    cutover_state_name(status.state));
	res = mirror_files_set_let_go(&run->files, true, error);
	return res < 0 ? res : mirror_job_let_target_go(run->job);
}

static json_t *pause_copy(struct mirror_run *run, const json_t *request)
{
	struct error error = {0};

	if (!json_is_true(json_object_get(request, "target"))) {
		mirror_job_pause(run->job, true);
		return control_ok();
	}
	return let_target_go(run, &error) < 0 ? control_refuse("%s", error.text) : control_ok();
}

static json_t *resume_copy(struct mirror_run *run)
{
	struct error error = {0};
	int res = mirror_files_set_let_go(&run->files, false, &error);

	if (res == 0)
		res = mirror_note_unpaused(run, &error);
	if (res < 0)
		return control_refuse("%s", error.text);
	mirror_job_pause(run->job, false);
	return control_ok();
}

struct cutover_terms {
	uint64_t window_ns; /* 0: the usual one */
	enum mirror_late late;
};

/* As the mirror was begun. */
static struct cutover_terms usual_terms(const struct mirror_run *run)
{
	return (struct cutover_terms){run->command.job.cutover_window_ns, run->command.job.late};
}

/* For one cutover: what is not said is as the mirror was begun. */
static int get_terms(const json_t *request, struct cutover_terms *terms, struct error *error)
{
	static const char *const actions[] = {"defer", "abort", "wait"};
	const char *action = json_string_value(json_object_get(request, "action"));
	struct control_number window = {.key = "window_ms", .least = 1e-6, .most = 1e9};

	if (control_get_number(request, &window, error) < 0)
		return error->code;
	for (unsigned i = 0; action && i <= 3; i++) {
		if (i == 3)
			return error_set(
			    error, -EINVAL, "action=%.80s: the actions are defer, abort, wait", action);
		terms->late = (enum mirror_late)i;
		if (!strcmp(action, actions[i]))
			break;
	}
	if (window.given)
		terms->window_ns = (uint64_t)(window.value * 1e6);
	return 0;
}

json_t *mirror_answer(void *data, const json_t *request)
{
	struct mirror_run *run = data;
	const char *command = json_string_value(json_object_get(request, "command"));
	struct cutover_terms terms = usual_terms(run);
	struct error error = {0};
	int res;

	if (!command)
		return control_refuse("a request names its \"command\"");
	if (!strcmp(command, "status"))
		return mirror_status_json(run);
	if (!strcmp(command, "throttle"))
		return throttle(run, request);
	if (!strcmp(command, "pause"))
		return pause_copy(run, request);
	if (!strcmp(command, "resume"))
		return resume_copy(run);
	res = !strcmp(command, "cutover") ? get_terms(request, &terms, &error) : 0;
	if (res == 0)
		res = mirror_order(run, command, &error);
	if (res == 0)
		mirror_job_set_cutover(run->job, terms.window_ns, terms.late);
	if (res == -ENOENT)
		return control_refuse(
		    "the commands are status, pause, resume, throttle, cutover, revert, finish and abort");
	return res < 0 ? control_refuse("%s", error.text)
	               : json_pack("{s:b, s:I}", "ok", 1, "number", (json_int_t)run->order.number);
}
