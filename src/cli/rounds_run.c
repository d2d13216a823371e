/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * `sync --rounds`: one job a round while the source is in use, the stop command, and a last job from the source at rest. What comes
 * next is rounds.c's to say. The target's base is noted by each job, as in any sync: so whatever ends this run, the same command goes
 * on from the last round that was complete.
 */
#include "cli/rounds_run.h"

#include <errno.h>
#include <stdio.h>

double round_run_now_s(struct round_run *run)
{
	return (double)ring_now_ns(run->run.ring) / 1e9;
}

static struct job_options job_options(const struct round_run *run)
{
	struct job_options job = run->run.options->job;

	/* What is not done is found by the base, not by a journal. */
	job.no_journal = true;
	return job;
}

static enum rounds_event event_of(enum job_result result)
{
	return result == JOB_OK ? ROUNDS_DONE : result == JOB_INTERRUPTED ? ROUNDS_CANCELED : ROUNDS_FAILED;
}

/* One job to its end, with how long it took. */
static enum rounds_event run_one(struct round_run *run, struct job_options *job)
{
	double begun_s = round_run_now_s(run), ended_s;

	run->result = run_job(&run->run, job, &run->progress, &run->error);
	ended_s = round_run_now_s(run);
	run->job_s = ended_s - begun_s;
	run->verify_s = run->run.verifying_ns ? ended_s - (double)run->run.verifying_ns / 1e9 : 0;
	run->partial |= run->progress.wrote;
	run_job_end(&run->run);
	return event_of(run->result);
}

static void send_round(struct round_run *run)
{
	struct job_options job = job_options(run);
	struct round_figures figures = {.moment_s = round_run_now_s(run)};
	bool quiet = !(job.allow & ALLOW_LIVE_SOURCE) && rounds_can_look(run);
	time_t moment = time(NULL);
	enum rounds_event event;

	run->run.round = run->rounds.sent + 1;
	/* What was compared whole once, and then only with what each round has sent, is compared whole. */
	job.verify = job.verify_sent = run->run.options->rounds.verify_sent;
	job.verify_sent = job.verify_sent && run->rounds.sent > 0;
	event = run_one(run, &job);
	if (event != ROUNDS_DONE) {
		rounds_next(&run->rounds, event);
		return;
	}
	run->partial = false;
	run->held_at = quiet ? moment : 0;
	figures.ended_s = round_run_now_s(run);
	figures.seconds = figures.ended_s - figures.moment_s - (job.verify_sent ? 0 : run->verify_s);
	figures.moved = run->progress.sent + run->progress.zeroed;
	if (!run->progress.tracked)
		run->all_s = figures.seconds;
	if (run->verify_s > 0 && !job.verify_sent)
		run->all_s = run->verify_s;
	rounds_sent(&run->rounds, &figures);
	rounds_say_round(run, &figures);
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
