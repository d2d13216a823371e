/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What `sync --rounds` says: a line a round, what is stopped for how long, and at the end what holds what. */
#include "base/parse_size.h"
#include "cli/rounds_run.h"
#include "wire/control.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *size(double bytes, char *buf)
{
	return format_size((uint64_t)(bytes > 0 ? bytes : 0), buf, 16);
}

static json_t *known(double value)
{
	return value >= 0 ? json_real(value) : json_null();
}

static const char *source_name(const struct round_run *run)
{
	return run->run.options->source.name;
}

static const char *target_name(const struct round_run *run)
{
	return run->run.options->target.name;
}

static void format_expectation(const struct rounds *rounds, char *buf, size_t length)
{
	char rate[16], bytes[16];

	if (rounds->expected_s < 0)
		snprintf(buf, length, "what the next one takes is not known yet");
	else
		snprintf(buf, length, "%s/s change; next: about %s in %.1f s",
		    size(rounds->change_rate, rate), size(rounds->expected_bytes, bytes), rounds->expected_s);
}

void rounds_say_round(struct round_run *run, const struct round_figures *figures)
{
	const struct rounds *rounds = &run->rounds;
	const struct job_progress *progress = &run->progress;
	uint64_t changed = progress->tracked ? progress->changed : figures->moved;
	char words[3][16], expectation[128], verified[48] = "";

	format_expectation(rounds, expectation, sizeof(expectation));
	if (run->verify_s > 0)
		snprintf(verified, sizeof(verified), ", %.1f s of reading back", run->verify_s);
	report_words(run->run.report, "round %u: %s %s, sent %s, zero %s in %.1f s%s; %s", rounds->sent,
	    progress->tracked ? "changed" : "differed", size((double)changed, words[0]),
	    size((double)progress->sent, words[1]), size((double)progress->zeroed, words[2]),
	    figures->seconds, verified, expectation);
	report_event(run->run.report,
	    json_pack("{s:s, s:i, s:b, s:I, s:I, s:I, s:f, s:f, s:f, s:o, s:o, s:o, s:s}", "event", "round",
	        "round", (int)rounds->sent, "tracked", progress->tracked, "changed", (json_int_t)changed,
	        "sent", (json_int_t)progress->sent, "zero", (json_int_t)progress->zeroed, "seconds",
	        figures->seconds, "verify_seconds", run->verify_s, "send_rate", rounds->send_rate,
	        "change_rate", known(rounds->change_rate), "expected_bytes",
	        rounds->expected_s < 0 ? json_null() : json_integer((json_int_t)rounds->expected_bytes),
	        "expected_seconds", known(rounds->expected_s), "next", rounds_step_name(rounds->step)));
}

/* "verifying all of 20.0 GiB (about 85 s)" */
static void format_verify(const struct round_run *run, char *buf, size_t length)
{
	char bytes[16];

	size((double)run->progress.source_size, bytes);
	if (run->run.options->rounds.verify_sent)
		snprintf(buf, length, "verifying what it sends");
	else if (run->all_s >= 0)
		snprintf(buf, length, "verifying all of %s (about %.0f s)", bytes, run->all_s);
	else
		snprintf(buf, length,
		    "verifying all of %s (how long that takes is not known: no round of this run has read "
		    "all of it)",
		    bytes);
}

void rounds_say_stop(struct round_run *run)
{
	const struct rounds *rounds = &run->rounds;
	char verify[160], last[32] = "", why[64] = "these were the rounds asked for";

	format_verify(run, verify, sizeof(verify));
	if (rounds->expected_s >= 0)
		snprintf(last, sizeof(last), " (about %.1f s)", rounds->expected_s);
	if (!rounds->count)
		snprintf(why, sizeof(why), "the next round is short enough");
	report_words(run->run.report, "%s: stopping what uses %s; then follow the last round%s, and %s", why,
	    source_name(run), last, verify);
	report_event(run->run.report,
	    json_pack("{s:s, s:s, s:o, s:o}", "event", "stop", "command", run->run.options->rounds.then,
	        "expected_seconds", known(rounds->expected_s), "expected_verify_seconds",
	        run->run.options->rounds.verify_sent ? json_null() : known(run->all_s)));
}

/* What the target is worth. */
static void format_target(const struct round_run *run, char *buf, size_t length)
{
	char time_text[32];
	struct tm tm;

	if (run->partial)
		snprintf(buf, length, "%.120s is not usable", target_name(run));
	else if (run->rounds.sent == 0)
		snprintf(buf, length, "nothing was written to %.120s", target_name(run));
	else if (!run->held_at || !localtime_r(&run->held_at, &tm))
		snprintf(buf, length,
		    "%.120s is of no one moment, since the source may have been written meanwhile",
		    target_name(run));
	else {
		strftime(time_text, sizeof(time_text), "%F %T", &tm);
		snprintf(buf, length, "%.120s is what the source was at %s", target_name(run), time_text);
	}
}

static void explain_divergence(struct round_run *run)
{
	const struct rounds *rounds = &run->rounds;
	char change[16], sent[16], bytes[16];
	bool too_fast = rounds->change_rate >= 0.8 * rounds->send_rate;

	error_set(&run->error, -ETIME,
	    "rounds do not get shorter: %.1f s for %s, the last of %u; %s/s change and %s/s are sent, %s",
	    rounds->last.seconds, size((double)rounds->last.moved, bytes), rounds->sent,
	    size(rounds->change_rate, change), size(rounds->send_rate, sent),
	    too_fast ? "so have less written meanwhile, have it sent faster (--rate, --compress, the disks), "
	               "or move it "
	               "while it is in use (blkmove mirror)"
	             : "most of a round is spent on other things than sending, so allow more "
	               "(--rounds=until:TIME), or use "
	               "a tracker (--changes, --snapshot)");
}

/* After an early end: what was stopped, what the target is worth, what to do. */
static void format_worth(const struct round_run *run, char *buf, size_t length)
{
	static const char again[] = "the same command goes on from the last complete round";
	char target[256];

	format_target(run, target, sizeof(target));
	switch (run->rounds.end) {
	case ROUNDS_DIVERGE:
		snprintf(buf, length, "nothing was stopped; %s", target);
		break;
	case ROUNDS_NOT_STOPPED:
	case ROUNDS_IN_USE:
		snprintf(buf, length,
		    "nothing was sent since the last round: %s; look whether the source still runs; then %s",
		    target, again);
		break;
	default:
		snprintf(buf, length, "%s%s%s", target, run->rounds.sent > 0 || run->partial ? "; " : "",
		    run->rounds.sent > 0 || run->partial ? again : "");
	}
}

static void say_equal(struct round_run *run)
{
	char all[16], moved[16], unseen[400] = "";

	if (run->blind[0])
		snprintf(unseen, sizeof(unseen), " if nobody uses %.120s, which could not be seen (%.180s)",
		    source_name(run), run->blind);
	size((double)run->progress.source_size, all);
	size((double)(run->progress.sent + run->progress.zeroed), moved);
	report_words(run->run.report, "last round: %s in %.1f s, then %.1f s of reading back", moved,
	    run->last_s, run->last_verify_s);
	report_words(run->run.report,
	    "sync done: %s is equal to %s (%s), flushed and %s; it is safe to start there%s, and no more "
	    "here",
	    target_name(run), source_name(run), all,
	    run->run.options->rounds.verify_sent ? "verified, round by round" : "verified, all of it",
	    unseen);
	report_words(run->run.report,
	    "out of use for %.1f s: stop command %.1f s, waiting %.1f s, last round %.1f s, "
	    "verifying %.1f s",
	    round_run_now_s(run) - run->stopped_at_s, run->stop_s, run->wait_s, run->last_s,
	    run->last_verify_s);
}

static void say_end_event(struct round_run *run, enum job_result code, const char *worth)
{
	static const char *const names[] = {
	    "", "equal", "diverge", "not-stopped", "in-use", "failed", "interrupted"};
	json_t *event = report_end_event(run->run.report, &run->progress, NULL, code, &run->error);
	bool stopped = run->stopped_at_s > 0;

	/* The last job's may have been a good one. */
	json_object_set_new(event, "state",
	    json_string(job_state_name(code == JOB_OK            ? JOB_COMPLETED
	                               : code == JOB_INTERRUPTED ? JOB_CANCELLED
	                                                         : JOB_FAILED)));
	json_object_set_new(event, "rounds", json_integer(run->rounds.sent));
	json_object_set_new(event, "outcome", json_string(names[run->rounds.end]));
	if (worth)
		json_object_set_new(event, "worth", control_text(worth));
	if (stopped)
		json_object_update_new(event,
		    json_pack("{s:f, s:f, s:f, s:f, s:f}", "outage_seconds",
		        round_run_now_s(run) - run->stopped_at_s, "stop_seconds", run->stop_s, "wait_seconds",
		        run->wait_s, "last_seconds", run->last_s, "verify_seconds", run->last_verify_s));
	report_event(run->run.report, event);
}

void rounds_say_end(struct round_run *run, enum job_result code)
{
	struct snapshot *series = run->run.snapshot.snapshot;
	const char *base = series ? snapshot_base(series) : NULL;
	char worth[512];

	if (code == JOB_OK) {
		say_equal(run);
		sync_snapshot_end_series(&run->run.snapshot, run->holds, true);
		say_end_event(run, code, NULL);
		return;
	}
	if (run->rounds.end == ROUNDS_DIVERGE)
		explain_divergence(run);
	format_worth(run, worth, sizeof(worth));
	say_end_event(run, code, worth);
	report_clear(run->run.report);
	cli_fail(code, &run->error);
	fprintf(stderr, "blkmove: %s\n", worth);
	if (base)
		report_words(run->run.report,
		    "the snapshot %s stays, as the base of the next run; --snapshot=drop removes it", base);
}
