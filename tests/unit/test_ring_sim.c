/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The simulated world: determinism, disks that lose what was not flushed, links that break, hosts that die.
 */
#include "base/bytes.h"
#include "ring/ring_sim.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "seed.h"

#define DISK_SIZE 65536u

struct world {
	struct ring_sim *sim;
	struct ring *host;
	int disk;
};

static void world_init(struct world *world, uint64_t seed)
{
	const struct ring_sim_disk_options options = {.size = DISK_SIZE};

	world->sim = ring_sim_new(seed, 0);
	world->host = ring_sim_host_new(world->sim, "host");
	world->disk = ring_sim_disk_new(world->sim, &options);
}

static void world_done(struct world *world)
{
	ring_free(world->host);
	ring_sim_free(world->sim);
}

static int disk_io(struct world *world, enum ring_opcode opcode, uint64_t offset, void *buf, uint64_t length)
{
	struct ring_op op = {
	    .opcode = opcode, .fd = world->disk, .offset = offset, .buf = buf, .length = length};

	return ring_wait(world->host, &op);
}

/* Operations that count their ends. */
struct counted {
	struct ring_op op;
	int res;
	unsigned ended;
};

static void counted_done(struct ring_op *op, int res)
{
	struct counted *counted = container_of(op, struct counted, op);

	counted->res = res;
	counted->ended++;
}

static void run_dry(struct ring_sim *sim)
{
	int res;

	do
		res = ring_sim_step(sim);
	while (res == 0);
	assert_int_equal(res, -EDEADLK);
}

static uint64_t busy_run(uint64_t seed)
{
	struct world world;
	struct counted ops[64] = {0};
	static uint8_t buf[64][512];
	uint64_t trace;

	world_init(&world, seed);
	ring_sim_disk_options(world.sim, world.disk)->short_ppm = 200000;
	ring_sim_disk_options(world.sim, world.disk)->write_error_ppm = 100000;
	for (int i = 0; i < 64; i++) {
		ops[i].op = (struct ring_op){.opcode = i % 3 ? RING_WRITE : RING_READ,
		    .fd = world.disk,
		    .offset = (uint64_t)i * 512,
		    .buf = buf[i],
		    .length = 512,
		    .done = counted_done};
		ring_submit(world.host, &ops[i].op);
	}
	run_dry(world.sim);
	for (int i = 0; i < 64; i++)
		assert_int_equal(ops[i].ended, 1);
	trace = ring_sim_trace(world.sim);
	world_done(&world);
	return trace;
}

static void test_same_seed_same_run(void **state)
{
	uint64_t seed = seed_of_run();

	assert_true(busy_run(seed) == busy_run(seed));
	assert_true(busy_run(seed) != busy_run(seed + 1));
}

static void test_nothing_under_way_is_a_deadlock(void **state)
{
	struct world world;
	bool never = false;

	world_init(&world, 1);
	assert_int_equal(ring_run_until(world.host, &never), -EDEADLK);
	world_done(&world);
}

static void test_timer_defer_and_cancel(void **state)
{
	struct world world;
	struct counted early = {.op = {.opcode = RING_TIMER, .done = counted_done}};
	struct counted late = {.op = {.opcode = RING_TIMER, .done = counted_done}};
	struct counted nop = {.op = {.done = counted_done}};
	uint64_t start;

	world_init(&world, 1);
	start = ring_now_ns(world.host);
	early.op.deadline_ns = start + 5000000;
	late.op.deadline_ns = start + 3600000000000;
	ring_submit(world.host, &late.op);
	ring_submit(world.host, &early.op);
	ring_defer(world.host, &nop.op, -EUCLEAN);
	assert_int_equal(nop.ended, 0);
	ring_sim_step(world.sim);
	assert_int_equal(nop.res, -EUCLEAN);
	ring_sim_step(world.sim);
	assert_int_equal(early.ended, 1);
	assert_true(ring_now_ns(world.host) >= start + 5000000);
	ring_cancel(world.host, &late.op);
	assert_int_equal(late.ended, 0);
	run_dry(world.sim);
	assert_int_equal(late.res, -ECANCELED);
	assert_int_equal(late.ended, 1);
	assert_true(ring_now_ns(world.host) < start + 6000000);
	world_done(&world);
}

/* What a power cut left of one 8-sector write of 0xff over zeros: 0 none, 1 all, 2 torn. */
static int cut_one_write(uint64_t seed, bool flush)
{
	struct world world;
	uint8_t buf[4096];
	uint64_t size;
	const uint8_t *data;
	int written = 0;

	world_init(&world, seed);
	memset(buf, 0xff, sizeof(buf));
	assert_int_equal(disk_io(&world, RING_WRITE, 512, buf, sizeof(buf)), sizeof(buf));
	if (flush)
		assert_int_equal(disk_io(&world, RING_FSYNC, 0, NULL, 0), 0);
	ring_sim_power_cut(world.sim, world.disk);
	assert_int_equal(disk_io(&world, RING_READ, 0, buf, 512), -EIO);
	ring_sim_power_on(world.sim, world.disk);
	data = ring_sim_disk_data(world.sim, world.disk, &size);
	assert_int_equal(size, DISK_SIZE);
	assert_true(bytes_are_zero(data, 512));
	for (int i = 0; i < 8; i++) {
		const uint8_t *sector = data + 512 * (i + 1);

		assert_memory_equal(sector, sector + 1, 511);
		written += sector[0] == 0xff;
	}
	world_done(&world);
	return written == 0 ? 0 : written == 8 ? 1 : 2;
}

static void test_power_cut_keeps_loses_and_tears(void **state)
{
	uint64_t seed = seed_of_run();
	int seen[3] = {0};

	for (int i = 0; i < 100; i++)
		seen[cut_one_write(seed + i, false)]++;
	assert_true(seen[0] > 0 && seen[1] > 0 && seen[2] > 0);
	for (int i = 0; i < 20; i++)
		assert_int_equal(cut_one_write(seed + i, true), 1);
}

/* What is new is stable; what was written and not flushed before may be lost as ever. */
static void test_an_enlarged_disk_loses_what_it_had_not_flushed(void **state)
{
	int lost = 0;

	for (uint64_t seed = 0; seed < 50; seed++) {
		struct world world;
		uint8_t buf[512];
		const uint8_t *data;
		uint64_t size;

		world_init(&world, seed);
		memset(buf, 0xff, sizeof(buf));
		assert_int_equal(disk_io(&world, RING_WRITE, 0, buf, sizeof(buf)), sizeof(buf));
		memset(buf, 0x77, sizeof(buf));
		ring_sim_disk_enlarge(world.sim, world.disk, buf, sizeof(buf));
		assert_int_equal(disk_io(&world, RING_WRITE, DISK_SIZE + 512, buf, sizeof(buf)), -ENOSPC);
		ring_sim_power_cut(world.sim, world.disk);
		ring_sim_power_on(world.sim, world.disk);
		data = ring_sim_disk_data(world.sim, world.disk, &size);
		assert_int_equal(size, DISK_SIZE + 512);
		assert_memory_equal(data + DISK_SIZE, buf, sizeof(buf));
		lost += data[0] != 0xff;
		world_done(&world);
	}
	assert_true(lost > 0 && lost < 50);
}

/* A flush covers what was acknowledged before it was submitted, and not what was in flight then. */
static void test_flush_does_not_cover_later_writes(void **state)
{
	int lost = 0;

	for (uint64_t seed = 0; seed < 50; seed++) {
		struct world world;
		uint8_t buf[512];
		uint64_t size;
		struct counted flush = {.op = {.opcode = RING_FSYNC, .done = counted_done}};

		world_init(&world, seed);
		memset(buf, 0xff, sizeof(buf));
		flush.op.fd = world.disk;
		ring_submit(world.host, &flush.op);
		disk_io(&world, RING_WRITE, 0, buf, sizeof(buf));
		run_dry(world.sim);
		ring_sim_power_cut(world.sim, world.disk);
		lost += ring_sim_disk_data(world.sim, world.disk, &size)[0] == 0;
		world_done(&world);
	}
	assert_true(lost > 0);
}

static void test_failed_flush_makes_nothing_stable_later(void **state)
{
	int lost = 0;

	for (uint64_t seed = 0; seed < 50; seed++) {
		struct world world;
		uint8_t buf[512];
		uint64_t size;

		world_init(&world, seed);
		memset(buf, 0xff, sizeof(buf));
		disk_io(&world, RING_WRITE, 0, buf, sizeof(buf));
		ring_sim_disk_options(world.sim, world.disk)->fsync_error_ppm = 1000000;
		assert_int_equal(disk_io(&world, RING_FSYNC, 0, NULL, 0), -EIO);
		ring_sim_disk_options(world.sim, world.disk)->fsync_error_ppm = 0;
		assert_int_equal(disk_io(&world, RING_FSYNC, 0, NULL, 0), 0);
		ring_sim_power_cut(world.sim, world.disk);
		lost += ring_sim_disk_data(world.sim, world.disk, &size)[0] == 0;
		world_done(&world);
	}
	assert_true(lost > 0);
}

static void test_bad_ranges_space_and_bounds(void **state)
{
	struct world world;
	uint8_t buf[4096] = {1};

	world_init(&world, 3);
	ring_sim_disk_bad(world.sim, world.disk, RING_SIM_BAD_READ, 8192, 512);
	ring_sim_disk_bad(world.sim, world.disk, RING_SIM_BAD_WRITE, 0, 512);
	assert_int_equal(disk_io(&world, RING_READ, 4096, buf, 4096), 4096);
	assert_int_equal(disk_io(&world, RING_READ, 8192, buf, 4096), -EIO);
	assert_int_equal(disk_io(&world, RING_WRITE, 8192, buf, 4096), 4096);
	assert_int_equal(disk_io(&world, RING_READ, 8192, buf, 4096), 4096);
	assert_int_equal(disk_io(&world, RING_WRITE, 0, buf, 4096), -EIO);
	ring_sim_disk_heal(world.sim, world.disk);
	ring_sim_disk_space(world.sim, world.disk, 5000);
	assert_int_equal(disk_io(&world, RING_WRITE, 0, buf, 4096), 4096);
	assert_int_equal(disk_io(&world, RING_WRITE, 0, buf, 4096), 512);
	assert_int_equal(disk_io(&world, RING_WRITE, 0, buf, 4096), -ENOSPC);
	ring_sim_disk_space(world.sim, world.disk, UINT64_MAX);
	assert_int_equal(disk_io(&world, RING_READ, DISK_SIZE, buf, 512), 0);
	assert_int_equal(disk_io(&world, RING_READ, DISK_SIZE - 512, buf, 4096), 512);
	assert_int_equal(disk_io(&world, RING_WRITE, DISK_SIZE - 512, buf, 1024), -ENOSPC);
	assert_int_equal(ring_sim_disk_counts(world.sim, world.disk)->write_outside, 1);
	world.disk = ring_sim_disk_direct(world.sim, world.disk, 4096);
	assert_int_equal(disk_io(&world, RING_WRITE, 512, buf, 512), -EINVAL);
	assert_int_equal(ring_sim_disk_counts(world.sim, world.disk)->misaligned, 1);
	world_done(&world);
}

static void test_punch_and_growth(void **state)
{
	const struct ring_sim_disk_options options = {.size_max = 1 << 20};
	struct world world;
	uint8_t buf[1024];
	uint64_t size;
	struct ring_op punch = {.opcode = RING_FALLOCATE,
	    .mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
	    .offset = 100,
	    .length = 200};

	world_init(&world, 4);
	world.disk = punch.fd = ring_sim_disk_new(world.sim, &options);
	memset(buf, 7, sizeof(buf));
	assert_int_equal(disk_io(&world, RING_WRITE, 0, buf, 1000), 1000);
	assert_int_equal(disk_io(&world, RING_WRITE, 1000, buf, 500), 500);
	assert_int_equal(ring_wait(world.host, &punch), 0);
	assert_int_equal(disk_io(&world, RING_READ, 0, buf, 1024), 1024);
	assert_true(bytes_are_zero(buf + 100, 200));
	assert_true(buf[99] == 7 && buf[300] == 7);
	ring_sim_disk_stable(world.sim, world.disk, &size);
	assert_int_equal(size, 0);
	assert_int_equal(disk_io(&world, RING_FSYNC, 0, NULL, 0), 0);
	ring_sim_disk_stable(world.sim, world.disk, &size);
	assert_int_equal(size, 1500);
	world_done(&world);
}

static void test_changed_buffer_is_noticed(void **state)
{
	struct world world;
	uint8_t buf[512] = {0};
	struct counted write = {
	    .op = {.opcode = RING_WRITE, .buf = buf, .length = 512, .done = counted_done}};

	world_init(&world, 5);
	write.op.fd = world.disk;
	ring_submit(world.host, &write.op);
	buf[17] = 1;
	run_dry(world.sim);
	assert_int_equal(ring_sim_disk_counts(world.sim, world.disk)->buffer_changed, 1);
	world_done(&world);
}

/* Links */

struct stream {
	struct ring *ring;
	struct ring_op op;
	uint8_t *data;
	uint64_t at, length;
	int res; /* the last one */
};

static void stream_go(struct stream *stream)
{
	stream->op.offset = RING_STREAM;
	stream->op.buf = stream->data + stream->at;
	stream->op.length = stream->length - stream->at;
	ring_submit(stream->ring, &stream->op);
}

static void stream_done(struct ring_op *op, int res)
{
	struct stream *stream = container_of(op, struct stream, op);

	stream->res = res;
	if (res > 0)
		stream->at += (uint64_t)res;
	if (res > 0 && stream->at < stream->length)
		stream_go(stream);
}

#define STREAM_BYTES 20000u

struct pair {
	struct ring_sim *sim;
	struct ring *a, *b;
	int fds[2];
	struct stream out, in;
	uint8_t sent[STREAM_BYTES], got[STREAM_BYTES];
};

static void pair_init(struct pair *pair, uint64_t seed)
{
	const struct ring_sim_link_options options = {
	    .capacity = 1000, .short_ppm = 300000, .jitter_ns = 100000, .bytes_per_second = 1000000};

	memset(pair, 0, sizeof(*pair));
	pair->sim = ring_sim_new(seed, 0);
	pair->a = ring_sim_host_new(pair->sim, "a");
	pair->b = ring_sim_host_new(pair->sim, "b");
	ring_sim_link_new(pair->sim, pair->a, pair->b, &options, pair->fds);
	rand_bytes(ring_sim_rand(pair->sim), pair->sent, STREAM_BYTES);
	pair->out = (struct stream){.ring = pair->a,
	    .op = {.opcode = RING_WRITE, .fd = pair->fds[0], .done = stream_done},
	    .data = pair->sent,
	    .length = STREAM_BYTES};
	pair->in = (struct stream){.ring = pair->b,
	    .op = {.opcode = RING_READ, .fd = pair->fds[1], .done = stream_done},
	    .data = pair->got,
	    .length = STREAM_BYTES};
}

static void pair_done(struct pair *pair)
{
	ring_free(pair->a);
	ring_free(pair->b);
	ring_sim_free(pair->sim);
}

static void test_link_keeps_order_and_pushes_back(void **state)
{
	struct pair pair;
	uint64_t start;

	pair_init(&pair, seed_of_run());
	stream_go(&pair.out);
	run_dry(pair.sim);
	assert_int_equal(pair.out.at, 1000);
	assert_true(pair.out.op.active);
	start = ring_sim_now_ns(pair.sim);
	stream_go(&pair.in);
	run_dry(pair.sim);
	assert_int_equal(pair.in.at, STREAM_BYTES);
	assert_memory_equal(pair.sent, pair.got, STREAM_BYTES);
	/* 19,000 bytes at a million a second. */
	assert_true(ring_sim_now_ns(pair.sim) - start >= 19000000);
	pair_done(&pair);
}

static void test_link_close_gives_all_then_the_end(void **state)
{
	struct pair pair;

	pair_init(&pair, 7);
	pair.out.length = 900;
	stream_go(&pair.out);
	stream_go(&pair.in);
	while (pair.out.at < 900)
		assert_int_equal(ring_sim_step(pair.sim), 0);
	ring_sim_link_close(pair.sim, pair.fds[0]);
	run_dry(pair.sim);
	assert_int_equal(pair.in.at, 900);
	assert_int_equal(pair.in.res, 0);
	pair_done(&pair);
}

static void break_midway(struct pair *pair, enum ring_sim_break how)
{
	stream_go(&pair->out);
	stream_go(&pair->in);
	while (pair->in.at < 5000)
		assert_int_equal(ring_sim_step(pair->sim), 0);
	ring_sim_link_break(pair->sim, pair->fds[1], how);
	run_dry(pair->sim);
}

static void test_link_breaks(void **state)
{
	struct pair pair;

	pair_init(&pair, 8);
	break_midway(&pair, RING_SIM_BREAK_RESET);
	assert_int_equal(pair.in.res, -ECONNRESET);
	assert_int_equal(pair.out.res, -ECONNRESET);
	pair_done(&pair);

	pair_init(&pair, 9);
	break_midway(&pair, RING_SIM_BREAK_EOF);
	assert_int_equal(pair.in.res, 0);
	assert_int_equal(pair.out.res, -EPIPE);
	assert_true(pair.in.at < STREAM_BYTES);
	assert_memory_equal(pair.sent, pair.got, pair.in.at);
	pair_done(&pair);

	pair_init(&pair, 10);
	break_midway(&pair, RING_SIM_BREAK_STALL);
	assert_true(pair.in.op.active && pair.out.op.active);
	ring_cancel(pair.a, &pair.out.op);
	ring_cancel(pair.b, &pair.in.op);
	run_dry(pair.sim);
	assert_int_equal(pair.in.res, -ECANCELED);
	assert_int_equal(pair.out.res, -ECANCELED);
	pair_done(&pair);
}

static void test_poll_tells_when_a_link_can_be_read(void **state)
{
	struct pair pair;
	struct counted poll = {.op = {.opcode = RING_POLL, .events = POLLIN, .done = counted_done}};

	pair_init(&pair, 11);
	poll.op.fd = pair.fds[1];
	ring_submit(pair.b, &poll.op);
	run_dry(pair.sim);
	assert_int_equal(poll.ended, 0);
	stream_go(&pair.out);
	run_dry(pair.sim);
	assert_int_equal(poll.ended, 1);
	assert_int_equal(poll.res, POLLIN);
	ring_sim_kill(pair.a, RING_SIM_KILL_PROCESS);
	run_dry(pair.sim);
	assert_int_equal(pair.out.res, -ECANCELED);
	pair_done(&pair);
}

static void test_killed_host_ends_and_the_other_goes_on(void **state)
{
	struct pair pair;
	struct counted timer = {
	    .op = {.opcode = RING_TIMER, .deadline_ns = UINT64_MAX, .done = counted_done}};
	struct counted nop = {.op = {.done = counted_done}};

	pair_init(&pair, 12);
	ring_submit(pair.a, &timer.op);
	stream_go(&pair.out);
	stream_go(&pair.in);
	while (pair.in.at < 5000)
		assert_int_equal(ring_sim_step(pair.sim), 0);
	ring_sim_kill(pair.a, RING_SIM_KILL_PROCESS);
	assert_true(ring_sim_killed(pair.a) && !ring_sim_killed(pair.b));
	ring_defer(pair.a, &nop.op, 5);
	run_dry(pair.sim);
	assert_int_equal(pair.out.res, -ECANCELED);
	assert_int_equal(timer.res, -ECANCELED);
	assert_int_equal(nop.res, -ECANCELED);
	assert_true(pair.in.res == 0 || pair.in.res == -ECONNRESET);
	assert_memory_equal(pair.sent, pair.got, pair.in.at);
	pair_done(&pair);
}

static void kill_hook(void *data)
{
	ring_sim_kill(data, RING_SIM_KILL_PROCESS);
}

/* After a kill the disk never changes again by the dead host's hand, whatever it had in flight. */
static void test_disk_is_left_alone_after_a_kill(void **state)
{
	uint64_t seed = seed_of_run();
	int applied = 0, dropped = 0;

	for (int i = 0; i < 60; i++) {
		struct world world;
		uint8_t buf[512], buf_after[512];
		uint64_t size;
		struct counted write = {
		    .op = {.opcode = RING_WRITE, .buf = buf, .length = 512, .done = counted_done}};

		world_init(&world, seed + i);
		memset(buf, 0xff, sizeof(buf));
		write.op.fd = world.disk;
		ring_sim_at_step(world.sim, 0, kill_hook, world.host);
		ring_submit(world.host, &write.op);
		ring_sim_step(world.sim);
		assert_int_equal(write.res, -ECANCELED);
		memcpy(buf_after, ring_sim_disk_data(world.sim, world.disk, &size), 512);
		applied += buf_after[0] == 0xff;
		dropped += buf_after[0] == 0;
		memset(buf, 0x11, sizeof(buf));
		assert_int_equal(disk_io(&world, RING_WRITE, 0, buf, 512), -ECANCELED);
		assert_memory_equal(buf_after, ring_sim_disk_data(world.sim, world.disk, &size), 512);
		world_done(&world);
	}
	assert_true(applied > 0 && dropped > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_same_seed_same_run),
	    cmocka_unit_test(test_nothing_under_way_is_a_deadlock),
	    cmocka_unit_test(test_timer_defer_and_cancel),
	    cmocka_unit_test(test_power_cut_keeps_loses_and_tears),
	    cmocka_unit_test(test_an_enlarged_disk_loses_what_it_had_not_flushed),
	    cmocka_unit_test(test_flush_does_not_cover_later_writes),
	    cmocka_unit_test(test_failed_flush_makes_nothing_stable_later),
	    cmocka_unit_test(test_bad_ranges_space_and_bounds),
	    cmocka_unit_test(test_punch_and_growth),
	    cmocka_unit_test(test_changed_buffer_is_noticed),
	    cmocka_unit_test(test_link_keeps_order_and_pushes_back),
	    cmocka_unit_test(test_link_close_gives_all_then_the_end),
	    cmocka_unit_test(test_link_breaks),
	    cmocka_unit_test(test_poll_tells_when_a_link_can_be_read),
	    cmocka_unit_test(test_killed_host_ends_and_the_other_goes_on),
	    cmocka_unit_test(test_disk_is_left_alone_after_a_kill),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
