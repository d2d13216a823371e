/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What an agent may open: a small tree with every trick that leads outside. */
#include "base/cleanup.h"
#include "block/path_policy.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char top[PATH_MAX];

/* A path in the tree, good for the next 63 calls: a test makes fewer. */
static const char *in(const char *name)
{
	static char paths[64][PATH_MAX + 64];
	static unsigned turn;
	char *path = paths[turn++ % 64];

	snprintf(path, sizeof(paths[0]), "%s/%s", top, name);
	return path;
}

static void make_file(const char *name)
{
	int fd = open(in(name), O_CREAT | O_WRONLY | O_EXCL, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, name, strlen(name)), strlen(name));
	close(fd);
}

static void make_link(const char *target, const char *name)
{
	assert_int_equal(symlink(target, in(name)), 0);
}

static int setup(void **state)
{
	char name[] = "/tmp/blkmove-policy-XXXXXX";

	if (!mkdtemp(name) || !realpath(name, top))
		return -1;
	mkdir(in("allowed"), 0700);
	mkdir(in("allowed/sub"), 0700);
	mkdir(in("allowed2"), 0700);
	mkdir(in("outside"), 0700);
	make_file("outside/secret");
	make_file("allowed2/neighbour");
	make_file("allowed/inside");
	make_file("allowed/sub/deep");
	make_file("single");
	make_link("inside", "allowed/link-inside");
	make_link("sub/../inside", "allowed/link-around");
	make_link("../outside/secret", "allowed/link-out");
	make_link(in("outside/secret"), "allowed/link-absolute");
	make_link(in("allowed/inside"), "allowed/link-absolute-inside");
	make_link("../outside", "allowed/folder-out");
	make_link("link-out", "allowed/link-link");
	make_link("/proc/self/root", "allowed/magic");
	make_link("/proc/self/cwd", "allowed/magic-cwd");
	make_link("../outside/new", "allowed/dangling-out");
	make_link("outside/secret", "named-link");
	make_link("allowed", "folder-link");
	make_link("loop", "allowed/loop");
	return 0;
}

static int unlink_one(const char *path, const struct stat *stat, int flag, struct FTW *ftw)
{
	return remove(path);
}

static int teardown(void **state)
{
	return nftw(top, unlink_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Opens and says what the file holds, or NULL and the error's number. */
static const char *try(
    const struct path_policy *policy, const char *path, int flags, int *ret, struct error *error)
{
	static char text[128];
	_cleanup_(cleanup_close) int fd = path_policy_open(policy, path, flags, 0600, error);
	ssize_t got;

	*ret = fd < 0 ? fd : 0;
	if (fd < 0)
		return NULL;
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	got = read(fd, text, sizeof(text) - 1);
	text[got > 0 ? got : 0] = '\0';
	return text;
}

static void check(const struct path_policy *policy, const char *path, const char *want, int code)
{
	struct error error = {0};
	int res;
	const char *text = try(policy, path, O_RDONLY, &res, &error);

	print_message("%s\n", path);
	assert_int_equal(res, code);
	if (want)
		assert_string_equal(text, want);
	if (code == -EACCES) {
		assert_int_equal(error.code, -EACCES);
		assert_non_null(strstr(error.text, "--allow"));
	}
}

static void test_folder(void **state)
{
	const char *allow[] = {in("allowed"), NULL};
	const struct path_policy policy = {.allow = allow};

	check(&policy, in("allowed/inside"), "allowed/inside", 0);
	check(&policy, in("allowed//inside"), "allowed/inside", 0);
	check(&policy, in("allowed/./inside"), "allowed/inside", 0);
	check(&policy, in("allowed/sub/deep"), "allowed/sub/deep", 0);
	check(&policy, in("allowed/sub/../inside"), "allowed/inside", 0);
	check(&policy, in("allowed/link-inside"), "allowed/inside", 0);
	check(&policy, in("allowed/link-around"), "allowed/inside", 0);
	check(&policy, in("allowed/missing"), NULL, -ENOENT);
	check(&policy, in("allowed/../outside/secret"), NULL, -EACCES);
	check(&policy, in("allowed/sub/../../outside/secret"), NULL, -EACCES);
	check(&policy, in("allowed/.."), NULL, -EACCES);
	check(&policy, in("allowed/link-out"), NULL, -EACCES);
	check(&policy, in("allowed/link-absolute"), NULL, -EACCES);
	check(&policy, in("allowed/link-absolute-inside"), NULL, -EACCES);
	check(&policy, in("allowed/folder-out/secret"), NULL, -EACCES);
	check(&policy, in("allowed/link-link"), NULL, -EACCES);
	check(&policy, in("allowed/loop"), NULL, -EACCES);
	check(&policy, in("allowed/inside/x"), NULL, -EACCES);
	check(&policy, in("allowed2/neighbour"), NULL, -EACCES);
	check(&policy, in("outside/secret"), NULL, -EACCES);
	check(&policy, in("single"), NULL, -EACCES);
	check(&policy, "allowed/inside", NULL, -EACCES);
	check(&policy, "", NULL, -EACCES);
	check(&policy, "/", NULL, -EACCES);
}

static void test_magic_links(void **state)
{
	const char *allow[] = {in("allowed"), "/proc/self", NULL};
	const struct path_policy policy = {.allow = allow};
	char path[64];
	_cleanup_(cleanup_close) int fd = open(in("outside/secret"), O_RDONLY);

	check(&policy, in("allowed/magic/etc/passwd"), NULL, -EACCES);
	check(&policy, in("allowed/magic-cwd"), NULL, -EACCES);
	check(&policy, "/proc/self/root/etc/passwd", NULL, -EACCES);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	check(&policy, path, NULL, -EACCES);
}

static void test_named_file_and_links(void **state)
{
	const char *allow[] = {in("single"), in("named-link"), in("folder-link"), NULL};
	const struct path_policy policy = {.allow = allow};

	check(&policy, in("single"), "single", 0);
	check(&policy, in("single/x"), NULL, -EACCES);
	check(&policy, in("single2"), NULL, -EACCES);
	/* Named by the administrator: followed. What it points to is not allowed by that. */
	check(&policy, in("named-link"), "outside/secret", 0);
	check(&policy, in("outside/secret"), NULL, -EACCES);
	check(&policy, in("folder-link/inside"), "allowed/inside", 0);
	check(&policy, in("folder-link/link-out"), NULL, -EACCES);
	check(&policy, in("allowed/inside"), NULL, -EACCES);
}

/* One entry leads outside, another names the place itself. */
static void test_second_entry_helps(void **state)
{
	const char *allow[] = {in("allowed"), in("allowed/link-out"), NULL};
	const struct path_policy policy = {.allow = allow};

	check(&policy, in("allowed/link-out"), "outside/secret", 0);
	check(&policy, in("allowed/link-link"), NULL, -EACCES);
}

static void test_forms_of_allow(void **state)
{
	const char *slash[] = {in("allowed/"), NULL}, *root[] = {"/", NULL}, *none[] = {NULL};

	check(&(struct path_policy){.allow = slash}, in("allowed/inside"), "allowed/inside", 0);
	check(&(struct path_policy){.allow = slash}, in("allowed2/neighbour"), NULL, -EACCES);
	check(&(struct path_policy){.allow = root}, in("outside/secret"), "outside/secret", 0);
	check(&(struct path_policy){.allow = none}, in("outside/secret"), NULL, -EACCES);
	check(&(struct path_policy){.allow = NULL}, in("allowed/link-out"), "outside/secret", 0);
	check(NULL, in("allowed/link-out"), "outside/secret", 0);
}

static void test_read_only(void **state)
{
	const char *allow[] = {in("allowed"), in("single"), NULL};
	const struct path_policy policies[] = {{.allow = allow, .read_only = true}, {.read_only = true}};
	static const int flags[] = {
	    O_RDWR, O_WRONLY, O_RDWR | O_CREAT, O_RDONLY | O_CREAT, O_RDONLY | O_TRUNC};
	struct error error;
	int res;

	for (unsigned i = 0; i < 2; i++) {
		check(&policies[i], in("allowed/inside"), "allowed/inside", 0);
		for (unsigned j = 0; j < sizeof(flags) / sizeof(flags[0]); j++) {
			try(&policies[i], in("allowed/inside"), flags[j], &res, &error);
			assert_int_equal(res, -EACCES);
			assert_non_null(strstr(error.text, "--read-only"));
		}
	}
	check(&policies[0], in("allowed/inside"), "allowed/inside", 0);
}

static void test_create_beneath(void **state)
{
	const char *allow[] = {in("allowed"), NULL};
	const struct path_policy policy = {.allow = allow};
	struct error error;
	struct stat stat_;
	int res;

	try(&policy, in("allowed/sub/new"), O_RDWR | O_CREAT | O_EXCL, &res, &error);
	assert_int_equal(res, 0);
	assert_int_equal(stat(in("allowed/sub/new"), &stat_), 0);
	assert_int_equal(stat_.st_mode & 0777, 0600);
	try(&policy, in("allowed/../outside/new"), O_RDWR | O_CREAT, &res, &error);
	assert_int_equal(res, -EACCES);
	try(&policy, in("allowed/folder-out/new"), O_RDWR | O_CREAT, &res, &error);
	assert_int_equal(res, -EACCES);
	try(&policy, in("allowed/dangling-out"), O_RDWR | O_CREAT, &res, &error);
	assert_int_equal(res, -EACCES);
	assert_int_equal(stat(in("outside/new"), &stat_), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_folder),
	    cmocka_unit_test(test_magic_links),
	    cmocka_unit_test(test_named_file_and_links),
	    cmocka_unit_test(test_second_entry_helps),
	    cmocka_unit_test(test_forms_of_allow),
	    cmocka_unit_test(test_read_only),
	    cmocka_unit_test(test_create_beneath),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
