/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `sync --rounds`: one job a round while the source is in use, the stop command, and a last job from the source at rest. What comes
 * next is rounds.c's to say. The target's base is noted by each job, as in any sync: so whatever ends this run, the same command goes
 * on from the last round that was complete.
 */
#include "cli/rounds_run.h"

#include <errno.h>

double round_run_now_s(struct round_run *run)
{
	return (double)ring_now_ns(run->run.ring) / 1e9;
}

static struct job_options job_options(const struct round_run *run)
{
	struct job_options job = run->run.options->job;

	/* What is not done is found by the base, not by a journal. */
	job.no_journal = job.no_resume = true;
	return job;
}

static enum rounds_event event_of(enum job_result result)
{
	return result == JOB_OK ? ROUNDS_DONE : result == JOB_INTERRUPTED ? ROUNDS_CANCELED : ROUNDS_FAILED;
}

/* One job to its end, with how long it took. Its snapshot, if it has read one, is settled. */
static enum rounds_event run_one(struct round_run *run, struct job_options *job)
{
	double begun_s = round_run_now_s(run), ended_s;

	run->result = run_job(&run->run, job, &run->progress, &run->error);
	ended_s = round_run_now_s(run);
	run->result = sync_snapshot_end(&run->run.snapshot, run->run.job, run->result, &run->error);
	run->holds = run->run.job ? job_holds(run->run.job) : JOB_HOLDS_AS_BEFORE;
	run->job_s = ended_s - begun_s;
	run->verify_s = run->run.verifying_ns ? ended_s - (double)run->run.verifying_ns / 1e9 : 0;
	/* What was staged is not in the target. */
	run->partial |= run->progress.wrote && !job->atomic;
	run_job_end(&run->run);
	return event_of(run->result);
}

/* Opens the series of snapshots, once, and takes one for this round; or neither. */
static enum rounds_event take_snapshot(struct round_run *run, struct job_options *job)
{
	struct sync_snapshot *snapshot = &run->run.snapshot;
	int res = snapshot->snapshot ? 0 : sync_snapshot_open(snapshot, &run->error);

	run->run.between = "snapshot";
	if (res == 0)
		res = sync_snapshot_take(snapshot, job, &run->error);
	if (res < 0)
		run->result = sync_snapshot_result(res);
	return res == 0 ? ROUNDS_DONE : event_of(run->result);
}

/* Whether what a round sends is of one moment. */
static bool has_moment(const struct round_run *run)
{
	return run->run.snapshot.snapshot ||
	       (!(run->run.options->job.allow & ALLOW_LIVE_SOURCE) && rounds_can_look(run));
}

static void note_round(
    struct round_run *run, struct round_figures *figures, double begun_s, bool verified_all)
{
	figures->ended_s = round_run_now_s(run);
	figures->seconds = figures->ended_s - begun_s - (verified_all ? run->verify_s : 0);
	figures->moved = run->progress.sent + run->progress.zeroed;
	if (verified_all)
		run->all_s = run->verify_s;
	else if (!run->progress.tracked)
		run->all_s = run->job_s;
	rounds_sent(&run->rounds, figures);
	rounds_say_round(run, figures);
}

static void send_round(struct round_run *run)
{
	struct job_options job = job_options(run);
	double begun_s = round_run_now_s(run), ended_s;
	struct round_figures figures = {0};
	enum rounds_event event;
	time_t moment;

	run->run.round = run->rounds.sent + 1;
	/* What was compared whole once, and then only with what each round has sent, is compared whole. */
	job.verify = run->run.options->rounds.verify_sent;
	job.verify_sent = job.verify && run->rounds.sent > 0;
	event = take_snapshot(run, &job);
	/* A hook after the snapshot may have taken long. */
	ended_s = round_run_now_s(run);
	figures.moment_s = event == ROUNDS_DONE && run->run.snapshot.snapshot
	                       ? (double)snapshot_moment_ns(run->run.snapshot.snapshot) / 1e9
	                       : ended_s;
	moment = time(NULL) - (time_t)(ended_s - figures.moment_s);
	if (event == ROUNDS_DONE)
		event = run_one(run, &job);
	if (event != ROUNDS_DONE) {
		rounds_next(&run->rounds, event);
		return;
	}
	run->partial = false;
	run->held_at = has_moment(run) ? moment : 0;
	note_round(run, &figures, begun_s, job.verify && !job.verify_sent);
}

/* From the source itself: nobody may use it now, whatever was allowed for the rounds before. */
static enum rounds_event send_last(struct round_run *run)
{
	struct job_options job = job_options(run);
	enum rounds_event event;

	run->run.round = run->rounds.sent + 1;
	job.allow &= ~(unsigned)ALLOW_LIVE_SOURCE;
	job.verify = true;
	job.verify_sent = run->run.options->rounds.verify_sent;
	event = run_one(run, &job);
	/* Of a good end, which somebody waits for, it is said first. */
	if (event != ROUNDS_DONE)
		sync_snapshot_end_series(&run->run.snapshot, run->holds, false);
	run->last_s = run->job_s - run->verify_s;
	run->last_verify_s = run->verify_s;
	return event;
}

static enum rounds_event run_step(struct round_run *run)
{
	run->run.between = rounds_step_name(run->rounds.step);
	switch (run->rounds.step) {
	case ROUNDS_STOP:
		rounds_say_stop(run);
		return rounds_stop(run);
	case ROUNDS_WAIT:
		return rounds_wait(run);
	default:
		return send_last(run);
	}
}

static void run_all(struct round_run *run)
{
	while (run->rounds.step != ROUNDS_END) {
		if (run->run.interrupted) {
			error_set(&run->error, -ECANCELED, "interrupted");
			rounds_next(&run->rounds, ROUNDS_CANCELED);
		} else if (run->rounds.step == ROUNDS_SEND) {
			send_round(run);
		} else {
			rounds_next(&run->rounds, run_step(run));
		}
	}
}

static enum job_result exit_code(const struct round_run *run)
{
	switch (run->rounds.end) {
	case ROUNDS_EQUAL:
		return JOB_OK;
	case ROUNDS_DIVERGE:
		return JOB_DIVERGES;
	case ROUNDS_NOT_STOPPED:
	case ROUNDS_IN_USE:
		return JOB_NOT_STOPPED;
	case ROUNDS_GIVEN_UP:
		return JOB_INTERRUPTED;
	default:
		/* Refused means that nothing was written: rounds were. */
		return run->result == JOB_REFUSED && run->rounds.sent > 0 ? JOB_TROUBLE : run->result;
	}
}

int cli_run_rounds(struct cli_options *options)
{
	struct round_run run = {.all_s = -1};
	enum job_result code = JOB_TROUBLE;

	rounds_init(&run.rounds, options->rounds.count, options->rounds.until_s);
	if (run_set_up(&run.run, options, "round", &run.error) < 0) {
		cli_fail(code, &run.error);
	} else {
		run_all(&run);
		code = exit_code(&run);
		rounds_say_end(&run, code);
	}
	rounds_stop_looking(&run);
	run_tear_down(&run.run);
	return code;
}
