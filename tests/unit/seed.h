/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The seed of a test's run: BLKMOVE_SEED, so that a failing run replays, else another one each time. It is printed. */
#pragma once

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static inline uint64_t seed_of_run(void)
{
	const char *text = getenv("BLKMOVE_SEED");
	uint64_t seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL) * 1000003u + (uint64_t)getpid();

	printf("BLKMOVE_SEED=%" PRIu64 "\n", seed);
	fflush(stdout);
	return seed;
}
