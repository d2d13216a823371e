/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A rate becomes a percentage: see move_govern.h. */
#include "cli/move_govern.h"

#include "base/clock.h"
#include "block/sysfs.h"

#include <stdio.h>

#define PERCENT_BEGIN  10u
#define INTERVAL_NS    150000000u /* less says nothing */
#define FULL_RATE_KEPT 0.8        /* of what was known before, each time that something was copied */

bool move_governs(const struct move_govern *govern)
{
	return govern->options.target_ns || govern->options.max_rate;
}

/* What the device's users asked for, and how long they waited in all (the kernel's Documentation/block/stat.rst). */
static void look_at_users(dev_t device, uint64_t *ret_requests, uint64_t *ret_waited_ms)
{
	unsigned long long reads = 0, reads_ms = 0, writes = 0, writes_ms = 0;
	char line[256];

	if (sysfs_device_line(device, "stat", line, sizeof(line)) == 0)
		(void)sscanf(
		    line, "%llu %*u %*u %llu %llu %*u %*u %llu", &reads, &reads_ms, &writes, &writes_ms);
	*ret_requests = reads + writes;
	*ret_waited_ms = reads_ms + writes_ms;
}

static unsigned percent_of(const struct move_govern *govern, unsigned percent_max)
{
	double percent = percent_max;

	if (govern->limits.hold)
		return 1;
	if (govern->limits.rate && govern->full_rate > 0)
		percent = (double)govern->limits.rate / govern->full_rate * 100;
	else if (govern->limits.rate)
		percent = govern->percent;
	if (percent > percent_max)
		percent = percent_max;
	return percent < 1 ? 1 : (unsigned)percent;
}

unsigned move_govern_percent(struct move_govern *govern, dev_t device, uint64_t done, unsigned percent_max)
{
	struct governor_sample sample = {0};
	uint64_t at_ns = clock_now_ns(), requests, waited_ms;

	look_at_users(device, &requests, &waited_ms);
	if (!govern->begun) {
		governor_init(&govern->governor, &govern->options);
		govern->begun = true;
		govern->percent = percent_max < PERCENT_BEGIN ? percent_max : PERCENT_BEGIN;
	} else if (at_ns - govern->at_ns < INTERVAL_NS) {
		return govern->percent;
	} else {
		sample.interval_ns = at_ns - govern->at_ns;
		sample.copied = done > govern->done ? done - govern->done : 0;
		sample.requests = requests - govern->requests;
		if (sample.requests)
			sample.p99_ns = (waited_ms - govern->waited_ms) * 1000000 / sample.requests;
		if (govern->limits.slow_ns && sample.p99_ns > govern->limits.slow_ns)
			sample.slow = sample.requests;
		if (sample.copied) {
			double rate =
			    (double)sample.copied / (double)sample.interval_ns * 1e9 * 100 / govern->percent;

			govern->full_rate = govern->full_rate > 0 ? govern->full_rate * FULL_RATE_KEPT +
			                                                rate * (1 - FULL_RATE_KEPT)
			                                          : rate;
		}
		governor_update(&govern->governor, &sample, &govern->limits);
		govern->percent = percent_of(govern, percent_max);
	}
	govern->at_ns = at_ns;
	govern->done = done;
	govern->requests = requests;
	govern->waited_ms = waited_ms;
	return govern->percent;
}
