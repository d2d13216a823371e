/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Tools that are run for their effect: with a deadline, and to their end. */
#include "wire/child.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static int run(const char *text, struct ring *ring, unsigned timeout_ms, struct error *error)
{
	char *words[] = {"sh", "-c", (char *)text, NULL};

	return child_run(words, ring, timeout_ms, error);
}

/* What has a volume suspended must not be killed, however long it takes; nor may what it leaves running be waited for. */
static void test_h27_a_tool_is_not_killed(void **state)
{
	char path[] = "/tmp/blkmove-child-XXXXXX", text[160];
	struct error error;

	close(mkstemp(path));
	unlink(path);
	snprintf(text, sizeof(text), "exec >&- 2>&-; sleep 1; echo done >%s", path);
	assert_int_equal(run(text, NULL, 0, &error), 0);
	assert_int_equal(access(path, F_OK), 0);
	unlink(path);
	/* More than a pipe holds. */
	snprintf(text, sizeof(text), "head -c 200000 /dev/zero; sleep 20 & echo done >%s", path);
	alarm(15);
	assert_int_equal(run(text, NULL, 0, &error), 0);
	alarm(0);
	assert_int_equal(access(path, F_OK), 0);
	unlink(path);
	assert_int_equal(run("echo 'no room' >&2; exit 3", NULL, 0, &error), -EIO);
	assert_non_null(strstr(error.text, "no room"));
}

static void test_deadline(void **state)
{
	struct error error;
	struct ring *ring;

	assert_int_equal(ring_new(&ring, 8, &error), 0);
	assert_int_equal(run("exit 0", ring, 10000, &error), 0);
	assert_int_equal(run("echo once; exit 1", ring, 10000, &error), -EIO);
	assert_non_null(strstr(error.text, "once"));
	assert_int_equal(run("exec sleep 20", ring, 100, &error), -ETIMEDOUT);
	ring_free(ring);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_h27_a_tool_is_not_killed),
	    cmocka_unit_test(test_deadline),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
