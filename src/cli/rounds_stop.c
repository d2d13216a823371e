/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command that stops what uses the source, and the wait until the source is seen to be free: commands such as `virsh shutdown`
 * return before. What is seen is what preflight judges by, and who holds the volume exclusively: with less than that nothing more is sent.
 */
#include "base/cleanup.h"
#include "cli/rounds_run.h"
#include "wire/child.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#define LOOK_MS 250u

bool rounds_can_look(const struct round_run *run)
{
	enum endpoint_kind kind = run->run.options->source.kind;

	return kind == ENDPOINT_PATH || kind == ENDPOINT_SSH;
}

void rounds_stop_looking(struct round_run *run)
{
	run->source = block_free(run->source);
}

/* Why somebody may use the source and not be seen. */
static void note_blind(struct round_run *run, const struct block_facts *facts)
{
	const char *why = facts->blind;

	if (!why[0] && !facts->mark[0])
		why = "nothing there tells when it was written";
	snprintf(run->blind, sizeof(run->blind), "%s", why);
}

/* Who uses the source: "" for nobody who is seen, see run->blind. -errno with words when it cannot be looked at. */
static int look(struct round_run *run, char *ret, size_t length, struct error *error)
{
	const struct cli_options *options = run->run.options;
	struct block_open_options how = {.cache = options->job.cache, .link = options->job.link};
	struct block_facts facts;
	int res = 0;

	ret[0] = '\0';
	if (!run->source)
		res = block_open(&run->source, run->run.ring, &options->source, &how, error);
	if (res == 0)
		res = block_facts(run->source, &facts, error);
	if (res < 0)
		return res;
	note_blind(run, &facts);
	if (facts.mounted[0])
		snprintf(ret, length, "mounted (%s)", facts.mounted);
	else if (facts.writer[0])
		snprintf(ret, length, "open for writing by %s", facts.writer);
	else if (facts.held[0])
		snprintf(ret, length, "held by %s", facts.held);
	return 0;
}

static bool is_seen_to_be_free(struct round_run *run)
{
	struct error ignored;
	char user[256];
	bool free = rounds_can_look(run) && look(run, user, sizeof(user), &ignored) == 0 && !user[0] &&
	            !run->blind[0];

	rounds_stop_looking(run);
	return free;
}

/* What the command may want to know. */
static void set_environment(const struct round_run *run)
{
	char number[16];

	snprintf(number, sizeof(number), "%u", run->rounds.sent);
	setenv("BLKMOVE_SOURCE", run->run.options->source.name, 1);
	setenv("BLKMOVE_TARGET", run->run.options->target.name, 1);
	setenv("BLKMOVE_ROUNDS", number, 1);
}

/* In small pieces, so that a signal is heard. -ETIMEDOUT, -ECANCELED, or 0: it has ended. */
static int wait_for_end(struct round_run *run, struct child *child, double end_s)
{
	while (!child_wait(child, run->run.ring, 100)) {
		if (run->run.interrupted)
			return -ECANCELED;
		if (round_run_now_s(run) >= end_s)
			return -ETIMEDOUT;
	}
	return 0;
}

static int judge_status(const struct round_run *run, int status, struct error *error)
{
	const char *then = run->run.options->rounds.then;

	if (WIFSIGNALED(status))
		return error_set(error, -EIO, "the stop command '%.120s' was ended by signal %d (%s)", then,
		    WTERMSIG(status), strsignal(WTERMSIG(status)));
	if (WEXITSTATUS(status))
		return error_set(
		    error, -EIO, "the stop command '%.120s' failed (exit %d)", then, WEXITSTATUS(status));
	return 0;
}

static int run_command(struct round_run *run, struct error *error)
{
	_cleanup_(cleanup_close) int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	const struct cli_options *options = run->run.options;
	double end_s = run->stopped_at_s + (double)options->rounds.timeout_ns / 1e9;
	struct child child;
	int res;

	set_environment(run);
	/* Our standard output is for events. */
	res = child_start_shell(
	    &child, options->rounds.then, (const int[3]){null, STDERR_FILENO, STDERR_FILENO}, error);
	if (res < 0)
		return res;
	res = wait_for_end(run, &child, end_s);
	child_end(&child, run->run.ring);
	if (res == -ECANCELED)
		return error_set(error, res, "interrupted: the stop command '%.120s' was ended halfway",
		    options->rounds.then);
	if (res == -ETIMEDOUT)
		return error_set(error, res,
		    "the stop command '%.120s' had not ended after %.0f s (--then-timeout) and was ended",
		    options->rounds.then, (double)options->rounds.timeout_ns / 1e9);
	return judge_status(run, child.status, error);
}

/* Somebody may go on using it: a command that failed is not passed over. */
static void say_unseen(struct round_run *run)
{
	char text[sizeof(run->error.text)];

	snprintf(text, sizeof(text), "%s", run->error.text);
	error_set(&run->error, run->error.code, "%s; whether %.200s is still in use cannot be seen (%s)",
	    text, run->run.options->source.name, run->blind);
}

enum rounds_event rounds_stop(struct round_run *run)
{
	/* Nobody used the source, and anybody would have been seen. */
	bool was_free = is_seen_to_be_free(run);
	int res;

	run->stopped_at_s = round_run_now_s(run);
	res = run_command(run, &run->error);
	run->stop_s = round_run_now_s(run) - run->stopped_at_s;
	if (res == -ECANCELED)
		return ROUNDS_CANCELED;
	/* As when the same command is run again after the stop. */
	if (res == -EIO && was_free && is_seen_to_be_free(run)) {
		char text[800];

		snprintf(text, sizeof(text),
		    "%s; but nobody used %.200s before it, and nobody does now: going on", run->error.text,
		    run->run.options->source.name);
		report_warning(run->run.report, text);
		run->error = (struct error){0};
		res = 0;
	} else if (res == -EIO && run->blind[0])
		say_unseen(run);
	return res < 0 ? ROUNDS_FAILED : ROUNDS_DONE;
}

static void say_blind(struct round_run *run)
{
	char text[500];

	if (!run->blind[0])
		return;
	snprintf(text, sizeof(text),
	    "whether %.200s is still in use cannot be seen (%.180s): the stop command's word is taken",
	    run->run.options->source.name, run->blind);
	report_warning(run->run.report, text);
}

enum rounds_event rounds_wait(struct round_run *run)
{
	const struct cli_options *options = run->run.options;
	double begun_s = round_run_now_s(run),
	       end_s = run->stopped_at_s + (double)options->rounds.timeout_ns / 1e9;
	char user[256] = "";
	int res = 0;

	if (!rounds_can_look(run)) {
		snprintf(run->blind, sizeof(run->blind), "it is a server's");
		say_blind(run);
		return ROUNDS_DONE;
	}
	while ((res = look(run, user, sizeof(user), &run->error)) == 0 && user[0] && !run->run.interrupted &&
	       round_run_now_s(run) < end_s)
		ring_wait_fd(run->run.ring, -1, 0, LOOK_MS);
	rounds_stop_looking(run);
	run->wait_s = round_run_now_s(run) - begun_s;
	if (run->run.interrupted) {
		error_set(&run->error, -ECANCELED, "interrupted after the stop command");
		return ROUNDS_CANCELED;
	}
	if (res < 0)
		error_prefix(
		    &run->error, "it cannot be seen whether %.120s is still in use", options->source.name);
	else if (user[0])
		res = error_set(&run->error, -EBUSY,
		    "%.120s is %s still, %.0f s after the stop command '%.100s' was begun (--then-timeout)",
		    options->source.name, user, round_run_now_s(run) - run->stopped_at_s,
		    options->rounds.then);
	else
		say_blind(run);
	return res < 0 ? ROUNDS_FAILED : ROUNDS_DONE;
}
