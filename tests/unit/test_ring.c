/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The ring on io_uring: waits that linger, since when things lie about, and bytes that go through a pipe. */
#include "ring/ring.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cmocka.h>

#define MS UINT64_C(1000000)

struct world {
	struct ring *ring;
	int pipe[2];
	struct ring_op read_op, other;
	char byte;
	int res; /* of the last that was done */
	uint64_t came_ns;
	unsigned done;
};

static struct world world;

static void count(struct ring_op *op, int res)
{
	world.res = res;
	world.came_ns = ring_came_ns(world.ring);
	world.done++;
}

static int set_up(void **state)
{
	world = (struct world){0};
	if (pipe(world.pipe) < 0 || ring_new(&world.ring, 64, NULL) < 0)
		return -1;
	world.read_op = (struct ring_op){.opcode = RING_READ,
	    .fd = world.pipe[0],
	    .offset = RING_STREAM,
	    .buf = &world.byte,
	    .length = 1,
	    .done = count};
	return 0;
}

static int tear_down(void **state)
{
	ring_free(world.ring);
	close(world.pipe[0]);
	close(world.pipe[1]);
	return 0;
}

static void *write_later(void *data)
{
	usleep(*(useconds_t *)data);
	if (write(world.pipe[1], "x", 1) != 1)
		abort();
	return NULL;
}

/* How long until the byte was read that comes after `after_ms`. */
static uint64_t read_byte(unsigned after_ms)
{
	useconds_t after = after_ms * 1000;
	uint64_t begin = ring_now_ns(world.ring);
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, write_later, &after), 0);
	ring_submit(world.ring, &world.read_op);
	while (world.read_op.active)
		assert_int_equal(ring_step(world.ring), 0);
	assert_int_equal(world.res, 1);
	begin = ring_now_ns(world.ring) - begin;
	assert_int_equal(pthread_join(thread, NULL), 0);
	return begin;
}

static void need_linux_6_12(void)
{
	struct utsname name;
	int major = 0, minor = 0;

	if (uname(&name) < 0 || sscanf(name.release, "%d.%d", &major, &minor) != 2 ||
	    major * 1000 + minor < 6012) {
		print_message("skipped: before Linux 6.12 nothing lingers\n");
		skip();
	}
}

static void test_lingers_once(void **state)
{
	need_linux_6_12();
	ring_linger(world.ring, 900 * MS);
	assert_true(read_byte(5) >= 890 * MS);
	assert_true(read_byte(5) < 800 * MS);
	/* Taken back. */
	ring_linger(world.ring, 900 * MS);
	ring_linger(world.ring, 0);
	assert_true(read_byte(5) < 800 * MS);
}

/* When nothing has come by then, it waits as ever. */
static void test_lingers_in_vain(void **state)
{
	uint64_t took;

	ring_linger(world.ring, 20 * MS);
	took = read_byte(100);
	assert_true(took >= 100 * MS && took < 20000 * MS);
}

/* What somebody waits for is not kept waiting. */
static void test_does_not_linger_beside_work(void **state)
{
	char path[] = "/var/tmp/blkmove-ring-XXXXXX";
	uint64_t begin = ring_now_ns(world.ring);
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	unlink(path);
	ring_submit(world.ring, &world.read_op);
	world.other =
	    (struct ring_op){.opcode = RING_WRITE, .fd = fd, .buf = "abc", .length = 3, .done = count};
	ring_submit(world.ring, &world.other);
	ring_linger(world.ring, 990 * MS);
	while (world.other.active)
		assert_int_equal(ring_step(world.ring), 0);
	assert_int_equal(world.res, 3);
	assert_true(ring_now_ns(world.ring) - begin < 980 * MS);
	ring_linger(world.ring, 0);
	ring_cancel(world.ring, &world.read_op);
	while (world.read_op.active)
		assert_int_equal(ring_step(world.ring), 0);
	close(fd);
}

/* A byte lay in the pipe while the owner of the loop was busy; another came while the loop waited for it. */
static void test_tells_since_when(void **state)
{
	uint64_t before, after;

	ring_attend(world.ring);
	read_byte(0);
	for (unsigned i = 0; i < 3; i++) {
		before = ring_now_ns(world.ring);
		assert_int_equal(write(world.pipe[1], "x", 1), 1);
		usleep(30000);
		after = ring_now_ns(world.ring);
		ring_submit(world.ring, &world.read_op);
		while (world.read_op.active)
			assert_int_equal(ring_step(world.ring), 0);
		/* It had looked just before. */
		assert_true(world.came_ns <= before && after - world.came_ns < 10000 * MS);
		before = ring_now_ns(world.ring);
		read_byte(60);
		assert_true(world.came_ns >= before + 50 * MS && world.came_ns <= ring_now_ns(world.ring));
	}
}

static void test_splice(void **state)
{
	char path[] = "/var/tmp/blkmove-ring-XXXXXX", found[16] = "";
	struct ring_op op = {.opcode = RING_SPLICE, .fd_to = world.pipe[1], .offset = 3, .length = 100};
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	unlink(path);
	assert_int_equal(write(fd, "0123456789", 10), 10);
	op.fd = fd;
	assert_int_equal(ring_wait(world.ring, &op), 7);
	assert_int_equal(read(world.pipe[0], found, sizeof(found)), 7);
	assert_string_equal(found, "3456789");
	/* Behind the end there is nothing. */
	op.offset = 10;
	assert_int_equal(ring_wait(world.ring, &op), 0);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_lingers_once, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_lingers_in_vain, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_does_not_linger_beside_work, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_tells_since_when, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(test_splice, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
