/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Two ends of a link between nodes, over a simulated wire: what is said is heard, a map comes over whole, and a hostile node only ends it. */
#include "base/rand.h"
#include "replica/replica_link.h"
#include "ring/ring_sim.h"
#include "wire/session.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "seed.h"

#define REGIONS    (20000000u + 77u) /* three pieces */
#define TIMEOUT_MS 1000u

struct end {
	struct ring *host;
	struct replica_link *link;
	int fd;
	unsigned heard, maps;
	uint64_t last; /* size in the last HELLO */
	struct bitmap map;
	bool lost;
	struct error error;
};

struct world {
	struct ring_sim *sim;
	struct rand rand;
	struct end ends[2];
};

static void heard(void *data, const struct replica_message *message)
{
	struct end *end = data;

	end->heard++;
	/* In their order. */
	if (message->say == REPLICA_HELLO) {
		assert_int_equal(message->size, end->last + 1);
		end->last = message->size;
	}
}

static void map(void *data, const struct bitmap *bits)
{
	struct end *end = data;

	end->maps++;
	assert_int_equal(bitmap_init(&end->map, bits->bits), 0);
	bitmap_or(&end->map, bits);
}

static void lost(void *data, const struct error *error)
{
	struct end *end = data;

	assert_false(end->lost);
	end->lost = true;
	end->error = *error;
}

static void link_up(struct world *world, unsigned which)
{
	struct end *end = &world->ends[which];
	const struct replica_link_options options = {.fd = end->fd,
	    .server = which == 1,
	    .timeout_ms = TIMEOUT_MS,
	    .heard = heard,
	    .map = map,
	    .lost = lost,
	    .data = end};

	assert_int_equal(replica_link_new(&end->link, end->host, &options, NULL), 0);
}

static void world_init(struct world *world, bool both)
{
	const struct ring_sim_link_options link = {.short_ppm = 100000};
	uint64_t seed = seed_of_run();
	int fds[2];

	*world = (struct world){.sim = ring_sim_new(seed, 0)};
	rand_init(&world->rand, seed);
	for (unsigned i = 0; i < 2; i++)
		world->ends[i].host = ring_sim_host_new(world->sim, i ? "beta" : "alpha");
	ring_sim_link_new(world->sim, world->ends[0].host, world->ends[1].host, &link, fds);
	for (unsigned i = 0; i < 2; i++)
		world->ends[i].fd = fds[i];
	link_up(world, 0);
	if (both)
		link_up(world, 1);
}

static void world_done(struct world *world)
{
	for (unsigned i = 0; i < 2; i++)
		replica_link_free(world->ends[i].link);
	for (unsigned i = 0; i < 2; i++) {
		ring_sim_link_close(world->sim, world->ends[i].fd);
		bitmap_done(&world->ends[i].map);
		ring_free(world->ends[i].host);
	}
	ring_sim_free(world->sim);
}

static void run_for_ms(struct world *world, uint64_t ms)
{
	struct ring_op timer = {
	    .opcode = RING_TIMER, .deadline_ns = ring_now_ns(world->ends[0].host) + ms * UINT64_C(1000000)};

	ring_wait(world->ends[0].host, &timer);
}

static void hello(struct end *end, uint64_t size)
{
	const struct replica_message message = {
	    .say = REPLICA_HELLO, .name = 1, .size = size, .ids = {.current = 5}};

	replica_link_say(end->link, &message);
}

static void test_messages(void **state)
{
	struct world world;

	world_init(&world, true);
	for (unsigned i = 1; i <= 100; i++) {
		hello(&world.ends[0], i);
		hello(&world.ends[1], i);
		if (i % 10 == 0)
			run_for_ms(&world, 1);
	}
	run_for_ms(&world, 10 * TIMEOUT_MS); /* and it stays, although nobody says anything */
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(world.ends[i].last, 100);
		assert_false(world.ends[i].lost);
	}
	world_done(&world);
}

static void test_map(void **state)
{
	for (unsigned kind = 0; kind < 3; kind++) {
		struct world world;
		struct bitmap bits;

		world_init(&world, true);
		assert_int_equal(bitmap_init(&bits, REGIONS), 0);
		for (unsigned i = 0; kind > 0 && i < (kind == 1 ? 40u : 100000u); i++)
			bitmap_set(&bits, rand_below(&world.rand, REGIONS), 1);
		bitmap_set(&bits, REGIONS - 1, kind > 0);
		assert_int_equal(replica_link_expect_map(world.ends[1].link, REGIONS), 0);
		assert_int_equal(replica_link_send_map(world.ends[0].link, &bits), 0);
		hello(&world.ends[0], 1);
		while (world.ends[1].maps == 0)
			assert_int_equal(ring_sim_step(world.sim), 0);
		assert_int_equal(world.ends[1].map.count, bits.count);
		assert_memory_equal(world.ends[1].map.words, bits.words, (REGIONS + 63) / 64 * 8);
		run_for_ms(&world, 100);
		assert_int_equal(world.ends[1].last, 1);
		bitmap_done(&bits);
		world_done(&world);
	}
}

static void test_drop(void **state)
{
	struct world world;

	world_init(&world, true);
	run_for_ms(&world, 10);
	replica_link_drop(world.ends[0].link, "the volumes have different sizes");
	run_for_ms(&world, 100);
	assert_true(world.ends[0].lost && world.ends[1].lost);
	assert_non_null(strstr(world.ends[1].error.text, "the other node gave up"));
	assert_non_null(strstr(world.ends[1].error.text, "different sizes"));
	hello(&world.ends[0], 1);
	world_done(&world);
}

static void test_h24_silence(void **state)
{
	struct world world;

	world_init(&world, true);
	run_for_ms(&world, 10);
	ring_sim_link_break(world.sim, world.ends[0].fd, RING_SIM_BREAK_STALL);
	run_for_ms(&world, 3 * TIMEOUT_MS);
	for (unsigned i = 0; i < 2; i++)
		assert_true(world.ends[i].lost);
	world_done(&world);
}

/* What a node may not send, one a row. */

struct hostile {
	struct session_send send;
	uint8_t payload[64];
};

static int pass(void *data, const struct frame *frame, struct session_sink *ret, struct error *error)
{
	return 0;
}

static int ignore(void *data, const struct frame *frame, const void *payload, struct error *error)
{
	return 0;
}

static void closed(void *data)
{
}

static void sent(struct session_send *send, int res)
{
}

static const struct {
	struct frame frame;
	const char *payload;
	bool expects;
	const char *words;
} rows[] = {
    {{.type = FRAME_NODE, .payload_length = 2}, "[]", false, "JSON object"},
    {{.type = FRAME_NODE, .payload_length = 2}, "{}", false, "nothing that a node says"},
    {{.type = FRAME_NODE, .payload_length = 2, .id = 4}, "{}", false, "no node says"},
    {{.type = FRAME_FACTS, .id = 1}, "", false, "no node says"},
    {{.type = FRAME_FLUSH, .id = 1}, "", false, "no node says"},
    {{.type = FRAME_MAP, .length = 8, .payload_length = 1}, "x", false, "not due"},
    {{.type = FRAME_MAP, .length = 65, .payload_length = 8}, "x", true, "were due"},
    {{.type = FRAME_MAP, .offset = 3, .length = 8, .payload_length = 1}, "x", true, "not due"},
    {{.type = FRAME_MAP, .offset = REGIONS / 64 * 64, .length = 400, .payload_length = 50}, "", true,
        "not due"},
    {{.type = FRAME_MAP, .length = 8}, "", true, "not due"},
    {{.type = FRAME_MAP, .length = 1u << 30, .payload_length = 1}, "x", true, "not due"},
};

static void test_hostile(void **state)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct world world;
		struct session *session;
		struct hostile hostile = {.send = {.frame = rows[i].frame, .sent = sent}};
		struct session_options options = {.server = true,
		    .timeout_ms = TIMEOUT_MS,
		    .handshake_ms = TIMEOUT_MS,
		    .offer = {1, FRAME_PAYLOAD_MAX},
		    .header = pass,
		    .frame = ignore,
		    .closed = closed};

		world_init(&world, false);
		options.fd_in = options.fd_out = world.ends[1].fd;
		assert_int_equal(session_new(&session, world.ends[1].host, &options, NULL), 0);
		if (rows[i].expects)
			replica_link_expect_map(world.ends[0].link, REGIONS);
		run_for_ms(&world, 5);
		memcpy(hostile.payload, rows[i].payload, strlen(rows[i].payload));
		hostile.send.payload = hostile.payload;
		session_send(session, &hostile.send);
		run_for_ms(&world, 100);
		if (!world.ends[0].lost || !strstr(world.ends[0].error.text, rows[i].words))
			fail_msg(
			    "row %zu: %s", i, world.ends[0].lost ? world.ends[0].error.text : "not lost");
		assert_int_equal(world.ends[0].heard + world.ends[0].maps, 0);
		session_free(session);
		world_done(&world);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_messages),
	    cmocka_unit_test(test_map),
	    cmocka_unit_test(test_drop),
	    cmocka_unit_test(test_h24_silence),
	    cmocka_unit_test(test_hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
