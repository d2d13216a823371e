/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What nodes say comes back as it was; what cannot be said is refused with words. */
#include "base/rand.h"
#include "replica/replica_wire.h"
#include "wire/control.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "seed.h"

static uint64_t name(struct rand *rand)
{
	return rand_between(rand, 1, REPLICA_NAME_MAX);
}

static struct replica_ids some_ids(struct rand *rand)
{
	struct replica_ids ids = {.current = name(rand)};
	uint64_t bases = rand_below(rand, REPLICA_BASES + 1), past = rand_below(rand, REPLICA_HISTORY + 1);

	for (uint64_t i = 0; i < bases; i++)
		ids.base[i] = name(rand);
	for (uint64_t i = 0; i < past; i++)
		ids.history[i] = name(rand);
	ids.sender = rand_below(rand, 2);
	ids.outdated = rand_below(rand, 2);
	ids.follows = rand_below(rand, 2);
	ids.full = rand_below(rand, 2);
	ids.grown = rand_below(rand, 2);
	/* What never was a replica's has no name. */
	ids.foreign = !ids.sender && rand_below(rand, 4) == 0;
	if (ids.foreign)
		ids.current = 0;
	return ids;
}

static void assert_same_ids(const struct replica_ids *a, const struct replica_ids *b)
{
	assert_int_equal(a->current, b->current);
	assert_memory_equal(a->base, b->base, sizeof(a->base));
	assert_memory_equal(a->history, b->history, sizeof(a->history));
	assert_true(a->sender == b->sender && a->inconsistent == b->inconsistent &&
	            a->outdated == b->outdated && a->follows == b->follows && a->full == b->full &&
	            a->grown == b->grown && a->foreign == b->foreign);
}

static void test_comes_back(void **state)
{
	struct rand rand;

	rand_init(&rand, seed_of_run());
	for (unsigned i = 0; i < 500; i++) {
		struct replica_message sent = {.say = (enum replica_say)(i % REPLICA_SAYS)}, got;
		struct error error;
		json_t *json;

		if (sent.say == REPLICA_HELLO || sent.say == REPLICA_FOLLOW)
			sent.ids = some_ids(&rand);
		if (sent.say == REPLICA_FOLLOW && !sent.ids.current) {
			sent.ids.current = 1;
			sent.ids.foreign = false;
		}
		if (sent.say == REPLICA_HELLO) {
			sent.ids.inconsistent = !sent.ids.sender && !sent.ids.foreign;
			sent.role = (enum replica_role)rand_below(&rand, 2);
			sent.size = rand_between(&rand, 1, INT64_MAX);
			sent.region_size = (uint32_t)rand_between(&rand, 1, UINT32_MAX);
			sent.name = name(&rand);
			sent.discards = rand_below(&rand, 2);
		}
		if (sent.say == REPLICA_ENLARGE || sent.say == REPLICA_ENLARGED ||
		    sent.say == REPLICA_DIFFERS)
			sent.size = rand_between(&rand, 1, INT64_MAX);
		if (sent.say == REPLICA_LEASE)
			sent.lease_ms = (uint32_t)rand_below(&rand, UINT64_C(1) << 32);
		if (sent.say == REPLICA_DETACH)
			sent.name = name(&rand);
		json = replica_message_json(&sent);
		assert_non_null(json);
		if (replica_message_parse(json, &got, &error) < 0)
			fail_msg("%s", error.text);
		assert_int_equal(got.say, sent.say);
		assert_int_equal(got.role, sent.role);
		assert_int_equal(got.size, sent.size);
		assert_int_equal(got.region_size, sent.region_size);
		assert_int_equal(got.name, sent.name);
		assert_int_equal(got.lease_ms, sent.lease_ms);
		assert_int_equal(got.discards, sent.discards);
		assert_same_ids(&got.ids, &sent.ids);
		json_decref(json);
	}
}

#define IDS(rest) \
	"\"ids\": {\"sender\": false, \"inconsistent\": false, \"outdated\": false, \"follows\": false, " \
	"\"full\": " \
	"false, \"grown\": false, \"foreign\": false, " rest "}"

static const struct {
	const char *text, *words;
} refused[] = {
    {"{}", "say"},
    {"{\"say\": 1}", "say"},
    {"{\"say\": \"SHOUT\"}", "nothing that a node says"},
    {"{\"say\": \"FOLLOW\"}", "`ids` is missing"},
    {"{\"say\": \"FOLLOW\", \"ids\": 3}", "`ids` is missing"},
    {"{\"say\": \"FOLLOW\", " IDS("\"base\": [], \"history\": []") "}", "current"},
    {"{\"say\": \"FOLLOW\", " IDS("\"current\": 0, \"base\": [], \"history\": []") "}", "not good"},
    {"{\"say\": \"FOLLOW\", " IDS("\"current\": 5, \"base\": [1, 2, 3], \"history\": []") "}", "`base`"},
    {"{\"say\": \"FOLLOW\", " IDS("\"current\": 5, \"base\": [0], \"history\": []") "}", "no name"},
    {"{\"say\": \"FOLLOW\", " IDS("\"current\": 5, \"base\": [-1], \"history\": []") "}", "no name"},
    {"{\"say\": \"FOLLOW\", " IDS("\"current\": 5, \"base\": [\"x\"], \"history\": []") "}", "no name"},
    {"{\"say\": \"FOLLOW\", " IDS("\"current\": 5, \"base\": [], \"history\": [1,2,3,4,5,6,7,8,9]") "}",
        "`history`"},
    {"{\"say\": \"FOLLOW\", " IDS("\"current\": 4611686018427387904, \"base\": [], \"history\": []") "}",
        "too large"},
    {"{\"say\": \"HELLO\", " IDS("\"current\": 5, \"base\": [], \"history\": []") "}", "primary"},
    {"{\"say\": \"HELLO\", \"ids\": {\"current\": 5, \"base\": [], \"history\": [], \"sender\": false, "
     "\"inconsistent\": false, \"outdated\": false, \"follows\": false, \"full\": false, \"grown\": false, "
     "\"foreign\": true}}",
        "make no sense"},
    {"{\"say\": \"HELLO\", \"primary\": true, \"size\": 1, \"region\": 4294967296, " IDS(
         "\"current\": 5, \"base\": [], \"history\": []") "}",
        "`region`"},
    {"{\"say\": \"LEASE\"}", "lease_ms"},
    {"{\"say\": \"DETACH\"}", "generation"},
    {"{\"say\": \"DETACH\", \"generation\": 0}", "generation"},
    {"{\"say\": \"ENLARGE\"}", "size"},
    {"{\"say\": \"DIFFERS\"}", "size"},
    {"{\"say\": \"LEASE\", \"lease_ms\": 4294967296}", "too large"},
};

static void test_refused(void **state)
{
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		struct replica_message message;
		struct error error = {0};
		json_t *json = json_loads(refused[i].text, 0, NULL);

		if (!json)
			fail_msg("row %zu is no JSON", i);
		assert_int_equal(replica_message_parse(json, &message, &error), -EPROTO);
		if (!strstr(error.text, refused[i].words))
			fail_msg("row %zu: %s", i, error.text);
		json_decref(json);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_comes_back),
	    cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
