/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is said of a resource to people: for each state of two nodes, the words that there must be and those that must not. */
#include "cli/replicate_words.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A node in sync, a primary; what is given replaces its members. */
static json_t *status_with(const char *members)
{
	json_t *status =
	    json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:b, s:b, s:b, s:b, s:s, s:I, s:I, "
	              "s:s, s:i, s:[s], s:n, s:n}",
	        "kind", "replica", "name", "vm1", "state", "up", "host", "host1", "peer", "host2", "role",
	        "primary", "peer_role", "secondary", "flow", "equal", "linked", 1, "wanted", 1, "serving", 1,
	        "good", 1, "peer_good", 1, "generation", "00000000000000a7", "total", (json_int_t)1 << 30,
	        "dirty", (json_int_t)0, "volume", "/dev/vg/vm1", "clients", 1, "uris",
	        "nbd+unix:///?socket=/run/vm1", "refusal", "verify");
	json_error_t error;
	json_t *more = json_loads(members, 0, &error);

	if (!status || !more)
		fail_msg("%s: %s", members, error.text);
	json_object_update(status, more);
	json_decref(more);
	return status;
}

static void check_line(const char *members, const char *wanted)
{
	json_t *status = status_with(members);
	char text[512];
	FILE *to = fmemopen(text, sizeof(text), "w");

	replicate_words_print_line(to, status);
	fclose(to);
	assert_string_equal(text, wanted);
	json_decref(status);
}

static void check(const char *members, const char *wanted, const char *unwanted)
{
	json_t *status = status_with(members);
	char *text = NULL;
	size_t length;
	FILE *to = open_memstream(&text, &length);

	replicate_words_print(to, status);
	fclose(to);
	if (!strstr(text, wanted))
		fail_msg("no \"%s\" of %s in:\n%s", wanted, members, text);
	if (unwanted && strstr(text, unwanted))
		fail_msg("\"%s\" of %s in:\n%s", unwanted, members, text);
	free(text);
	json_decref(status);
}

static void test_in_sync(void **state)
{
	check("{}", "vm1: in sync with host2\n", "next");
	check("{}", "  this node    primary    good\n  host2        secondary  good\n", NULL);
	check("{}", "clients: 1; nbd+unix:///?socket=/run/vm1\n", NULL);
	check("{\"peer_good\": false}", "host2        secondary  good\n", NULL);
	check("{\"device\": \"/dev/blkmove/vm1\"}", "; /dev/blkmove/vm1\n", NULL);
	check("{\"device\": \"/dev/blkmove/vm1\", \"device_size\": 1048576, \"device_reason\": null}",
	    "; /dev/blkmove/vm1\n", "keeps");
	check(
	    "{\"device\": \"/dev/blkmove/vm1\", \"device_size\": 1048576, \"device_reason\": \"old kernel\"}",
	    "  /dev/blkmove/vm1 keeps its 1.0 MiB: old kernel\n", NULL);
	check("{\"role\": \"secondary\", \"serving\": false}", "this node    secondary", "clients");
}

static void test_in_one_line(void **state)
{
	check_line("{}", "vm1  /dev/vg/vm1  primary, good, in sync with host2; clients: 1\n");
	check_line("{\"flow\": \"sending\", \"dirty\": 536870912}",
	    "vm1  /dev/vg/vm1  primary, good, resync to host2  50%; clients: 1\n");
	check_line("{\"state\": \"failed\", \"error\": \"no disk\"}", "vm1: failed: no disk\n");
}

static void test_resync(void **state)
{
	check("{\"flow\": \"sending\", \"dirty\": 1048576, \"sync_rate\": 1048576, \"eta_s\": 61}",
	    "[#######################.] 99%  1.0 MiB left, 1.0 MiB/s, ETA 1:01\n", "100%");
	check("{\"flow\": \"sending\", \"dirty\": 1073741824, \"eta_s\": null}", "] 0%  1.0 GiB left", "ETA");
	check("{\"flow\": \"sending\", \"dirty\": 1}", "host2        secondary  inconsistent\n", "next");
	check("{\"flow\": \"sending\", \"dirty\": 1, \"paused\": true}", ", held\n  clients", "ETA");
	check("{\"flow\": \"sending\", \"dirty\": 1, \"paused\": true}",
	    "next: `blkmove replicate resync vm1 --continue`", NULL);
	/* What is left, this side cannot know. */
	check("{\"flow\": \"receiving\", \"good\": false, \"role\": \"secondary\"}",
	    "`blkmove replicate status vm1` on host2 says how much is left\n", "%");
	check("{\"flow\": \"meeting\", \"peer_role\": null}", "host2        unknown    unknown\n", NULL);
	check("{\"flow\": \"receiving\", \"good\": false}", "this node    primary    inconsistent\n", NULL);
}

static void test_apart(void **state)
{
	check("{\"flow\": \"apart\", \"linked\": false}", "vm1: no link, looking for host2\n", "next");
	check("{\"flow\": \"apart\", \"linked\": false}", "host2        unknown    unknown\n", NULL);
	check("{\"flow\": \"apart\", \"linked\": false, \"trying\": \"refused by 10.0.0.2\"}",
	    "refused by 10.0.0.2\n", NULL);
	check("{\"flow\": \"apart\", \"linked\": false, \"wanted\": false}", "vm1: disconnected from host2\n",
	    NULL);
	check("{\"flow\": \"apart\", \"linked\": false, \"wanted\": false}",
	    "next: `blkmove replicate connect vm1`", NULL);
	check("{\"flow\": \"apart\", \"linked\": false, \"frozen\": true}", "`blkmove replicate fenced vm1`",
	    NULL);
	check("{\"flow\": \"apart\", \"linked\": false, \"outdated\": true}", "primary    outdated\n", NULL);
	check(
	    "{\"flow\": \"apart\", \"linked\": false, \"generation\": \"0000000000000000\", \"good\": false}",
	    "next: if this node's data are to count, once: `blkmove replicate primary --force vm1`", NULL);
	check("{\"flow\": \"apart\", \"linked\": false, \"disk_failed\": true}",
	    "good, its disk has failed\n", NULL);
}

static void test_diskless(void **state)
{
#define DISKLESS \
	"{\"flow\": \"diskless\", \"good\": false, \"generation\": \"0000000000000000\", \"disk_failed\": " \
	"true}"
	check(DISKLESS, "vm1: this node's disk has failed, its clients use that of host2\n", "new");
	check(DISKLESS,
	    "  this node    primary    given up, its disk has failed\n  host2        secondary  good\n",
	    "new");
	check(DISKLESS, "next: its clients go on with host2's disk", "create");
	check("{\"flow\": \"diskless\", \"role\": \"secondary\", \"peer_role\": \"primary\", \"peer_good\": "
	      "false}",
	    "vm1: has the only good data, used by the clients of host2\n"
	    "  this node    secondary  good\n  host2        primary    its disk has failed\n",
	    "in sync");
}

#define REFUSED(relation, verdict) \
	"{\"flow\": \"apart\", \"linked\": false, \"wanted\": false, \"refusal\": \"so it is\", " \
	"\"relation\": \"" relation "\", \"verdict\": \"" verdict "\"}"

static void test_troubles(void **state)
{
	check("{\"trouble\": \"the hook failed\"}", "  the hook failed\n", NULL);
	check(
	    "{\"trouble\": \"lost: so it is\", \"refusal\": \"so it is\"}", "  refused: so it is\n", "lost");
	check("{\"trouble\": \"the hook failed\", \"refusal\": \"so it is\"}", "  the hook failed\n", NULL);
	check("{\"trouble\": \"lost: disconnected\", \"flow\": \"apart\", \"wanted\": false}",
	    "disconnected from", "lost");
	check("{\"trouble\": \"EIO\", \"flow\": \"apart\", \"wanted\": false, \"disk_failed\": true}",
	    "  EIO\n", NULL);
}

static void test_refusals(void **state)
{
	check(REFUSED("parted", "split"), "vm1: refused\n", "connect host2");
	check(REFUSED("parted", "split"), "  refused: so it is\n", NULL);
	check(REFUSED("parted", "split"), "`blkmove replicate resolve vm1 --discard-mine vm1`", "--force");
	check(REFUSED("same-both-sent", "split"), "--discard-mine vm1", NULL);
	check(REFUSED("both-new", "strangers"), "`blkmove replicate primary --force vm1`", "discard");
	check(REFUSED("unrelated", "strangers"), "--discard-mine vm1", "--force");
	check(REFUSED("self-foreign", "strangers"),
	    "`blkmove replicate resolve vm1 --discard-mine vm1`, then on host2", "on the node whose");
	check(REFUSED("peer-foreign", "strangers"),
	    "on host2: `blkmove replicate resolve vm1 --discard-mine vm1`; then here `blkmove replicate "
	    "connect vm1`",
	    "--force");
	check("{\"flow\": \"apart\", \"generation\": \"0000000000000000\", \"foreign\": true}",
	    "`blkmove replicate resolve vm1 --discard-mine vm1`", "it waits");
	check("{\"flow\": \"apart\", \"generation\": \"0000000000000000\", \"foreign\": false}", "it waits",
	    "resolve");
	check(REFUSED("same", "no-good"), "no node has whole data", NULL);
	check(REFUSED("self-ahead", "source"), "mend that, then `blkmove replicate connect vm1`", "discard");
	/* Said by the other node alone. */
	check("{\"flow\": \"apart\", \"linked\": false, \"trouble\": \"the link to the other node is lost: "
	      "the other "
	      "node gave up: the two nodes never had the same data\"}",
	    "next: `blkmove replicate status vm1` on host2 says what is to be done\n", NULL);
	check("{\"flow\": \"apart\", \"linked\": false, \"trouble\": \"the link to the other node is lost: "
	      "the other "
	      "node gave up: disconnected\"}",
	    "the other node gave up: disconnected\n", "next");
}

static void test_verification(void **state)
{
	check("{\"verify\": {\"state\": \"running\", \"position\": 536870912, \"differing\": 0}}",
	    "verification running, 50%, nothing differs\n", NULL);
	check("{\"flow\": \"differing\", \"out_of_sync\": 65536, \"peer_good\": false}",
	    "vm1: out of sync with host2\n  this node    primary    good\n  host2        secondary  good\n"
	    "  out of sync: 65536 bytes\n",
	    "in sync");
	check("{\"flow\": \"differing\", \"out_of_sync\": 65536}", "`blkmove replicate resync vm1`", NULL);
	/* What an earlier pass has marked, another one that began behind it has not seen. */
	check("{\"flow\": \"differing\", \"out_of_sync\": 65536, \"verify\": {\"state\": \"running\", "
	      "\"position\": 536870912, \"differing\": 0}}",
	    "verification running, 50%, nothing else differs\n", NULL);
	check("{\"verify\": {\"state\": \"done\", \"position\": 1, \"differing\": 4096}}",
	    "vm1: in sync with host2\n", "next");
	check("{\"verify\": {\"state\": \"done\", \"position\": 1073741824, \"differing\": 4096}}",
	    "verification done, 100%, 4.0 KiB differed\n", "nothing differs");
	check("{\"flow\": \"differing\", \"verify\": {\"state\": \"done\", \"position\": 1073741824, "
	      "\"differing\": 4096}}",
	    "verification done, 100%, 4.0 KiB differ\n", NULL);
}

static void test_not_up(void **state)
{
	check("{\"state\": \"failed\", \"error\": \"no disk\"}",
	    "vm1: failed: no disk\n  next: mend that, then `blkmove replicate up vm1`\n", "this node");
	check("{\"state\": \"starting\"}", "vm1: starting\n", "this node");
	check("{\"state\": \"down\", \"map\": {\"state\": \"good\"}}",
	    "vm1: down; by its map this node's data are good\n  next: `blkmove replicate up vm1`\n", NULL);
	check("{\"state\": \"down\", \"map\": {\"state\": \"good\", \"outdated\": true}}",
	    "data are outdated\n", "good");
	check("{\"state\": \"down\", \"map\": {\"state\": \"missing\", \"error\": \"x\"}}",
	    "`blkmove replicate create vm1`", "up vm1");
	check("{\"state\": \"down\", \"map\": {\"state\": \"damaged\", \"error\": \"crc\"}}",
	    "its map is damaged: crc\n  next: `blkmove replicate create --overwrite=vm1 vm1`", "by its map");
	check("{\"state\": \"down\", \"map\": {\"state\": \"unreadable\", \"error\": \"eio\"}}",
	    "its map is unreadable: eio\n", "next");
}

static void check_risk(const char *members, const char *wanted, const char *unwanted)
{
	json_t *status = status_with(members);
	char text[640];

	replicate_words_risk(status, text, sizeof(text));
	if (!strstr(text, wanted) || strlen(text) + 1 == sizeof(text))
		fail_msg("no \"%s\" of %s in: %s", wanted, members, text);
	if (unwanted && strstr(text, unwanted))
		fail_msg("\"%s\" of %s in: %s", unwanted, members, text);
	json_decref(status);
}

static void test_risks(void **state)
{
	check_risk(
	    "{\"generation\": \"0000000000000000\", \"good\": false}", "were never replicated", "half");
	check_risk("{\"good\": false}", "half of a resync", "split brain");
	check_risk("{\"outdated\": true}", "host2 has gone on without this node", "half");
	check_risk("{}", "host2 was primary when this node heard of it last", "half");
	check_risk("{}", "`blkmove replicate fenced vm1`", NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_in_sync),
	    cmocka_unit_test(test_in_one_line),
	    cmocka_unit_test(test_resync),
	    cmocka_unit_test(test_apart),
	    cmocka_unit_test(test_diskless),
	    cmocka_unit_test(test_troubles),
	    cmocka_unit_test(test_refusals),
	    cmocka_unit_test(test_verification),
	    cmocka_unit_test(test_not_up),
	    cmocka_unit_test(test_risks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
