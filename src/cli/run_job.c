/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What surrounds jobs: see run.h. And the commands that are one job, with the report of bad ranges. */
#include "cli/cli.h"
#include "cli/control.h"
#include "cli/control_request.h"
#include "cli/run.h"
#include "cli/signals.h"
#include "wire/control.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define RING_ENTRIES 256u
#define TICK_NS      100000000u
#define GIVE_UP_NS   500000000u /* from a signal while connecting to an end that is not in good order */

static bool keeps_journal(const struct cli_options *options)
{
	return !options->no_journal && options->source.kind != ENDPOINT_STREAM &&
	       options->target.kind != ENDPOINT_STREAM;
}

/* Nothing, between jobs. */
static void progress_of(const struct run *run, struct job_progress *ret)
{
	*ret = (struct job_progress){.state = JOB_CREATED};
	if (run->job)
		job_progress(run->job, ret);
}

static int set_interrupted(const struct run *run, struct error *error)
{
	const struct cli_options *options = run->options;
	struct job_progress progress;

	progress_of(run, &progress);
	if (run->round)
		return error_set(error, -ECANCELED,
		    "interrupted; run the same command again, it goes on from the "
		    "last round that was complete");
	if (options->job.kind == JOB_VERIFY || options->job.dry_run)
		return error_set(error, -ECANCELED, "interrupted");
	if (run->give_up_ns && progress.retries == 0 && progress.sent + progress.zeroed == 0)
		return error_set(error, -ECANCELED, "interrupted while connecting; nothing was written");
	if (options->job.atomic)
		return error_set(error, -ECANCELED,
		    "interrupted; %.200s is the old point (or, if it was being applied, the new one once "
		    "`blkmove recover` was run): %s",
		    options->target.name,
		    options->job.no_resume ? "run it again" : "go on with --resume, or run anew");
	return error_set(error, -ECANCELED,
	    keeps_journal(options) ? "interrupted; the target is not usable yet, but the journal holds what "
	                             "was done: go on with --resume"
	                           : "interrupted; the target is not usable: run it again");
}

/* Without waiting for anything. The journal holds what is safe. */
static _Noreturn void end_at_once(struct run *run)
{
	struct job_progress progress;
	struct error error;

	set_interrupted(run, &error);
	progress_of(run, &progress);
	report_end(run->report, &progress, run->job, JOB_INTERRUPTED, &error);
	signals_end_children();
	if (run->control)
		unlink(control_path(run->control));
	sync_snapshot_abandon(&run->snapshot, run->job);
	_exit(JOB_INTERRUPTED);
}

static void tick(void *data)
{
	struct run *run = data;
	struct job_progress progress;

	sync_snapshot_look(&run->snapshot, run->job);
	if (!run->job)
		return;
	job_progress(run->job, &progress);
	report_tick(run->report, &progress, ring_now_ns(run->ring));
	if (run->give_up_ns && progress.state == JOB_OPENING && ring_now_ns(run->ring) >= run->give_up_ns)
		end_at_once(run);
}

static void got_signal(void *data, int number)
{
	struct run *run = data;
	struct job_progress progress;

	progress_of(run, &progress);
	if (number == SIGUSR1) {
		report_status(run->report, &progress);
		return;
	}
	if (run->interrupted)
		end_at_once(run);
	run->interrupted = true;
	if (!run->job)
		return;
	if (progress.state == JOB_OPENING) {
		run->give_up_ns = ring_now_ns(run->ring) + GIVE_UP_NS;
		signals_end_children();
	} else if (progress.state != JOB_WAITING) {
		report_warning(
		    run->report, "interrupted: finishing what is in flight; once more to end at once");
	}
	job_cancel(run->job);
}

static json_t *tell_status(void *data, const struct control_command *command, const json_t *request)
{
	struct run *run = data;
	struct job_progress progress;
	json_t *json;

	progress_of(run, &progress);
	json = json_pack("{s:b, s:s, s:i, s:o, s:o, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:I}", "ok", 1,
	    "kind", "job", "pid", (int)getpid(), "source", control_text(run->options->source.name), "target",
	    control_text(run->options->target.name), "state",
	    run->job ? job_state_name(progress.state) : run->between, "total", (json_int_t)progress.total,
	    "position", (json_int_t)progress.position, "same", (json_int_t)progress.same, "sent",
	    (json_int_t)progress.sent, "zero", (json_int_t)progress.zeroed, "bad", (json_int_t)progress.bad,
	    "paused", run->paused, "rate_limit", (json_int_t)run->options->job.rate);
	if (json && run->round)
		json_object_set_new(json, "round", json_integer(run->round));
	return json;
}

static json_t *set_paused(void *data, const struct control_command *command, const json_t *request)
{
	struct run *run = data;

	if (json_is_true(json_object_get(request, "target")))
		return control_refuse("only a mirror can let its target go");
	run->paused = command->kind;
	if (run->job)
		job_pause(run->job, run->paused);
	return control_ok();
}

static json_t *throttle(void *data, const struct control_command *command, const json_t *request)
{
	struct control_number rate = {.key = "rate", .most = 9e18, .whole = true};
	struct run *run = data;
	struct error error;

	if (control_get_number(request, &rate, &error) < 0)
		return control_refuse("%s", error.text);
	if (!rate.given)
		return control_refuse("throttle takes a rate");
	run->options->job.rate = (uint64_t)rate.value;
	if (run->job)
		job_set_rate(run->job, run->options->job.rate);
	return control_ok();
}

static json_t *answer(void *run, const json_t *request)
{
	static const struct control_command commands[] = {{"status", tell_status, 0, false},
	    {"pause", set_paused, true, false}, {"resume", set_paused, false, false},
	    {"throttle", throttle, 0, false}, {0}};

	return control_answer(commands, "", run, request);
}

static void state_changed(void *data, enum job_state state)
{
	struct run *run = data;

	if (state == JOB_VERIFYING)
		run->verifying_ns = ring_now_ns(run->ring);
	report_state(run->report, state);
}

static void warned(void *data, const char *text)
{
	report_warning(((struct run *)data)->report, text);
}

static bool is_interrupted(void *data)
{
	return ((struct run *)data)->interrupted;
}

/* The list of what could not be read: offset and length in bytes, a range a line. */
static void write_bad_ranges(struct run *run)
{
	const struct range_set *bad = job_bad_ranges(run->job);
	const char *path = run->options->report_path;
	char own[64], text[512];
	FILE *file;

	if (!bad->count)
		return;
	snprintf(own, sizeof(own), "blkmove-%d.report", (int)getpid());
	file = fopen(path ? path : own, "we");
	if (!file) {
		fprintf(stderr, "blkmove: cannot write %s: %s; the unreadable ranges follow\n",
		    path ? path : own, strerror(errno));
		file = stderr;
	}
	fprintf(file, "# unreadable ranges of %s: offset length, in bytes\n", run->options->source.name);
	for (size_t i = 0; i < bad->count; i++)
		fprintf(file, "%" PRIu64 " %" PRIu64 "\n", bad->ranges[i].offset, bad->ranges[i].length);
	if (file == stderr)
		return;
	if (fclose(file) == 0)
		snprintf(text, sizeof(text), "unreadable ranges are listed in %.400s", path ? path : own);
	else
		snprintf(text, sizeof(text), "cannot write %.400s: %s", path ? path : own, strerror(errno));
	report_warning(run->report, text);
}

/* A run that cannot be controlled is still a run. */
static void make_control(struct run *run)
{
	struct error error;
	char text[640];

	if (control_new(&run->control, run->ring, NULL, answer, run, &error) == 0) {
		signals_last_resort(control_path(run->control));
		return;
	}
	snprintf(
	    text, sizeof(text), "%s; blkmove status, pause and throttle cannot reach this run", error.text);
	report_warning(run->report, text);
}

int run_set_up(struct run *run, struct cli_options *options, const char *verb, struct error *error)
{
	int res;

	*run = (struct run){.options = options, .between = job_state_name(JOB_CREATED)};
	res = ring_new(&run->ring, RING_ENTRIES, error);
	run->snapshot = (struct sync_snapshot){
	    .options = options, .ring = run->ring, .data = run, .say = warned, .stopping = is_interrupted};
	if (res == 0)
		res = report_new(&run->report, options, verb, error);
	if (res == 0)
		res = signals_new(&run->signals, run->ring, got_signal, run, error);
	if (res == 0)
		make_control(run);
	if (res == 0)
		ticker_start(&run->ticker, run->ring, TICK_NS, tick, run);
	return res;
}

void run_tear_down(struct run *run)
{
	run_job_end(run);
	sync_snapshot_close(&run->snapshot);
	ticker_stop(&run->ticker);
	control_free(run->control);
	signals_free(run->signals);
	report_free(run->report);
	ring_free(run->ring);
}

enum job_result run_job(
    struct run *run, struct job_options *options, struct job_progress *ret, struct error *error)
{
	enum job_result result;

	options->data = run;
	options->state_changed = state_changed;
	options->warning = warned;
	options->rate = run->options->job.rate;
	run->verifying_ns = 0;
	*ret = (struct job_progress){0};
	if (job_new(&run->job, run->ring, options, error) < 0)
		return JOB_TROUBLE;
	job_pause(run->job, run->paused);
	result = job_run(run->job, error);
	/* What broke because it was told to. */
	if (run->give_up_ns && (result == JOB_TROUBLE || result == JOB_LINK_LOST)) {
		set_interrupted(run, error);
		result = JOB_INTERRUPTED;
	}
	job_progress(run->job, ret);
	return result;
}

void run_job_end(struct run *run)
{
	run->job = job_free(run->job);
}

/* Of a snapshot, where one was asked for. */
static enum job_result run_only_job(struct run *run, struct job_progress *ret, struct error *error)
{
	struct job_options options = run->options->job;
	enum job_result result;
	int res = sync_snapshot_open(&run->snapshot, error);

	*ret = (struct job_progress){0};
	if (res == 0)
		res = sync_snapshot_take(&run->snapshot, &options, error);
	if (res < 0)
		return sync_snapshot_result(res);
	result = run_job(run, &options, ret, error);
	return sync_snapshot_end(&run->snapshot, run->job, result, error);
}

int cli_run_job(struct cli_options *options, const char *verb)
{
	struct run run;
	struct job_progress progress;
	struct error error = {0};
	enum job_result result = JOB_TROUBLE;

	if (run_set_up(&run, options, verb, &error) < 0) {
		cli_fail(result, &error);
	} else {
		result = run_only_job(&run, &progress, &error);
		if (run.job)
			write_bad_ranges(&run);
		report_end(run.report, &progress, run.job, result, &error);
	}
	run_tear_down(&run);
	return result;
}
