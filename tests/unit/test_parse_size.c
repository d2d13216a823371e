/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sizes as a person types and reads them. */
#include "base/parse_size.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void test_accepts(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} rows[] = {
	    {"0", 0},
	    {"1", 1},
	    {"512B", 512},
	    {"4k", 4096},
	    {"4K", 4096},
	    {"4KiB", 4096},
	    {"1kB", 1024},
	    {"3M", 3u << 20},
	    {"2g", 2ull << 30},
	    {"16T", 16ull << 40},
	    {"1P", 1ull << 50},
	    {"15E", 15ull << 60},
	    {"18446744073709551615", UINT64_MAX},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint64_t bytes = 77;
		struct error error;

		assert_int_equal(parse_size(rows[i].text, &bytes, &error), 0);
		assert_int_equal(bytes, rows[i].bytes);
	}
}

static void test_refuses(void **state)
{
	static const char *const rows[] = {
	    "", "-1", "k", " 1", "1x", "1kk", "1.5M", "18446744073709551616", "16E", "0x10", "1 M"};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint64_t bytes = 77;
		struct error error = {0};

		assert_true(parse_size(rows[i], &bytes, &error) < 0);
		assert_int_equal(bytes, 77);
		assert_true(error.text[0]);
	}
}

static void test_formats(void **state)
{
	char buf[16];

	assert_string_equal(format_size(0, buf, sizeof(buf)), "0 B");
	assert_string_equal(format_size(1023, buf, sizeof(buf)), "1023 B");
	assert_string_equal(format_size(1536, buf, sizeof(buf)), "1.5 KiB");
	assert_string_equal(format_size(4ull << 30, buf, sizeof(buf)), "4.0 GiB");
	assert_string_equal(format_size(100ull << 40, buf, sizeof(buf)), "100 TiB");
	assert_string_equal(format_size(UINT64_MAX, buf, sizeof(buf)), "16.0 EiB");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_accepts),
	    cmocka_unit_test(test_refuses),
	    cmocka_unit_test(test_formats),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
