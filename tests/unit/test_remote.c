/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A remote volume against a real agent's server: every kind of request, at random, in parallel, and what
 * becomes of them. */
#include "wire.h"

#include "block/digest.h"
#include "filter/fault.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static const enum compress_mode modes[] = {COMPRESS_NONE, COMPRESS_AUTO, COMPRESS_ZSTD};

/* Text-like, random or zero. */
static void fill(struct rand *rand, uint8_t *buf, uint64_t length)
{
	uint64_t kind = rand_below(rand, 3);

	if (kind == 0)
		rand_bytes(rand, buf, length);
	else
		for (uint64_t i = 0; i < length; i++)
			buf[i] = kind == 1 ? (uint8_t)("the volume "[i % 11] + i / 100000) : 0;
}

#define FLIGHT 40

struct flight {
	struct wire *wire;
	struct rand *rand;
	uint8_t *model;
	unsigned left, under_way;
	bool done;
	struct one {
		struct flight *flight;
		struct block_io io;
		uint8_t *buf;
	} ones[FLIGHT];
};

static void next(struct one *one);

static void one_done(struct block_io *io, int res)
{
	struct one *one = io->user;
	struct flight *flight = one->flight;

	assert_int_equal(res, 0);
	if (io->op == BLOCK_READ)
		assert_memory_equal(one->buf, flight->model + io->offset, io->length);
	flight->under_way--;
	if (flight->left > 0)
		next(one);
	else if (flight->under_way == 0)
		flight->done = true;
}

/* Each in a part of the volume of its own, so that the model needs no order. */
static void next(struct one *one)
{
	struct flight *flight = one->flight;
	uint64_t part = flight->wire->size / FLIGHT, begin = part * (uint64_t)(one - flight->ones);
	uint64_t offset = rand_below(flight->rand, part),
	         length = 1 + rand_below(flight->rand, part - offset);
	static const enum block_op ops[] = {
	    BLOCK_READ, BLOCK_READ, BLOCK_WRITE, BLOCK_WRITE, BLOCK_ZERO, BLOCK_FLUSH};

	one->io = (struct block_io){
	    .op = ops[rand_below(flight->rand, 6)],
	    .offset = begin + offset,
	    .length = length,
	    .buf = one->buf,
	    .done = one_done,
	    .user = one,
	};
	if (one->io.op == BLOCK_WRITE) {
		fill(flight->rand, one->buf, length);
		memcpy(flight->model + begin + offset, one->buf, length);
	} else if (one->io.op == BLOCK_ZERO) {
		memset(flight->model + begin + offset, 0, length);
	}
	flight->left--;
	flight->under_way++;
	block_submit(flight->wire->remote, &one->io);
}

static void fly(struct wire *wire, struct rand *rand, unsigned count)
{
	struct flight flight = {.wire = wire, .rand = rand, .left = count};
	uint8_t *seen = malloc(wire->size);

	flight.model = calloc(1, wire->size);
	for (unsigned i = 0; i < FLIGHT; i++) {
		flight.ones[i].flight = &flight;
		flight.ones[i].buf = malloc(wire->size / FLIGHT);
	}
	for (unsigned i = 0; i < FLIGHT; i++)
		next(&flight.ones[i]);
	assert_int_equal(ring_run_until(wire->ring, &flight.done), 0);
	memory_peek(wire->opened, 0, seen, wire->size);
	assert_memory_equal(seen, flight.model, wire->size);
	for (unsigned i = 0; i < FLIGHT; i++)
		free(flight.ones[i].buf);
	free(flight.model);
	free(seen);
}

static void test_random_requests(void **state)
{
	struct rand rand;

	rand_init(&rand, seed_of_run());
	for (unsigned i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		struct wire wire;

		wire_init(&wire, 0, NULL);
		wire.size = (40u << 20) + 17;
		assert_int_equal(wire_start(&wire, modes[i]), 0);
		fly(&wire, &rand, 600);
		wire_done(&wire);
		assert_int_equal(wire.server_res, 0);
	}
}

static void test_simulated_links(void **state)
{
	uint64_t seed = seed_of_run();
	struct rand rand;

	for (unsigned run = 0; run < 60; run++) {
		struct ring_sim_link_options link = {
		    .delay_ns = 1000000, .jitter_ns = 500000, .short_ppm = 700000};
		struct wire wire;

		rand_init(&rand, seed + run);
		link.capacity = 1 + (uint32_t)rand_below(&rand, 100000);
		wire_init(&wire, seed + run, &link);
		wire.size = 100000 + rand_below(&rand, 400000);
		assert_int_equal(wire_start(&wire, modes[run % 3]), 0);
		fly(&wire, &rand, 150);
		wire_done(&wire);
	}
}

/* More than the credits allow at once, and one slow byte after another. */
static void test_many_small_writes(void **state)
{
	enum { COUNT = 3000 };
	struct wire wire;
	struct flight flight = {.left = 0, .under_way = COUNT};
	struct one *ones = calloc(COUNT, sizeof(*ones));
	uint8_t *seen = malloc(COUNT * 4096), *sent = malloc(COUNT * 4096);
	struct rand rand;

	rand_init(&rand, seed_of_run());
	rand_bytes(&rand, sent, COUNT * 4096);
	wire_init(&wire, 0, NULL);
	wire.size = COUNT * 4096;
	assert_int_equal(wire_start(&wire, COMPRESS_AUTO), 0);
	for (unsigned i = 0; i < COUNT; i++) {
		ones[i].flight = &flight;
		ones[i].io = (struct block_io){
		    .op = BLOCK_WRITE,
		    .offset = i * 4096ull,
		    .length = 4096,
		    .buf = sent + i * 4096ull,
		    .done = one_done,
		    .user = &ones[i],
		};
		block_submit(wire.remote, &ones[i].io);
	}
	assert_int_equal(ring_run_until(wire.ring, &flight.done), 0);
	memory_peek(wire.opened, 0, seen, wire.size);
	assert_memory_equal(seen, sent, wire.size);
	wire_done(&wire);
	free(ones);
	free(seen);
	free(sent);
}

static void test_largest_requests(void **state)
{
	uint8_t *data = malloc(BLOCK_IO_MAX), *back = malloc(BLOCK_IO_MAX);
	struct rand rand;

	rand_init(&rand, seed_of_run());
	for (unsigned i = 0; i < 6; i++) {
		struct wire wire;

		wire_init(&wire, 0, NULL);
		wire.size = BLOCK_IO_MAX + 5;
		assert_int_equal(wire_start(&wire, modes[i % 3]), 0);
		rand_bytes(&rand, data, BLOCK_IO_MAX);
		if (i > 2)
			memset(data + 1000, 7, BLOCK_IO_MAX - 1000);
		assert_int_equal(wire_io(&wire, BLOCK_WRITE, 5, BLOCK_IO_MAX, data), 0);
		assert_int_equal(wire_io(&wire, BLOCK_READ, 5, BLOCK_IO_MAX, back), 0);
		assert_memory_equal(data, back, BLOCK_IO_MAX);
		wire_done(&wire);
	}
	free(data);
	free(back);
}

/* H03: zero detection in the agent's answers; one byte at every position of a block. */
static void test_h03_one_byte_anywhere(void **state)
{
	uint8_t block[512], back[512];
	struct wire wire;

	wire_init(&wire, 0, NULL);
	assert_int_equal(wire_start(&wire, COMPRESS_AUTO), 0);
	for (unsigned i = 0; i < sizeof(block); i++) {
		memset(block, 0, sizeof(block));
		block[i] = 1;
		assert_int_equal(memory_poke(wire.opened, 4096, block, sizeof(block)), 0);
		memset(back, 0xaa, sizeof(back));
		assert_int_equal(wire_io(&wire, BLOCK_READ, 4096, sizeof(back), back), 0);
		assert_memory_equal(block, back, sizeof(block));
	}
	memset(block, 0, sizeof(block));
	assert_int_equal(memory_poke(wire.opened, 4096, block, sizeof(block)), 0);
	assert_int_equal(wire_io(&wire, BLOCK_READ, 4096, sizeof(back), back), 0);
	assert_memory_equal(block, back, sizeof(block));
	wire_done(&wire);
}

static void test_extents_digests_sha(void **state)
{
	static const uint32_t granularities[] = {DIGEST_LEAF, DIGEST_LEAF * DIGEST_FANOUT, DIGEST_CHUNK};
	struct extent here[64], there[64];
	uint8_t digests[2][DIGEST_CHUNK / DIGEST_LEAF * DIGEST_BYTES], data[70000];
	struct digest_key key;
	struct wire wire;
	struct rand rand;

	rand_init(&rand, seed_of_run());
	rand_bytes(&rand, key.bytes, sizeof(key.bytes));
	rand_bytes(&rand, data, sizeof(data));
	wire_init(&wire, 0, NULL);
	wire.size = (2u << 20) + 4321;
	assert_int_equal(wire_start(&wire, COMPRESS_AUTO), 0);
	memory_poke(wire.opened, 300000, data, sizeof(data));
	for (unsigned i = 0; i < 3; i++) {
		uint64_t offset = i == 2 ? DIGEST_CHUNK * 2 : 0, length = i == 2 ? 4321 : DIGEST_CHUNK;
		struct block_io io = {.op = BLOCK_DIGEST,
		    .offset = offset,
		    .length = length,
		    .granularity = granularities[i],
		    .key = &key,
		    .buf = digests[0]};

		memset(digests, i, sizeof(digests));
		assert_int_equal(block_wait(wire.remote, &io), 0);
		io.buf = digests[1];
		assert_int_equal(block_wait(wire.opened, &io), 0);
		assert_memory_equal(digests[0], digests[1], sizeof(digests[0]));
	}
	{
		struct block_io io = {
		    .op = BLOCK_EXTENTS, .length = wire.size, .extents = here, .extents_max = 64};
		int count = block_wait(wire.opened, &io);

		io.extents = there;
		assert_true(count > 1);
		assert_int_equal(block_wait(wire.remote, &io), count);
		for (int i = 0; i < count; i++) {
			assert_int_equal(here[i].offset, there[i].offset);
			assert_int_equal(here[i].length, there[i].length);
			assert_int_equal(here[i].kind, there[i].kind);
		}
		io.extents_max = 1;
		assert_int_equal(block_wait(wire.remote, &io), 1);
	}
	assert_int_equal(wire_io(&wire, BLOCK_SHA256, 0, wire.size, digests[0]), 0);
	assert_int_equal(block_wait(wire.opened,
	                     &(struct block_io){.op = BLOCK_SHA256, .length = wire.size, .buf = digests[1]}),
	    0);
	assert_memory_equal(digests[0], digests[1], 32);
	wire_done(&wire);
}

static void test_open_tells_and_asks(void **state)
{
	struct block_open_options options = {
	    .write = true, .create = true, .create_size = 12345, .force_held = true, .cache = CACHE_DIRECT};
	struct block_facts facts, local;
	struct wire wire;

	wire_init(&wire, 0, NULL);
	wire.memory = (struct memory_options){
	    .sector_size = 4096, .request_align = 1, .resizable = true, .name = "vol"};
	wire_serve(&wire, 0);
	assert_int_equal(wire_connect(&wire, &options, NULL), 0);
	assert_true(wire.last_write && wire.last_create && wire.last_force);
	assert_int_equal(wire.last_cache, CACHE_DIRECT);
	assert_string_equal(wire.last_path, "/vol");
	assert_int_equal(block_info(wire.remote)->size, 12345);
	assert_int_equal(block_info(wire.remote)->sector_size, 4096);
	assert_true(block_info(wire.remote)->remote && block_info(wire.remote)->writable);
	assert_true(block_info(wire.remote)->resizable);
	assert_string_equal(block_info(wire.remote)->name, "there:/vol");
	assert_int_equal(block_facts(wire.remote, &facts, NULL), 0);
	assert_int_equal(block_facts(wire.opened, &local, NULL), 0);
	assert_string_equal(facts.id, local.id);
	assert_string_equal(facts.mark, local.mark);
	assert_int_equal(facts.allocated, local.allocated);
	assert_int_equal(wire_io(&wire, BLOCK_RESIZE, 0, 99999, NULL), 0);
	assert_int_equal(block_info(wire.remote)->size, 99999);
	assert_int_equal(block_info(wire.opened)->size, 99999);
	assert_int_equal(block_link_error(wire.remote, NULL), 0);
	wire_done(&wire);
}

/* What comes from a stream is written before its length is known. */
static void test_file_there_grows(void **state)
{
	struct block_open_options options = {.write = true, .create = true};
	uint8_t data[3000], seen[3000];
	struct wire wire;

	memset(data, 7, sizeof(data));
	wire_init(&wire, 0, NULL);
	wire.memory.resizable = true;
	wire_serve(&wire, 0);
	assert_int_equal(wire_connect(&wire, &options, NULL), 0);
	assert_int_equal(block_info(wire.remote)->size, 0);
	assert_int_equal(wire_io(&wire, BLOCK_WRITE, 0, 3000, data), 0);
	assert_int_equal(wire_io(&wire, BLOCK_ZERO, 3000, 10u << 20, NULL), 0);
	assert_int_equal(wire_io(&wire, BLOCK_WRITE, (10u << 20) + 3000, 3000, data), 0);
	assert_int_equal(wire_io(&wire, BLOCK_ZERO, (10u << 20) + 6000, 500, NULL), 0);
	assert_int_equal(wire_io(&wire, BLOCK_RESIZE, 0, (10u << 20) + 6500, NULL), 0);
	assert_int_equal(wire_io(&wire, BLOCK_READ, (10u << 20) + 3000, 3000, seen), 0);
	assert_memory_equal(seen, data, 3000);
	assert_int_equal(wire_io(&wire, BLOCK_READ, (10u << 20) + 6000, 500, seen), 0);
	assert_true(bytes_are_zero(seen, 500));
	assert_int_equal(block_info(wire.opened)->size, (10u << 20) + 6500);
	/* Reading does not make it grow. */
	assert_int_equal(wire_io(&wire, BLOCK_READ, (10u << 20) + 6000, 501, seen), -EINVAL);
	assert_int_equal(block_link_error(wire.remote, NULL), 0);
	wire_done(&wire);
}

static void test_open_for_reading(void **state)
{
	struct block_open_options options = {.write = false};
	struct wire wire;
	uint8_t byte = 1;

	wire_init(&wire, 0, NULL);
	wire_serve(&wire, 0);
	assert_int_equal(wire_connect(&wire, &options, NULL), 0);
	assert_false(block_info(wire.remote)->writable);
	assert_int_equal(wire_io(&wire, BLOCK_WRITE, 0, 1, &byte), -EROFS);
	wire_done(&wire);
}

static void test_open_refused(void **state)
{
	struct block_open_options options = {.write = true};
	struct error error = {0};
	struct wire wire;

	wire_init(&wire, 0, NULL);
	wire.open_res = -EALREADY;
	wire_serve(&wire, 0);
	assert_int_equal(wire_connect(&wire, &options, &error), -EALREADY);
	assert_non_null(strstr(error.text, "there:/vol"));
	assert_non_null(strstr(error.text, "not today"));
	assert_null(strchr(error.text, 0x1b));
	assert_int_equal(ring_run_until(wire.ring, &wire.server_done), 0);
	assert_int_equal(wire.server_res, -EALREADY);
	wire_done(&wire);
}

static struct block *with_fault(struct block *below, void *data)
{
	struct block *fault;

	assert_int_equal(fault_new(&fault, below, 1, NULL), 0);
	fault_add(fault, data);
	return fault;
}

/* One failed request fails alone, with its own errno; the link lives on. */
static void test_request_fails(void **state)
{
	struct fault_rule rule = {.kind = FAULT_ERROR, .offset = 8192, .length = 4096};
	static const int codes[][2] = {
	    {-EIO, -EIO}, {-ENOSPC, -ENOSPC}, {-ENOTCONN, -EIO}, {-ECANCELED, -EIO}};
	uint8_t buf[4096] = {1};

	for (unsigned i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		struct wire wire;

		wire_init(&wire, 0, NULL);
		rule.result = codes[i][0];
		wire.wrap = with_fault;
		wire.wrap_data = &rule;
		assert_int_equal(wire_start(&wire, COMPRESS_AUTO), 0);
		assert_int_equal(wire_io(&wire, BLOCK_WRITE, 8192, 4096, buf), codes[i][1]);
		assert_int_equal(wire_io(&wire, BLOCK_READ, 8192, 4096, buf), codes[i][1]);
		assert_int_equal(wire_io(&wire, BLOCK_WRITE, 0, 4096, buf), 0);
		assert_int_equal(block_link_error(wire.remote, NULL), 0);
		wire_done(&wire);
	}
}

struct tally {
	unsigned done, lost, total;
	bool all;
};

static void tally_done(struct block_io *io, int res)
{
	struct tally *tally = io->user;

	assert_true(res == 0 || res == -ENOTCONN);
	tally->lost += res < 0;
	tally->all = ++tally->done == tally->total;
}

static void cut(void *data)
{
	struct wire *wire = data;

	ring_sim_link_break(wire->sim, wire->fds[0], (enum ring_sim_break)(wire->size % 3));
}

/* The link breaks at any moment, in any way: each request ends once, in bounded time, and words tell why. */
static void test_link_lost(void **state)
{
	uint64_t seed = seed_of_run();

	for (unsigned run = 0; run < 150; run++) {
		struct ring_sim_link_options link = {
		    .delay_ns = 300000, .short_ppm = 300000, .bytes_per_second = 50 << 20};
		struct tally tally = {.total = 400};
		struct block_io *ios = calloc(tally.total, sizeof(*ios));
		uint8_t *buf = malloc(tally.total * 8192);
		struct error error = {0};
		struct wire wire;
		struct rand rand;

		rand_init(&rand, seed + run);
		rand_bytes(&rand, buf, tally.total * 8192);
		wire_init(&wire, seed + run, &link);
		wire.size = tally.total * 8192 + run % 3;
		assert_int_equal(wire_start(&wire, modes[run % 3]), 0);
		ring_sim_after(wire.sim, rand_below(&rand, 60000000), cut, &wire);
		for (unsigned i = 0; i < tally.total; i++) {
			ios[i] = (struct block_io){.op = i % 3 ? BLOCK_WRITE : BLOCK_READ,
			    .offset = i * 8192ull,
			    .length = 8192,
			    .buf = buf + i * 8192ull,
			    .done = tally_done,
			    .user = &tally};
			block_submit(wire.remote, &ios[i]);
		}
		assert_int_equal(ring_run_until(wire.ring, &tally.all), 0);
		if (tally.lost) {
			assert_int_equal(block_link_error(wire.remote, &error), -ENOTCONN);
			assert_non_null(strstr(error.text, "there:/vol"));
			assert_int_equal(wire_io(&wire, BLOCK_READ, 0, 1, buf), -ENOTCONN);
			assert_int_equal(
			    block_facts(wire.remote, &(struct block_facts){0}, &error), -ENOTCONN);
		}
		assert_true(ring_sim_now_ns(wire.sim) < 100000000000ull);
		wire_done(&wire);
		free(ios);
		free(buf);
	}
}

/* Idle for ten minutes: pings keep it. Then silence: both sides notice, and the agent lets the volume go. */
static void test_keepalive(void **state)
{
	struct ring_sim_link_options link = {.delay_ns = 1000000};
	struct ring_op timer = {.opcode = RING_TIMER};
	struct error error = {0};
	struct wire wire;
	uint8_t byte = 1;

	wire_init(&wire, seed_of_run(), &link);
	assert_int_equal(wire_start(&wire, COMPRESS_AUTO), 0);
	timer.deadline_ns = ring_now_ns(wire.ring) + 600ull * 1000000000;
	assert_int_equal(ring_wait(wire.ring, &timer), 0);
	assert_false(wire.server_done);
	assert_int_equal(wire_io(&wire, BLOCK_WRITE, 0, 1, &byte), 0);
	ring_sim_link_break(wire.sim, wire.fds[0], RING_SIM_BREAK_STALL);
	timer.deadline_ns = ring_now_ns(wire.ring) + 31ull * 1000000000;
	assert_int_equal(ring_wait(wire.ring, &timer), 0);
	assert_true(wire.server_done);
	assert_int_equal(block_link_error(wire.remote, &error), -ENOTCONN);
	assert_non_null(strstr(error.text, "no answer for 30 s"));
	wire_done(&wire);
}

/* The agent is ended while requests are in its hands. */
static void test_server_freed(void **state)
{
	struct tally tally = {.total = 50};
	struct block_io ios[50];
	static uint8_t buf[50][4096];
	struct wire wire;

	wire_init(&wire, 0, NULL);
	assert_int_equal(wire_start(&wire, COMPRESS_AUTO), 0);
	for (unsigned i = 0; i < tally.total; i++) {
		ios[i] = (struct block_io){.op = BLOCK_READ,
		    .offset = i * 4096,
		    .length = 4096,
		    .buf = buf[i],
		    .done = tally_done,
		    .user = &tally};
		block_submit(wire.remote, &ios[i]);
	}
	wire.server = agent_server_free(wire.server);
	assert_int_equal(ring_run_until(wire.ring, &tally.all), 0);
	wire_done(&wire);
}

/* Nobody at the other end. */
static void test_handshake_deadline(void **state)
{
	struct block_open_options options = {.link.timeout_ms = 200};
	struct error error = {0};
	struct wire wire;

	wire_init(&wire, 0, NULL);
	assert_int_equal(wire_connect(&wire, &options, &error), -ENOTCONN);
	assert_non_null(strstr(error.text, "did not greet"));
	wire_serve(&wire, 0);
	wire_done(&wire);
}

static int open_slowly(void *data, struct block **ret, struct ring *ring, const char *path,
    const struct block_open_options *options, struct error *error)
{
	struct wire *wire = data;

	usleep(wire->slow_us);
	if (wire->slow_dies)
		_exit(0);
	return wire_open(data, ret, ring, path, options, error);
}

/* An agent in a process of its own, that answers nothing while it opens. */
static pid_t serve_slowly(struct wire *wire)
{
	struct agent_server_options options = {.fd_in = wire->fds[1],
	    .fd_out = wire->fds[1],
	    .timeout_ms = 5000,
	    .open = open_slowly,
	    .open_data = wire};
	pid_t child = fork();

	if (child != 0) {
		close(wire->fds[1]);
		return child;
	}
	close(wire->fds[0]);
	if (ring_new(&wire->ring, 256, NULL) < 0 ||
	    agent_server_new(&wire->server, wire->ring, &options, NULL) < 0)
		_exit(1);
	agent_server_start(wire->server, wire_served, wire);
	ring_run_until(wire->ring, &wire->server_done);
	_exit(0);
}

/* To open may take long: an image is brought to disk, a device is slow to wake. */
static void test_agent_is_slow_to_open(void **state)
{
	static const struct {
		unsigned timeout_ms; /* the agent greets within that, also on a busy machine */
		unsigned slow_us;
		bool dies;
		int res;
		const char *words;
	} rows[] = {
	    {1000, 2500000, false, 0, NULL}, {1000, 10000, true, -ENOTCONN, ""},
	    {500, 60000000, false, -ENOTCONN,
	        "answer"}, /* none at all, or to pings only: whichever is seen first */
	};

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct block_open_options options = {.link.timeout_ms = rows[i].timeout_ms};
		struct error error = {0};
		struct wire wire;
		pid_t child;

		wire_init(&wire, 0, NULL);
		wire.slow_us = rows[i].slow_us;
		wire.slow_dies = rows[i].dies;
		child = serve_slowly(&wire);
		assert_int_equal(wire_connect(&wire, &options, &error), rows[i].res);
		if (rows[i].words && !strstr(error.text, rows[i].words))
			fail_msg("%s", error.text);
		/* Afterwards silence counts as before. */
		if (rows[i].res == 0) {
			uint8_t byte;

			kill(child, SIGSTOP);
			assert_int_equal(wire_io(&wire, BLOCK_READ, 0, 1, &byte), -ENOTCONN);
		}
		wire.remote = block_free(wire.remote);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		ring_free(wire.ring);
	}
}

/* The client vanishes: the server ends by itself. */
static void test_client_gone(void **state)
{
	struct wire wire;

	wire_init(&wire, 0, NULL);
	assert_int_equal(wire_start(&wire, COMPRESS_AUTO), 0);
	wire.remote = block_free(wire.remote);
	assert_int_equal(ring_run_until(wire.ring, &wire.server_done), 0);
	assert_int_equal(wire.server_res, 0);
	wire_done(&wire);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_random_requests),
	    cmocka_unit_test(test_simulated_links),
	    cmocka_unit_test(test_many_small_writes),
	    cmocka_unit_test(test_largest_requests),
	    cmocka_unit_test(test_h03_one_byte_anywhere),
	    cmocka_unit_test(test_extents_digests_sha),
	    cmocka_unit_test(test_open_tells_and_asks),
	    cmocka_unit_test(test_file_there_grows),
	    cmocka_unit_test(test_open_for_reading),
	    cmocka_unit_test(test_open_refused),
	    cmocka_unit_test(test_request_fails),
	    cmocka_unit_test(test_link_lost),
	    cmocka_unit_test(test_keepalive),
	    cmocka_unit_test(test_server_freed),
	    cmocka_unit_test(test_handshake_deadline),
	    cmocka_unit_test(test_agent_is_slow_to_open),
	    cmocka_unit_test(test_client_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
