/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a running mirror answers on its control socket: docs/wire/control.md. */
#include "cli/control_request.h"
#include "cli/mirror_run.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

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

/* Orders */

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

json_t *mirror_order_json(const struct mirror_run *run, const struct mirror_job_status *status)
{
	static const char *const states[] = {"running", "done", "failed"};

	if (!run->order.name)
		return json_null();
	return json_pack("{s:I, s:s, s:s, s:s, s:I, s:s, s:s}", "number", (json_int_t)run->order.number,
	    "name", run->order.name, "state", states[run->order.state], "error", run->order.error, "deferred",
	    (json_int_t)(status->cutovers_deferred - run->order.deferred_before), "warning",
	    run->order.warning, "waits", waits_for(run, status));
}

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

int mirror_order(struct mirror_run *run, enum cutover_state goal, struct error *error)
{
	struct mirror_job_status status;
	size_t i = 0;
	int res;

	while (orders[i].goal != goal)
		i++;
	res = orders[i].switches ? mark(run, error) : 0;
	if (res < 0)
		return res;
	mirror_job_status(run->job, &status);
	/* What is undone is not to be done again. */
	if (goal == CUTOVER_SYNCING && (status.state == CUTOVER_SWITCHED || status.ordered))
		res = mirror_drop_plan(run, error);
	if (res < 0)
		return res;
	res = orders[i].give(run->job);
	if (res < 0)
		return refuse(run, orders[i].name, &status, res, error);
	run->order.number++;
	run->order.name = orders[i].name;
	run->order.goal = goal;
	run->order.state = MIRROR_ORDER_RUNNING;
	run->order.deferred_before = status.cutovers_deferred;
	run->order.error[0] = run->order.warning[0] = run->warning[0] = '\0';
	return 0;
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
static json_t *throttle(void *data, const struct control_command *command, const json_t *request)
{
	struct mirror_run *run = data;
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

static json_t *pause_copy(void *data, const struct control_command *command, const json_t *request)
{
	struct mirror_run *run = data;
	struct error error = {0};

	if (!json_is_true(json_object_get(request, "target")))
		mirror_job_pause(run->job, true);
	else if (let_target_go(run, &error) < 0)
		return control_refuse("%s", error.text);
	return control_ok();
}

static json_t *resume_copy(void *data, const struct control_command *command, const json_t *request)
{
	struct mirror_run *run = data;
	struct error error = {0};
	int res = mirror_files_set_let_go(&run->files, false, &error);

	if (res == 0)
		res = mirror_note_unpaused(run, &error);
	if (res == 0)
		mirror_job_pause(run->job, false);
	return res < 0 ? control_refuse("%s", error.text) : control_ok();
}

struct cutover_terms {
	uint64_t window_ns; /* 0: the usual one */
	enum mirror_late late;
};

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

static json_t *order(void *data, const struct control_command *command, const json_t *request)
{
	struct mirror_run *run = data;
	struct cutover_terms terms = {run->command.job.cutover_window_ns, run->command.job.late};
	struct error error = {0};
	int res = command->kind == CUTOVER_SWITCHED ? get_terms(request, &terms, &error) : 0;

	if (res == 0)
		res = mirror_order(run, (enum cutover_state)command->kind, &error);
	if (res < 0)
		return control_refuse("%s", error.text);
	mirror_job_set_cutover(run->job, terms.window_ns, terms.late);
	return json_pack("{s:b, s:I}", "ok", 1, "number", (json_int_t)run->order.number);
}

static json_t *tell_status(void *run, const struct control_command *command, const json_t *request)
{
	return mirror_status_json(run);
}

json_t *mirror_answer(void *run, const json_t *request)
{
	static const struct control_command commands[] = {{"status", tell_status, 0, false},
	    {"pause", pause_copy, 0, false}, {"resume", resume_copy, 0, false},
	    {"throttle", throttle, 0, false}, {"cutover", order, CUTOVER_SWITCHED, false},
	    {"revert", order, CUTOVER_SYNCING, false}, {"finish", order, CUTOVER_FINISHED, false},
	    {"abort", order, CUTOVER_CANCELLED, false}, {0}};

	return control_answer(commands, "", run, request);
}
