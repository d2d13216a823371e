/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What speaks over streams under TLS: two nodes' link, and a remote volume with its agent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "wire.h"

#include "tls_pair.h"
#include "tls_relay.h"

#include "replica/replica_link.h"

#define REGIONS 1000003u

/* A node's side of a link. */
struct node {
	struct replica_link *link;
	struct end *end;
	uint64_t last, heard, maps;
	uint64_t bits; /* of the map that came */
	bool lost;
	bool ended_first; /* TLS had said why before */
	struct error error;
};

static void heard(void *data, const struct replica_message *message)
{
	struct node *node = data;

	node->heard++;
	node->last = message->size;
}

static void map_came(void *data, const struct bitmap *bits)
{
	struct node *node = data;

	node->maps++;
	node->bits = bits->count;
}

static void link_lost(void *data, const struct error *error)
{
	struct node *node = data;

	node->lost = true;
	node->error = *error;
	node->ended_first = node->end->ended;
}

static void nodes_start(struct node nodes[2], struct pair *pair)
{
	for (unsigned i = 0; i < 2; i++) {
		const struct replica_link_options options = {.fd = take_fd(&pair->ends[i].plain),
		    .server = i == 1,
		    .timeout_ms = 3000,
		    .heard = heard,
		    .map = map_came,
		    .lost = link_lost,
		    .data = &nodes[i]};

		nodes[i] = (struct node){.end = &pair->ends[i]};
		assert_int_equal(replica_link_new(&nodes[i].link, pair->ring, &options, NULL), 0);
	}
}

static void hello(struct node *node, uint64_t size)
{
	const struct replica_message message = {
	    .say = REPLICA_HELLO, .name = 1, .size = size, .ids = {.current = 5}};

	replica_link_say(node->link, &message);
}

static void wait_for(struct pair *pair, const uint64_t *what, uint64_t until)
{
	while (*what < until)
		pair_step(pair);
}

static void test_two_nodes(void **state)
{
	make_certificates();
	for (unsigned psk = 0; psk < 2; psk++) {
		struct node nodes[2];
		struct bitmap bits;
		struct pair pair;
		int fds[2];

		connect_tcp(fds);
		pair_start(&pair, psk, fds);
		nodes_start(nodes, &pair);
		for (unsigned i = 1; i <= 100; i++) {
			hello(&nodes[0], i);
			hello(&nodes[1], i);
		}
		assert_int_equal(bitmap_init(&bits, REGIONS), 0);
		for (unsigned i = 0; i < REGIONS; i += 3)
			bitmap_set(&bits, i, 1);
		assert_int_equal(replica_link_expect_map(nodes[1].link, REGIONS), 0);
		assert_int_equal(replica_link_send_map(nodes[0].link, &bits), 0);
		wait_for(&pair, &nodes[1].maps, 1);
		assert_int_equal(nodes[1].bits, bits.count);
		for (unsigned i = 0; i < 2; i++) {
			wait_for(&pair, &nodes[i].heard, 100);
			assert_int_equal(nodes[i].last, 100);
			assert_false(nodes[i].lost || pair.ends[i].ended);
		}
		/* Last words, though all of it is freed at once, and the other link's end stays open. */
		replica_link_drop(nodes[0].link, "the volumes have different sizes");
		assert_int_equal(ring_run_until(pair.ring, &nodes[0].lost), 0);
		replica_link_free(nodes[0].link);
		pair.ends[0].stream = tls_stream_free(pair.ends[0].stream, true);
		assert_int_equal(ring_run_until(pair.ring, &nodes[1].lost), 0);
		assert_non_null(strstr(nodes[1].error.text, "different sizes"));
		replica_link_free(nodes[1].link);
		wait_ended(&pair, 1);
		bitmap_done(&bits);
		pair_free(&pair);
	}
}

/* Why a link was lost is known from TLS, before the link says that it is. */
static void test_nodes_that_are_strangers(void **state)
{
	struct node nodes[2];
	struct pair pair;
	int fds[2];

	connect_tcp(fds);
	assert_int_equal(ring_new(&pair.ring, 64, NULL), 0);
	for (unsigned i = 0; i < 2; i++) {
		pair.tls[i] = node_of(i ? "other.psk" : "keys.psk", "node");
		end_start(&pair, i, fds[i], pair.tls[i], i ? NULL : "alpha");
	}
	nodes_start(nodes, &pair);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(ring_run_until(pair.ring, &nodes[i].lost), 0);
		assert_true(nodes[i].ended_first);
		assert_int_equal(pair.ends[i].error.code, -EACCES);
		assert_int_equal(nodes[i].heard, 0);
	}
	for (unsigned i = 0; i < 2; i++)
		replica_link_free(nodes[i].link);
	pair_free(&pair);
}

static void test_link_is_cut(void **state)
{
	struct node nodes[2];
	struct relay relay;
	struct pair pair;
	int near[2], far[2];

	connect_unix(near);
	connect_tcp(far);
	pair_start(&pair, true, (int[2]){near[0], far[0]});
	relay_start(&relay, pair.ring, (int[2]){near[1], far[1]}, HARM_CUT, 0, 6000);
	nodes_start(nodes, &pair);
	for (unsigned i = 1; !nodes[0].lost || !nodes[1].lost; i++) {
		hello(&nodes[0], i);
		run_for_ms(pair.ring, 1);
	}
	assert_true(nodes[1].heard > 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_true(nodes[i].ended_first);
		assert_int_equal(pair.ends[i].error.code, -ENOTCONN);
		replica_link_free(nodes[i].link);
	}
	relay_end(&relay);
	pair_free(&pair);
}

/* A remote volume and its agent. */

static void volume_start(struct wire *wire, struct pair *pair)
{
	int fds[2];

	connect_tcp(fds);
	pair_start(pair, true, fds);
	*wire = (struct wire){.ring = pair->ring, .size = (9 << 20) + 512};
	for (unsigned i = 0; i < 2; i++)
		wire->fds[i] = take_fd(&pair->ends[i].plain);
}

static void test_remote_volume(void **state)
{
	static uint8_t data[(3 << 20) + 77], got[sizeof(data)];
	struct rand rand;
	struct pair pair;
	struct wire wire;

	rand_init(&rand, seed_of_run());
	volume_start(&wire, &pair);
	assert_int_equal(wire_start(&wire, COMPRESS_AUTO), 0);
	for (unsigned i = 0; i < 20; i++) {
		uint64_t length = rand_between(&rand, 1, sizeof(data));
		uint64_t offset = rand_below(&rand, wire.size - length);

		rand_bytes(&rand, data, length);
		assert_int_equal(wire_io(&wire, BLOCK_WRITE, offset, length, data), 0);
		assert_int_equal(wire_io(&wire, BLOCK_FLUSH, 0, 0, NULL), 0);
		memory_peek(wire.opened, offset, got, length);
		assert_memory_equal(data, got, length);
		memset(got, 0, length);
		assert_int_equal(wire_io(&wire, BLOCK_READ, offset, length, got), 0);
		assert_memory_equal(data, got, length);
	}
	wire.remote = block_free(wire.remote);
	assert_int_equal(ring_run_until(wire.ring, &wire.server_done), 0);
	assert_int_equal(wire.server_res, 0);
	wire.server = agent_server_free(wire.server);
	for (unsigned i = 0; i < 2; i++) {
		wait_ended(&pair, i);
		assert_int_equal(pair.ends[i].error.code, 0);
	}
	pair_free(&pair);
}

/* The agent's machine is gone: what was under way fails, and the volume says that it is lost. */
static void test_remote_volume_lost(void **state)
{
	static uint8_t data[1 << 20];
	struct pair pair;
	struct wire wire;

	volume_start(&wire, &pair);
	assert_int_equal(wire_start(&wire, COMPRESS_NONE), 0);
	assert_int_equal(wire_io(&wire, BLOCK_WRITE, 0, sizeof(data), data), 0);
	pair.ends[1].stream = tls_stream_free(pair.ends[1].stream, false);
	assert_int_equal(wire_io(&wire, BLOCK_WRITE, 0, sizeof(data), data), -ENOTCONN);
	wait_ended(&pair, 0);
	assert_int_equal(pair.ends[0].error.code, -ENOTCONN);
	wire.remote = block_free(wire.remote);
	assert_int_equal(ring_run_until(wire.ring, &wire.server_done), 0);
	wire.server = agent_server_free(wire.server);
	pair_free(&pair);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, keys_setup, own_folder_remove)
	const struct CMUnitTest tests[] = {
	    TEST(test_two_nodes),
	    TEST(test_nodes_that_are_strangers),
	    TEST(test_link_is_cut),
	    TEST(test_remote_volume),
	    TEST(test_remote_volume_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
