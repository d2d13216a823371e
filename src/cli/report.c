/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The words and bars of a run: see report.h. */
#include "cli/report.h"

#include "base/bytes.h"
#include "base/parse_size.h"
#include "wire/control.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define BAR_NS     200000000u
#define JSON_NS    1000000000u
#define BAR_WIDTH  24u
#define RATE_ALPHA 0.15 /* weight of the newest sample */

struct report {
	/* set at the start */
	const struct cli_options *options;
	const char *verb;
	enum cli_progress style;
	FILE *events; /* where JSON goes: never among the data */
	bool terminal;
	struct timespec started;

	unsigned long sequence; /* of JSON events */
	uint64_t next_ns, sample_ns, sample_bytes;
	double rate; /* bytes a second */
	bool bar_shown;
};

int report_new(struct report **ret, const struct cli_options *options, const char *verb, struct error *error)
{
	struct report *report = calloc(1, sizeof(*report));

	if (!report)
		return error_set(error, -ENOMEM, "out of memory");
	report->options = options;
	report->verb = verb;
	report->events = options->target.kind == ENDPOINT_STREAM ? stderr : stdout;
	report->terminal = isatty(STDERR_FILENO);
	report->style = options->progress;
	if (report->style == PROGRESS_AUTO)
		report->style = report->terminal ? PROGRESS_BAR : PROGRESS_LINES;
	if (options->quiet)
		report->style = PROGRESS_NONE;
	clock_gettime(CLOCK_MONOTONIC, &report->started);
	*ret = report;
	return 0;
}

struct report *report_free(struct report *report)
{
	free(report);
	return NULL;
}

static double elapsed_s(const struct report *report)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - report->started.tv_sec) +
	       (double)(now.tv_nsec - report->started.tv_nsec) / 1e9;
}

void report_clear(struct report *report)
{
	if (report->bar_shown)
		fputs("\r\033[K", stderr);
	report->bar_shown = false;
}

/* What the bar is about: while verifying, the reading back. */
static uint64_t position_of(const struct job_progress *progress)
{
	return progress->state == JOB_VERIFYING ? min_u64(progress->verified, progress->total)
	                                        : progress->position;
}

/* Where events go to standard error, nothing else does. */
static bool has_only_events(const struct report *report)
{
	return report->options->json && report->events == stderr;
}

static void emit(struct report *report, json_t *event)
{
	struct timespec now;
	char *text;

	if (!event)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	json_object_set_new(event, "sequence", json_integer((json_int_t)++report->sequence));
	json_object_set_new(
	    event, "time", json_real((double)now.tv_sec + (double)(now.tv_nsec / 1000000) / 1e3));
	text = json_dumps(event, JSON_COMPACT | JSON_REAL_PRECISION(13));
	if (text) {
		fprintf(report->events, "%s\n", text);
		fflush(report->events);
	}
	free(text);
	json_decref(event);
}

static json_t *progress_json(const struct report *report, const struct job_progress *progress)
{
	return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:i, s:f}", "event",
	    "progress", "state", job_state_name(progress->state), "total", (json_int_t)progress->total,
	    "position", (json_int_t)progress->position, "resumed", (json_int_t)progress->resumed, "same",
	    (json_int_t)progress->same, "sent", (json_int_t)progress->sent, "zero",
	    (json_int_t)progress->zeroed, "bad", (json_int_t)progress->bad, "verified",
	    (json_int_t)progress->verified, "paused", progress->paused, "retries", (int)progress->retries,
	    "rate", report->rate);
}

static void format_eta(
    const struct report *report, const struct job_progress *progress, char *buf, size_t length)
{
	uint64_t left = progress->total - min_u64(progress->total, position_of(progress));
	double seconds = report->rate > 0 ? (double)left / report->rate : -1;

	if (progress->paused)
		snprintf(buf, length, "paused");
	else if (progress->total == 0 || seconds < 0 || seconds > 8640000)
		snprintf(buf, length, "ETA --:--");
	else if (seconds < 3600)
		snprintf(buf, length, "ETA %d:%02d", (int)seconds / 60, (int)seconds % 60);
	else
		snprintf(buf, length, "ETA %d:%02d:%02d", (int)seconds / 3600, (int)seconds / 60 % 60,
		    (int)seconds % 60);
}

/* "same 1.2 GiB, sent 40 MiB, zero 2 GiB", and what an earlier run did, and what could not be read. */
static void format_counts(const struct job_progress *progress, char *buf, size_t length)
{
	char same[16], sent[16], zero[16], bad[32] = "", resumed[32] = "", size[16];

	if (progress->resumed)
		snprintf(resumed, sizeof(resumed), "earlier %s, ",
		    format_size(progress->resumed, size, sizeof(size)));
	if (progress->bad)
		snprintf(bad, sizeof(bad), ", bad %s", format_size(progress->bad, size, sizeof(size)));
	snprintf(buf, length, "%ssame %s, sent %s, zero %s%s", resumed,
	    format_size(progress->same, same, sizeof(same)), format_size(progress->sent, sent, sizeof(sent)),
	    format_size(progress->zeroed, zero, sizeof(zero)), bad);
}

static void format_line(
    const struct report *report, const struct job_progress *progress, char *buf, size_t length)
{
	char at[16], total[16], rate[16], eta[32], counts[128] = "  ";
	uint64_t position = position_of(progress);
	const char *what = progress->state == JOB_RUNNING ? report->verb : job_state_name(progress->state);

	format_eta(report, progress, eta, sizeof(eta));
	/* A single volume is not decided about. */
	if (report->options->job.target)
		format_counts(progress, counts + 2, sizeof(counts) - 2);
	else
		counts[0] = '\0';
	format_size(position, at, sizeof(at));
	format_size((uint64_t)report->rate, rate, sizeof(rate));
	if (progress->total)
		snprintf(buf, length, "%s %3d%%  %s of %s  %s/s  %s%s", what,
		    (int)((double)position * 100 / (double)progress->total), at,
		    format_size(progress->total, total, sizeof(total)), rate, eta, counts);
	else
		snprintf(buf, length, "%s  %s  %s/s%s", what, at, rate, counts);
}

static void draw_bar(struct report *report, const struct job_progress *progress)
{
	char line[320], bar[BAR_WIDTH + 1];
	struct winsize window = {0};
	unsigned filled =
	    progress->total ? (unsigned)((double)position_of(progress) * BAR_WIDTH / (double)progress->total)
	                    : 0;
	int width = 80;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0)
		width = window.ws_col;
	memset(bar, '-', BAR_WIDTH);
	memset(bar, '#', min_u64(filled, BAR_WIDTH));
	bar[BAR_WIDTH] = '\0';
	format_line(report, progress, line, sizeof(line));
	if (width > 120)
		fprintf(stderr, "\r[%s] %.*s\033[K", bar, width - (int)BAR_WIDTH - 4, line);
	else
		fprintf(stderr, "\r%.*s\033[K", width - 1, line);
	fflush(stderr);
	report->bar_shown = true;
}

static void sample_rate(struct report *report, const struct job_progress *progress, uint64_t now_ns)
{
	uint64_t bytes = position_of(progress);
	double seconds = (double)(now_ns - report->sample_ns) / 1e9;

	if (report->sample_ns && seconds > 0.15 && bytes >= report->sample_bytes) {
		double now = (double)(bytes - report->sample_bytes) / seconds;

		report->rate = report->rate > 0 ? report->rate + RATE_ALPHA * (now - report->rate) : now;
	} else if (report->sample_ns && bytes >= report->sample_bytes) {
		return;
	}
	report->sample_ns = now_ns;
	report->sample_bytes = bytes;
}

void report_tick(struct report *report, const struct job_progress *progress, uint64_t now_ns)
{
	char line[320];

	sample_rate(report, progress, now_ns);
	if (now_ns < report->next_ns)
		return;
	if (report->options->json) {
		if (report->next_ns)
			emit(report, progress_json(report, progress));
		report->next_ns = now_ns + JSON_NS;
	} else if (report->style == PROGRESS_BAR) {
		draw_bar(report, progress);
		report->next_ns = now_ns + BAR_NS;
	} else if (report->style == PROGRESS_LINES) {
		if (report->next_ns) {
			format_line(report, progress, line, sizeof(line));
			fprintf(stderr, "%s\n", line);
		}
		report->next_ns = now_ns + (uint64_t)report->options->interval_s * 1000000000u;
	}
}

void report_state(struct report *report, enum job_state state)
{
	report->sample_ns = 0;
	report->rate = 0;
	if (report->options->json)
		emit(report, json_pack("{s:s, s:s}", "event", "state", "state", job_state_name(state)));
}

void report_warning(struct report *report, const char *text)
{
	report_clear(report);
	if (report->options->json)
		emit(report, json_pack("{s:s, s:o}", "event", "warning", "text", control_text(text)));
	else
		fprintf(stderr, "blkmove: %s\n", text);
}

void report_status(struct report *report, const struct job_progress *progress)
{
	char line[320];

	if (has_only_events(report)) {
		emit(report, progress_json(report, progress));
		return;
	}
	report_clear(report);
	format_line(report, progress, line, sizeof(line));
	fprintf(stderr, "%s\n", line);
}

void report_words(struct report *report, const char *format, ...)
{
	va_list args;

	if (report->options->json || report->options->quiet)
		return;
	report_clear(report);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
}

void report_event(struct report *report, json_t *take_event)
{
	if (report->options->json)
		emit(report, take_event);
	else
		json_decref(take_event);
}

static void print_differences(const struct report *report, struct job *job)
{
	const struct range_set *set = job_differences(job);
	size_t shown = report->options->list ? set->count : min_u64(set->count, 5);

	for (size_t i = 0; i < shown; i++)
		printf("differs: offset %" PRIu64 " length %" PRIu64 "\n", set->ranges[i].offset,
		    set->ranges[i].length);
	if (shown < set->count)
		printf("and %zu more; --list prints all\n", set->count - shown);
}

static void end_of_verify(
    const struct report *report, const struct job_progress *progress, struct job *job, enum job_result result)
{
	char size[16];

	if (result == JOB_DIFFERS)
		print_differences(report, job);
	if (progress->source_size != progress->target_size)
		printf("differs: the sizes are %" PRIu64 " and %" PRIu64 " bytes\n", progress->source_size,
		    progress->target_size);
	if (!report->options->quiet)
		printf("%s: %s compared in %.1f s; %" PRIu64 " ranges, %" PRIu64 " bytes differ\n",
		    result == JOB_OK ? "same" : "differs", format_size(progress->total, size, sizeof(size)),
		    elapsed_s(report), progress->differing_ranges, progress->differing_bytes);
}

static void end_in_words(
    struct report *report, const struct job_progress *progress, struct job *job, enum job_result result)
{
	char counts[128], size[16], rate[16];
	double seconds = elapsed_s(report);

	if (report->options->job.kind == JOB_VERIFY) {
		end_of_verify(report, progress, job, result);
		return;
	}
	if (report->options->quiet)
		return;
	format_counts(progress, counts, sizeof(counts));
	format_size((uint64_t)((double)(progress->position - progress->resumed) /
	                       (seconds > 0.001 ? seconds : 0.001)),
	    rate, sizeof(rate));
	if (report->options->job.dry_run) {
		fprintf(stderr, "dry run, nothing was written; %s would move %s: %s\n", report->verb,
		    format_size(progress->position, size, sizeof(size)), counts);
		return;
	}
	fprintf(stderr, "%s done: %s in %.1f s (%s/s): %s%s%s\n", report->verb,
	    format_size(progress->position, size, sizeof(size)), seconds, rate, counts,
	    report->options->job.verify ? "; verified" : "",
	    progress->retries ? "; the link was lost on the way" : "");
}

json_t *report_end_event(const struct report *report, const struct job_progress *progress, struct job *job,
    enum job_result result, const struct error *error)
{
	json_t *event = progress_json(report, progress), *ranges = json_array();
	const struct range_set *set = job ? job_differences(job) : NULL;
	size_t count = set ? set->count : 0, shown = report->options->list ? count : min_u64(count, 5);

	for (size_t i = 0; i < shown; i++)
		json_array_append_new(
		    ranges, json_pack("{s:I, s:I}", "offset", (json_int_t)set->ranges[i].offset, "length",
		                (json_int_t)set->ranges[i].length));
	json_object_set_new(event, "event", json_string("end"));
	json_object_set_new(event, "exit_code", json_integer(result));
	json_object_set_new(event, "seconds", json_real(elapsed_s(report)));
	json_object_set_new(event, "differing_ranges", json_integer((json_int_t)progress->differing_ranges));
	json_object_set_new(event, "differing_bytes", json_integer((json_int_t)progress->differing_bytes));
	json_object_set_new(event, "ranges", ranges);
	if (error->text[0])
		json_object_set_new(event, "error", control_text(error->text));
	return event;
}

void report_end(struct report *report, const struct job_progress *progress, struct job *job,
    enum job_result result, const struct error *error)
{
	bool good = result == JOB_OK || result == JOB_DIFFERS || result == JOB_BAD_RANGES;

	if (good && report->style == PROGRESS_BAR && !report->options->json)
		draw_bar(report, progress);
	report_clear(report);
	if (report->options->json)
		emit(report, report_end_event(report, progress, job, result, error));
	else if (good)
		end_in_words(report, progress, job, result);
	if ((!good || result == JOB_BAD_RANGES) && !has_only_events(report))
		cli_fail(result, error);
}
