/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The table of endpoint names: what each is taken for, and what is refused with which word. */
#include "block/endpoint.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

struct row {
	const char *word;
	enum endpoint_kind kind;
	const char *host, *path;
};

static const struct row rows[] = {
    {"/dev/sda", ENDPOINT_PATH, NULL, "/dev/sda"},
    {"/dev/disk/by-path/pci-0000:00:1f.2", ENDPOINT_PATH, NULL, "/dev/disk/by-path/pci-0000:00:1f.2"},
    {"/a@b:c", ENDPOINT_PATH, NULL, "/a@b:c"},
    {"file.img", ENDPOINT_PATH, NULL, "file.img"},
    {"./a:b", ENDPOINT_PATH, NULL, "./a:b"},
    {"../a:b", ENDPOINT_PATH, NULL, "../a:b"},
    {"dir/a:b", ENDPOINT_PATH, NULL, "dir/a:b"},
    {"./[x", ENDPOINT_PATH, NULL, "./[x"},
    {"./-", ENDPOINT_PATH, NULL, "./-"},
    {"a[1].img", ENDPOINT_PATH, NULL, "a[1].img"},
    {"user@host", ENDPOINT_PATH, NULL, "user@host"},
    {"a b", ENDPOINT_PATH, NULL, "a b"},
    {".", ENDPOINT_PATH, NULL, "."},
    {"dir/x://y", ENDPOINT_PATH, NULL, "dir/x://y"},
    {"host:/dev/sda", ENDPOINT_SSH, "host", "/dev/sda"},
    {"host:file.img", ENDPOINT_SSH, "host", "file.img"},
    {"host:a:b", ENDPOINT_SSH, "host", "a:b"},
    {"h:-", ENDPOINT_SSH, "h", "-"},
    {"user@host:/x", ENDPOINT_SSH, "user@host", "/x"},
    {"us@er@host:/x", ENDPOINT_SSH, "us@er@host", "/x"},
    {"10.0.0.1:/x", ENDPOINT_SSH, "10.0.0.1", "/x"},
    {"[::1]:/x", ENDPOINT_SSH, "::1", "/x"},
    {"[fe80::1%eth0]:/x", ENDPOINT_SSH, "fe80::1%eth0", "/x"},
    {"root@[::1]:x:y", ENDPOINT_SSH, "root@::1", "x:y"},
    {"[h]:/x", ENDPOINT_SSH, "h", "/x"},
    {"nbd:/x", ENDPOINT_SSH, "nbd", "/x"},
    {"nbd://localhost", ENDPOINT_NBD, NULL, "nbd://localhost"},
    {"nbd://[::1]:10810/disk", ENDPOINT_NBD, NULL, "nbd://[::1]:10810/disk"},
    {"nbds://alice@host/e?tls-psk-file=/k", ENDPOINT_NBD, NULL, "nbds://alice@host/e?tls-psk-file=/k"},
    {"nbd+unix:///?socket=/run/s", ENDPOINT_NBD, NULL, "nbd+unix:///?socket=/run/s"},
    {"nbds+unix:///e?socket=s", ENDPOINT_NBD, NULL, "nbds+unix:///e?socket=s"},
    {"nbd+vsock://2/", ENDPOINT_NBD, NULL, "nbd+vsock://2/"},
    {"-", ENDPOINT_STREAM, NULL, NULL},
};

static void assert_same_text(const char *a, const char *b)
{
	if (b)
		assert_string_equal(a, b);
	else
		assert_null(a);
}

static void test_forms(void **state)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char *words[] = {(char *)rows[i].word, (char *)"]"};
		struct endpoint endpoint;
		struct error error;
		int used = -1;

		print_message("  %s\n", rows[i].word);
		assert_int_equal(endpoint_parse(&endpoint, words, 2, &used, &error), 0);
		assert_int_equal(used, 1);
		assert_int_equal(endpoint.kind, rows[i].kind);
		assert_string_equal(endpoint.name, rows[i].word);
		assert_same_text(endpoint.host, rows[i].host);
		assert_same_text(endpoint.path, rows[i].path);
		assert_null(endpoint.argv);
		endpoint_done(&endpoint);
		endpoint_done(&endpoint);
	}
}

static void test_refusals(void **state)
{
	static const char *const bad[][2] = {
	    {"", "is empty"},
	    {":/x", "no host"},
	    {"@host:/x", "no user"},
	    {"user@:/x", "no host"},
	    {"host:", "no path"},
	    {"[]:/x", "no host"},
	    {"u@[]:/x", "no host"},
	    {"[::1]", "./[::1]"},
	    {"[::1]/x", "[v6-address]:PATH"},
	    {"[::1", "[v6-address]:PATH"},
	    {"[nbdkit", "blanks at the brackets"},
	    {"[a].img", "./[a].img"},
	    {"-oProxyCommand=x:/y", "cannot begin with '-'"},
	    {"u@-oProxyCommand=x:/y", "cannot begin with '-'"},
	    {"[-o]:/y", "cannot begin with '-'"},
	    {"[-oX@[::1]:/y", "user@[ADDRESS]:PATH"},
	    {"ho st:/x", "no blanks"},
	    {"ho\nst:/x", "no blanks"},
	    {"ssh://host/x", "over ssh write"},
	    {"http://host/x", "only nbd://"},
	    {"NBD://host/x", "only nbd://"},
	    {"nbd://host/a b", "%20"},
	    {"]", "without a '['"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char *words[] = {(char *)bad[i][0], (char *)"]"};
		struct endpoint endpoint = {.kind = ENDPOINT_STREAM};
		struct error error = {0};
		int used = -1;

		print_message("  '%s'\n", bad[i][0]);
		assert_int_equal(endpoint_parse(&endpoint, words, 2, &used, &error), -EINVAL);
		assert_int_equal(error.code, -EINVAL);
		if (!strstr(error.text, bad[i][1]))
			fail_msg("'%s' does not speak of '%s'", error.text, bad[i][1]);
		assert_int_equal(used, -1);
		assert_null(endpoint.name);
	}
}

static void test_captive_takes_its_words(void **state)
{
	char *words[] = {"[", "qemu-nbd", "-f", "qcow2", "a b.qcow2", "]", "dst"};
	struct endpoint endpoint;
	struct error error;
	int used;

	assert_int_equal(endpoint_parse(&endpoint, words, 7, &used, &error), 0);
	assert_int_equal(used, 6);
	assert_int_equal(endpoint.kind, ENDPOINT_CAPTIVE);
	assert_string_equal(endpoint.name, "[ qemu-nbd -f qcow2 a b.qcow2 ]");
	for (int i = 0; i < 4; i++)
		assert_string_equal(endpoint.argv[i], words[i + 1]);
	assert_null(endpoint.argv[4]);
	endpoint_done(&endpoint);
	assert_null(endpoint.argv);
}

static void test_captive_refusals(void **state)
{
	char *open_end[] = {"[", "nbdkit", "memory", "1G"};
	char *no_server[] = {"[", "]"};
	char *empty_server[] = {"[", "", "]"};
	char *glued[] = {"[", "nbdkit", "null]"};
	struct endpoint endpoint;
	struct error error;
	int used;

	assert_int_equal(endpoint_parse(&endpoint, open_end, 4, &used, &error), -EINVAL);
	assert_non_null(strstr(error.text, "no ']' ends it"));
	assert_int_equal(endpoint_parse(&endpoint, no_server, 2, &used, &error), -EINVAL);
	assert_non_null(strstr(error.text, "no server"));
	assert_int_equal(endpoint_parse(&endpoint, empty_server, 3, &used, &error), -EINVAL);
	assert_int_equal(endpoint_parse(&endpoint, glued, 3, &used, &error), -EINVAL);
	assert_int_equal(endpoint_parse(&endpoint, glued, 0, &used, &error), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_forms),
	    cmocka_unit_test(test_refusals),
	    cmocka_unit_test(test_captive_takes_its_words),
	    cmocka_unit_test(test_captive_refusals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
