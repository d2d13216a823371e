/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is seen of files and devices: identity, marks, mounts, holders, writers, signatures, locks. Most of it
 * needs root and loop devices and is skipped without.
 */
#include "base/cleanup.h"
#include "block/inspect.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/blkpg.h>
#include <linux/fs.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "own_folder.h"
#include "shell.h"

#include "loop.h"

static void image(char *ret, const char *name, const char *size)
{
	snprintf(ret, 128, "%s/%s", folder, name);
	run("rm -f %s && truncate -s %s %s", ret, size, ret);
}

static void look(const char *path, struct block_facts *ret)
{
	_cleanup_(cleanup_close) int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct error error = {0};

	assert_true(fd >= 0);
	if (inspect_fd(fd, ret, &error) < 0)
		fail_msg("%s: %s", path, error.text);
}

static void assert_has(const char *text, const char *part)
{
	if (!strstr(text, part))
		fail_msg("'%s' does not speak of '%s'", text, part);
}

static void test_file(void **state)
{
	struct block_facts first, second, other;
	char path[128], copy[128];

	image(path, "file", "1M");
	image(copy, "copy", "1M");
	look(path, &first);
	look(path, &second);
	look(copy, &other);
	print_message("  id %s\n  mark %s\n", first.id, first.mark);
	assert_true(first.id[0] && first.mark[0]);
	assert_string_equal(first.id, second.id);
	assert_string_equal(first.mark, second.mark);
	assert_string_not_equal(first.id, other.id);
	assert_string_equal(first.mounted, "");
	assert_string_equal(first.held, "");
	assert_string_equal(first.writer, "");
	assert_string_equal(first.signature, "");
	assert_int_equal(first.allocated, 0);
	run("dd if=/dev/urandom of=%s bs=4096 count=4 conv=notrunc status=none", path);
	look(path, &second);
	assert_string_equal(first.id, second.id);
	assert_string_not_equal(first.mark, second.mark);
	assert_true(second.allocated >= 16384);
}

/* Two writes in one tick of the clock must not carry the same mark. */
static void test_mark_of_a_file_sees_each_write(void **state)
{
	struct block_facts facts;
	char path[128], mark[160] = "";
	int fd;

	image(path, "ticks", "64k");
	fd = open(path, O_WRONLY | O_CLOEXEC);
	for (int i = 0; i < 20; i++) {
		assert_int_equal(pwrite(fd, &i, sizeof(i), i), sizeof(i));
		look(path, &facts);
		assert_true(facts.mark[0]);
		assert_string_not_equal(facts.mark, mark);
		memcpy(mark, facts.mark, sizeof(mark));
	}
	close(fd);
}

/* The same name, another file: with the same inode number, as some file systems give it out again at once. */
static void test_h22_identity_of_replaced_file(void **state)
{
	struct block_facts first, second;
	char path[128];

	image(path, "replaced", "1M");
	look(path, &first);
	image(path, "replaced", "1M");
	look(path, &second);
	assert_string_not_equal(first.id, second.id);
}

static void test_h22_identity_of_reused_path(void **state)
{
	struct block_facts first, again, second;
	char a[128], b[128], loop[64], back[64];

	need_loops();
	image(a, "a", "4M");
	image(b, "b", "4M");
	loop_attach(loop, "", a);
	look(loop, &first);
	loop_exchange(loop, b);
	look(loop, &second);
	loop_detach(loop);
	print_message("  %s\n  %s\n", first.id, second.id);
	assert_true(first.id[0]);
	assert_string_not_equal(first.id, second.id);
	assert_string_not_equal(first.mark, second.mark);
	/* The first file once more, on any device: the same volume. */
	loop_attach(back, "", a);
	look(back, &again);
	loop_detach(back);
	assert_string_equal(first.id, again.id);
	/* ... but counters began anew: nothing is known about what was written in between. */
	assert_string_not_equal(first.mark, again.mark);
	loop_attach(back, "-o 1048576", a);
	look(back, &again);
	loop_detach(back);
	assert_string_not_equal(first.id, again.id);
}

static void test_h21_mounted_target_is_seen(void **state)
{
	struct block_facts facts;
	char path[128], loop[64], where[128], holder[160];
	int fd;

	need_loops();
	image(path, "fs", "16M");
	snprintf(where, sizeof(where), "%s/mount point", folder);
	run("mkfs.ext4 -q -L 'my label' %s && mkdir -p '%s'", path, where);
	loop_attach(loop, "", path);
	run("mount %s '%s'", loop, where);
	look(loop, &facts);
	fd = open(loop, O_RDONLY | O_CLOEXEC);
	inspect_holder(fd, holder, sizeof(holder));
	close(fd);
	assert_string_equal(facts.mounted, where);
	assert_has(holder, "a file system, mounted at ");
	assert_has(facts.signature, "ext4, UUID ");
	assert_has(facts.signature, "label my label");
	/* The file behind it is as little free. */
	look(path, &facts);
	run("umount '%s'", where);
	assert_has(facts.mounted, where);
	assert_has(facts.mounted, "(loop");
	assert_has(facts.held, "loop");
	look(loop, &facts);
	assert_string_equal(facts.mounted, "");
	assert_string_equal(facts.held, "");
	loop_detach(loop);
	look(path, &facts);
	assert_string_equal(facts.held, "");
	assert_string_equal(facts.mounted, "");
}

/* Two partitions of 8 MiB, from 1 MiB on, told to the kernel directly: not every kernel reads partition
 * tables. */
static bool add_partitions(const char *disk)
{
	int fd = open(disk, O_RDONLY | O_CLOEXEC);
	bool res = true;

	for (int i = 0; i < 2; i++) {
		struct blkpg_partition partition = {
		    .start = (1 + i * 8) << 20, .length = 8 << 20, .pno = i + 1};
		struct blkpg_ioctl_arg argument = {
		    .op = BLKPG_ADD_PARTITION, .datalen = sizeof(partition), .data = &partition};

		res = ioctl(fd, BLKPG, &argument) == 0 && res;
	}
	close(fd);
	return res;
}

static void test_h21_mounted_partition_is_seen(void **state)
{
	struct block_facts disk, one, two;
	char path[128], loop[64], part[80], where[128], other[80];

	need_loops();
	image(path, "disk", "32M");
	snprintf(where, sizeof(where), "%s/partition", folder);
	run("mkdir -p %s", where);
	loop_attach(loop, "-P", path);
	snprintf(part, sizeof(part), "%sp1", loop);
	snprintf(other, sizeof(other), "%sp2", loop);
	if (!add_partitions(loop) || access(part, R_OK) < 0) {
		loop_detach(loop);
		print_message("skipped: no partitions on loop devices here\n");
		skip();
	}
	run("mkfs.ext4 -q %s && mount %s %s", part, part, where);
	look(loop, &disk);
	look(part, &one);
	look(other, &two);
	run("umount %s", where);
	loop_detach(loop);
	assert_has(disk.mounted, where);
	assert_has(disk.mounted, "p1)");
	assert_string_equal(one.mounted, where);
	assert_string_equal(two.mounted, "");
	assert_string_equal(two.held, "");
	assert_has(one.id, ",part1");
	assert_has(two.id, ",part2");
	assert_string_not_equal(one.id, two.id);
	assert_string_not_equal(one.id, disk.id);
}

static void test_h21_swap_is_seen(void **state)
{
	struct block_facts facts, file;
	char path[128], loop[64], command[128];
	int res;

	need_loops();
	image(path, "swap", "16M");
	run("mkswap -q %s 2>/dev/null", path);
	loop_attach(loop, "", path);
	look(loop, &facts);
	assert_has(facts.signature, "swap, UUID ");
	snprintf(command, sizeof(command), "swapon %s 2>/dev/null", loop);
	res = system(command);
	look(loop, &facts);
	look(path, &file);
	if (res == 0)
		run("swapoff %s", loop);
	loop_detach(loop);
	if (res != 0) {
		print_message("skipped: no swap here\n");
		skip();
	}
	assert_string_equal(facts.mounted, "swap");
	assert_has(file.mounted, "swap (loop");
}

static void test_signatures(void **state)
{
	struct block_facts facts;
	char path[128];

	if (access("/sbin/mkfs.xfs", X_OK) == 0) {
		image(path, "xfs", "320M");
		run("mkfs.xfs -q -L x %s", path);
		look(path, &facts);
		assert_has(facts.signature, "xfs, UUID ");
		assert_has(facts.signature, ", label x");
	}
	if (system("nbdkit --version >/dev/null 2>&1 && nbdcopy --version >/dev/null 2>&1") == 0) {
		image(path, "gpt", "4M");
		run("nbdkit -U - partitioning %s partition-type=gpt --run 'nbdcopy \"$uri\" %s.out'", path,
		    path);
		strcat(path, ".out");
		look(path, &facts);
		assert_string_equal(facts.signature, "gpt partition table");
	}
	/* A label that would clear the screen. */
	image(path, "evil", "4M");
	run("mkfs.ext4 -q -L \"$(printf 'a\\033[2Jb')\" %s", path);
	look(path, &facts);
	assert_has(facts.signature, "label a?[2Jb");
	image(path, "small", "1");
	look(path, &facts);
	assert_string_equal(facts.signature, "");
	image(path, "empty", "0");
	look(path, &facts);
	assert_string_equal(facts.signature, "");
}

/* A child that has the volume open, and its exit. */
struct child {
	pid_t pid;
	int go[2];
};

static void child_start(struct child *child, const char *path, int flags, bool lock)
{
	int ready[2];
	char byte;

	assert_int_equal(pipe(ready), 0);
	assert_int_equal(pipe(child->go), 0);
	child->pid = fork();
	if (child->pid == 0) {
		int fd = open(path, flags);

		if (fd < 0 || (lock && flock(fd, LOCK_EX) < 0))
			_exit(1);
		close(child->go[1]);
		if (write(ready[1], "r", 1) != 1 || read(child->go[0], &byte, 1) < 0)
			_exit(1);
		_exit(0);
	}
	close(ready[1]);
	close(child->go[0]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
}

static void child_end(struct child *child)
{
	int status;

	close(child->go[1]);
	waitpid(child->pid, &status, 0);
	assert_int_equal(status, 0);
}

static void test_writer_of_a_file(void **state)
{
	struct block_facts facts;
	struct child child;
	char path[128], pid[32];
	int own;

	image(path, "written", "1M");
	child_start(&child, path, O_RDWR, false);
	look(path, &facts);
	child_end(&child);
	snprintf(pid, sizeof(pid), "pid %d (test_inspect", child.pid);
	assert_has(facts.writer, pid);
	child_start(&child, path, O_RDONLY, false);
	own = open(path, O_RDWR | O_CLOEXEC);
	look(path, &facts);
	close(own);
	child_end(&child);
	assert_string_equal(facts.writer, "");
}

static void test_writer_and_holder_of_a_device(void **state)
{
	struct block_facts facts;
	struct child child;
	char path[128], loop[64], pid[32], holder[160];
	int own, fd;

	need_loops();
	image(path, "held", "4M");
	loop_attach(loop, "", path);
	child_start(&child, loop, O_RDWR | O_EXCL, false);
	snprintf(pid, sizeof(pid), "pid %d (test_inspect", child.pid);
	look(loop, &facts);
	fd = open(loop, O_RDONLY | O_CLOEXEC);
	inspect_holder(fd, holder, sizeof(holder));
	close(fd);
	child_end(&child);
	assert_has(facts.writer, pid);
	assert_has(facts.held, pid);
	assert_has(holder, pid);
	/* What we hold ourselves is nobody's fault. */
	own = open(loop, O_RDWR | O_EXCL | O_CLOEXEC);
	assert_true(own >= 0);
	look(loop, &facts);
	close(own);
	loop_detach(loop);
	assert_string_equal(facts.held, "");
	assert_string_equal(facts.writer, "");
}

static void test_loop_on_a_device_holds_it(void **state)
{
	struct block_facts facts;
	char path[128], loop[64], upper[64];

	need_loops();
	image(path, "lower", "4M");
	loop_attach(loop, "", path);
	loop_attach(upper, "", loop);
	look(loop, &facts);
	loop_detach(upper);
	loop_detach(loop);
	assert_string_equal(facts.held, upper + 5);
}

static void test_mark_of_a_device_sees_each_write(void **state)
{
	struct block_facts first, second, third, fourth, fifth;
	char path[128], loop[64];
	int fd;

	need_loops();
	image(path, "counted", "8M");
	loop_attach(loop, "", path);
	run("dd if=%s of=/dev/null bs=1M status=none", loop);
	look(loop, &first);
	look(loop, &second);
	/* Through the page cache, not yet on the device. */
	fd = open(loop, O_RDWR | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "x", 1, 12345), 1);
	look(loop, &third);
	uint64_t range[2] = {0, 1 << 20};
	assert_int_equal(ioctl(fd, BLKDISCARD, range), 0);
	close(fd);
	look(loop, &fourth);
	/* Past the device, into its file. */
	run("dd if=/dev/urandom of=%s bs=4096 count=1 conv=notrunc status=none", path);
	look(loop, &fifth);
	loop_detach(loop);
	print_message("  %s\n", first.mark);
	assert_true(first.mark[0]);
	assert_string_equal(first.mark, second.mark);
	assert_string_not_equal(second.mark, third.mark);
	assert_string_not_equal(third.mark, fourth.mark);
	assert_string_not_equal(fourth.mark, fifth.mark);
}

/* A partition's own counters do not show what is written through the disk that it lies on. */
static void test_mark_of_a_partition_sees_writes_to_the_disk(void **state)
{
	struct block_facts first, same, own, through_disk;
	char path[128], loop[64], part[80];

	need_loops();
	image(path, "parts", "32M");
	loop_attach(loop, "-P", path);
	snprintf(part, sizeof(part), "%sp1", loop);
	if (!add_partitions(loop) || access(part, R_OK) < 0) {
		loop_detach(loop);
		skip();
	}
	run("dd if=%s of=/dev/null bs=1M status=none", part);
	look(part, &first);
	look(part, &same);
	run("dd if=/dev/urandom of=%s bs=4k count=1 conv=notrunc,fsync status=none", part);
	look(part, &own);
	run("dd if=/dev/urandom of=%s bs=4k count=1 seek=300 conv=notrunc,fsync status=none", loop);
	look(part, &through_disk);
	loop_detach(loop);
	assert_true(first.mark[0]);
	assert_string_equal(first.mark, same.mark);
	assert_string_not_equal(same.mark, own.mark);
	assert_string_not_equal(own.mark, through_disk.mark);
}

static void test_lock_names_its_owner(void **state)
{
	struct error error = {0};
	struct child child;
	char path[128], pid[32];
	int fd, second;

	image(path, "locked", "1M");
	fd = open(path, O_RDWR | O_CLOEXEC);
	child_start(&child, path, O_RDWR, true);
	assert_int_equal(inspect_lock(fd, path, &error), -EALREADY);
	child_end(&child);
	snprintf(pid, sizeof(pid), "pid %d (test_inspect", child.pid);
	assert_has(error.text, path);
	assert_has(error.text, pid);
	assert_int_equal(inspect_lock(fd, path, &error), 0);
	second = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(inspect_lock(second, path, &error), -EALREADY);
	assert_has(error.text, "this command has it open for writing already");
	close(fd);
	assert_int_equal(inspect_lock(second, path, &error), 0);
	close(second);
}

/* udev's lock lasts only for moments: it is waited for. */
static void test_lock_waits_for_a_moment(void **state)
{
	struct error error = {0};
	char path[128];
	int fd, status;
	pid_t pid;

	image(path, "moment", "1M");
	fd = open(path, O_RDWR | O_CLOEXEC);
	pid = fork();
	if (pid == 0) {
		int shared = open(path, O_RDONLY);

		flock(shared, LOCK_SH);
		usleep(200000);
		_exit(0);
	}
	usleep(50000);
	assert_int_equal(inspect_lock(fd, path, &error), 0);
	waitpid(pid, &status, 0);
	close(fd);
}

static int remove_folder(void **state)
{
	char command[512];

	/* What a failed test left. */
	snprintf(command, sizeof(command),
	    "for m in $(findmnt -rno TARGET | grep ^%s); do umount \"$(printf \"$m\")\"; done; "
	    "for l in $(losetup -nO NAME,BACK-FILE | grep %s/ | cut -d' ' -f1); do losetup -d $l; done",
	    folder, folder);
	return system(command) == 0 ? own_folder_remove(state) : -1;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_file),
	    cmocka_unit_test(test_mark_of_a_file_sees_each_write),
	    cmocka_unit_test(test_h22_identity_of_replaced_file),
	    cmocka_unit_test(test_h22_identity_of_reused_path),
	    cmocka_unit_test(test_h21_mounted_target_is_seen),
	    cmocka_unit_test(test_h21_mounted_partition_is_seen),
	    cmocka_unit_test(test_h21_swap_is_seen),
	    cmocka_unit_test(test_signatures),
	    cmocka_unit_test(test_writer_of_a_file),
	    cmocka_unit_test(test_writer_and_holder_of_a_device),
	    cmocka_unit_test(test_loop_on_a_device_holds_it),
	    cmocka_unit_test(test_mark_of_a_device_sees_each_write),
	    cmocka_unit_test(test_mark_of_a_partition_sees_writes_to_the_disk),
	    cmocka_unit_test(test_lock_names_its_owner),
	    cmocka_unit_test(test_lock_waits_for_a_moment),
	};

	return cmocka_run_group_tests(tests, own_folder_make, remove_folder);
}
