/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is said of a resource to people: see replicate_words.h. Every figure is one that its process measured. */
#include "cli/replicate_words_private.h"

#include "base/parse_size.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define BAR 24

/* The block */

static const char *headline(const json_t *status)
{
	static const char *const lines[][2] = {{"meeting", "the nodes find out how they stand to each other"},
	    {"refused", "refused"}, {"sending", "resync to"}, {"receiving", "resync from"},
	    {"equal", "in sync with"}, {"differing", "out of sync with"}};

	if (replicate_words_is_diskless(status))
		return "this node's disk has failed, its clients use that of";
	if (replicate_words_has_the_only_data(status))
		return "has the only good data, used by the clients of";
	if (status_has_text(status, "refusal"))
		return "refused";
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		if (status_says(status, "flow", lines[i][0]))
			return lines[i][1];
	return status_is(status, "wanted") ? "no link, looking for" : "disconnected from";
}

/* What the other node says is known. */
static bool is_known(const json_t *status)
{
	return status_is(status, "linked") && json_is_string(json_object_get(status, "peer_role"));
}

static const char *peer_state(const json_t *status)
{
	if (!is_known(status))
		return "unknown";
	if (status_says(status, "flow", "sending"))
		return "inconsistent";
	if (replicate_words_has_the_only_data(status))
		return "its disk has failed";
	return status_is(status, "peer_good") || status_says(status, "flow", "equal") ||
	               replicate_words_differ(status)
	           ? "good"
	           : "inconsistent";
}

static void print_nodes(FILE *to, const json_t *status)
{
	bool failed = status_is(status, "disk_failed");

	fprintf(to, "  %-12s %-9s  %s%s\n", "this node", control_string(status, "role"),
	    failed && !strcmp(replicate_words_state(status), "new") ? "given up"
	                                                            : replicate_words_state(status),
	    failed ? ", its disk has failed" : "");
	fprintf(to, "  %-12s %-9s  %s\n", control_string(status, "peer"),
	    is_known(status) ? control_string(status, "peer_role") : "unknown", peer_state(status));
}

static void print_bar(FILE *to, uint64_t done, uint64_t all)
{
	unsigned filled = all ? (unsigned)((double)done * BAR / (double)all) : BAR;

	fputs("  [", to);
	for (unsigned i = 0; i < BAR; i++)
		fputc(i < filled ? '#' : '.', to);
	fprintf(to, "] %d%%", control_percent(done, all));
}

/* What is left is in the source's map: the target's is empty from the beginning. */
static void print_received(FILE *to, const json_t *status)
{
	fprintf(to, "  `blkmove replicate status %s` on %s says how much is left\n",
	    control_string(status, "name"), control_string(status, "peer"));
}

static void print_sent(FILE *to, const json_t *status)
{
	uint64_t all = control_number(status, "total"), dirty = control_number(status, "dirty");
	const json_t *eta = json_object_get(status, "eta_s");
	long seconds = (long)json_integer_value(eta);
	char left[16], rate[16];

	print_bar(to, all - dirty, all);
	fprintf(to, "  %s left, %s/s", format_size(dirty, left, sizeof(left)),
	    format_size(control_number(status, "sync_rate"), rate, sizeof(rate)));
	if (status_is(status, "paused"))
		fputs(", held", to);
	else if (json_is_integer(eta) && dirty > 0)
		fprintf(to, ", ETA %ld:%02ld", seconds / 60, seconds % 60);
	fputc('\n', to);
}

static void print_verify(FILE *to, const json_t *status)
{
	const json_t *verify = json_object_get(status, "verify");
	char size[16];

	if (!json_is_object(verify))
		return;
	fprintf(to, "  verification %s, %d%%, ", control_string(verify, "state"),
	    control_percent(control_number(verify, "position"), control_number(status, "total")));
	/* What was found and sent again is no more. */
	if (control_number(verify, "differing"))
		fprintf(to, "%s %s\n", format_size(control_number(verify, "differing"), size, sizeof(size)),
		    replicate_words_differ(status) || status_says(verify, "state", "running") ? "differ"
		                                                                              : "differed");
	else
		fprintf(to, "nothing %sdiffers\n", replicate_words_differ(status) ? "else " : "");
}

static void print_clients(FILE *to, const json_t *status)
{
	const json_t *uris = json_object_get(status, "uris"), *uri;
	char queued[16];
	size_t i;

	if (control_number(status, "queued"))
		fprintf(to, "  %s on the way to %s\n",
		    format_size(control_number(status, "queued"), queued, sizeof(queued)),
		    control_string(status, "peer"));
	if (!status_is(status, "serving"))
		return;
	fprintf(to, "  clients: %u", (unsigned)control_number(status, "clients"));
	json_array_foreach((json_t *)uris, i, uri)
	    fprintf(to, "%s%s", i ? " " : "; ", json_string_value(uri));
	if (status_has_text(status, "device"))
		fprintf(to, "; %s", control_string(status, "device"));
	fputc('\n', to);
}

/* The trouble is not what other lines say already. */
static bool tells_more(const json_t *status)
{
	const char *refusal = json_string_value(json_object_get(status, "refusal"));

	if (!status_has_text(status, "trouble"))
		return false;
	if (!status_is(status, "wanted") && !refusal)
		return status_is(status, "disk_failed");
	return !refusal || !strstr(control_string(status, "trouble"), refusal);
}

/* The volume has become larger. */
static void print_small_device(FILE *to, const json_t *status)
{
	char size[16];

	if (status_has_text(status, "device_reason"))
		fprintf(to, "  %s keeps its %s: %s\n", control_string(status, "device"),
		    format_size(control_number(status, "device_size"), size, sizeof(size)),
		    control_string(status, "device_reason"));
}

static void print_troubles(FILE *to, const json_t *status)
{
	char next[640];

	if (status_has_text(status, "refusal"))
		fprintf(to, "  refused: %s\n", control_string(status, "refusal"));
	if (status_is(status, "ahead"))
		fputs("  pulled ahead: the line is too slow, what is written waits in the map\n", to);
	print_small_device(to, status);
	if (status_is(status, "leased"))
		fputs("  a hand-over is under way\n", to);
	if (!status_is(status, "linked") && status_has_text(status, "trying"))
		fprintf(to, "  %s\n", control_string(status, "trying"));
	if (tells_more(status))
		fprintf(to, "  %s\n", control_string(status, "trouble"));
	if (replicate_words_next(status, next, sizeof(next))[0])
		fprintf(to, "  next: %s\n", next);
}

/* It does not run: its map is all that is known. */
static void print_down(FILE *to, const json_t *status)
{
	const char *name = control_string(status, "name");
	const json_t *map = json_object_get(status, "map");

	if (status_says(map, "state", "missing"))
		fprintf(to, "%s: has no map yet\n  next: `blkmove replicate create %s`\n", name, name);
	else if (!status_has_text(map, "error"))
		fprintf(to,
		    "%s: down; by its map this node's data are %s\n  next: `blkmove replicate up %s`\n", name,
		    status_is(map, "outdated") ? "outdated" : control_string(map, "state"), name);
	else
		fprintf(to, "%s: down, and its map is %s: %s\n", name, control_string(map, "state"),
		    control_string(map, "error"));
	if (status_says(map, "state", "damaged"))
		fprintf(to,
		    "  next: `blkmove replicate create --overwrite=%s %s` makes a new one; this node gets "
		    "all that "
		    "differs from %s then, and what only this one has is lost\n",
		    name, name, control_string(status, "peer"));
}

static bool print_absent(FILE *to, const json_t *status)
{
	const char *name = control_string(status, "name");

	if (status_says(status, "state", "down"))
		print_down(to, status);
	else if (status_says(status, "state", "failed") || status_says(status, "state", "broken"))
		fprintf(to, "%s: %s: %s\n", name, control_string(status, "state"),
		    control_string(status, "error"));
	else if (status_says(status, "state", "starting"))
		fprintf(to, "%s: starting\n", name);
	else
		return false;
	return true;
}

static void print_headline(FILE *to, const json_t *status)
{
	const char *line = headline(status);

	fputs(line, to);
	if (strcmp(line, "refused") && !status_says(status, "flow", "meeting"))
		fprintf(to, " %s", control_string(status, "peer"));
}

void replicate_words_print_line(FILE *to, const json_t *status)
{
	if (print_absent(to, status))
		return;
	fprintf(to, "%s  %s  %s, %s, ", control_string(status, "name"), control_string(status, "volume"),
	    control_string(status, "role"), replicate_words_state(status));
	print_headline(to, status);
	if (status_says(status, "flow", "sending"))
		fprintf(to, "  %d%%",
		    control_percent(control_number(status, "total") - control_number(status, "dirty"),
		        control_number(status, "total")));
	fprintf(to, "; clients: %u\n", (unsigned)control_number(status, "clients"));
}

void replicate_words_print(FILE *to, const json_t *status)
{
	if (print_absent(to, status)) {
		if (status_says(status, "state", "failed") || status_says(status, "state", "broken"))
			fprintf(to, "  next: mend that, then `blkmove replicate up %s`\n",
			    control_string(status, "name"));
		return;
	}
	fprintf(to, "%s: ", control_string(status, "name"));
	print_headline(to, status);
	fputc('\n', to);
	print_nodes(to, status);
	if (status_says(status, "flow", "sending"))
		print_sent(to, status);
	else if (status_says(status, "flow", "receiving"))
		print_received(to, status);
	else if (replicate_words_differ(status))
		fprintf(to, "  out of sync: %llu bytes\n",
		    (unsigned long long)control_number(status, "out_of_sync"));
	print_verify(to, status);
	print_clients(to, status);
	print_troubles(to, status);
}
