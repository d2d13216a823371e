/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The exception store of a dm-snapshot: every chunk that it names and no other, whatever the sizes; and nothing of a store that is in doubt. */
#include "exception_store.h"
#include "filter/fault.h"
#include "filter/filter.h"
#include "track/dm_snapshot_format.h"
#include "track/dm_snapshot_store.h"
#include "volume.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct ring *ring;
static struct rand rand_state;

static int setup(void **state)
{
	rand_init(&rand_state, seed_of_run());
	return ring_new(&ring, 64, NULL);
}

static int teardown(void **state)
{
	ring_free(ring);
	return 0;
}

static void make_store(struct exception_store *store, uint64_t size, uint32_t chunk)
{
	struct block *cow;

	assert_int_equal(memory_new(&cow, ring, size, NULL, NULL), 0);
	exception_store_init(store, cow, chunk);
}

/* What a store of random exceptions names, against a list of our own. */
static void check_random_store(uint64_t store_size, uint32_t chunk, uint64_t origin, uint64_t wanted)
{
	uint64_t chunks = (origin + chunk - 1) / chunk, bytes = 0;
	uint8_t *written = calloc(1, chunks);
	struct exception_store store;
	struct changes changes;
	struct range_set set;
	bool full = false;

	make_store(&store, store_size, chunk);
	for (uint64_t n = 0; store.count < min_u64(wanted, chunks) && !full; n++) {
		/* The last, partial one is always there. */
		uint64_t old = n == 0 ? chunks - 1 : rand_below(&rand_state, chunks);

		if (written[old])
			continue;
		full = !exception_store_add(&store, old);
		written[old] = !full;
		bytes += full ? 0 : min_u64(chunk, origin - old * chunk);
	}
	changes_init(&changes, origin);
	assert_int_equal(dm_snapshot_store_read(store.cow, &changes, NULL), 0);
	assert_int_equal(changes_take(&changes, &set), 0);
	assert_int_equal(set.bytes, bytes);
	for (uint64_t i = 0; i < chunks; i++)
		if (written[i])
			assert_true(range_set_contains(&set, i * chunk, min_u64(chunk, origin - i * chunk)));
	range_set_done(&set);
	block_free(store.cow);
	free(written);
}

static void test_h12_every_chunk_is_found(void **state)
{
	for (int round = 0; round < 60; round++) {
		uint32_t chunk = 512u << rand_below(&rand_state, 9);
		uint64_t store = 4096 + rand_below(&rand_state, 8u << 20);
		uint64_t origin = 512 * (1 + rand_below(&rand_state, 40000));

		check_random_store(store, chunk, origin, rand_below(&rand_state, 4000));
	}
	/* Exactly full areas: one, two and many, and a store that ends with one. */
	for (uint64_t areas = 1; areas < 40; areas += 19)
		for (int more = -1; more <= 1; more++)
			check_random_store(
			    (1 + areas * 33) * 512 + 4096, 512, 1u << 22, areas * 32 + (uint64_t)more);
}

/* Reads a store of which something is wrong: the code, and that there are words. */
static int read_it(struct exception_store *store, uint64_t origin)
{
	struct error error = {0};
	struct changes changes;
	int res;

	changes_init(&changes, origin);
	res = dm_snapshot_store_read(store->cow, &changes, &error);
	assert_true(res == 0 || error.text[0]);
	changes_done(&changes);
	return res;
}

static void test_h14_headers_that_are_refused(void **state)
{
	static const struct {
		uint32_t magic, valid, version, sectors;
		int res;
	} headers[] = {
	    {0x70416e53, 1, 1, 8, 0},
	    {0x70416e54, 1, 1, 8, -EBADMSG},
	    {0, 0, 0, 0, -EBADMSG},
	    {0x70416e53, 0, 1, 8, -ESTALE},
	    {0x70416e53, 2, 1, 8, -ESTALE},
	    {0x70416e53, 1, 0, 8, -EOPNOTSUPP},
	    {0x70416e53, 1, 2, 8, -EOPNOTSUPP},
	    {0x70416e53, 1, 1, 0, -EBADMSG},
	    {0x70416e53, 1, 1, 24, -EBADMSG},
	    {0x70416e53, 1, 1, UINT32_MAX, -EBADMSG},
	    {0x70416e53, 1, 1, 16384, -EOPNOTSUPP},
	    {0x70416e53, 1, 1, 1u << 31, -EOPNOTSUPP},
	};
	struct exception_store store;

	make_store(&store, 1u << 20, 4096);
	exception_store_add(&store, 3);
	for (size_t i = 0; i < sizeof(headers) / sizeof(headers[0]); i++) {
		exception_store_header(
		    &store, headers[i].magic, headers[i].valid, headers[i].version, headers[i].sectors);
		assert_int_equal(read_it(&store, 1u << 20), headers[i].res);
	}
	block_free(store.cow);
	make_store(&store, 512, 512);
	assert_int_equal(read_it(&store, 1u << 20), -EBADMSG);
	block_free(store.cow);
}

static void test_h14_damaged_lists_are_refused(void **state)
{
	const uint64_t most = 4096 / 16, chunks = (4u << 20) / 4096;
	const struct {
		uint64_t old, new;
		int res;
	} entries[] = {
	    {255, 3, 0}, {256, 3, -EBADMSG},                             /* behind the origin's end */
	    {UINT64_MAX, 3, -EBADMSG}, {0, 1, -EBADMSG},                 /* the first area */
	    {0, most + 2, -EBADMSG},                                     /* the second */
	    {0, most + 1, 0}, {0, chunks - 1, 0}, {0, chunks, -EBADMSG}, /* behind the store's end */
	    {0, UINT64_MAX, -EBADMSG}, {7, 0, 0},                        /* the end of the list */
	};
	struct exception_store store;

	for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
		make_store(&store, 4u << 20, 4096);
		for (uint64_t n = 0; n < 5; n++)
			exception_store_add(&store, n + 10);
		exception_store_put(&store, 4, entries[i].old, entries[i].new);
		assert_int_equal(read_it(&store, 1u << 20), entries[i].res);
		block_free(store.cow);
	}
}

/* A chunk that is there twice was written by nobody but a fault. */
static void test_a_chunk_twice_is_seen(void **state)
{
	struct exception_store store;
	struct changes changes;

	make_store(&store, 4u << 20, 4096);
	for (uint64_t n = 0; n < 600; n++)
		exception_store_add(&store, n == 599 ? 17 : n);
	changes_init(&changes, 64u << 20);
	assert_int_equal(dm_snapshot_store_read(store.cow, &changes, NULL), 0);
	changes_tidy(&changes);
	assert_true(changes.overlaps);
	changes_done(&changes);
	block_free(store.cow);
}

static void test_a_store_that_cannot_be_read(void **state)
{
	const struct fault_rule rule = {FAULT_ERROR, -EIO, 1u << BLOCK_READ, .nth = 4};
	struct exception_store store;
	struct changes changes;
	struct error error = {0};

	make_store(&store, 4u << 20, 4096);
	for (uint64_t n = 0; n < 900; n++)
		exception_store_add(&store, 2 * n);
	assert_int_equal(fault_new(&store.cow, store.cow, 1, NULL), 0);
	assert_int_equal(fault_add(store.cow, &rule), 0);
	changes_init(&changes, 64u << 20);
	assert_int_equal(dm_snapshot_store_read(store.cow, &changes, &error), -EIO);
	changes_done(&changes);
	block_free(store.cow);
}

/* Gives the snapshot up behind the reader's back, as the kernel does when it is full. */
struct giver_up {
	struct filter filter;
	unsigned reads;
};

static void give_up_submit(struct block *block, struct block_io *io)
{
	struct giver_up *up = container_of(filter_of(block), struct giver_up, filter);
	struct exception_store store = {.cow = up->filter.below};

	if (++up->reads == 3)
		exception_store_header(&store, 0x70416e53, 0, 1, 8);
	filter_forward(&up->filter, io);
}

static void give_up_free(struct block *block)
{
	filter_done(filter_of(block));
}

static void test_h14_given_up_while_it_is_read(void **state)
{
	static const struct block_driver driver = {
	    .name = "giver_up", .submit = give_up_submit, .free = give_up_free};
	struct giver_up up = {0};
	struct exception_store store;

	make_store(&store, 4u << 20, 4096);
	for (uint64_t n = 0; n < 900; n++)
		exception_store_add(&store, n);
	filter_init(&up.filter, &driver, store.cow);
	store.cow = &up.filter.block;
	assert_int_equal(read_it(&store, 64u << 20), -ESTALE);
	block_free(store.cow);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_h12_every_chunk_is_found),
	    cmocka_unit_test(test_h14_headers_that_are_refused),
	    cmocka_unit_test(test_h14_damaged_lists_are_refused),
	    cmocka_unit_test(test_a_chunk_twice_is_seen),
	    cmocka_unit_test(test_a_store_that_cannot_be_read),
	    cmocka_unit_test(test_h14_given_up_while_it_is_read),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
