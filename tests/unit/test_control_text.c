/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Texts of any encoding in JSON: nothing is lost, and what comes out is UTF-8. */
#include "base/rand.h"
#include "wire/control.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "seed.h"

static void test_what_is_not_utf8_is_escaped(void **state)
{
	static const char *const rows[][2] = {
	    {"", ""},
	    {"plain \"quoted\" \\ back", "plain \"quoted\" \\ back"},
	    {"Gr\u00f6\u00dfe \u20ac \U0001f980", "Gr\u00f6\u00dfe \u20ac \U0001f980"},
	    {"bad\xff", "bad\\xff"},
	    {"\xf6l", "\\xf6l"},
	    {"cut \xe2\x82", "cut \\xe2\\x82"},
	    {"cut \xf0\x9f\xa6", "cut \\xf0\\x9f\\xa6"},
	    {"\xc0\xaf \xe0\x80\xaf", "\\xc0\\xaf \\xe0\\x80\\xaf"},
	    {"\xed\xa0\x80 \xf4\x90\x80\x80", "\\xed\\xa0\\x80 \\xf4\\x90\\x80\\x80"},
	    {"\xed\x9f\xbf \xf4\x8f\xbf\xbf", "\xed\x9f\xbf \xf4\x8f\xbf\xbf"},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		json_t *json = control_text(rows[i][0]);

		assert_non_null(json);
		assert_string_equal(json_string_value(json), rows[i][1]);
		json_decref(json);
	}
}

static void test_any_bytes_make_a_string(void **state)
{
	uint64_t seed = seed_of_run();
	struct rand rand;

	rand_init(&rand, seed);
	for (int round = 0; round < 100000; round++) {
		char bytes[9] = "";
		uint64_t length = rand_below(&rand, sizeof(bytes));
		json_t *json, *plain;

		rand_bytes(&rand, bytes, length);
		/* Lead bytes are rare otherwise. */
		bytes[0] |= (char)(rand_one_in(&rand, 2) ? 0xe0 : 0);
		json = control_text(bytes);
		assert_non_null(json);
		/* What jansson takes as it is stays as it is. */
		plain = json_string(bytes);
		assert_true(!plain || json_equal(plain, json));
		json_decref(plain);
		json_decref(json);
	}
}

static void test_errors_keep_their_words(void **state)
{
	json_t *json = control_error(-5, "cannot open /srv/Gr\u00f6\u00dfe\xff\033[2J");

	assert_string_equal(
	    json_string_value(json_object_get(json, "text")), "cannot open /srv/Gr\u00f6\u00dfe\\xff?[2J");
	json_decref(json);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_what_is_not_utf8_is_escaped),
	    cmocka_unit_test(test_any_bytes_make_a_string),
	    cmocka_unit_test(test_errors_keep_their_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
