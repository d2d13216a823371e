/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Compression: what comes out is what went in, lies are seen, and it is done only where it pays. Time is made up. */
#include "base/rand.h"
#include "wire/compress.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define LENGTH (1u << 20)

/* A clock that goes on by `tick_ns` at each look: so long seems each compression to take. */
struct clock {
	struct ring ring;
	uint64_t now_ns, tick_ns;
	unsigned looks;
};

static uint64_t clock_now(struct ring *ring)
{
	struct clock *clock = container_of(ring, struct clock, ring);

	clock->looks++;
	return clock->now_ns += clock->tick_ns;
}

static const struct ring_ops clock_ops = {.now_ns = clock_now};

static uint8_t text[LENGTH], noise[LENGTH], out[LENGTH];

static struct compress *make(struct clock *clock, uint64_t tick_ns, bool always)
{
	struct compress *compress;

	*clock = (struct clock){.ring = {.ops = &clock_ops}, .now_ns = 1000000000, .tick_ns = tick_ns};
	assert_int_equal(compress_new(&compress, &clock->ring, 0, always, NULL), 0);
	return compress;
}

static void test_round_trip(void **state)
{
	static const size_t lengths[] = {256, 257, 4095, 4096, 65537, LENGTH};
	struct decompress *decompress;
	static uint8_t back[LENGTH];
	struct clock clock;
	struct compress *compress = make(&clock, 0, true);

	assert_int_equal(decompress_new(&decompress, NULL), 0);
	for (unsigned i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		size_t size = compress_try(compress, text, lengths[i], out, sizeof(out));

		assert_true(size > 0 && size <= lengths[i] - lengths[i] / 8);
		assert_int_equal(decompress_run(decompress, out, size, back, lengths[i], NULL), 0);
		assert_memory_equal(back, text, lengths[i]);
		assert_int_equal(decompress_run(decompress, out, size, back, lengths[i] - 1, NULL), -EPROTO);
		assert_int_equal(decompress_run(decompress, out, size, back, lengths[i] + 1, NULL), -EPROTO);
		assert_int_equal(decompress_run(decompress, out, size - 1, back, lengths[i], NULL), -EPROTO);
		assert_int_equal(decompress_run(decompress, out, 0, back, lengths[i], NULL), -EPROTO);
		out[size - 1] ^= 0xff;
		out[size / 2] ^= 0xff;
		decompress_run(decompress, out, size, back, lengths[i], NULL);
	}
	assert_int_equal(compress_try(compress, text, 100, out, sizeof(out)), 0);
	assert_int_equal(compress_try(compress, text, 4096, out, 100), 0);
	compress_free(compress);
	decompress_free(decompress);
}

/* Keeps a frame compressed only if it saves an eighth. */
static void test_an_eighth(void **state)
{
	struct clock clock;
	struct compress *compress = make(&clock, 0, true);
	uint8_t mixed[65536];

	memcpy(mixed, noise, sizeof(mixed));
	memset(mixed, 0, sizeof(mixed) / 16);
	assert_int_equal(compress_try(compress, mixed, sizeof(mixed), out, sizeof(out)), 0);
	compress_free(compress);
	compress = make(&clock, 0, true);
	memset(mixed, 0, sizeof(mixed) / 4);
	assert_true(compress_try(compress, mixed, sizeof(mixed), out, sizeof(out)) > 0);
	compress_free(compress);
}

/* Tries show as looks at the clock: two for each. */
static unsigned tries_of(
    struct clock *clock, struct compress *compress, const uint8_t *data, unsigned payloads)
{
	unsigned before = clock->looks;

	for (unsigned i = 0; i < payloads; i++)
		compress_try(compress, data, 65536, out, sizeof(out));
	return (clock->looks - before) / 2;
}

static void test_backs_off_from_noise(void **state)
{
	struct clock clock;
	struct compress *compress = make(&clock, 0, true);
	unsigned first = tries_of(&clock, compress, noise, 256);
	unsigned later = tries_of(&clock, compress, noise, 256);

	/* 256 payloads of 64 KiB: one try for each MiB, once it has backed off. */
	assert_in_range(first, 16, 21);
	assert_in_range(later, 15, 16);
	/* 1 MiB at most is passed over; then text is found again, and stays. */
	tries_of(&clock, compress, text, 17);
	assert_int_equal(tries_of(&clock, compress, text, 64), 64);
	compress_free(compress);
}

/* Sends so many MiB over a link; how many of them were compressed. */
static unsigned drive(
    struct clock *clock, struct compress *compress, unsigned payloads, uint64_t link_ns_per_mib)
{
	unsigned packed = 0;

	for (unsigned i = 0; i < payloads; i++) {
		size_t size = compress_try(compress, text, LENGTH, out, sizeof(out));

		packed += size > 0;
		uint64_t wait_ns = link_ns_per_mib * (size ? size : LENGTH) / LENGTH;

		clock->now_ns += wait_ns;
		compress_waited(compress, wait_ns);
	}
	return packed;
}

static void test_fast_link_goes_raw(void **state)
{
	/* 4 ms to compress 1 MiB, 0.5 ms to send it. */
	struct clock clock;
	struct compress *compress = make(&clock, 4000000, false);
	unsigned packed = drive(&clock, compress, 800, 500000);

	assert_true(packed > 0 && packed < 300);
	compress_free(compress);
}

static void test_slow_link_compresses(void **state)
{
	static const uint64_t links[] = {10000000, 100000000, 1000000000}; /* 100 MB/s, 10 MB/s, 1 MB/s */

	for (unsigned i = 0; i < sizeof(links) / sizeof(links[0]); i++) {
		struct clock clock;
		struct compress *compress = make(&clock, 2000000, false);
		unsigned packed = drive(&clock, compress, 400, links[i]);

		assert_true(packed > 380);
		compress_free(compress);
	}
}

/* The link changes: so does the way, in bounded time. */
static void test_follows_the_link(void **state)
{
	struct clock clock;
	struct compress *compress = make(&clock, 4000000, false);

	drive(&clock, compress, 400, 500000);
	drive(&clock, compress, 300, 200000000);
	assert_true(drive(&clock, compress, 60, 200000000) > 55);
	compress_free(compress);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_round_trip),
	    cmocka_unit_test(test_an_eighth),
	    cmocka_unit_test(test_backs_off_from_noise),
	    cmocka_unit_test(test_fast_link_goes_raw),
	    cmocka_unit_test(test_slow_link_compresses),
	    cmocka_unit_test(test_follows_the_link),
	};
	struct rand rand;

	rand_init(&rand, 1);
	rand_bytes(&rand, noise, sizeof(noise));
	for (unsigned i = 0; i < LENGTH; i++)
		text[i] =
		    i % 1024 >= 724 ? noise[i] : (uint8_t)("lorem ipsum dolor "[i % 18] + (i / 4000) % 7);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
