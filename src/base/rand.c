/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* xoshiro256** 1.0; the constants are those of its authors' public-domain reference. */
#include "base/rand.h"

#include <string.h>

static uint64_t splitmix(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static uint64_t rotate(uint64_t x, int k)
{
	return (x << k) | (x >> (64 - k));
}

void rand_init(struct rand *rand, uint64_t seed)
{
	for (int i = 0; i < 4; i++)
		rand->state[i] = splitmix(&seed);
}

uint64_t rand_u64(struct rand *rand)
{
	uint64_t *s = rand->state;
	const uint64_t result = rotate(s[1] * 5, 7) * 9;
	const uint64_t t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rotate(s[3], 45);
	return result;
}

uint64_t rand_below(struct rand *rand, uint64_t bound)
{
	/* Multiply and keep the high half: the bias is below bound / 2^64. */
	return (uint64_t)(((unsigned __int128)rand_u64(rand) * bound) >> 64);
}

uint64_t rand_between(struct rand *rand, uint64_t low, uint64_t high)
{
	if (low == 0 && high == UINT64_MAX)
		return rand_u64(rand);
	return low + rand_below(rand, high - low + 1);
}

bool rand_ppm(struct rand *rand, uint32_t parts)
{
	return parts && rand_below(rand, 1000000) < parts;
}

bool rand_one_in(struct rand *rand, uint64_t n)
{
	return n && rand_below(rand, n) == 0;
}

void rand_bytes(struct rand *rand, void *buf, size_t length)
{
	uint8_t *at = buf;

	for (; length >= 8; length -= 8, at += 8) {
		uint64_t value = rand_u64(rand);

		memcpy(at, &value, 8);
	}
	if (length) {
		uint64_t value = rand_u64(rand);

		memcpy(at, &value, length);
	}
}
