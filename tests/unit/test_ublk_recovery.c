/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A ublk device is taken over from a process that was killed, also in the middle of taking it over itself. The kernel is made up, as far as it matters: the
 * states of drivers/block/ublk_drv.c, of Linux 6.12 and of 6.15, which forgets a dead process by itself. And one becomes larger, with 6.16.
 */
#include "export/ublk.h"
#include "export/ublk_control.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define INDEX 3u

static struct kernel {
	bool forgets; /* 6.15 */
	uint16_t state;
	bool ready;  /* has all commands of some process, dead or alive */
	bool mapped; /* by a process, dead or alive */
	bool held;   /* /dev/ublkcN is open for good: a dead process' commands keep it */
	unsigned begun, ended;
	uint64_t features, sectors;
} kernel;

int __wrap_ublk_control_open(struct ublk_control *ret);
void __wrap_ublk_control_close(struct ublk_control *control);
int __wrap_ublk_control_run(struct ublk_control *control, unsigned operation, unsigned device, void *buf,
    size_t length, uint64_t data);
int __wrap_device_open_node(const char *path, int flags);
int __wrap_ublk_queues_new(struct ublk *ublk);
void __wrap_ublk_queues_start(struct ublk *ublk);
void __wrap_ublk_queues_done(struct ublk *ublk);

int __wrap_ublk_control_open(struct ublk_control *ret)
{
	*ret = (struct ublk_control){.fd = -1};
	return 0;
}

void __wrap_ublk_control_close(struct ublk_control *control)
{
}

static int begin(void)
{
	if (!kernel.ready && !kernel.forgets)
		return -EINVAL;
	if (kernel.held || kernel.state != UBLK_S_DEV_QUIESCED)
		return -EBUSY;
	kernel.ready = kernel.mapped = false;
	kernel.begun++;
	return 0;
}

static int end(void)
{
	/* It would wait for ever. */
	assert_true(kernel.ready);
	kernel.state = UBLK_S_DEV_LIVE;
	kernel.ended++;
	return 0;
}

int __wrap_ublk_control_run(struct ublk_control *control, unsigned operation, unsigned device, void *buf,
    size_t length, uint64_t data)
{
	struct ublksrv_ctrl_dev_info *info = buf;

	if (operation == UBLK_QUESTION(UBLK_NUMBER_FEATURES)) {
		assert_int_equal(length, sizeof(kernel.features));
		memcpy(buf, &kernel.features, length);
		return 0;
	}
	assert_int_equal(device, INDEX);
	if (operation == UBLK_COMMAND(UBLK_NUMBER_UPDATE_SIZE)) {
		kernel.sectors = data;
		return 0;
	}
	if (operation == UBLK_COMMAND(UBLK_CMD_START_USER_RECOVERY))
		return begin();
	if (operation == UBLK_COMMAND(UBLK_CMD_END_USER_RECOVERY))
		return end();
	assert_int_equal(operation, UBLK_QUESTION(UBLK_CMD_GET_DEV_INFO));
	*info = (struct ublksrv_ctrl_dev_info){
	    .nr_hw_queues = 2, .queue_depth = 16, .max_io_buf_bytes = 65536, .state = kernel.state};
	return 0;
}

int __wrap_device_open_node(const char *path, int flags)
{
	assert_string_equal(path, "/dev/ublkc3");
	return kernel.held ? -EBUSY : 1000;
}

int __wrap_ublk_queues_new(struct ublk *ublk)
{
	assert_int_equal(ublk->queues, 2);
	if (kernel.mapped)
		return -EINVAL;
	kernel.mapped = true;
	return 0;
}

void __wrap_ublk_queues_start(struct ublk *ublk)
{
	kernel.ready = true;
}

void __wrap_ublk_queues_done(struct ublk *ublk)
{
}

/* The process that serves it is killed. */
static void kill_server(void)
{
	if (kernel.state == UBLK_S_DEV_LIVE)
		kernel.state = UBLK_S_DEV_QUIESCED;
	if (kernel.forgets)
		kernel.ready = kernel.mapped = kernel.held = false;
}

static int take_over(struct ring *ring, struct error *error)
{
	struct device device = {.ring = ring, .index = INDEX, .info.taken_over = true};
	int res = ublk_ops.open(&device, error);

	ublk_ops.free(&device);
	return res;
}

static void begin_anew(bool forgets)
{
	kernel = (struct kernel){.forgets = forgets, .state = UBLK_S_DEV_LIVE, .ready = true, .mapped = true};
	kill_server();
}

static void test_taken_over_again_and_again(void **state)
{
	struct error error;

	for (unsigned forgets = 0; forgets < 2; forgets++) {
		begin_anew(forgets);
		for (unsigned i = 1; i <= 3; i++) {
			assert_int_equal(take_over(*state, &error), 0);
			assert_int_equal(kernel.state, UBLK_S_DEV_LIVE);
			assert_int_equal(kernel.begun, i);
			assert_int_equal(kernel.ended, i);
			kill_server();
		}
	}
}

static void test_h25_killed_when_it_had_begun(void **state)
{
	struct error error;

	for (unsigned forgets = 0; forgets < 2; forgets++) {
		begin_anew(forgets);
		assert_int_equal(begin(), 0);
		kill_server();
		assert_int_equal(take_over(*state, &error), 0);
		assert_int_equal(kernel.state, UBLK_S_DEV_LIVE);
		assert_int_equal(kernel.ended, 1);
		/* And as ever after that. */
		kill_server();
		assert_int_equal(take_over(*state, &error), 0);
	}
}

/* Nobody can have it any more: that is said, and nobody waits. */
static void test_h25_killed_when_it_was_mapped(void **state)
{
	struct error error;

	for (unsigned held = 0; held < 2; held++) {
		begin_anew(false);
		assert_int_equal(begin(), 0);
		kernel.mapped = true;
		kernel.held = held;
		kill_server();
		assert_int_equal(take_over(*state, &error), -ENOTRECOVERABLE);
		assert_non_null(strstr(error.text, "/dev/ublkb3"));
		assert_non_null(strstr(error.text, "ublk del -n 3"));
		assert_int_equal(kernel.ended, 0);
	}
	begin_anew(true);
	assert_int_equal(begin(), 0);
	kernel.mapped = kernel.held = true;
	kill_server();
	assert_int_equal(take_over(*state, &error), 0);
}

static void test_refused_for_another_reason(void **state)
{
	struct error error;

	kernel = (struct kernel){.state = UBLK_S_DEV_DEAD};
	assert_int_equal(take_over(*state, &error), -EINVAL);
	assert_non_null(strstr(error.text, "cannot take over /dev/ublkb3"));
}

static void test_becomes_larger(void **state)
{
	struct device device = {.ring = *state, .index = INDEX};
	struct error error;

	kernel = (struct kernel){.state = UBLK_S_DEV_LIVE, .features = UBLK_FEATURES_NEEDED};
	assert_int_equal(ublk_ops.grow(&device, 512 * 12345, &error), -EOPNOTSUPP);
	assert_non_null(strstr(error.text, "Linux 6.16"));
	assert_int_equal(kernel.sectors, 0);
	kernel.features |= UBLK_FEATURE_UPDATE_SIZE;
	assert_int_equal(ublk_ops.grow(&device, 512 * 12345, &error), 0);
	assert_int_equal(kernel.sectors, 12345);
}

static int make_ring(void **state)
{
	return ring_new((struct ring **)state, 16, NULL);
}

static int free_ring(void **state)
{
	ring_free(*state);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_taken_over_again_and_again),
	    cmocka_unit_test(test_h25_killed_when_it_had_begun),
	    cmocka_unit_test(test_h25_killed_when_it_was_mapped),
	    cmocka_unit_test(test_refused_for_another_reason),
	    cmocka_unit_test(test_becomes_larger),
	};

	return cmocka_run_group_tests(tests, make_ring, free_ring);
}
