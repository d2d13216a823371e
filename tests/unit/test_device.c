/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is pure about block devices, and what needs no kernel that makes them: names, shapes, requests, links, locks, calls on a thread. */
#include "export/device_private.h"
#include "export/ublk.h"
#include "ring/ring_call.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void test_names(void **state)
{
	static const char *const good[] = {"a", "web1", "vm-7_data.old", "0"};
	static const char *const bad[] = {"", ".", "..", ".x", "a/b", "../x", "a b", "a\n", "\xc3\xa4",
	    "12345678901234567890123456789012345678901234567890123456789012345"};
	struct error error;

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_int_equal(device_name_check(good[i], &error), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		error.text[0] = '\0';
		assert_int_equal(device_name_check(bad[i], &error), -EINVAL);
		assert_string_not_equal(error.text, "");
	}
}

/* One that was left behind goes on as it was, if the volume is the same; it must not be cut short, nor be another's. */
static void test_h09_sizes_of_what_was_left_behind(void **state)
{
	static const struct {
		uint64_t left;
		bool same, taken;
	} rows[] = {{1 << 20, true, true}, {1 << 20, false, true}, {(1 << 20) - 512, true, true},
	    {(1 << 20) - 512, false, false}, {(1 << 20) + 512, true, false}, {0, true, false}};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct device device = {.shape = {.size = 1 << 20, .logical = 512}};

		print_message("row %zu\n", i);
		assert_int_equal(device_takes_size(&device, rows[i].left, rows[i].same), rows[i].taken);
		assert_int_equal(device.shape.size, rows[i].taken ? rows[i].left : 1 << 20);
	}
}

static void test_h12_shapes(void **state)
{
	static const struct {
		uint64_t size;
		uint32_t sector, align, logical; /* logical 0: refused */
	} rows[] = {
	    {512, 1, 1, 512},
	    {1 << 20, 512, 1, 512},
	    {(1 << 20) + 512 * 77, 512, 1, 512},
	    {1 << 20, 4096, 1, 4096},
	    {1 << 20, 512, 2048, 2048},
	    {1 << 20, 1, 4096, 4096},
	    /* The last, partial sector would be lost. */
	    {(1 << 20) + 1, 1, 1, 0},
	    {(1 << 20) + 511, 1, 1, 0},
	    {(1 << 20) + 512, 4096, 1, 0},
	    {1 << 20, 512, 65536, 0},
	    {0, 512, 1, 0},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct block_info info = {.name = "v",
		    .size = rows[i].size,
		    .sector_size = rows[i].sector,
		    .request_align = rows[i].align,
		    .writable = true};
		struct device_shape shape;
		struct error error = {0};
		int res = device_shape_of(&info, false, &shape, &error);

		print_message("row %zu: %s\n", i, error.text);
		assert_int_equal(res, rows[i].logical ? 0 : -EINVAL);
		if (res < 0)
			continue;
		assert_int_equal(shape.size, rows[i].size);
		assert_int_equal(shape.logical, rows[i].logical);
		assert_true(shape.physical >= shape.logical && !shape.read_only);
		info.writable = false;
		assert_int_equal(device_shape_of(&info, false, &shape, &error), 0);
		assert_true(shape.read_only);
	}
}

static void test_what_ublk_is_told(void **state)
{
	const struct device_shape shape = {
	    .size = 512 * 999, .logical = 512, .physical = 4096, .read_only = true};
	struct ublk_params params;

	ublk_params_fill(&shape, 65536, &params);
	assert_int_equal(params.basic.dev_sectors, 999);
	assert_int_equal(1 << params.basic.logical_bs_shift, 512);
	assert_int_equal(1 << params.basic.physical_bs_shift, 4096);
	assert_int_equal(params.basic.max_sectors, 128);
	assert_int_equal(params.basic.attrs, UBLK_ATTR_READ_ONLY | UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA);
	assert_int_equal(params.types, UBLK_PARAM_TYPE_BASIC | UBLK_PARAM_TYPE_DISCARD);
	/* A device is found again by its name alone, and known by what it is. */
	assert_int_equal(ublk_mark("a", "x") >> 32, ublk_mark("a", "y") >> 32);
	assert_int_not_equal(ublk_mark("a", "x"), ublk_mark("a", "y"));
	assert_int_not_equal(ublk_mark("a", "x") >> 32, ublk_mark("b", "x") >> 32);
}

static void test_requests(void **state)
{
	static const struct {
		uint32_t op;
		int res;
		enum block_op block_op;
		uint32_t flags;
	} rows[] = {
	    {UBLK_IO_OP_READ, 0, BLOCK_READ, 0},
	    {UBLK_IO_OP_READ | UBLK_IO_F_META, 0, BLOCK_READ, 0},
	    {UBLK_IO_OP_WRITE, 0, BLOCK_WRITE, 0},
	    {UBLK_IO_OP_WRITE | UBLK_IO_F_FUA | UBLK_IO_F_SWAP, 0, BLOCK_WRITE, BLOCK_FUA},
	    {UBLK_IO_OP_DISCARD, 0, BLOCK_TRIM, 0},
	    {UBLK_IO_OP_WRITE_ZEROES, 0, BLOCK_ZERO, 0},
	    {UBLK_IO_OP_WRITE_ZEROES | UBLK_IO_F_NOUNMAP | UBLK_IO_F_FUA, 0, BLOCK_ZERO,
	        BLOCK_NO_HOLE | BLOCK_FUA},
	    {UBLK_IO_OP_WRITE_SAME, -EINVAL, BLOCK_READ, 0},
	    {6, -EINVAL, BLOCK_READ, 0},
	    {255, -EINVAL, BLOCK_READ, 0},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct ublksrv_io_desc desc = {
		    .op_flags = rows[i].op, .nr_sectors = 1u << 23, .start_sector = UINT64_C(1) << 40};
		struct block_io io = {.flags = 77};

		assert_int_equal(ublk_request_parse(&desc, &io), rows[i].res);
		if (rows[i].res < 0)
			continue;
		assert_int_equal(io.op, rows[i].block_op);
		assert_int_equal(io.flags, rows[i].flags);
		assert_int_equal(io.offset, UINT64_C(1) << 49);
		assert_int_equal(io.length, UINT64_C(1) << 32);
	}
}

static void test_a_flush_has_no_range(void **state)
{
	const struct ublksrv_io_desc desc = {
	    .op_flags = UBLK_IO_OP_FLUSH, .nr_sectors = 8, .start_sector = UINT64_MAX};
	struct block_io io = {0};

	assert_int_equal(ublk_request_parse(&desc, &io), 0);
	assert_int_equal(io.op, BLOCK_FLUSH);
	assert_true(io.offset == 0 && io.length == 0);
}

/* Links */

static int make_folder(void **state)
{
	static char folder[64];

	snprintf(folder, sizeof(folder), "/tmp/blkmove-test-XXXXXX");
	*state = mkdtemp(folder);
	return *state ? 0 : -1;
}

static int remove_folder(void **state)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -r %s", (char *)*state);
	return system(command);
}

static void assert_leads_to(const char *folder, const char *name, const char *node)
{
	char path[256], target[256];
	ssize_t length;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	length = readlink(path, target, sizeof(target));
	if (!node) {
		assert_int_equal(length, -1);
		return;
	}
	assert_int_equal(length, strlen(node));
	assert_memory_equal(target, node, strlen(node));
}

static void test_links(void **state)
{
	char folder[128];
	struct error error;

	snprintf(folder, sizeof(folder), "%s/devices", (char *)*state);
	assert_int_equal(device_link_make(folder, "a", "/dev/ublkb0", &error), 0);
	assert_leads_to(folder, "a", "/dev/ublkb0");
	assert_int_equal(device_link_make(folder, "a", "/dev/ublkb0", &error), 0);
	/* A stale one, of a process that died. */
	assert_int_equal(device_link_make(folder, "a", "/dev/nbd3", &error), 0);
	assert_leads_to(folder, "a", "/dev/nbd3");
	assert_int_equal(device_link_make(folder, "b", "/dev/nbd4", &error), 0);
	/* Another's stays. */
	device_link_remove(folder, "a", "/dev/ublkb0");
	assert_leads_to(folder, "a", "/dev/nbd3");
	device_link_remove(folder, "a", "/dev/nbd3");
	assert_leads_to(folder, "a", NULL);
	device_link_remove(folder, "b", "/dev/nbd4");
	assert_int_equal(access(folder, F_OK), -1);
}

static void test_what_is_no_link_of_ours_stays(void **state)
{
	char folder[128], path[160];
	struct error error;

	snprintf(folder, sizeof(folder), "%s/devices", (char *)*state);
	assert_int_equal(mkdir(folder, 0755), 0);
	snprintf(path, sizeof(path), "%s/a", folder);
	assert_int_equal(mkdir(path, 0755), 0);
	assert_int_equal(device_link_make(folder, "a", "/dev/ublkb0", &error), -EEXIST);
	assert_int_equal(chmod(folder, 0777), 0);
	assert_int_equal(device_link_make(folder, "b", "/dev/ublkb0", &error), -EPERM);
	assert_int_equal(chmod(folder, 0755), 0);
	/* The folder itself must not be a link to anywhere. */
	snprintf(path, sizeof(path), "%s/other", (char *)*state);
	assert_int_equal(symlink(folder, path), 0);
	assert_true(device_link_make(path, "b", "/dev/ublkb0", &error) < 0);
}

static void test_one_process_a_name(void **state)
{
	struct error error;
	int fd, status;
	pid_t pid;

	setenv("BLKMOVE_RUN_DIR", *state, 1);
	fd = device_lock("a", &error);
	assert_true(fd >= 0);
	pid = fork();
	if (pid == 0) {
		char mine[16];

		snprintf(mine, sizeof(mine), "%d", (int)getppid());
		_exit(!(device_lock("a", &error) == -EALREADY && strstr(error.text, mine) &&
		        device_lock("b", &error) >= 0));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	close(fd);
	fd = device_lock("a", &error);
	assert_true(fd >= 0);
	close(fd);
	unsetenv("BLKMOVE_RUN_DIR");
}

/* Calls on a thread */

struct waiter {
	int event;
	uint64_t got;
};

/* Waits for what only the ring's loop can give. */
static int wait_for_the_ring(void *data, struct error *error)
{
	struct waiter *waiter = data;

	if (read(waiter->event, &waiter->got, sizeof(waiter->got)) != sizeof(waiter->got))
		return -EIO;
	return error_set(error, -ENOTTY, "got it");
}

static void give(struct ring_op *op, int res)
{
	uint64_t seven = 7;

	assert_int_equal(write(op->fd, &seven, sizeof(seven)), sizeof(seven));
}

static void test_the_ring_goes_on_during_a_call(void **state)
{
	struct waiter waiter = {.event = eventfd(0, EFD_CLOEXEC)};
	struct ring_op op = {.opcode = RING_TIMER, .fd = waiter.event, .done = give};
	struct error error = {0};
	struct ring *ring;

	assert_int_equal(ring_new(&ring, 8, &error), 0);
	op.deadline_ns = ring_now_ns(ring) + 20000000;
	ring_submit(ring, &op);
	assert_int_equal(ring_call(ring, wait_for_the_ring, &waiter, &error), -ENOTTY);
	assert_string_equal(error.text, "got it");
	assert_int_equal(waiter.got, 7);
	ring_free(ring);
	close(waiter.event);
}

/* Commands that the kernel keeps end with the ring; those that no driver knows, at once. */
static int result;

static void note(struct ring_op *op, int res)
{
	result = res;
}

static void test_a_command_that_nobody_knows(void **state)
{
	uint8_t bytes[16] = {0};
	int fd = eventfd(0, EFD_CLOEXEC);
	struct ring_op op = {.opcode = RING_COMMAND, .fd = fd, .mode = 0x2012, .buf = bytes, .done = note};
	struct error error = {0};
	struct ring *ring;

	assert_int_equal(ring_new(&ring, 8, &error), 0);
	result = 1;
	ring_submit(ring, &op);
	while (op.active)
		assert_int_equal(ring_step(ring), 0);
	assert_true(result == -EOPNOTSUPP || result == -EINVAL);
	/* Never given to the kernel. */
	result = 1;
	ring_submit(ring, &op);
	ring_free(ring);
	assert_int_equal(result, -ECANCELED);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_names),
	    cmocka_unit_test(test_h09_sizes_of_what_was_left_behind),
	    cmocka_unit_test(test_h12_shapes),
	    cmocka_unit_test(test_what_ublk_is_told),
	    cmocka_unit_test(test_requests),
	    cmocka_unit_test(test_a_flush_has_no_range),
	    cmocka_unit_test_setup_teardown(test_links, make_folder, remove_folder),
	    cmocka_unit_test_setup_teardown(test_what_is_no_link_of_ours_stays, make_folder, remove_folder),
	    cmocka_unit_test_setup_teardown(test_one_process_a_name, make_folder, remove_folder),
	    cmocka_unit_test(test_the_ring_goes_on_during_a_call),
	    cmocka_unit_test(test_a_command_that_nobody_knows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
