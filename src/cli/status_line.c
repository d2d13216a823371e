/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The status of a job or a mirror in one line: see status_line.h. Every figure is one that the other side measured. */
#include "cli/status_line.h"

#include "base/parse_size.h"
#include "cli/control_client.h"
#include "cli/replicate_words.h"

#include <stdbool.h>
#include <string.h>

static bool is_true(const json_t *status, const char *key)
{
	return json_is_true(json_object_get(status, key));
}

static void print_job(FILE *to, const json_t *status)
{
	char at[16], total[16], rate[16], limit[32] = "";
	uint64_t position = control_number(status, "position"), all = control_number(status, "total");

	if (control_number(status, "rate_limit"))
		snprintf(limit, sizeof(limit), ", at most %s/s",
		    format_size(control_number(status, "rate_limit"), rate, sizeof(rate)));
	fprintf(to, "%d  %s -> %s  %s%s  %d%%  %s of %s%s\n", (int)control_number(status, "pid"),
	    control_string(status, "source"), control_string(status, "target"),
	    control_string(status, "state"), is_true(status, "paused") ? ", paused" : "",
	    all ? control_percent(position, all) : 0, format_size(position, at, sizeof(at)),
	    format_size(all, total, sizeof(total)), limit);
}

static void print_pace(FILE *to, const json_t *status)
{
	char dirty[16], dirtied[16], synced[16];
	const json_t *eta = json_object_get(status, "eta_s");
	long seconds = (long)json_integer_value(eta);

	fprintf(to, "  %s dirty (%s/s), sync %s/s",
	    format_size(control_number(status, "dirty"), dirty, sizeof(dirty)),
	    format_size(control_number(status, "dirty_rate"), dirtied, sizeof(dirtied)),
	    format_size(control_number(status, "sync_rate"), synced, sizeof(synced)));
	if (control_number(status, "priority") > 1)
		fprintf(to, " (priority %u)", (unsigned)control_number(status, "priority"));
	if (control_number(status, "dirty") == 0)
		return;
	if (json_is_false(json_object_get(status, "converges")))
		fputs(", will not converge at this rate", to);
	else if (json_is_integer(eta))
		fprintf(to, ", ETA %ld:%02ld", seconds / 60, seconds % 60);
}

/* Only what is not as ordered. */
static void print_order(FILE *to, const json_t *order)
{
	const char *warning = json_string_value(json_object_get(order, "warning")),
	           *waits = json_string_value(json_object_get(order, "waits")),
	           *state = control_string(order, "state");
	unsigned deferred = (unsigned)control_number(order, "deferred");

	if (waits && waits[0])
		fprintf(to, "; %s ordered, waits: %s", control_string(order, "name"), waits);
	if (!warning || !warning[0])
		return;
	if (!strcmp(state, "running"))
		fprintf(to, "; %s put off %u time%s: %s", control_string(order, "name"), deferred,
		    deferred == 1 ? "" : "s", warning);
	else if (!strcmp(state, "done"))
		fprintf(to, "; %s", warning);
}

static void print_mirror(FILE *to, const json_t *status)
{
	uint64_t all = control_number(status, "total"), dirty = control_number(status, "dirty");
	const char *state = control_string(status, "state");
	bool over = !strcmp(state, "finished") || !strcmp(state, "cancelled") || !strcmp(state, "failed");
	const json_t *trouble = json_object_get(status, "trouble"),
	             *pause = json_object_get(status, "pause_ms");

	fprintf(to, "%s  %s -> %s  %s%s%s%s", control_string(status, "name"),
	    control_string(status, "source"), control_string(status, "target"), state,
	    is_true(status, "comparing") ? ", comparing" : "", is_true(status, "paused") ? ", paused" : "",
	    is_true(status, "let_go") ? ", the target is let go" : "");
	if (over) {
		fprintf(to, "; the %s is the volume, for %d clients\n",
		    control_string(status, "authoritative"), (int)control_number(status, "clients"));
		return;
	}
	fprintf(to, "  %d%%", control_percent(all - dirty, all));
	print_pace(to, status);
	if (json_is_integer(json_object_get(status, "verified")))
		fprintf(to, ", verified %d%%", control_percent(control_number(status, "verified"), all));
	fprintf(to, "; clients: %d", (int)control_number(status, "clients"));
	if (control_number(status, "p99_us"))
		fprintf(to, ", p50 %.2f ms, p99 %.2f ms", (double)control_number(status, "p50_us") / 1e3,
		    (double)control_number(status, "p99_us") / 1e3);
	if (json_is_number(pause))
		fprintf(to, "; last pause %.1f ms", json_number_value(pause));
	if (!strcmp(state, "switched"))
		fputs(is_true(status, "revertible") ? "; can revert" : "; cannot revert yet", to);
	if (json_is_integer(json_object_get(status, "away_s")))
		fprintf(to, "; the %s is away, clients wait", control_string(status, "authoritative"));
	if (control_number(status, "read_errors") || control_number(status, "write_errors"))
		fprintf(to, "; %d reads and %d writes failed on the %s",
		    (int)control_number(status, "read_errors"), (int)control_number(status, "write_errors"),
		    control_string(status, "authoritative"));
	if (json_is_string(trouble))
		fprintf(to, "; %s", json_string_value(trouble));
	print_order(to, json_object_get(status, "order"));
	fputc('\n', to);
}

void status_line_print(FILE *to, const json_t *status)
{
	const char *kind = control_string(status, "kind");

	if (!strcmp(kind, "replica"))
		replicate_words_print_line(to, status);
	else
		(strcmp(kind, "mirror") ? print_job : print_mirror)(to, status);
}
