/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Monotonic time. Who has a ring asks that, which may be a simulation's. */
#pragma once

#include <stdint.h>
#include <time.h>

static inline uint64_t clock_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}
