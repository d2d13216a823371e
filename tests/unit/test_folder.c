/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Folders of our own: what replaces a file has it whole, and where a path lies. */
#include "base/folder.h"

#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "own_folder.h"

static void path_in(char ret[PATH_MAX], const char *name)
{
	snprintf(ret, PATH_MAX, "%s/%s", folder, name);
}

static void check_content(const char *name, const char *wanted)
{
	char path[PATH_MAX], text[64] = "";
	FILE *file;

	path_in(path, name);
	file = fopen(path, "r");
	assert_non_null(file);
	assert_int_equal(fread(text, 1, sizeof(text) - 1, file), strlen(wanted));
	fclose(file);
	assert_string_equal(text, wanted);
}

static void test_above(void **state)
{
	char buf[16];

	assert_string_equal(folder_above("/a/bc/d", buf, sizeof(buf)), "/a/bc");
	assert_string_equal(folder_above("/d", buf, sizeof(buf)), "/");
	assert_string_equal(folder_above("a/d", buf, sizeof(buf)), "a");
	assert_string_equal(folder_above("d", buf, sizeof(buf)), ".");
}

static void test_a_file_is_replaced_as_a_whole(void **state)
{
	char path[PATH_MAX], name[NAME_MAX + 1] = "";
	struct stat facts;
	int fd = folder_lock(folder, false);

	assert_true(fd >= 0);
	assert_int_equal(folder_put(fd, "a", "the first, which is longer"), 0);
	check_content("a", "the first, which is longer");
	assert_int_equal(folder_put(fd, "a", "the second"), 0);
	check_content("a", "the second");
	path_in(path, "a.new");
	assert_int_equal(access(path, F_OK), -1);
	/* What cannot be written leaves the old one. */
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(folder_put(fd, "a", "the third"), -EISDIR);
	check_content("a", "the second");
	assert_int_equal(rmdir(path), 0);
	/* Nor does it write where a name that somebody has left there leads to. */
	assert_int_equal(symlink("a", path), 0);
	assert_int_equal(folder_put(fd, "a", "the third"), -ELOOP);
	check_content("a", "the second");
	memset(name, 'n', NAME_MAX - 1);
	assert_int_equal(folder_put(fd, name, "x"), -ENAMETOOLONG);
	path_in(path, "a");
	assert_int_equal(stat(path, &facts), 0);
	assert_int_equal(facts.st_mode & 0777, 0600);
	close(fd);
}

static void test_folders_are_made(void **state)
{
	char path[PATH_MAX];

	path_in(path, "b/c/d");
	assert_int_equal(folder_make(path), 0);
	assert_int_equal(folder_make(path), 0);
	assert_int_equal(folder_sync(path), 0);
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(folder_sync(path), -ENOENT);
	assert_int_equal(folder_make("/proc/self/nowhere"), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_above),
	    cmocka_unit_test_setup_teardown(
	        test_a_file_is_replaced_as_a_whole, own_folder_make, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_folders_are_made, own_folder_make, own_folder_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
