/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is said comes back as it was; what cannot be said is refused with words; no line is longer than it may be. */
#include "replica/replica_greeting.h"
#include "replica/replica_wire.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_greeting_comes_back(void **state)
{
	static const struct replica_greeting greetings[] = {{"vm1", REPLICA_STREAM_LINK, 1, REPLICATE_SENT},
	    {"a-b_c.0123456789012345678901234567890123456789012345678901234567", REPLICA_STREAM_DATA,
	        REPLICA_NAME_MAX, REPLICATE_DURABLE}};
	char line[REPLICA_GREETING_MAX];

	for (size_t i = 0; i < 2; i++) {
		struct replica_greeting got;
		int length = replica_greeting_format(&greetings[i], line);

		assert_in_range(length, 2, REPLICA_GREETING_MAX);
		assert_int_equal(line[length - 1], '\n');
		assert_null(memchr(line, '\n', (size_t)length - 1));
		assert_int_equal(replica_greeting_parse(line, (size_t)length - 1, &got, NULL), 0);
		assert_string_equal(got.resource, greetings[i].resource);
		assert_int_equal(got.stream, greetings[i].stream);
		assert_int_equal(got.link, greetings[i].link);
		assert_int_equal(got.ack, greetings[i].ack);
	}
}

static void test_refused_greetings(void **state)
{
	static const struct {
		const char *line;
		int res;
		const char *words;
	} rows[] = {
	    {"", -EPROTO, "no greeting"},
	    {"GET / HTTP/1.1\r", -EPROTO, "no greeting"},
	    {"[1]", -EPROTO, "no greeting"},
	    {"{\"resource\":\"a\",\"stream\":\"link\",\"link\":1}", -EPROTO, "no greeting"},
	    {"{\"blkmove-replica\":2}", -EPROTONOSUPPORT, "the same blkmove on both"},
	    {"{\"blkmove-replica\":1,\"stream\":\"link\",\"link\":1}", -EPROTO, "'resource'"},
	    {"{\"blkmove-replica\":1,\"resource\":7,\"stream\":\"link\",\"link\":1}", -EPROTO, "'resource'"},
	    {"{\"blkmove-replica\":1,\"resource\":"
	     "\"01234567890123456789012345678901234567890123456789012345678"
	     "90123\",\"stream\":\"link\",\"link\":1,\"ack\":\"sent\"}",
	        0, ""},
	    {"{\"blkmove-replica\":1,\"resource\":"
	     "\"01234567890123456789012345678901234567890123456789012345678"
	     "901234\",\"stream\":\"link\",\"link\":1}",
	        -EPROTO, "too long"},
	    {"{\"blkmove-replica\":1,\"resource\":\"a\",\"stream\":\"map\",\"link\":1}", -EPROTO,
	        "no stream"},
	    {"{\"blkmove-replica\":1,\"resource\":\"a\",\"link\":1}", -EPROTO, "no stream"},
	    {"{\"blkmove-replica\":1,\"resource\":\"a\",\"stream\":\"data\",\"link\":0}", -EPROTO, "'link'"},
	    {"{\"blkmove-replica\":1,\"resource\":\"a\",\"stream\":\"data\",\"link\":-1}", -EPROTO, "'link'"},
	    {"{\"blkmove-replica\":1,\"resource\":\"a\",\"stream\":\"data\",\"link\":4611686018427387904}",
	        -EPROTO, "'link'"},
	    {"{\"blkmove-replica\":1,\"resource\":\"a\",\"stream\":\"data\",\"link\":1}", -EPROTO, "'ack'"},
	    {"{\"blkmove-replica\":1,\"resource\":\"a\",\"stream\":\"data\",\"link\":1,\"ack\":\"C\"}",
	        -EPROTO, "'ack'"},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct replica_greeting got = {.link = 99};
		struct error error = {0};

		assert_int_equal(
		    replica_greeting_parse(rows[i].line, strlen(rows[i].line), &got, &error), rows[i].res);
		assert_non_null(strstr(error.text, rows[i].words));
		assert_true(rows[i].res == 0 || got.link == 99);
	}
}

static void test_answers(void **state)
{
	char line[REPLICA_GREETING_MAX], bad[600];
	struct error error = {0};
	int length = replica_greeting_answer_format(NULL, line);

	assert_int_equal(replica_greeting_answer_parse(line, (size_t)length - 1, &error), 0);
	length = replica_greeting_answer_format("no \"vm2\" here\n\033[2J", line);
	assert_int_equal(replica_greeting_answer_parse(line, (size_t)length - 1, &error), -ECONNREFUSED);
	assert_non_null(strstr(error.text, "no \"vm2\" here??[2J"));
	/* Each byte of these takes several as JSON. */
	for (int byte = 1; byte < 256; byte++) {
		memset(bad, byte, sizeof(bad) - 1);
		bad[sizeof(bad) - 1] = '\0';
		length = replica_greeting_answer_format(bad, line);
		assert_in_range(length, 20, REPLICA_GREETING_MAX);
		assert_int_equal(
		    replica_greeting_answer_parse(line, (size_t)length - 1, &error), -ECONNREFUSED);
	}
	assert_int_equal(replica_greeting_answer_parse("SSH-2.0", 7, &error), -EPROTO);
	assert_int_equal(replica_greeting_answer_parse("{}", 2, &error), -EPROTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_greeting_comes_back),
	    cmocka_unit_test(test_refused_greetings),
	    cmocka_unit_test(test_answers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
