/* SPDX-License-Identifier: GPL-2.0-or-later */
/* NBD servers that die, fall silent, never answer, or refuse: each costs words and -ENOTCONN within a known
 * time, nothing more. */
#include "nbd_world.h"

#include <sys/socket.h>
#include <sys/un.h>

#define COUNT 24

static char buffers[COUNT][65536];
static struct batch batch[COUNT];

static void submit_reads(struct world *world, unsigned *left)
{
	for (unsigned i = 0; i < COUNT; i++)
		batch_submit(
		    world, &batch[i], i % 3 ? BLOCK_READ : BLOCK_WRITE, i * 65536, 65536, buffers[i], left);
}

static void check_all_lost(struct world *world, const char *word)
{
	char data[512];

	for (unsigned i = 0; i < COUNT; i++)
		assert_int_equal(batch[i].res, -ENOTCONN);
	assert_int_equal(block_link_error(world->block, &world->error), -ENOTCONN);
	print_message("  %s\n", world->error.text);
	assert_non_null(strstr(world->error.text, word));
	/* It stays so, for all that comes. */
	assert_int_equal(wait_op(world, BLOCK_READ, 0, 512, data), -ENOTCONN);
	assert_int_equal(wait_op(world, BLOCK_FLUSH, 0, 0, NULL), -ENOTCONN);
	assert_int_equal(wait_op(world, BLOCK_ZERO, 0, 512, NULL), -ENOTCONN);
}

static void serve_slowly(struct world *world)
{
	need("nbdkit");
	world_init(world);
	world_serve(world, "exec nbdkit -f -U s --filter=delay memory 16M rdelay=10 wdelay=10");
	world_must_open(world, "@");
}

static void test_killed_server(void **state)
{
	struct world world;
	unsigned left = 0;
	double begin;

	serve_slowly(&world);
	submit_reads(&world, &left);
	/* One step sends; a further one would wait for the server. */
	assert_int_equal(world.ring->ops->step(world.ring), 0);
	for (unsigned i = 0; i < COUNT; i++)
		if (batch[i].done)
			fail_msg("request %u ended with %d", i, batch[i].res);
	kill(world.server, SIGKILL);
	begin = seconds();
	batch_run(&world, &left);
	/* It would have answered after 10 s. */
	assert_true(seconds() - begin < 8);
	check_all_lost(&world, "is lost");
	world_done(&world);
}

/* A server that is gone while nothing is asked of it is noticed with the next request at the latest. */
static void test_killed_idle_server(void **state)
{
	struct world world;
	unsigned left = 0;

	serve_slowly(&world);
	kill(world.server, SIGKILL);
	waitpid(world.server, NULL, 0);
	world.server = 0;
	submit_reads(&world, &left);
	batch_run(&world, &left);
	check_all_lost(&world, "is lost");
	world_done(&world);
}

static void test_silent_server_is_noticed(void **state)
{
	struct world world;
	unsigned left = 0;
	double begin;

	need("nbdkit");
	world_init(&world);
	world.options.link.timeout_ms = 2000;
	world_serve(&world, "exec nbdkit -f -U s memory 16M");
	world_must_open(&world, "@");
	kill(world.server, SIGSTOP);
	usleep(50000);
	submit_reads(&world, &left);
	begin = seconds();
	batch_run(&world, &left);
	assert_true(seconds() - begin >= 1.95);
	assert_true(seconds() - begin < 15);
	check_all_lost(&world, "silent for 2.0 s");
	world_done(&world);
}

/* Slow is not silent: nothing is lost while answers keep coming, nor while nothing is asked. */
static void test_slow_server_is_not_silent(void **state)
{
	struct world world;
	char data[4096];

	need("nbdkit");
	world_init(&world);
	world.options.link.timeout_ms = 1500;
	world_serve(&world,
	    "exec nbdkit -f -U s --filter=delay memory 16M rdelay=800ms wdelay=800ms delay-zero=1900ms");
	world_must_open(&world, "@");
	for (int i = 0; i < 3; i++)
		assert_int_equal(wait_op(&world, BLOCK_READ, 0, 4096, data), 0);
	usleep(1800000);
	assert_int_equal(wait_op(&world, BLOCK_WRITE, 0, 4096, data), 0);
	/* Zeroing and flushing take their time. */
	assert_int_equal(wait_op(&world, BLOCK_ZERO, 0, 4096, NULL), 0);
	assert_int_equal(block_link_error(world.block, &world.error), 0);
	world_done(&world);
}

static void test_server_that_shuts_down(void **state)
{
	struct world world;
	char data[512];

	need("nbdkit");
	world_init(&world);
	world_serve(
	    &world, "exec nbdkit -f -U s --filter=error memory 16M error=ESHUTDOWN error-pread-rate=100%");
	world_must_open(&world, "@");
	assert_int_equal(wait_op(&world, BLOCK_READ, 0, 512, data), -ENOTCONN);
	assert_int_equal(block_link_error(world.block, &world.error), -ENOTCONN);
	world_done(&world);
}

struct ticker {
	struct ring_op op;
	struct ring *ring;
	unsigned ticks;
	bool stop;
};

static void tick(struct ring_op *op, int res)
{
	struct ticker *ticker = container_of(op, struct ticker, op);

	ticker->ticks++;
	if (ticker->stop)
		return;
	ticker->op.deadline_ns = ring_now_ns(ticker->ring) + 10000000;
	ring_submit(ticker->ring, &ticker->op);
}

/* A server that takes the connection and says nothing. The loop goes on meanwhile. */
static void test_connecting_has_a_deadline_and_does_not_block(void **state)
{
	struct ticker ticker = {.op = {.opcode = RING_TIMER, .done = tick}};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct world world;
	double begin;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/s", folder);
	unlink(address.sun_path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 8), 0);
	world_init(&world);
	world.options.link.timeout_ms = 500;
	ticker.ring = world.ring;
	ticker.op.deadline_ns = ring_now_ns(world.ring);
	ring_submit(world.ring, &ticker.op);
	begin = seconds();
	assert_int_equal(world_open(&world, "@"), -ENOTCONN);
	assert_true(seconds() - begin >= 0.45 && seconds() - begin < 15);
	print_message("  %s\n", world.error.text);
	assert_non_null(strstr(world.error.text, "no answer within 0.5 s"));
	assert_true(ticker.ticks >= 5);
	ticker.stop = true;
	while (ticker.op.active)
		world.ring->ops->step(world.ring);
	world_done(&world);
	close(fd);
}

static void check_refused(const char *endpoint, unsigned timeout_ms, int code, const char *word)
{
	struct world world;
	int res;

	world_init(&world);
	world.options.link.timeout_ms = timeout_ms;
	res = world_try(&world, endpoint);
	print_message("  %s\n", world.error.text);
	assert_int_equal(res, code);
	assert_int_equal(world.error.code, code);
	if (!strstr(world.error.text, word))
		fail_msg("does not speak of '%s'", word);
	world_done(&world);
}

static void test_refusals(void **state)
{
	check_refused("nbd://127.0.0.1:1/", 20000, -ENOTCONN, "refused");
	check_refused("nbd+unix:///?socket=/nonexistent/s", 20000, -ENOTCONN, "No such file");
	check_refused("nbd+unix:///", 20000, -EINVAL, "socket");
	check_refused("nbd://no-such-host.invalid/", 3000, -ENOTCONN, "no-such-host.invalid");
}

static void wait_for_socket(void)
{
	run("for i in $(seq 1000); do test -e %s/s && exit; sleep 0.02; done; exit 1", folder);
}

static void test_export_that_is_not_there(void **state)
{
	struct world world;
	char endpoint[128];
	int res;

	need("qemu-nbd");
	world_init(&world);
	world_serve(&world, "truncate -s 1M x; exec qemu-nbd -t -k $PWD/s -x right -f raw x");
	snprintf(endpoint, sizeof(endpoint), "nbd+unix:///wrong?socket=%s/s", folder);
	wait_for_socket();
	res = world_open(&world, endpoint);
	print_message("  %s\n", world.error.text);
	assert_true(res < 0);
	assert_non_null(strstr(world.error.text, "no export named"));
	world_done(&world);
}

static void test_captive_refusals(void **state)
{
	need("qemu-nbd");
	check_refused("[ no-such-server x ]", 20000, -ENOENT, "cannot start no-such-server");
	check_refused(
	    "[ qemu-nbd -f qcow2 /nonexistent.qcow2 ]", 60000, -ENOTCONN, "ended with exit status 1");
	check_refused("[ false ]", 20000, -ENOTCONN, "ended with exit status 1");
	check_refused("[ sleep 100 ]", 1000, -ENOTCONN, "no answer within 1.0 s");
}

static pid_t read_pid(const char *path)
{
	FILE *file = fopen(path, "re");
	int pid = 0;

	assert_non_null(file);
	assert_int_equal(fscanf(file, "%d", &pid), 1);
	fclose(file);
	return pid;
}

static void test_captive_server_ends_with_the_block(void **state)
{
	struct world world;
	char endpoint[256], path[128];
	pid_t pid;

	need("nbdkit");
	snprintf(path, sizeof(path), "%s/pid", folder);
	snprintf(endpoint, sizeof(endpoint), "[ nbdkit -P %s memory 1M ]", path);
	world_init(&world);
	world_must_open(&world, endpoint);
	pid = read_pid(path);
	assert_int_equal(kill(pid, 0), 0);
	world_done(&world);
	assert_int_equal(kill(pid, 0), -1);

	/* ... also when it was stopped and does not hear. */
	unlink(path);
	world_init(&world);
	world.options.link.timeout_ms = 4000;
	world_must_open(&world, endpoint);
	pid = read_pid(path);
	kill(pid, SIGSTOP);
	usleep(100000); /* all its threads must have heard */
	assert_int_equal(wait_op(&world, BLOCK_READ, 0, 512, buffers[0]), -ENOTCONN);
	world_done(&world);
	assert_int_equal(kill(pid, 0), -1);
}

/* A captive server of whoever was killed does not stay behind. */
static void test_captive_server_dies_with_us(void **state)
{
	char endpoint[256], path[128];
	pid_t child, server;

	need("nbdkit");
	snprintf(path, sizeof(path), "%s/pid2", folder);
	snprintf(endpoint, sizeof(endpoint), "[ nbdkit -P %s memory 1M ]", path);
	child = fork();
	if (child == 0) {
		struct world world;

		world_init(&world);
		if (world_open(&world, endpoint) < 0)
			_exit(1);
		pause();
	}
	run("for i in $(seq 1000); do test -s %s && exit; sleep 0.02; done; exit 1", path);
	server = read_pid(path);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	/* Whoever inherits it may not have waited for it yet. */
	run("for i in $(seq 1000); do grep -qs '^State:.*[RSDT] ' /proc/%d/status || exit 0; sleep 0.02; "
	    "done; exit 1",
	    server);
}

/* qemu-nbd lets in no more clients than it was told, and leaves the others waiting: we go on with those that
 * came. */
static void test_fewer_connections_than_hoped(void **state)
{
	struct world world;
	double begin;

	need("qemu-nbd");
	world_init(&world);
	world_serve(&world, "truncate -s 1M few; exec qemu-nbd -t -e 2 -k $PWD/s -f raw few");
	wait_for_socket();
	begin = seconds();
	world_must_open(&world, "@");
	assert_true(seconds() - begin < 15);
	for (int i = 0; i < 20; i++)
		assert_int_equal(wait_op(&world, BLOCK_WRITE, 0, 65536, buffers[i]), 0);
	assert_int_equal(wait_op(&world, BLOCK_FLUSH, 0, 0, NULL), 0);
	world_done(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_killed_server),
	    cmocka_unit_test(test_killed_idle_server),
	    cmocka_unit_test(test_silent_server_is_noticed),
	    cmocka_unit_test(test_slow_server_is_not_silent),
	    cmocka_unit_test(test_server_that_shuts_down),
	    cmocka_unit_test(test_connecting_has_a_deadline_and_does_not_block),
	    cmocka_unit_test(test_refusals),
	    cmocka_unit_test(test_export_that_is_not_there),
	    cmocka_unit_test(test_captive_refusals),
	    cmocka_unit_test(test_captive_server_ends_with_the_block),
	    cmocka_unit_test(test_captive_server_dies_with_us),
	    cmocka_unit_test(test_fewer_connections_than_hoped),
	};

	return cmocka_run_group_tests(tests, make_folder, own_folder_remove);
}
