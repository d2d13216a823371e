/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A server's dirty bitmap, walked: in whatever pieces it is told, all of it; and answers that make no sense are refused. */
#include "track/track.h"
#include "volume.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define BLOCKS 5000u
#define GRAIN  512u

enum lie { LIE_NONE, LIE_GAP, LIE_EMPTY, LIE_BEYOND, LIE_NOTHING, LIE_ERROR, LIES };

struct server {
	struct block block;
	struct rand rand;
	uint8_t dirty[BLOCKS];
	enum lie lie;
};

static uint32_t tell(struct server *server, struct block_io *io)
{
	uint64_t at = io->offset, end = io->offset + io->length;
	uint32_t count = 0, max = 1 + (uint32_t)rand_below(&server->rand, io->extents_max);

	for (; at < end && count < max; count++) {
		uint64_t from = at, limit = min_u64(end, from + GRAIN * (1 + rand_below(&server->rand, 40)));

		while (at < limit && server->dirty[at / GRAIN] == server->dirty[from / GRAIN])
			at = min_u64((at / GRAIN + 1) * GRAIN, end);
		io->extents[count] =
		    (struct extent){from, at - from, server->dirty[from / GRAIN] ? EXTENT_DATA : EXTENT_ZERO};
	}
	return count;
}

static void server_submit(struct block *block, struct block_io *io)
{
	struct server *server = container_of(block, struct server, block);
	uint32_t count;

	assert_int_equal(io->op, BLOCK_EXTENTS);
	assert_true(io->flags & BLOCK_CHANGED);
	count = tell(server, io);
	if (server->lie == LIE_GAP)
		io->extents[count - 1].offset += 512;
	if (server->lie == LIE_EMPTY)
		io->extents[count - 1].length = 0;
	if (server->lie == LIE_BEYOND)
		io->extents[count - 1].length = UINT64_MAX - 100;
	block_complete_later(block, io,
	    server->lie == LIE_NOTHING ? 0
	    : server->lie == LIE_ERROR ? -EINVAL
	                               : (int)count);
}

static void server_free(struct block *block)
{
}

static const struct block_driver driver = {.name = "server", .submit = server_submit, .free = server_free};

static void start(struct server *server, struct ring *ring, uint64_t size)
{
	server->block = (struct block){.driver = &driver,
	    .ring = ring,
	    .info = {.name = "nbd://x", .size = size, .request_align = 1, .tells_changes = true}};
	for (unsigned i = 0; i < BLOCKS; i++)
		server->dirty[i] = rand_one_in(&server->rand, 3);
}

static int ask(struct server *server, const char *base, struct track_changes *ret)
{
	const struct track_request request = {.source = &server->block, .nbd = true, .base = base};
	struct error error = {0};
	int res = track_changes(TRACK_NBD_BITMAP, &request, ret, &error);

	assert_true(res == 0 || error.text[0]);
	return res;
}

static void test_h12_all_of_the_bitmap(void **state)
{
	struct server server = {0};

	rand_init(&server.rand, seed_of_run());
	for (int round = 0; round < 50; round++) {
		uint64_t size = BLOCKS * GRAIN - rand_below(&server.rand, 3 * GRAIN), bytes = 0;
		struct track_changes changes;

		start(&server, *state, size);
		assert_int_equal(ask(&server, "b0", &changes), 0);
		for (uint64_t at = 0; at < size; at += GRAIN) {
			uint64_t length = min_u64(GRAIN, size - at);

			bytes += server.dirty[at / GRAIN] ? length : 0;
			assert_true(
			    !server.dirty[at / GRAIN] || range_set_contains(&changes.ranges, at, length));
		}
		assert_int_equal(changes.ranges.bytes, bytes);
		assert_non_null(strstr(changes.base, "b0"));
		track_changes_done(&changes);
	}
}

static void test_h14_answers_that_make_no_sense(void **state)
{
	struct server server = {0};
	struct track_changes changes;

	rand_init(&server.rand, seed_of_run());
	start(&server, *state, BLOCKS * GRAIN);
	for (enum lie lie = LIE_GAP; lie < LIES; lie++) {
		server.lie = lie;
		assert_int_equal(ask(&server, "b0", &changes), lie == LIE_ERROR ? -EINVAL : -EPROTO);
		track_changes_done(&changes);
	}
}

static void test_h10_only_a_base_that_is_named_and_there(void **state)
{
	struct track_request request = {.base = "b0"};
	struct server server = {0};
	struct track_changes changes;

	rand_init(&server.rand, 1);
	start(&server, *state, BLOCKS * GRAIN);
	assert_int_equal(ask(&server, NULL, &changes), -ENOENT);
	server.block.info.tells_changes = false;
	assert_int_equal(ask(&server, "b0", &changes), -ENOENT);
	request.source = &server.block;
	assert_int_equal(track_changes(TRACK_NBD_BITMAP, &request, &changes, NULL), -ENODEV);
}

static int setup(void **state)
{
	return ring_new((struct ring **)state, 64, NULL);
}

static int teardown(void **state)
{
	ring_free(*state);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_h12_all_of_the_bitmap),
	    cmocka_unit_test(test_h14_answers_that_make_no_sense),
	    cmocka_unit_test(test_h10_only_a_base_that_is_named_and_there),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
