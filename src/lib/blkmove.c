/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The public functions over the inner ones: one call, one ring, one job. */
#include "blkmove/blkmove.h"

#include "block/block.h"
#include "ring/ticker.h"
#include "sync/job.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RING_ENTRIES 256u
#define RETRIES      10u
#define TICK_NS      200000000u
#define WORDS_MAX    64

_Static_assert((int)BLKMOVE_LOCKED == (int)JOB_LOCKED && (int)BLKMOVE_BAD_RANGES == (int)JOB_BAD_RANGES,
    "the public results are the jobs' own");

struct call {
	struct ring *ring;
	struct job *job;
	const struct blkmove_options *options;
	struct ticker ticker;
};

static void tick(void *data)
{
	struct call *call = data;
	struct job_progress now;

	job_progress(call->job, &now);
	struct blkmove_progress progress = {
	    .total = now.total,
	    .position = now.position,
	    .same = now.same,
	    .sent = now.sent,
	    .zeroed = now.zeroed,
	    .bad = now.bad,
	};

	if (call->options->progress(call->options->data, &progress))
		job_cancel(call->job);
}

/* A captive server in one text is split at single spaces; all else is one word. `text` is written to. */
static int parse(struct endpoint *ret, char *text, struct error *error)
{
	char *words[WORDS_MAX + 1] = {text};
	int count = 1, used;

	if (strlen(text) >= sizeof(((struct block_info *)NULL)->name))
		return error_set(error, -ENAMETOOLONG, "the name '%.60s...' is longer than %zu bytes", text,
		    sizeof(((struct block_info *)NULL)->name) - 1);
	if (strncmp(text, "[ ", 2))
		return endpoint_parse(ret, words, 1, &used, error);
	for (char *at = text; count < WORDS_MAX && (at = strchr(at, ' '));) {
		*at++ = '\0';
		words[count++] = at;
	}
	return endpoint_parse(ret, words, count, &used, error);
}

static enum job_result run(struct call *call, const struct job_options *options, struct error *error)
{
	enum job_result result = JOB_TROUBLE;

	if (ring_new(&call->ring, RING_ENTRIES, error) < 0)
		return result;
	if (job_new(&call->job, call->ring, options, error) == 0) {
		if (call->options->progress)
			ticker_start(&call->ticker, call->ring, TICK_NS, tick, call);
		result = job_run(call->job, error);
		ticker_stop(&call->ticker);
		job_free(call->job);
	}
	ring_free(call->ring);
	return result;
}

static enum blkmove_result call_job(enum job_kind kind, const char *source, const char *target,
    const struct blkmove_options *options, struct blkmove_error *ret_error)
{
	struct blkmove_options own = BLKMOVE_OPTIONS_INIT;
	struct endpoint from = {0}, to = {0};
	struct error error = {0};
	struct call call = {.options = &own};
	char *source_text = strdup(source), *target_text = strdup(target);
	enum job_result result = JOB_TROUBLE;

	/* A caller built against an earlier header has a shorter structure. */
	if (options)
		memcpy(
		    &own, options, options->struct_size < sizeof(own) ? options->struct_size : sizeof(own));
	struct job_options job = {.kind = kind,
	    .source = &from,
	    .target = &to,
	    .dry_run = own.dry_run,
	    .verify = own.verify,
	    .resume = own.resume,
	    .list_read_errors = own.list_read_errors,
	    .overwrite = own.overwrite,
	    .state_dir = own.state_dir,
	    .rate = own.rate,
	    .detect_zeroes = true,
	    .retries = RETRIES};

	if (!source_text || !target_text)
		error_set(&error, -ENOMEM, "out of memory");
	else if (parse(&from, source_text, &error) == 0 && parse(&to, target_text, &error) == 0)
		result = run(&call, &job, &error);
	endpoint_done(&from);
	endpoint_done(&to);
	free(source_text);
	free(target_text);
	if (ret_error) {
		ret_error->code = error.code;
		snprintf(ret_error->text, sizeof(ret_error->text), "%s", error.text);
	}
	return (enum blkmove_result)result;
}

enum blkmove_result blkmove_copy(const char *source, const char *target,
    const struct blkmove_options *options, struct blkmove_error *error)
{
	return call_job(JOB_COPY, source, target, options, error);
}

enum blkmove_result blkmove_sync(const char *source, const char *target,
    const struct blkmove_options *options, struct blkmove_error *error)
{
	return call_job(JOB_SYNC, source, target, options, error);
}

enum blkmove_result blkmove_verify(
    const char *a, const char *b, const struct blkmove_options *options, struct blkmove_error *error)
{
	return call_job(JOB_VERIFY, a, b, options, error);
}

const char *blkmove_version(void)
{
	return BLKMOVE_VERSION;
}
