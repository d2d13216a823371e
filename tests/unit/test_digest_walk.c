/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Digests of a whole volume: what is walked over, and the words for what goes wrong on the way. */
#include "sync/digest_walk.h"
#include "volume.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define SIZE 3000001u

struct fixture {
	struct ring *ring;
	struct rand rand;
	struct volume *volume;
	struct digest_key key;
	struct digest_walk walk;
	struct error error;
	uint64_t got;
};

static int got(void *data, uint64_t offset, uint64_t length, const uint8_t *digests)
{
	struct fixture *f = data;

	assert_true(offset == f->got);
	f->got += length;
	return 0;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	rand_init(&f->rand, seed_of_run());
	if (ring_new(&f->ring, 64, NULL) < 0)
		return -1;
	f->volume = volume_new(f->ring, &f->rand, SIZE);
	f->walk = (struct digest_walk){
	    .block = &f->volume->block, .key = &f->key, .granularity = DIGEST_LEAF, .got = got, .data = f};
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	block_free(&f->volume->block);
	ring_free(f->ring);
	free(f);
	return 0;
}

static void test_all_is_walked_over(void **state)
{
	struct fixture *f = *state;

	memset(f->volume->hole, 1, SIZE / 2);
	assert_int_equal(digest_walk(&f->walk, &f->error), 0);
	assert_true(f->got == SIZE && f->walk.position == SIZE);
	assert_true(f->volume->read_bytes < SIZE);
}

static void test_failures_have_words(void **state)
{
	struct fixture *f = *state;

	f->volume->fail_extents = true;
	assert_int_equal(digest_walk(&f->walk, &f->error), -EIO);
	assert_string_equal(
	    f->error.text, "cannot learn where there is data in volume at byte 0: Input/output error");
	assert_int_equal(f->error.code, -EIO);
	f->volume->fail_extents = false;
	f->volume->fail_res = -EIO;
	f->volume->fail_offset = 1 << 20;
	f->volume->fail_length = 1;
	assert_int_equal(digest_walk(&f->walk, &f->error), -EIO);
	assert_string_equal(f->error.text, "cannot digest volume at byte 1048576: Input/output error");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_all_is_walked_over, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_failures_have_words, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
