/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is said of a resource to people: see replicate_words.h. Every figure is one that its process measured. */
#include "cli/replicate_words.h"

#include "base/parse_size.h"
#include "cli/control_client.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define BAR 24

static bool is(const json_t *status, const char *key)
{
	return json_is_true(json_object_get(status, key));
}

static bool says(const json_t *status, const char *key, const char *word)
{
	return !strcmp(control_string(status, key), word);
}

static bool has_text(const json_t *status, const char *key)
{
	const char *text = json_string_value(json_object_get(status, key));

	return text && text[0];
}

/* Of this node's data. */
static const char *state_of(const json_t *status)
{
	if (!strcmp(control_string(status, "generation"), "0000000000000000"))
		return "new";
	if (!is(status, "good"))
		return "inconsistent";
	return is(status, "outdated") ? "outdated" : "good";
}

static bool is_new(const json_t *status)
{
	return !strcmp(state_of(status), "new");
}

static bool resyncs(const json_t *status)
{
	return says(status, "flow", "sending") || says(status, "flow", "receiving");
}

/* What comes next */

static bool is_frozen(const json_t *status)
{
	return is(status, "frozen");
}

static bool is_diskless(const json_t *status)
{
	return says(status, "flow", "diskless") && says(status, "role", "primary");
}

static bool has_the_only_data(const json_t *status)
{
	return says(status, "flow", "diskless") && !says(status, "role", "primary");
}

static bool has_lost_its_disk(const json_t *status)
{
	return is(status, "disk_failed");
}

static bool are_both_new(const json_t *status)
{
	return has_text(status, "refusal") && says(status, "relation", "both-new");
}

static bool is_foreign(const json_t *status)
{
	return has_text(status, "refusal") && says(status, "relation", "self-foreign");
}

static bool is_other_foreign(const json_t *status)
{
	return has_text(status, "refusal") && says(status, "relation", "peer-foreign");
}

static bool is_split(const json_t *status)
{
	return has_text(status, "refusal") && says(status, "verdict", "split");
}

static bool are_strangers(const json_t *status)
{
	return has_text(status, "refusal") && says(status, "verdict", "strangers");
}

static bool has_no_source(const json_t *status)
{
	return has_text(status, "refusal") && says(status, "verdict", "no-good");
}

static bool is_refused(const json_t *status)
{
	return has_text(status, "refusal");
}

static bool is_alone_and_new(const json_t *status)
{
	return says(status, "flow", "apart") && !strcmp(state_of(status), "new");
}

static bool is_alone_and_foreign(const json_t *status)
{
	return is_alone_and_new(status) && is(status, "foreign");
}

static bool is_held(const json_t *status)
{
	return is(status, "paused") && resyncs(status);
}

/* Found by a verification, and not sent again yet. */
static bool differs(const json_t *status)
{
	return says(status, "flow", "differing");
}

static bool is_let_be(const json_t *status)
{
	return says(status, "flow", "apart") && !is(status, "wanted");
}

/* The first that fits counts. In `words` each @ is the resource, and each % the other machine. */
static const struct {
	bool (*fits)(const json_t *status);
	const char *words;
} nexts[] = {
    {is_frozen, "clients wait until it is sure that % writes no more: switch it off, then `blkmove replicate "
                "fenced @`; or bring it back"},
    {is_diskless,
        "its clients go on with %'s disk, and have no other. When they can be stopped: `blkmove replicate "
        "secondary @`, and on % `blkmove replicate primary @`; then mend this node's disk"},
    {has_the_only_data,
        "nothing but to leave this node up: %'s disk has failed, and its clients use this node's"},
    {has_lost_its_disk, "mend or replace this node's disk, or that of its map; then `blkmove replicate down "
                        "@`, `blkmove replicate "
                        "create @ --overwrite=@` if it is another one or nobody knows what it holds, and "
                        "`blkmove replicate up @`"},
    {are_both_new, "on the node whose data are to count, once: `blkmove replicate primary --force @`; then "
                   "`blkmove replicate connect @` on both"},
    {is_split,
        "on the node whose writes since the split are to be lost: `blkmove replicate secondary @`, "
        "`blkmove replicate resolve @ --discard-mine @`; then on the other `blkmove replicate connect @`"},
    {is_foreign, "if what this node's volume carries may be lost: `blkmove replicate resolve @ "
                 "--discard-mine @`, then on "
                 "% `blkmove replicate connect @`; if it is to count, not what % has: `blkmove replicate "
                 "primary --force "
                 "@`"},
    {is_other_foreign,
        "if what the volume of % carries may be lost, on %: `blkmove replicate resolve @ --discard-mine @`; "
        "then here `blkmove replicate connect @`"},
    {are_strangers,
        "if they are to be one volume all the same, on the node whose data are to be lost: `blkmove "
        "replicate resolve @ --discard-mine @`; then on the other `blkmove replicate connect @`"},
    {has_no_source,
        "no node has whole data that the other could get: see which one is good by `blkmove replicate "
        "show @` on both; on the other `blkmove replicate resolve @ --discard-mine @`, then `blkmove "
        "replicate connect @` on the good one"},
    {is_refused, "mend that, then `blkmove replicate connect @` on both nodes"},
    {is_alone_and_foreign,
        "if this node's data are to count, once: `blkmove replicate primary --force @`; if those of "
        "% are, and what this node's volume carries may be lost: `blkmove replicate resolve @ --discard-mine "
        "@`"},
    {is_alone_and_new,
        "if this node's data are to count, once: `blkmove replicate primary --force @`; if those of "
        "% are, it waits for them"},
    {is_held, "`blkmove replicate resync @ --continue`"},
    {differs,
        "find out why both do not have the same; then `blkmove replicate resync @`, where the data are sent "
        "from, sends again what differs"},
    {is_let_be, "`blkmove replicate connect @`"},
};

/* Puts the names in. */
static const char *fill_in(const char *words, const json_t *status, char *buf, size_t length)
{
	size_t used = 0;

	for (const char *at = words; *at && used + 1 < length; at++) {
		const char *name = *at == '@' ? "name" : *at == '%' ? "peer" : NULL;

		if (name)
			used +=
			    (size_t)snprintf(buf + used, length - used, "%s", control_string(status, name));
		else
			buf[used++] = *at;
	}
	buf[used < length ? used : length - 1] = '\0';
	return buf;
}

static const char *next_of(const json_t *status, char *buf, size_t length)
{
	buf[0] = '\0';
	for (size_t i = 0; i < sizeof(nexts) / sizeof(nexts[0]); i++)
		if (nexts[i].fits(status))
			return fill_in(nexts[i].words, status, buf, length);
	return buf;
}

/* The risk of a forced primary */

static bool is_half(const json_t *status)
{
	return !strcmp(state_of(status), "inconsistent");
}

static bool is_outdated(const json_t *status)
{
	return is(status, "outdated");
}

static bool is_good_here(const json_t *status)
{
	return is(status, "good");
}

/* Good data are refused only where the other node is known to write, or was when it was heard of last. */
static const struct {
	bool (*fits)(const json_t *status);
	const char *words;
} risks[] = {
    {is_new,
        "this node's data were never replicated: what its volume holds now will be what counts, and % gets "
        "it, over whatever it holds"},
    {is_half,
        "this node's data are half of a resync, old and new mixed: file systems on them may be damaged. "
        "% has all of it: get that one back if there is any way. With --force the mixture counts as "
        "good from now on, and what only % has is lost once one of the two is discarded"},
    {is_outdated,
        "% has gone on without this node: what it wrote since is not here. With --force both will have "
        "what the other lacks, a split brain, and one of the two is lost when it is resolved"},
    {is_good_here, "% was primary when this node heard of it last. If it still runs, both will be "
                   "written: a split brain, and one side's writes are lost when it is resolved. Switch "
                   "% off first, then `blkmove replicate fenced @` and primary without --force; with "
                   "--force it is your word alone"},
};

const char *replicate_words_risk(const json_t *status, char *buf, size_t length)
{
	buf[0] = '\0';
	for (size_t i = 0; i < sizeof(risks) / sizeof(risks[0]); i++)
		if (risks[i].fits(status))
			return fill_in(risks[i].words, status, buf, length);
	return buf;
}

/* The block */

static const char *headline(const json_t *status)
{
	static const char *const lines[][2] = {{"meeting", "the nodes find out how they stand to each other"},
	    {"refused", "refused"}, {"sending", "resync to"}, {"receiving", "resync from"},
	    {"equal", "in sync with"}, {"differing", "out of sync with"}};

	if (is_diskless(status))
		return "this node's disk has failed, its clients use that of";
	if (has_the_only_data(status))
		return "has the only good data, used by the clients of";
	if (has_text(status, "refusal"))
		return "refused";
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		if (says(status, "flow", lines[i][0]))
			return lines[i][1];
	return is(status, "wanted") ? "no link, looking for" : "disconnected from";
}

/* What the other node says is known. */
static bool is_known(const json_t *status)
{
	return is(status, "linked") && json_is_string(json_object_get(status, "peer_role"));
}

static const char *peer_state(const json_t *status)
{
	if (!is_known(status))
		return "unknown";
	if (says(status, "flow", "sending"))
		return "inconsistent";
	if (has_the_only_data(status))
		return "its disk has failed";
	return is(status, "peer_good") || says(status, "flow", "equal") || differs(status) ? "good"
	                                                                                   : "inconsistent";
}

static void print_nodes(FILE *to, const json_t *status)
{
	bool failed = is(status, "disk_failed");

	fprintf(to, "  %-12s %-9s  %s%s\n", "this node", control_string(status, "role"),
	    failed && is_new(status) ? "given up" : state_of(status), failed ? ", its disk has failed" : "");
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
	if (is(status, "paused"))
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
		    differs(status) || says(verify, "state", "running") ? "differ" : "differed");
	else
		fprintf(to, "nothing %sdiffers\n", differs(status) ? "else " : "");
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
	if (!is(status, "serving"))
		return;
	fprintf(to, "  clients: %u", (unsigned)control_number(status, "clients"));
	json_array_foreach((json_t *)uris, i, uri)
	    fprintf(to, "%s%s", i ? " " : "; ", json_string_value(uri));
	if (has_text(status, "device"))
		fprintf(to, "; %s", control_string(status, "device"));
	fputc('\n', to);
}

/* The trouble is not what other lines say already. */
static bool tells_more(const json_t *status)
{
	const char *refusal = json_string_value(json_object_get(status, "refusal"));

	if (!has_text(status, "trouble"))
		return false;
	if (!is(status, "wanted") && !refusal)
		return is(status, "disk_failed");
	return !refusal || !strstr(control_string(status, "trouble"), refusal);
}

/* The volume has become larger. */
static void print_small_device(FILE *to, const json_t *status)
{
	char size[16];

	if (has_text(status, "device_reason"))
		fprintf(to, "  %s keeps its %s: %s\n", control_string(status, "device"),
		    format_size(control_number(status, "device_size"), size, sizeof(size)),
		    control_string(status, "device_reason"));
}

static void print_troubles(FILE *to, const json_t *status)
{
	char next[640];

	if (has_text(status, "refusal"))
		fprintf(to, "  refused: %s\n", control_string(status, "refusal"));
	if (is(status, "ahead"))
		fputs("  pulled ahead: the line is too slow, what is written waits in the map\n", to);
	print_small_device(to, status);
	if (is(status, "leased"))
		fputs("  a hand-over is under way\n", to);
	if (!is(status, "linked") && has_text(status, "trying"))
		fprintf(to, "  %s\n", control_string(status, "trying"));
	if (tells_more(status))
		fprintf(to, "  %s\n", control_string(status, "trouble"));
	if (next_of(status, next, sizeof(next))[0])
		fprintf(to, "  next: %s\n", next);
}

/* It does not run: its map is all that is known. */
static void print_down(FILE *to, const json_t *status)
{
	const char *name = control_string(status, "name");
	const json_t *map = json_object_get(status, "map");

	if (says(map, "state", "missing"))
		fprintf(to, "%s: has no map yet\n  next: `blkmove replicate create %s`\n", name, name);
	else if (!has_text(map, "error"))
		fprintf(to,
		    "%s: down; by its map this node's data are %s\n  next: `blkmove replicate up %s`\n", name,
		    is(map, "outdated") ? "outdated" : control_string(map, "state"), name);
	else
		fprintf(to, "%s: down, and its map is %s: %s\n", name, control_string(map, "state"),
		    control_string(map, "error"));
	if (says(map, "state", "damaged"))
		fprintf(to,
		    "  next: `blkmove replicate create --overwrite=%s %s` makes a new one; this node gets "
		    "all that "
		    "differs from %s then, and what only this one has is lost\n",
		    name, name, control_string(status, "peer"));
}

static bool print_absent(FILE *to, const json_t *status)
{
	const char *name = control_string(status, "name");

	if (says(status, "state", "down"))
		print_down(to, status);
	else if (says(status, "state", "failed") || says(status, "state", "broken"))
		fprintf(to, "%s: %s: %s\n", name, control_string(status, "state"),
		    control_string(status, "error"));
	else if (says(status, "state", "starting"))
		fprintf(to, "%s: starting\n", name);
	else
		return false;
	return true;
}

static void print_headline(FILE *to, const json_t *status)
{
	const char *line = headline(status);

	fputs(line, to);
	if (strcmp(line, "refused") && !says(status, "flow", "meeting"))
		fprintf(to, " %s", control_string(status, "peer"));
}

void replicate_words_print_line(FILE *to, const json_t *status)
{
	if (print_absent(to, status))
		return;
	fprintf(to, "%s  %s  %s, %s, ", control_string(status, "name"), control_string(status, "volume"),
	    control_string(status, "role"), state_of(status));
	print_headline(to, status);
	if (says(status, "flow", "sending"))
		fprintf(to, "  %d%%",
		    control_percent(control_number(status, "total") - control_number(status, "dirty"),
		        control_number(status, "total")));
	fprintf(to, "; clients: %u\n", (unsigned)control_number(status, "clients"));
}

void replicate_words_print(FILE *to, const json_t *status)
{
	if (print_absent(to, status)) {
		if (says(status, "state", "failed") || says(status, "state", "broken"))
			fprintf(to, "  next: mend that, then `blkmove replicate up %s`\n",
			    control_string(status, "name"));
		return;
	}
	fprintf(to, "%s: ", control_string(status, "name"));
	print_headline(to, status);
	fputc('\n', to);
	print_nodes(to, status);
	if (says(status, "flow", "sending"))
		print_sent(to, status);
	else if (says(status, "flow", "receiving"))
		print_received(to, status);
	else if (differs(status))
		fprintf(to, "  out of sync: %llu bytes\n",
		    (unsigned long long)control_number(status, "out_of_sync"));
	print_verify(to, status);
	print_clients(to, status);
	print_troubles(to, status);
}
