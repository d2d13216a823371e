/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The governor against a model of a disk whose latency grows with what the copy takes. */
#include "base/bytes.h"
#include "base/rand.h"
#include "sync/governor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#define INTERVAL_NS 100000000u
#define MB          (1ull << 20)
#define MS          1000000ull

/* p99 with no copy; its tail goes down with the square. */
struct disk {
	struct rand rand;
	uint64_t base_ns;
	uint64_t capacity; /* bytes per second at which that has doubled; it copies at most twice as much */
	uint64_t requests; /* in an interval */
	unsigned noise; /* percent of the requests that are slow for other reasons, in one interval of four */
};

/* A whole number whose mean is `mean`. */
static uint64_t by_chance(struct disk *disk, double mean)
{
	return (uint64_t)mean + (rand_below(&disk->rand, 1000) < (uint64_t)((mean - (uint64_t)mean) * 1000));
}

/* One interval: the copy takes what it may. */
static struct governor_sample run(struct disk *disk, const struct governor_limits *limits)
{
	uint64_t rate = limits->rate ? min_u64(limits->rate, 2 * disk->capacity) : 2 * disk->capacity;
	struct governor_sample sample = {.interval_ns = INTERVAL_NS, .requests = disk->requests};
	double p99_ns, over;

	if (limits->hold)
		rate = 0;
	p99_ns = (double)disk->base_ns * (1 + (double)rate / (double)disk->capacity);
	over = limits->slow_ns ? p99_ns / (double)limits->slow_ns : 0;
	sample.copied = rate / 10;
	sample.p99_ns = (uint64_t)(p99_ns * (double)rand_between(&disk->rand, 95, 105) / 100);
	sample.slow = by_chance(disk, (double)disk->requests / 100 * over * over);
	if (disk->noise && limits->slow_ns && rand_one_in(&disk->rand, 4))
		sample.slow += disk->requests * disk->noise * 4 / 100;
	sample.slow = min_u64(sample.slow, sample.requests);
	return sample;
}

static struct disk disk_by_seed(uint64_t capacity, uint64_t seed)
{
	struct disk disk = {.base_ns = MS, .capacity = capacity, .requests = 200};

	rand_init(&disk.rand, seed);
	return disk;
}

static struct disk disk_of(uint64_t capacity)
{
	return disk_by_seed(capacity, 1);
}

struct result {
	uint64_t mean_rate, requests, slow;
	unsigned intervals, holds;
};

static struct result settle(
    struct governor *governor, struct disk *disk, unsigned warm_up, unsigned intervals)
{
	struct governor_limits limits = {.hold = true};
	struct governor_sample sample = run(disk, &limits);
	struct result result = {0};

	for (unsigned i = 0; i < warm_up + intervals; i++) {
		governor_update(governor, &sample, &limits);
		sample = run(disk, &limits);
		if (i < warm_up)
			continue;
		result.intervals++;
		result.holds += limits.hold;
		result.mean_rate += sample.copied * 10 / intervals;
		result.requests += sample.requests;
		result.slow += sample.slow;
	}
	return result;
}

static void test_holds_the_target(void **state)
{
	static const uint64_t capacities[] = {4 * MB, 100 * MB, 2000 * MB};

	for (unsigned i = 0; i < 3; i++) {
		struct disk disk = disk_of(capacities[i]);
		struct governor governor;
		struct result result;

		/* 1.5 times the base is reached at half of the capacity. */
		governor_init(&governor, &(struct governor_options){.target_ns = 3 * MS / 2});
		result = settle(&governor, &disk, 200, 2000);
		assert_in_range(result.slow * 1000 / result.requests, 0, 10);
		assert_in_range(result.mean_rate, disk.capacity / 4, disk.capacity * 6 / 10);
	}
}

/*
 * A target so near to the base that two thirds of what may be slow are so without the copy: what is copied while it is sought is not
 * too much, and no moment of bad luck keeps the rate down for good.
 */
static void test_close_target(void **state)
{
	static const uint64_t capacities[] = {200 * MB, 1000 * MB, 3000 * MB};

	for (unsigned i = 0; i < 15; i++) {
		struct disk disk = disk_by_seed(capacities[i % 3], i / 3 + 1);
		uint64_t ideal = disk.capacity / 5;
		struct governor governor;
		struct result result;

		governor_init(&governor, &(struct governor_options){.target_ns = 6 * MS / 5});
		result = settle(&governor, &disk, 0, 80);
		assert_in_range(result.slow * 10000 / result.requests, 0, 110);
		assert_in_range(result.mean_rate, ideal / 10, ideal * 3 / 2);
		result = settle(&governor, &disk, 220, 3000);
		assert_in_range(result.slow * 10000 / result.requests, 0, 107);
		assert_in_range(result.mean_rate, ideal / 2, ideal * 5 / 4);
		assert_in_range(result.holds, 5, 450);
	}
}

/* What is slow without the copy, too, is no reason to copy less; what it adds to that is one. */
static void test_noise_is_not_its_doing(void **state)
{
	for (unsigned noise = 2; noise <= 8; noise *= 2) {
		struct disk disk = disk_of(100 * MB);
		struct governor governor;
		struct result result;

		disk.noise = noise;
		governor_init(&governor, &(struct governor_options){.target_ns = 3 * MS});
		result = settle(&governor, &disk, 200, 2000);
		print_message("noise %u: %llu MiB/s, %u of 2000 held\n", noise,
		    (unsigned long long)result.mean_rate >> 20, result.holds);
		assert_in_range(result.mean_rate, 20 * MB, 200 * MB);
		assert_in_range(result.holds, 0, 700);
		/* A disk that is slow because of the copy, besides. */
		disk = disk_of(10 * MB);
		disk.noise = noise;
		governor_init(&governor, &(struct governor_options){.target_ns = 3 * MS / 2});
		result = settle(&governor, &disk, 1000, 3000);
		assert_in_range(result.mean_rate, MB, 17 * MB);
	}
}

static void test_no_clients_no_limit(void **state)
{
	struct disk disk = disk_of(2000 * MB);
	struct governor governor;
	struct result result;

	disk.requests = 2;
	governor_init(&governor, &(struct governor_options){.target_ns = MS});
	result = settle(&governor, &disk, 20, 100);
	assert_in_range(result.mean_rate, 3600 * MB, 4000 * MB);
	/* And soon out of the way when they come. */
	disk.requests = 1000;
	disk.base_ns = MS / 2;
	result = settle(&governor, &disk, 100, 500);
	assert_in_range(result.slow * 1000 / result.requests, 0, 10);
}

static void test_bounds(void **state)
{
	struct disk disk = disk_of(100 * MB);
	struct governor governor;
	struct result result;

	/* What cannot be held is not held at the price of never ending. */
	governor_init(&governor, &(struct governor_options){.target_ns = MS / 10, .min_rate = 3 * MB});
	result = settle(&governor, &disk, 300, 100);
	assert_in_range(result.mean_rate, 3 * MB - 100, 3 * MB + 100);
	governor_init(&governor, &(struct governor_options){.target_ns = 100 * MS, .max_rate = 7 * MB});
	result = settle(&governor, &disk, 50, 100);
	assert_in_range(result.mean_rate, 7 * MB - 100, 7 * MB + 100);
	governor_init(&governor, &(struct governor_options){.max_rate = 9 * MB});
	result = settle(&governor, &disk, 0, 100);
	assert_in_range(result.mean_rate, 9 * MB - 100, 9 * MB + 100);
	governor_init(&governor, &(struct governor_options){0});
	result = settle(&governor, &disk, 0, 100);
	assert_in_range(result.mean_rate, 200 * MB - 100, 200 * MB + 100);
}

/* The baseline is measured with the copy paused, now and then. */
static void test_impact(void **state)
{
	struct disk disk = disk_of(100 * MB);
	struct governor governor;
	struct result result;

	governor_init(&governor, &(struct governor_options){.impact = 20});
	result = settle(&governor, &disk, 0, 25);
	assert_in_range(result.holds, 22, 25);
	assert_in_range(governor.baseline_ns, MS * 95 / 100, MS * 105 / 100);
	result = settle(&governor, &disk, 100, 1200);
	/* A fifth of the base is reached at a fifth of the capacity. */
	assert_in_range(result.mean_rate, 5 * MB, 20 * MB);
	assert_in_range(result.slow * 1000 / result.requests, 0, 10);
	/* The volume itself became slower: seen at the next pause. */
	disk.base_ns = 3 * MS;
	settle(&governor, &disk, 700, 1);
	assert_in_range(governor.baseline_ns, 285 * MS / 100, 315 * MS / 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_holds_the_target),
	    cmocka_unit_test(test_close_target),
	    cmocka_unit_test(test_noise_is_not_its_doing),
	    cmocka_unit_test(test_no_clients_no_limit),
	    cmocka_unit_test(test_bounds),
	    cmocka_unit_test(test_impact),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
