/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A small seeded generator (xoshiro256**, Blackman and Vigna 2018, seeded by splitmix64) for simulations,
 * jitter and tests. One seed gives one sequence on every machine. Not for keys.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rand {
	uint64_t state[4];
};

void rand_init(struct rand *rand, uint64_t seed);
uint64_t rand_u64(struct rand *rand);
/* Uniform in [0, bound); 0 for a bound of 0. */
uint64_t rand_below(struct rand *rand, uint64_t bound);
/* Uniform in [low, high], both included. */
uint64_t rand_between(struct rand *rand, uint64_t low, uint64_t high);
/* True `parts` times in a million. */
bool rand_ppm(struct rand *rand, uint32_t parts);
/* True once in `n` times; never for 0. */
bool rand_one_in(struct rand *rand, uint64_t n);
void rand_bytes(struct rand *rand, void *buf, size_t length);
