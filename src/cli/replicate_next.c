/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What somebody has to do about a resource, and what a forced primary risks: see replicate_words_private.h. The first line of a table that fits counts. */
#include "cli/replicate_words_private.h"

#include <stdio.h>

const char *replicate_words_state(const json_t *status)
{
	if (!strcmp(control_string(status, "generation"), "0000000000000000"))
		return "new";
	if (!status_is(status, "good"))
		return "inconsistent";
	return status_is(status, "outdated") ? "outdated" : "good";
}

static bool is_new(const json_t *status)
{
	return !strcmp(replicate_words_state(status), "new");
}

static bool resyncs(const json_t *status)
{
	return status_says(status, "flow", "sending") || status_says(status, "flow", "receiving");
}

/* What comes next */

static bool is_frozen(const json_t *status)
{
	return status_is(status, "frozen");
}

bool replicate_words_is_diskless(const json_t *status)
{
	return status_says(status, "flow", "diskless") && status_says(status, "role", "primary");
}

bool replicate_words_has_the_only_data(const json_t *status)
{
	return status_says(status, "flow", "diskless") && !status_says(status, "role", "primary");
}

static bool has_lost_its_disk(const json_t *status)
{
	return status_is(status, "disk_failed");
}

static bool are_both_new(const json_t *status)
{
	return status_has_text(status, "refusal") && status_says(status, "relation", "both-new");
}

static bool is_foreign(const json_t *status)
{
	return status_has_text(status, "refusal") && status_says(status, "relation", "self-foreign");
}

static bool is_other_foreign(const json_t *status)
{
	return status_has_text(status, "refusal") && status_says(status, "relation", "peer-foreign");
}

static bool is_split(const json_t *status)
{
	return status_has_text(status, "refusal") && status_says(status, "verdict", "split");
}

static bool are_strangers(const json_t *status)
{
	return status_has_text(status, "refusal") && status_says(status, "verdict", "strangers");
}

static bool has_no_source(const json_t *status)
{
	return status_has_text(status, "refusal") && status_says(status, "verdict", "no-good");
}

static bool is_refused(const json_t *status)
{
	return status_has_text(status, "refusal");
}

static bool is_alone_and_new(const json_t *status)
{
	return status_says(status, "flow", "apart") && !strcmp(replicate_words_state(status), "new");
}

static bool is_alone_and_foreign(const json_t *status)
{
	return is_alone_and_new(status) && status_is(status, "foreign");
}

static bool is_held(const json_t *status)
{
	const json_t *verify = json_object_get(status, "verify");

	return status_is(status, "paused") && (resyncs(status) || status_says(verify, "state", "running"));
}

bool replicate_words_differ(const json_t *status)
{
	return status_says(status, "flow", "differing");
}

/* The other one refuses, and had no time to hear what this one makes of it. */
static bool is_left(const json_t *status)
{
	const char *trouble = json_string_value(json_object_get(status, "trouble"));

	return status_says(status, "flow", "apart") && status_is(status, "wanted") && trouble &&
	       strstr(trouble, "the other node gave up: ") && !strstr(trouble, ": disconnected");
}

static bool is_let_be(const json_t *status)
{
	return status_says(status, "flow", "apart") && !status_is(status, "wanted");
}

/* The first that fits counts. In `words` each @ is the resource, and each % the other machine. */
static const struct {
	bool (*fits)(const json_t *status);
	const char *words;
} nexts[] = {
    {is_frozen, "clients wait until it is sure that % writes no more: switch it off, then `blkmove replicate "
                "fenced @`; or bring it back"},
    {replicate_words_is_diskless,
        "its clients go on with %'s disk, and have no other. When they can be stopped: `blkmove replicate "
        "secondary @`, and on % `blkmove replicate primary @`; then mend this node's disk"},
    {replicate_words_has_the_only_data,
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
    {replicate_words_differ,
        "find out why both do not have the same; then `blkmove replicate resync @`, where the data are sent "
        "from, sends again what differs"},
    {is_left, "`blkmove replicate status @` on % says what is to be done"},
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

const char *replicate_words_next(const json_t *status, char *buf, size_t length)
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
	return !strcmp(replicate_words_state(status), "inconsistent");
}

static bool is_outdated(const json_t *status)
{
	return status_is(status, "outdated");
}

static bool is_good_here(const json_t *status)
{
	return status_is(status, "good");
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
