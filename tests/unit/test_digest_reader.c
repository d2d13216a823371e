/* SPDX-License-Identifier: GPL-2.0-or-later */
/* BLOCK_DIGEST and BLOCK_SHA256 by way of a digest reader on a volume that answers in any order. */
#include "volume.h"

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define NODE (DIGEST_LEAF * DIGEST_FANOUT)
#define SIZE (5 * DIGEST_CHUNK + 12345)
#define MANY 40

struct fixture {
	struct ring *ring;
	struct rand rand;
	struct volume *volume;
	struct digest_key key;
	struct digest *digest;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	rand_init(&f->rand, seed_of_run());
	rand_bytes(&f->rand, f->key.bytes, sizeof(f->key.bytes));
	*state = f;
	if (ring_new(&f->ring, 64, NULL) < 0 || digest_new(&f->digest, &f->key, NULL) < 0)
		return -1;
	f->volume = volume_new(f->ring, &f->rand, SIZE);
	rand_bytes(&f->rand, f->volume->data, SIZE);
	memset(f->volume->data + DIGEST_CHUNK + NODE, 0, 2 * NODE);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	digest_free(f->digest);
	block_free(&f->volume->block);
	ring_free(f->ring);
	free(f);
	return 0;
}

static int ask(struct fixture *f, uint64_t offset, uint64_t length, uint32_t granularity, uint8_t *ret)
{
	struct block_io io = {.op = BLOCK_DIGEST,
	    .offset = offset,
	    .length = length,
	    .granularity = granularity,
	    .key = &f->key,
	    .buf = ret};

	return block_wait(&f->volume->block, &io);
}

static void want(struct fixture *f, uint64_t offset, uint64_t length, uint32_t granularity, uint8_t *ret)
{
	digest_leaves(f->digest, f->volume->data + offset, length, ret);
	digest_fold(f->digest, ret, digest_count(length, DIGEST_LEAF), granularity, ret);
}

static void check_ask(struct fixture *f, uint64_t offset, uint64_t length, uint32_t granularity)
{
	uint8_t got[4096] = {0}, expected[4096];

	want(f, offset, length, granularity, expected);
	assert_int_equal(ask(f, offset, length, granularity, got), 0);
	assert_memory_equal(got, expected, digest_count(length, granularity) * DIGEST_BYTES);
}

static void test_random_ranges(void **state)
{
	static const uint32_t granularities[] = {DIGEST_LEAF, NODE, DIGEST_CHUNK};
	static const uint32_t aligns[] = {1, 512, 4096, 65536};
	struct fixture *f = *state;

	for (int i = 0; i < 300; i++) {
		uint32_t granularity = granularities[rand_below(&f->rand, 3)];
		uint64_t offset = align_down(rand_below(&f->rand, SIZE), granularity);
		uint64_t room = min_u64(SIZE, align_down(offset, DIGEST_CHUNK) + DIGEST_CHUNK) - offset;

		f->volume->block.info.request_align = aligns[rand_below(&f->rand, 4)];
		check_ask(f, offset, 1 + rand_below(&f->rand, room), granularity);
		check_ask(f, offset, room, granularity);
	}
}

/* Narrowing reads nothing twice, but the same question again reads. */
static void test_cache(void **state)
{
	struct fixture *f = *state;
	uint64_t last = align_down(SIZE, DIGEST_CHUNK);

	check_ask(f, 0, DIGEST_CHUNK, DIGEST_CHUNK);
	check_ask(f, last, SIZE - last, DIGEST_CHUNK);
	assert_int_equal(f->volume->read_bytes, DIGEST_CHUNK + SIZE - last);
	check_ask(f, 0, DIGEST_CHUNK, NODE);
	check_ask(f, 3 * NODE, NODE, DIGEST_LEAF);
	check_ask(f, last, SIZE - last, NODE);
	check_ask(f, last, SIZE - last, DIGEST_LEAF);
	assert_int_equal(f->volume->read_bytes, DIGEST_CHUNK + SIZE - last);
	/* A short leaf that was not read as one is not in the cache. */
	check_ask(f, 3 * NODE, NODE - 1, DIGEST_LEAF);
	assert_int_equal(f->volume->read_bytes, DIGEST_CHUNK + SIZE - last + NODE - 1);
}

static void test_h28_same_question_reads_again(void **state)
{
	struct fixture *f = *state;

	for (uint32_t granularity = DIGEST_LEAF; granularity <= DIGEST_CHUNK; granularity *= DIGEST_FANOUT) {
		f->volume->read_bytes = 0;
		check_ask(f, 0, DIGEST_CHUNK, granularity);
		f->volume->data[70000]++; /* behind its back, as a medium that rots */
		check_ask(f, 0, DIGEST_CHUNK, granularity);
		assert_int_equal(f->volume->read_bytes, 2 * DIGEST_CHUNK);
	}
}

static void test_write_forgets(void **state)
{
	struct fixture *f = *state;
	uint8_t byte = 1;
	struct block_io io = {.op = BLOCK_WRITE, .offset = NODE + 5, .length = 1, .buf = &byte};

	for (int i = 0; i < 3; i++) {
		check_ask(f, 0, DIGEST_CHUNK, DIGEST_CHUNK);
		byte = f->volume->data[NODE + 5] + 1;
		assert_int_equal(block_wait(&f->volume->block, &io), 0);
		check_ask(f, 0, DIGEST_CHUNK, NODE);
	}
}

static void test_other_key_forgets(void **state)
{
	struct fixture *f = *state;

	check_ask(f, 0, DIGEST_CHUNK, DIGEST_CHUNK);
	f->key.bytes[3]++;
	digest_free(f->digest);
	assert_int_equal(digest_new(&f->digest, &f->key, NULL), 0);
	check_ask(f, 0, DIGEST_CHUNK, NODE);
	assert_int_equal(f->volume->read_bytes, 2 * DIGEST_CHUNK);
}

struct many {
	struct block_io io;
	uint8_t buf[256];
	unsigned *left;
	bool *done;
	int res;
};

static void many_done(struct block_io *io, int res)
{
	struct many *many = io->user;

	many->res = res;
	if (--*many->left == 0)
		*many->done = true;
}

static void test_many_at_once_are_bounded(void **state)
{
	struct fixture *f = *state;
	struct many *many = calloc(MANY, sizeof(*many));
	unsigned left = MANY;
	bool done = false;

	for (unsigned i = 0; i < MANY; i++) {
		uint64_t offset = i % 5 * DIGEST_CHUNK;

		many[i].left = &left;
		many[i].done = &done;
		many[i].io = (struct block_io){.op = BLOCK_DIGEST,
		    .offset = offset,
		    .length = DIGEST_CHUNK,
		    .granularity = NODE,
		    .key = &f->key,
		    .buf = many[i].buf,
		    .done = many_done,
		    .user = &many[i]};
		block_submit(&f->volume->block, &many[i].io);
		assert_int_equal(left, MANY); /* never from within the submit */
	}
	assert_int_equal(ring_run_until(f->ring, &done), 0);
	assert_true(f->volume->in_flight_max <= 16);
	for (unsigned i = 0; i < MANY; i++) {
		uint8_t expected[4096];

		assert_int_equal(many[i].res, 0);
		want(f, many[i].io.offset, DIGEST_CHUNK, NODE, expected);
		assert_memory_equal(many[i].buf, expected, 256);
	}
	free(many);
}

static void test_read_errors(void **state)
{
	struct fixture *f = *state;
	uint8_t got[4096];

	f->volume->fail_offset = 2 * DIGEST_CHUNK + 7;
	f->volume->fail_length = 1;
	f->volume->fail_res = -EIO;
	assert_int_equal(ask(f, 2 * DIGEST_CHUNK, DIGEST_CHUNK, NODE, got), -EIO);
	check_ask(f, 2 * DIGEST_CHUNK + DIGEST_LEAF, 7 * DIGEST_LEAF, DIGEST_LEAF);
	f->volume->fail_res = 0;
	check_ask(f, 2 * DIGEST_CHUNK, DIGEST_CHUNK, NODE);
}

static void test_refuses_wrong_shapes(void **state)
{
	struct fixture *f = *state;
	uint8_t got[4096];

	assert_int_equal(ask(f, 1, 10, DIGEST_LEAF, got), -EINVAL);
	assert_int_equal(ask(f, 0, DIGEST_CHUNK + 1, DIGEST_CHUNK, got), -EINVAL);
	assert_int_equal(ask(f, DIGEST_CHUNK - NODE, 2 * NODE, NODE, got), -EINVAL);
	assert_int_equal(ask(f, 0, 4096, 8192, got), -EINVAL);
	assert_int_equal(ask(f, SIZE - SIZE % DIGEST_LEAF, DIGEST_LEAF, DIGEST_LEAF, got), -EINVAL);
}

static int hash(struct fixture *f, uint64_t offset, uint64_t length, uint8_t *ret)
{
	struct block_io io = {.op = BLOCK_SHA256, .offset = offset, .length = length, .buf = ret};

	return block_wait(&f->volume->block, &io);
}

static void test_sha256(void **state)
{
	struct fixture *f = *state;
	uint8_t got[32], expected[32];

	for (int i = 0; i < 30; i++) {
		uint64_t at = 0;

		while (at < SIZE) {
			uint64_t length = min_u64(SIZE - at, rand_below(&f->rand, 3 * DIGEST_CHUNK));

			f->volume->block.info.request_align = i % 2 ? 4096 : 1;
			assert_int_equal(hash(f, at, length, got), 0);
			at += length;
			gnutls_hash_fast(GNUTLS_DIG_SHA256, f->volume->data, at, expected);
			assert_memory_equal(got, expected, 32);
			/* Digests in between do not disturb it. */
			check_ask(f, 0, NODE, DIGEST_LEAF);
		}
	}
	assert_int_equal(hash(f, 0, 0, got), 0);
	gnutls_hash_fast(GNUTLS_DIG_SHA256, "", 0, expected);
	assert_memory_equal(got, expected, 32);
}

static void test_sha256_in_a_queue(void **state)
{
	struct fixture *f = *state;
	struct many *many = calloc(MANY, sizeof(*many));
	unsigned left = MANY;
	bool done = false;
	uint64_t at = 0;
	uint8_t expected[32];

	for (unsigned i = 0; i < MANY; i++) {
		uint64_t length = i == MANY - 1 ? SIZE - at : rand_below(&f->rand, 2 * SIZE / MANY);

		length = min_u64(length, SIZE - at);
		many[i].left = &left;
		many[i].done = &done;
		many[i].io = (struct block_io){.op = BLOCK_SHA256,
		    .offset = at,
		    .length = length,
		    .buf = many[i].buf,
		    .done = many_done,
		    .user = &many[i]};
		block_submit(&f->volume->block, &many[i].io);
		at += length;
	}
	assert_int_equal(ring_run_until(f->ring, &done), 0);
	for (unsigned i = 0; i < MANY; i++) {
		assert_int_equal(many[i].res, 0);
		gnutls_hash_fast(
		    GNUTLS_DIG_SHA256, f->volume->data, many[i].io.offset + many[i].io.length, expected);
		assert_memory_equal(many[i].buf, expected, 32);
	}
	free(many);
}

static void test_sha256_gaps_and_errors(void **state)
{
	struct fixture *f = *state;
	uint8_t got[32], expected[32];

	assert_int_equal(hash(f, 0, 5000, got), 0);
	assert_int_equal(hash(f, 5001, 10, got), -EINVAL);
	assert_int_equal(hash(f, 5000, 10, got), 0);
	f->volume->fail_offset = DIGEST_CHUNK;
	f->volume->fail_length = 1;
	f->volume->fail_res = -EIO;
	assert_int_equal(hash(f, 5010, 4 * DIGEST_CHUNK, got), -EIO);
	f->volume->fail_res = 0;
	/* What follows a hole is no digest of anything. */
	assert_int_equal(hash(f, 5010 + 4 * DIGEST_CHUNK, 10, got), -EIO);
	assert_int_equal(hash(f, 0, SIZE, got), 0);
	gnutls_hash_fast(GNUTLS_DIG_SHA256, f->volume->data, SIZE, expected);
	assert_memory_equal(got, expected, 32);
}

#define ONE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    ONE(test_random_ranges),
	    ONE(test_cache),
	    ONE(test_h28_same_question_reads_again),
	    ONE(test_write_forgets),
	    ONE(test_other_key_forgets),
	    ONE(test_many_at_once_are_bounded),
	    ONE(test_read_errors),
	    ONE(test_refuses_wrong_shapes),
	    ONE(test_sha256),
	    ONE(test_sha256_in_a_queue),
	    ONE(test_sha256_gaps_and_errors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
