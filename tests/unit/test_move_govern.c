/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pace of the kernel's mirror, as `blkmove move` asks for it: the governor, against a made-up device whose users wait longer the more the kernel
 * copies, told as the kernel tells it: by a line of /sys. Time is the test's.
 */
#include "base/bytes.h"
#include "block/sysfs.h"
#include "cli/move_govern.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/sysmacros.h>
#include <time.h>

#include <cmocka.h>

#define POLL_NS 200000000u /* how often the mirror is looked at */
#define MB      (1ull << 20)
#define MS      1000000ull

/* The machine */

static uint64_t now_ns;

static struct device {
	uint64_t speed;    /* bytes per second, with all the time */
	uint64_t base_ms;  /* what a request takes beside no copy */
	uint64_t doubled;  /* the rate of the copy at which that has doubled */
	uint64_t requests; /* of the users, a second */
	bool gone;
	uint64_t reads, reads_ms, writes, writes_ms, done; /* so far */
} device;

int __wrap_clock_gettime(clockid_t id, struct timespec *ret);
int __wrap_sysfs_device_line(dev_t dev, const char *name, char *ret, size_t length);

int __wrap_clock_gettime(clockid_t id, struct timespec *ret)
{
	*ret = (struct timespec){
	    .tv_sec = (time_t)(now_ns / 1000000000), .tv_nsec = (long)(now_ns % 1000000000)};
	return 0;
}

/* Documentation/block/stat.rst */
int __wrap_sysfs_device_line(dev_t dev, const char *name, char *ret, size_t length)
{
	assert_int_equal(dev, makedev(254, 3));
	assert_string_equal(name, "stat");
	if (device.gone)
		return -ENOENT;
	snprintf(ret, length,
	    "%8llu 11 1111111111 %8llu %8llu 22 2222222222 %8llu 3 33333333 44444444 0 0 0 0",
	    (unsigned long long)device.reads, (unsigned long long)device.reads_ms,
	    (unsigned long long)device.writes, (unsigned long long)device.writes_ms);
	return 0;
}

static void set_up(uint64_t speed)
{
	now_ns = 77 * 1000000000ull;
	device = (struct device){.speed = speed,
	    .base_ms = 4,
	    .doubled = 40 * MB,
	    .requests = 500,
	    .reads = 123457,
	    .reads_ms = 98765,
	    .writes = 345,
	    .writes_ms = 6789};
}

/* What the kernel copies in that part of the time, and what its users feel of it: returns what a request took, in ms. */
static double pass(uint64_t ns, unsigned percent)
{
	uint64_t rate = device.speed * percent / 100, requests = device.requests * ns / 1000000000;
	double each_ms = (double)device.base_ms * (1 + (double)rate / (double)device.doubled);

	now_ns += ns;
	device.done += (uint64_t)((double)rate * (double)ns / 1e9);
	device.reads += requests / 2;
	device.writes += requests - requests / 2;
	device.reads_ms += (uint64_t)(each_ms * (double)(requests / 2));
	device.writes_ms += (uint64_t)(each_ms * (double)(requests - requests / 2));
	return each_ms;
}

struct felt {
	uint64_t rate;        /* in the mean */
	double each_ms;       /* in the mean */
	unsigned least, most; /* percent */
};

/* As a move does: that many seconds, after `warm_up` that do not count. */
static struct felt run(struct move_govern *govern, unsigned warm_up, unsigned seconds, unsigned percent_max)
{
	struct felt felt = {.least = 100};
	uint64_t done = 0;

	for (unsigned i = 0; i < (warm_up + seconds) * 5; i++) {
		unsigned percent = move_govern_percent(govern, makedev(254, 3), device.done, percent_max);
		double each_ms = pass(POLL_NS, percent);

		assert_in_range(percent, 1, percent_max);
		if (i == warm_up * 5)
			done = device.done;
		if (i < warm_up * 5)
			continue;
		felt.each_ms += each_ms / (seconds * 5);
		felt.least = percent < felt.least ? percent : felt.least;
		felt.most = percent > felt.most ? percent : felt.most;
	}
	felt.rate = (device.done - done) / seconds;
	return felt;
}

static void test_governs_what_it_is_asked(void **state)
{
	assert_false(move_governs(&(struct move_govern){0}));
	assert_true(move_governs(&(struct move_govern){.options = {.target_ns = 1}}));
	assert_true(move_governs(&(struct move_govern){.options = {.max_rate = 1}}));
}

/* What a percent is worth, nobody says: it is found, and found again. */
static void test_max_rate(void **state)
{
	static const uint64_t speeds[] = {30 * MB, 100 * MB, 700 * MB, 90 * MB};
	struct move_govern govern = {.options = {.max_rate = 20 * MB}};

	set_up(speeds[0]);
	for (unsigned i = 0; i < 4; i++) {
		struct felt felt;

		device.speed = speeds[i];
		felt = run(&govern, 10, 20, 100);
		assert_in_range(felt.rate, 13 * MB, 21 * MB);
	}
	/* All that it may be: a slower device is not held up. */
	device.speed = 5 * MB;
	assert_int_equal(run(&govern, 10, 5, 100).least, 100);
}

/* Before anything is known of the device. */
static void test_begins_slowly(void **state)
{
	struct move_govern govern = {.options = {.max_rate = 20 * MB}}, less = govern;

	set_up(1000 * MB);
	assert_int_equal(move_govern_percent(&govern, makedev(254, 3), 0, 100), 10);
	assert_int_equal(move_govern_percent(&less, makedev(254, 3), 0, 7), 7);
	/* Too soon to tell. */
	pass(POLL_NS / 4, 10);
	assert_int_equal(move_govern_percent(&govern, makedev(254, 3), device.done, 100), 10);
	/* 1000 MiB/s with all the time: of which 20 are 2 %. */
	pass(POLL_NS, 10);
	assert_int_equal(move_govern_percent(&govern, makedev(254, 3), device.done, 100), 2);
}

/* With the whole rate its users would wait 14 ms. */
static void test_latency_target(void **state)
{
	struct move_govern govern = {.options = {.target_ns = 8 * MS}};
	struct felt felt;

	set_up(100 * MB);
	felt = run(&govern, 60, 120, 100);
	assert_true(felt.each_ms > 5 && felt.each_ms < 8.4);
	assert_in_range(felt.rate, 12 * MB, 44 * MB);
	/* Whoever else makes them wait less: faster; and slower again. */
	device.doubled = 90 * MB;
	felt = run(&govern, 60, 120, 100);
	assert_in_range(felt.rate, 30 * MB, 95 * MB);
	device.doubled = 15 * MB;
	felt = run(&govern, 60, 120, 100);
	assert_true(felt.each_ms < 8.4);
	assert_in_range(felt.rate, 4 * MB, 17 * MB);
}

static void test_nobody_to_spare(void **state)
{
	struct move_govern govern = {.options = {.target_ns = 8 * MS}}, limited = govern;

	set_up(100 * MB);
	device.requests = 0;
	assert_int_equal(run(&govern, 60, 10, 100).least, 100);
	/* --throttle is still the most. */
	assert_int_equal(run(&limited, 60, 10, 35).least, 35);
	/* A device that has no such line is like one without users. */
	set_up(100 * MB);
	device.gone = true;
	assert_int_equal(run(&govern, 60, 10, 100).least, 100);
}

/* A target that cannot be had beside any copy. */
static void test_min_rate(void **state)
{
	struct move_govern govern = {.options = {.target_ns = 6 * MS, .min_rate = 30 * MB}}, without = govern;
	struct felt felt;

	set_up(100 * MB);
	felt = run(&govern, 60, 60, 100);
	assert_in_range(felt.rate, 25 * MB, 32 * MB);
	without.options.min_rate = 0;
	felt = run(&without, 60, 60, 100);
	assert_in_range(felt.rate, MB, 24 * MB);
	assert_true(felt.each_ms < 6.4);
}

static void test_both(void **state)
{
	struct move_govern govern = {.options = {.target_ns = 100 * MS, .max_rate = 15 * MB}}, tight = govern;
	struct felt felt;

	set_up(100 * MB);
	felt = run(&govern, 60, 60, 100);
	assert_in_range(felt.rate, 10 * MB, 16 * MB);
	tight.options.target_ns = 5 * MS;
	felt = run(&tight, 60, 60, 100);
	assert_in_range(felt.rate, MB, 12 * MB);
}

/* The kernel's count of a mirror that was begun anew, and time in which nothing was copied. */
static void test_count_goes_back(void **state)
{
	struct move_govern govern = {.options = {.max_rate = 20 * MB}};

	set_up(100 * MB);
	run(&govern, 10, 10, 100);
	device.done = 0;
	assert_in_range(run(&govern, 1, 20, 100).rate, 13 * MB, 21 * MB);
	for (unsigned i = 0; i < 50; i++) {
		now_ns += POLL_NS;
		assert_in_range(move_govern_percent(&govern, makedev(254, 3), device.done, 100), 1, 30);
	}
	assert_in_range(run(&govern, 1, 20, 100).rate, 13 * MB, 21 * MB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_governs_what_it_is_asked),
	    cmocka_unit_test(test_max_rate),
	    cmocka_unit_test(test_begins_slowly),
	    cmocka_unit_test(test_latency_target),
	    cmocka_unit_test(test_nobody_to_spare),
	    cmocka_unit_test(test_min_rate),
	    cmocka_unit_test(test_both),
	    cmocka_unit_test(test_count_goes_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
