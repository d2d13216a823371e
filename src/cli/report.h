/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How a run is told: a bar on a terminal, lines elsewhere, JSON events on demand. Reads progress, keeps
 * rates. */
#pragma once

#include "cli/cli.h"

#include <jansson.h>

struct report;

int report_new(struct report **ret, const struct cli_options *options, const char *verb, struct error *error);
struct report *report_free(struct report *report);
/* Called a few times a second. */
void report_tick(struct report *report, const struct job_progress *progress, uint64_t now_ns);
void report_state(struct report *report, enum job_state state);
void report_warning(struct report *report, const char *text);
/* One line about now, for SIGUSR1. */
void report_status(struct report *report, const struct job_progress *progress);
/* Takes the bar away: other words follow. */
void report_clear(struct report *report);
/* A line of its own, unless only errors or JSON events are wanted. */
void report_words(struct report *report, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* An event of the caller's, with --json; else nothing. Takes it, NULL too. */
void report_event(struct report *report, json_t *take_event);
/* The event that ends all, for members of the caller's. `job` may be NULL. */
json_t *report_end_event(const struct report *report, const struct job_progress *progress, struct job *job,
    enum job_result result, const struct error *error);
/* The last words of a run. */
void report_end(struct report *report, const struct job_progress *progress, struct job *job,
    enum job_result result, const struct error *error);
